"""The cluster's DNS server: flags and wiring.

apiserver --list+watch--> informers --> Records --> UDP and TCP :53
                                        everything else --> upstream servers
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clusterdns import forward
from clusterdns.forward import Forwarder
from clusterdns.records import DEFAULT_TTL, Records
from clusterdns.server import Resolver, serve
from clusterdns.view import InformerView
from componentbase import flags, log, metrics, tasks, version
from componentbase.health import respond
from componentbase.http import server as http
from kubeclient.informer import InformerFactory
from kubeclient.rest import RestClient

logger = logging.getLogger(__name__)


def declare_flags() -> flags.Flags:
    declared = flags.Flags(
        "clusterdns", "Answers for the names of services and pods.", version=version.GIT_VERSION
    )
    declared.string("domain", "cluster.local", "The cluster's domain.")
    declared.string("listen", "0.0.0.0:53", "Address for DNS over UDP and TCP.")
    declared.string(
        "kubeconfig", "", "How to reach the apiserver; without it the pod's service account is used."
    )
    declared.strings(
        "forward", [], "Upstream servers (address or address:port) instead of those in resolv-conf."
    )
    declared.string("resolv-conf", "/etc/resolv.conf", "Where upstream servers are read from.")
    declared.integer("ttl", DEFAULT_TTL, "Seconds clients may remember a cluster name.")
    declared.string("health-listen", "0.0.0.0:8080", "Address of /health; empty for none.")
    declared.string("ready-listen", "0.0.0.0:8181", "Address of /ready; empty for none.")
    declared.string("metrics-listen", "0.0.0.0:9153", "Address of /metrics; empty for none.")
    declared.duration(
        "lameduck", 5.0, "How long answers are still given after the signal to end, while /ready says no."
    )
    declared.integer("v", 0, "Log verbosity.", short="v")
    return declared


def main(argv: Sequence[str]) -> int:
    """Run the server; returns the exit status."""
    values = declare_flags().parse(argv)
    log.setup("clusterdns", values.v)
    return tasks.run(lambda: run(values))


async def run(values: flags.Values) -> None:
    """Everything the daemon does, until cancelled."""
    host, port = split_address(values.listen, "--listen")
    leaving = asyncio.Event()
    pages = {
        values.health_listen: Page("/health", lambda: not leaving.is_set()),
        values.metrics_listen: MetricsPage(),
    }
    async with _connect(values.kubeconfig) as client:
        factory = InformerFactory(client)
        view = InformerView(factory)
        forwarder = Forwarder(_upstreams(values))
        resolver = Resolver(
            Records(view, values.domain, ttl=values.ttl),
            forwarder,
            domain=values.domain,
            ready=view.ready,
            serial=int(time.time()),
            version=view.version,
        )
        pages[values.ready_listen] = Page("/ready", lambda: view.ready() and not leaving.is_set())
        logger.info("starting", extra={"domain": values.domain, "listen": values.listen})
        async with asyncio.TaskGroup() as group:
            listening = asyncio.Event()
            work = {
                "informers": factory.run(),
                "dns": serve(resolver, host, port, on_listening=lambda _: listening.set()),
            }
            for address, page in pages.items():
                if address:
                    page_host, page_port = split_address(address, "listener")
                    work[f"http/{address}"] = http.serve(page, host=page_host, port=page_port)
            owned = [group.create_task(each, name=name) for name, each in work.items()]
            await _until_told(forwarder, values.domain, listening, owned)
            leaving.set()
            logger.info("leaving", extra={"seconds": values.lameduck})
            await asyncio.wait(owned, timeout=values.lameduck, return_when=asyncio.FIRST_COMPLETED)
            raise asyncio.CancelledError


async def _until_told(
    forwarder: Forwarder, domain: str, listening: asyncio.Event, owned: list[asyncio.Task[None]]
) -> None:
    """Until the daemon is told to end. Whoever still sends queries has not heard yet that we leave, so
    `owned`, the tasks beside this one, go on for a while. Raises CancelledError when it is one of them that
    ended.
    """
    try:
        await listening.wait()
        await forwarder.probe_loop(domain)
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        if any(task.done() for task in owned):
            raise


def _connect(kubeconfig: str) -> RestClient:
    if kubeconfig:
        return RestClient.from_kubeconfig(kubeconfig, user_agent="clusterdns")
    return RestClient.in_cluster(user_agent="clusterdns")


def _upstreams(values: flags.Values) -> list[forward.Upstream]:
    if values.forward:
        return [forward.parse_upstream(text) for text in values.forward]
    return forward.from_resolv_conf(Path(values.resolv_conf))


def split_address(text: str, what: str) -> tuple[str, int]:
    """`host:port` or `:port`. Raises ValueError that names the flag."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"{what}: {text!r} is not host:port")
    return host.strip("[]") or "0.0.0.0", int(port)


class Page:
    """One path that says OK, or 503."""

    def __init__(self, path: str, good: Any) -> None:
        self._path = path
        self._good = good

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] != self._path:
            await respond(send, 404, b"404 page not found\n")
        elif self._good():
            await respond(send, 200, b"OK")
        else:
            await respond(send, 503, b"kubernetes")


class MetricsPage(Page):
    """`/metrics`."""

    def __init__(self) -> None:
        super().__init__("/metrics", lambda: True)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/metrics":
            await respond(send, 200, metrics.render(), metrics.CONTENT_TYPE)
        else:
            await super().__call__(scope, receive, send)
