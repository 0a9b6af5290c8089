"""What is counted of every request for a resource, by the metric names of kube-apiserver."""

from __future__ import annotations

from typing import Any

from apiserver.rest.flow import is_long_running
from apiserver.rest.info import RequestInfo
from componentbase import metrics

REQUESTS = metrics.counter(
    "apiserver_request",
    "Counter of apiserver requests.",
    ("verb", "group", "version", "resource", "subresource", "scope", "code"),
)
DURATION = metrics.histogram(
    "apiserver_request_duration_seconds", "Response latency in seconds.", ("verb", "group", "resource")
)
_WRITES = {"create": "POST", "update": "PUT"}

Key = tuple[str, str, str, str, str, str, int]


class Meters:
    """Finds the series of a request once. Only names that were served make series of their own: whoever asks
    for resources that do not exist, or that it may not see, cannot make the server remember them.
    """

    def __init__(self) -> None:
        self._series: dict[Key, tuple[Any, Any]] = {}
        self._served: set[tuple[str, str, str, str]] = set()

    def record(self, info: RequestInfo, status: int, seconds: float) -> None:
        scope = "resource" if info.name else "namespace" if info.namespace else "cluster"
        key = (info.verb, info.group, info.version, info.resource, info.subresource, scope, status)
        found = self._series.get(key)
        if found is None:
            found = self._find(info, scope, status)
            if key[1:5] in self._served:
                self._series[key] = found
        count, duration = found
        count.inc()
        if duration is not None:
            duration.observe(seconds)

    def _find(self, info: RequestInfo, scope: str, status: int) -> tuple[Any, Any]:
        names = (info.group, info.version, info.resource, info.subresource)
        if status < 400:
            self._served.add(names)
        elif names not in self._served:
            names = ("", "", "", "")
        verb = _WRITES.get(info.verb, info.verb.upper())
        count = REQUESTS.labels(verb, *names, scope, str(status))
        duration = None if is_long_running(info) else DURATION.labels(verb, names[0], names[2])
        return count, duration
