"""One kubelet's `/metrics/resource` as numbers. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

# name{labels} value [milliseconds]; the kubelet's labels hold no escaped quotes (names are DNS labels).
_LINE = re.compile(r"^(\w+)(?:\{([^}]*)\})? (\S+)(?: (\d+))?$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')

PodKey = tuple[str, str]  # namespace, name


class Point(NamedTuple):
    """What was used up to a moment: cumulative core-seconds, bytes held, and since when (Unix seconds)."""

    at: float
    cpu_seconds: float
    memory_bytes: int
    started: float = 0.0


@dataclass(slots=True)
class Scrape:
    """What one kubelet said: its node, and the containers of its pods by name."""

    node: Point | None = None
    pods: dict[PodKey, dict[str, Point]] = field(default_factory=dict)


class BadExposition(ValueError):
    """What the kubelet answered is no exposition of resource metrics; says why."""


class _Raw(NamedTuple):
    value: float
    at: float


def parse(text: str) -> Scrape:
    """Read an exposition; a container of which not both figures are known is left out. Raises
    BadExposition."""
    found: dict[tuple[str, PodKey, str], _Raw] = {}
    try:
        for name, labels, value, millis in _LINE.findall(text):
            given = dict(_LABEL.findall(labels))
            where = (given.get("namespace", ""), given.get("pod", "")), given.get("container", "")
            found[(name, *where)] = _Raw(float(value), int(millis or 0) / 1000)
    except ValueError as error:
        raise BadExposition(str(error)) from error
    if not found:
        raise BadExposition("no sample in it")
    out = Scrape(node=_point(found, "node", ("", ""), ""))
    for name, pod, container in found:
        if name == "container_cpu_usage_seconds_total":
            point = _point(found, "container", pod, container)
            if point is not None:
                out.pods.setdefault(pod, {})[container] = point
    return out


def _point(
    found: Mapping[tuple[str, PodKey, str], _Raw], kind: str, pod: PodKey, container: str
) -> Point | None:
    cpu = found.get((f"{kind}_cpu_usage_seconds_total", pod, container))
    memory = found.get((f"{kind}_memory_working_set_bytes", pod, container))
    if cpu is None or memory is None or memory.value <= 0:
        return None
    started = found.get(("container_start_time_seconds", pod, container))
    return Point(cpu.at, cpu.value, int(memory.value), started.value if started else 0.0)


def merged(scrapes: Iterable[Scrape]) -> Iterator[tuple[PodKey, dict[str, Point]]]:
    """The pods of several kubelets."""
    for scrape in scrapes:
        yield from scrape.pods.items()
