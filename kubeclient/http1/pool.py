"""A bounded pool of connections to one server.

Requests wait for a place when `limit` are under way, the longest waiting first; the connection used last is
used next, so that those no longer needed grow old and are closed. A stream has a connection of its own, since
it keeps it for minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from kubeclient.http1.connection import Broken, Connection
from kubeclient.http1.message import IDEMPOTENT, Answer, NotSent, Request, Stream

CONNECT_TIMEOUT = 5.0
"""Seconds for a connection, handshake included."""
LIMIT = 32
"""Requests under way at once. More would only wait in the server's queue instead of ours."""
KEEP_ALIVE = 60.0
"""Seconds a connection may have been idle to be used again. Below the server's idle limit, so that it is not
the server who closes one under a request.
"""
_FRESH = 1.0
_GOODBYE = 5.0

# A peer that vanished without a word is noticed within half a minute, also by a watch that only reads.
_SOCKET_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
]


class Pool:
    """A Transport over HTTP/1.1 to `server`, an http or https URL. Raises ValueError for any other."""

    def __init__(self, server: str, context: ssl.SSLContext | None = None, *, limit: int = LIMIT) -> None:
        parts = urlsplit(server)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not the URL of a server: {server!r}")
        self._host = parts.hostname
        self._secure = parts.scheme == "https"
        self._port = parts.port or (443 if self._secure else 80)
        self._context = context or (ssl.create_default_context() if self._secure else None)
        self._limit = limit
        self._room = asyncio.Semaphore(limit)
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._closed = False
        self._all_lost = asyncio.Event()

    async def send(self, request: Request) -> Answer:
        data = request.encode()
        if request.stream:
            return await self._stream(request, data)
        if not self._room.locked():
            await self._room.acquire()
        else:
            await self._wait_for_room(request.timeout)
        try:
            _, answer = await self._attempt(request, data)
            return answer
        finally:
            self._room.release()

    async def _wait_for_room(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._room.acquire()
        except TimeoutError:
            raise NotSent(f"no free connection within {seconds:g}s") from None

    async def _stream(self, request: Request, data: bytes) -> Answer:
        connection, answer = await self._attempt(request, data)
        assert answer.stream is not None
        answer.stream = _Held(answer.stream, connection, self)
        return answer

    async def _attempt(self, request: Request, data: bytes) -> tuple[Connection, Answer]:
        """A kept connection may have been closed by the server at the moment we wrote to it. If not a byte
        came back, what may be sent twice is sent on another one; anything else fails, for it may have been
        carried out.
        """
        while True:
            connection = self._take()
            kept = connection is not None
            if connection is None:
                connection = await self._connect()
            try:
                answer = await connection.exchange(request, data)
            except Broken as error:
                if kept and error.silent and request.method in IDEMPOTENT:
                    continue
                raise
            finally:
                if not request.stream:
                    self.give_back(connection)
            return connection, answer

    # -- connections -----------------------------------------------------------------------------------------

    def _take(self) -> Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            idle = now - connection.idle_since
            if not connection.reusable:
                continue
            if idle > KEEP_ALIVE or (idle > _FRESH and connection.has_news()):
                connection.close()
                continue
            return connection
        return None

    def give_back(self, connection: Connection) -> None:
        """The connection's exchange is over."""
        if not connection.reusable or self._closed:
            connection.close()
            return
        self._idle.append(connection)
        oldest = self._idle[0]
        # As many are kept as a burst takes: the next one would pay the handshakes again.
        if len(self._idle) > self._limit or connection.idle_since - oldest.idle_since > KEEP_ALIVE:
            self._idle.popleft().close()

    async def _connect(self) -> Connection:
        if self._closed:
            raise NotSent("the client is closed")
        loop = asyncio.get_running_loop()
        name = self._host if self._secure else None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                transport, connection = await loop.create_connection(
                    lambda: Connection(self._lost),
                    self._host,
                    self._port,
                    ssl=self._context if self._secure else None,
                    server_hostname=name,
                )
        except TimeoutError:
            raise NotSent(f"no connection within {CONNECT_TIMEOUT:g}s") from None
        except OSError as error:
            raise NotSent(f"{type(error).__name__}: {error}") from error
        if transport.is_closing():
            raise NotSent("the server closed the connection at once")
        self._open.add(connection)
        with contextlib.suppress(OSError):  # it may be gone already
            for option in _SOCKET_OPTIONS:
                transport.get_extra_info("socket").setsockopt(*option)
        return connection

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)
        if self._closed and not self._open:
            self._all_lost.set()

    async def aclose(self) -> None:
        """Close the connections, giving TLS a moment for its goodbyes."""
        self._closed = True
        for connection in self._open:
            if connection.reusable:
                connection.close()
            else:
                connection.abort()
        if not self._open:
            return
        try:
            async with asyncio.timeout(_GOODBYE):
                await self._all_lost.wait()
        except TimeoutError:
            for connection in self._open:
                connection.abort()


class _Held:
    """A stream that gives its connection back to the pool when it is closed."""

    def __init__(self, inner: Stream, connection: Connection, pool: Pool) -> None:
        self._inner = inner
        self._connection = connection
        self._pool = pool
        self._done = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._inner.__aiter__()

    async def aclose(self) -> None:
        if not self._done:
            self._done = True
            await self._inner.aclose()
            self._pool.give_back(self._connection)
