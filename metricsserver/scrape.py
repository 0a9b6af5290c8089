"""Asking every kubelet, once a round."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import httpx

from apimachinery import meta
from componentbase import metrics
from componentbase.clock import Clock
from metricsserver.samples import BadExposition, Scrape, parse
from metricsserver.store import Store

log = logging.getLogger(__name__)

# Two rounds are needed before anything can be told: the second does not wait for the whole resolution.
FIRST_PAUSE = 5.0

Fetch = Callable[[str, str], Awaitable[str]]  # address, path -> body; raises ScrapeFailed

_scraped = metrics.counter("metrics_server_kubelet_request_total", "Requests sent to kubelets.", ["success"])


class ScrapeFailed(Exception):
    """A kubelet did not answer; says why."""


class Kubelets:
    """HTTPS to kubelets."""

    def __init__(self, context: ssl.SSLContext, timeout: float) -> None:
        limits = httpx.Limits(max_keepalive_connections=64, keepalive_expiry=120.0)
        self._client = httpx.AsyncClient(verify=context, timeout=timeout, limits=limits, trust_env=False)

    async def fetch(self, address: str, path: str) -> str:
        """A page of the kubelet at `host:port`. Raises ScrapeFailed."""
        try:
            answer = await self._client.get(f"https://{address}{path}")
        except (httpx.HTTPError, OSError) as error:
            raise ScrapeFailed(str(error) or type(error).__name__) from error
        if answer.status_code != 200:
            raise ScrapeFailed(f"{address}{path} answered {answer.status_code}: {answer.text[:200].strip()}")
        return answer.text

    async def close(self) -> None:
        await self._client.aclose()


def address_of(node: Mapping[str, Any], preferred: Sequence[str], port: int | None) -> str | None:
    """Where the node's kubelet listens; None when it has no address of a preferred type. `port` None
    means the one in the node's status. Pure."""
    status = node.get("status") or {}
    by_type = {each["type"]: each["address"] for each in reversed(status.get("addresses") or [])}
    host = next((by_type[kind] for kind in preferred if kind in by_type), None)
    if host is None:
        return None
    endpoint = (status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}
    number = port if port is not None else int(endpoint.get("Port") or 10250)
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


class Scraper:
    """One round every `resolution` seconds; a kubelet that fails is not in it, and so not in what is told."""

    def __init__(
        self,
        nodes: Callable[[], Sequence[Mapping[str, Any]]],
        locate: Callable[[Mapping[str, Any]], str | None],
        fetch: Fetch,
        store: Store,
        clock: Clock,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._nodes, self._locate, self._fetch, self._store = nodes, locate, fetch, store
        self._clock, self._jitter = clock, jitter
        self.last_round = 0.0  # monotonic; 0 before the first

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            started = self._clock.monotonic()
            await self.round()
            pause = self._store.resolution if self._store.ready else FIRST_PAUSE
            await self._clock.sleep(max(1.0, pause - (self._clock.monotonic() - started)))

    async def round(self) -> None:
        """Ask all kubelets, spread over a moment so that they do not all answer at once."""
        nodes = self._nodes()
        answers = await asyncio.gather(*(self._ask(node) for node in nodes))
        found = {
            meta.name_of(node): scrape
            for node, scrape in zip(nodes, answers, strict=True)
            if scrape is not None
        }
        self._store.put(found)
        self.last_round = self._clock.monotonic()
        log.debug("scraped", extra={"nodes": len(found), "of": len(nodes)})

    async def _ask(self, node: Mapping[str, Any]) -> Scrape | None:
        address = self._locate(node)
        if address is None:
            log.warning("node has no usable address", extra={"node": meta.name_of(node)})
            return None
        await self._clock.sleep(self._jitter() * min(4.0, len(self._nodes()) / 50))
        try:
            scrape = parse(await self._fetch(address, "/metrics/resource"))
        except (ScrapeFailed, BadExposition) as error:
            _scraped.labels("false").inc()
            log.warning("failed to scrape node: %s", error, extra={"node": meta.name_of(node)})
            return None
        _scraped.labels("true").inc()
        return scrape
