"""No write after the lease has run out.

A leader that was paused (SIGSTOP, a frozen machine) wakes up in the middle of what it was doing, with another
leader at work beside it, and would first go on: it finds out only at its next renewal. So every write of a
controller asks here whether the lease was renewed within its duration. The clock goes on while a process is
stopped. It is read again right before the request's headers and its body go to the socket, because opening a
connection takes long enough to be paused in; a request whose body never comes changes nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

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


class NotingTransport(httpx.AsyncBaseTransport):
    """Under the client that keeps the lease: tells the fence of every renewal."""

    def __init__(self, inner: httpx.AsyncBaseTransport, fence: Fence) -> None:
        self._inner, self._fence = inner, fence

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        sent_at = self._fence.monotonic()
        response = await self._inner.handle_async_request(request)
        is_lease = request.method == "PUT" and _path(request) == self._fence.lease_path
        made = request.method == "POST" and _path(request) == self._fence.lease_path.rpartition("/")[0]
        if (is_lease or made) and response.status_code < 300:
            self._fence.renewed(sent_at)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


class FencedTransport(httpx.AsyncBaseTransport):
    """Under the clients of controllers: reads pass, writes only through an open fence."""

    def __init__(self, inner: httpx.AsyncBaseTransport, fence: Fence) -> None:
        self._inner, self._fence = inner, fence

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method not in READS:
            self._check()
            request.extensions = {**request.extensions, "trace": self._trace}
        return await self._inner.handle_async_request(request)

    async def _trace(self, event: str, _info: Mapping[str, Any]) -> None:
        """httpcore's "trace" extension: told of every step of a request before it is taken."""
        if event.endswith((".send_request_headers.started", ".send_request_body.started")):
            self._check()

    def _check(self) -> None:
        if not self._fence.is_open:
            raise httpx.WriteError("the lease has not been renewed in time: another manager may be leading")

    async def aclose(self) -> None:
        await self._inner.aclose()


def _path(request: httpx.Request) -> str:
    target: bytes = request.extensions.get("target", request.url.raw_path)
    return target.partition(b"?")[0].decode()
