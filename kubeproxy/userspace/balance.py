"""In which order endpoints are tried for a client. Pure: time and chance are handed in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from kubeproxy.model import Endpoint
from kubeproxy.userspace.compiler import Route

REMEMBERED = 65536
"""Clients that are remembered at most, as many as a set of the kernel holds by default."""


class Chance(Protocol):
    """`random.Random`, as far as it is used here."""

    def sample(self, population: Sequence[Endpoint], k: int) -> list[Endpoint]: ...


class _Memory(NamedTuple):
    endpoint: Endpoint
    until: float


class Balancer:
    """Any endpoint is as good as another, but a client with session affinity has its last one first."""

    def __init__(self, chance: Chance, limit: int = REMEMBERED) -> None:
        self._chance = chance
        self._limit = limit
        self._memory: OrderedDict[tuple[str, str], _Memory] = OrderedDict()

    def order(self, route: Route, endpoints: Sequence[Endpoint], client: str, now: float) -> list[Endpoint]:
        """All of `endpoints`, the first to be tried first. `now` is in seconds of one clock."""
        order = self._chance.sample(endpoints, len(endpoints))
        known = self._memory.get((route.title, client)) if route.affinity_seconds else None
        if known is not None and known.until > now and known.endpoint in order:
            order.remove(known.endpoint)
            order.insert(0, known.endpoint)
        return order

    def remember(self, route: Route, client: str, endpoint: Endpoint, now: float) -> None:
        """The client was sent there. Of too many clients the one that was away longest is forgotten."""
        if not route.affinity_seconds:
            return
        key = (route.title, client)
        self._memory[key] = _Memory(endpoint, now + route.affinity_seconds)
        self._memory.move_to_end(key)
        if len(self._memory) > self._limit:
            self._memory.popitem(last=False)

    def forget(self, route: Route, client: str) -> None:
        self._memory.pop((route.title, client), None)
