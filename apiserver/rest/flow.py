"""Flow control: a bound on requests in flight, with a reserve that only the cluster's own heartbeats may use.

Reads and writes have separate limits (`--max-requests-inflight`, `--max-mutating-requests-inflight`). A
request over the limit waits its turn for a moment and gets a 429 then. Leases and node status come from a
share of their own, so that one noisy client cannot make nodes look dead. Watches and other long-running
requests are not counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from apimachinery import errors
from apiserver.auth.user import User
from apiserver.rest.info import RequestInfo

QUEUE_SECONDS = 5.0
QUEUE_LENGTH = 512
SYSTEM_SHARE = 0.2
LONG_RUNNING = frozenset({"exec", "attach", "portforward", "log", "proxy"})
READS = frozenset({"get", "list", "watch", "head", "options"})


def is_long_running(info: RequestInfo) -> bool:
    return info.verb == "watch" or (info.is_resource and info.subresource in LONG_RUNNING)


def is_system(user: User, info: RequestInfo) -> bool:
    """Heartbeats and leader election, which must not queue behind anybody."""
    if info.resource == "leases":
        return user.name.startswith("system:")
    return bool(user.node_name) and info.resource == "nodes"


class Level:
    """Seats and a bounded queue before them."""

    def __init__(self, seats: int) -> None:
        self._seats = asyncio.Semaphore(max(seats, 1))
        self.waiting = 0
        self.executing = 0

    @asynccontextmanager
    async def seat(self) -> AsyncIterator[None]:
        if self._seats.locked():
            await self._queue()
        else:
            await self._seats.acquire()
        self.executing += 1
        try:
            yield
        finally:
            self.executing -= 1
            self._seats.release()

    async def _queue(self) -> None:
        if self.waiting >= QUEUE_LENGTH:
            raise errors.too_many_requests("too many requests, please try again later")
        self.waiting += 1
        try:
            async with asyncio.timeout(QUEUE_SECONDS):
                await self._seats.acquire()
        except TimeoutError:
            raise errors.too_many_requests("too many requests, please try again later") from None
        finally:
            self.waiting -= 1


class FlowControl:
    def __init__(self, reads: int = 400, writes: int = 200) -> None:
        self.reads, self.writes = Level(reads), Level(writes)
        self.system = Level(round((reads + writes) * SYSTEM_SHARE))

    def level(self, user: User, info: RequestInfo) -> Level | None:
        """The level a request is counted at; None when it is not counted."""
        if is_long_running(info) or not info.is_resource:
            return None
        if is_system(user, info):
            return self.system
        return self.reads if info.verb in READS else self.writes
