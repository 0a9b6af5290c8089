"""Turns at the runtime: how many pods may be starting at once, and who is next.

A start costs the machine some hundred milliseconds of CPU. Two hundred starts at once all end late, the first
of them after the runtime's own deadlines, and what a runtime gave up half-way costs more than the start did.
A few at once end one after the other, no later, and the first is ready at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import AsyncIterator
from enum import IntEnum

LEAST = 4


class Rank(IntEnum):
    """Who goes first: what is begun is finished before more is begun."""

    CONTAINER = 0
    SANDBOX = 1


def starts_at_once(cpus: int) -> int:
    """Two starts a core keep it busy while either waits for the kernel. Pure."""
    return max(LEAST, 2 * cpus)


class Turns:
    """At most `limit` at work; who waits is let in by rank, then in the order of arrival."""

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError("at least one must be let in")
        self._free = limit
        self._arrivals = 0
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []

    @contextlib.asynccontextmanager
    async def turn(self, rank: Rank) -> AsyncIterator[None]:
        """Wait for a turn, and hold it."""
        await self._enter(rank)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, rank: Rank) -> None:
        if self._free:
            self._free -= 1
            return
        let_in: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals += 1
        heapq.heappush(self._waiting, (rank, self._arrivals, let_in))
        try:
            await let_in
        except asyncio.CancelledError:
            if let_in.done() and not let_in.cancelled():
                self._leave()  # let in and cancelled in one turn of the loop: pass it on
            raise

    def _leave(self) -> None:
        while self._waiting:
            _, _, let_in = heapq.heappop(self._waiting)
            if not let_in.done():
                let_in.set_result(None)
                return
        self._free += 1
