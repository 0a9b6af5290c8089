"""No write after the lease has run out.

A leader that was paused (SIGSTOP, a frozen machine) wakes up in the middle of what it was doing, with another
leader at work beside it, and would first go on: it finds out only at its next renewal. So every write of a
controller asks here whether the lease was renewed within its duration. The clock goes on while a process is
stopped. It is read again right before the request goes to the socket, because opening a connection takes long
enough to be paused in.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from kubeclient.http1.message import Answer, ConnectionFailed, Request, Transport

READS = frozenset({"GET", "HEAD"})


@dataclass(slots=True)
class Fence:
    """Open for `duration` seconds after each renewal of the lease. Others wait at least that long, counted
    from when they saw it.
    """

    lease_path: str
    duration: float
    monotonic: Callable[[], float] = time.monotonic
    _renewed: float = field(default=-math.inf)

    def renewed(self, sent_at: float) -> None:
        """A renewal sent at that time has succeeded."""
        self._renewed = max(self._renewed, sent_at)

    @property
    def is_open(self) -> bool:
        return self.monotonic() < self._renewed + self.duration


class NotingTransport:
    """Under the client that keeps the lease: tells the fence of every renewal."""

    def __init__(self, inner: Transport, fence: Fence) -> None:
        self._inner, self._fence = inner, fence

    async def send(self, request: Request) -> Answer:
        sent_at = self._fence.monotonic()
        answer = await self._inner.send(request)
        is_lease = request.method == "PUT" and request.path == self._fence.lease_path
        made = request.method == "POST" and request.path == self._fence.lease_path.rpartition("/")[0]
        if (is_lease or made) and answer.status < 300:
            self._fence.renewed(sent_at)
        return answer

    async def aclose(self) -> None:
        await self._inner.aclose()


class FencedTransport:
    """Under the clients of controllers: reads pass, writes only through an open fence."""

    def __init__(self, inner: Transport, fence: Fence) -> None:
        self._inner, self._fence = inner, fence

    async def send(self, request: Request) -> Answer:
        if request.method not in READS:
            self._check()
            request.before_write = self._check
        return await self._inner.send(request)

    def _check(self) -> None:
        if not self._fence.is_open:
            raise ConnectionFailed("the lease has not been renewed in time: another manager may be leading")

    async def aclose(self) -> None:
        await self._inner.aclose()
