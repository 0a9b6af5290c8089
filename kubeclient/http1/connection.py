"""One connection: requests one after another, each answer read by httptools' parser.

A connection is `reusable` while nothing is under way and the server has said nothing that ends it. Whoever
leaves an exchange early (a cancelled request, a watch that is no longer wanted) makes it unusable: what the
server still sends would be taken for the next answer.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import cast

import httptools

from kubeclient.http1.message import Answer, ConnectionFailed, Request

MAX_HEAD = 1 << 20
"""Bytes of status line and headers, as Go's client allows."""
HIGH_WATER = 1 << 20
"""Bytes of a streamed body that wait for their reader before the socket is left alone."""
_GRACE = 5.0


class Broken(ConnectionFailed):
    """The connection ended before the answer did. `silent`: before its first byte."""

    def __init__(self, message: str, silent: bool = False) -> None:
        super().__init__(message)
        self.silent = silent


class Connection(asyncio.Protocol):
    """The client's end. `on_lost` is called once, when the connection is gone."""

    def __init__(self, on_lost: Callable[[Connection], None]) -> None:
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._exchange: _Exchange | None = None
        self._usable = True
        self.idle_since = self._loop.time()

    # -- towards the pool ------------------------------------------------------------------------------------

    @property
    def reusable(self) -> bool:
        return self._usable and self._exchange is None

    async def exchange(self, request: Request, data: bytes) -> Answer:
        """Send `data`, which is `request` as bytes, and await its answer.

        Raises Broken, or whatever `before_write` raises. An answer that is streamed leaves the connection
        busy until the stream has ended or is closed.
        """
        assert self._transport is not None
        if request.before_write is not None:
            request.before_write()
        if not self.reusable:
            raise Broken("the server closed the connection", silent=True)
        exchange = self._exchange = _Exchange(self, request, self._loop)
        self._transport.write(data)
        try:
            return await exchange.answer
        finally:
            if exchange.stream is None or not exchange.answered:
                self.finish(exchange)

    def finish(self, exchange: _Exchange) -> None:
        """Nobody reads this exchange any more."""
        if self._exchange is exchange:
            exchange.timer.cancel()
            self._exchange = None
            self.idle_since = self._loop.time()
            if not exchange.complete:
                self.abort()

    def has_news(self) -> bool:
        """Whether the socket holds something to read. On an idle connection that can only be its end."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        if sock is None:  # it has just been closed
            return True
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Take leave of the server; `abort` follows if it does not answer."""
        self._usable = False
        if self._transport is not None:
            self._transport.close()
            self._loop.call_later(_GRACE, self.abort)

    def abort(self) -> None:
        self._usable = False
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # -- from the transport ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's over TLS is none by class

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            # Nothing was asked: a late answer, or a server that says why it closes.
            self.abort()
            return
        exchange.heard(len(data))
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"the answer is not HTTP: {error}")
            self.abort()

    def eof_received(self) -> None:
        self._usable = False

    def connection_lost(self, error: Exception | None) -> None:
        self._usable = False
        self._transport = None
        exchange = self._exchange
        if exchange is not None and error is None and exchange.ends_with_connection:
            exchange.end()
        self._fail(str(error) if error else "the server closed the connection")
        self._on_lost(self)

    def _fail(self, message: str) -> None:
        if self._exchange is not None:
            self._exchange.fail(message)

    # -- from the parser -------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._exchange is not None:
            self._exchange.header(name, value)

    def on_headers_complete(self) -> None:
        if self._exchange is not None:
            self._exchange.head(self._parser.get_status_code())

    def on_body(self, chunk: bytes) -> None:
        if self._exchange is not None:
            self._exchange.body(chunk)

    def on_message_complete(self) -> None:
        if self._exchange is None:
            return
        if not self._parser.should_keep_alive():
            self._usable = False
        self._exchange.end()


class _Exchange:
    """One request's answer while it arrives; also the stream of its body."""

    def __init__(self, connection: Connection, request: Request, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._timeout = request.timeout
        self._bodiless = request.method == "HEAD"
        self._status = 0
        self._headers: dict[str, str] = {}
        self._head_bytes = 0
        self._chunks: deque[bytes] = deque()
        self._waiting = 0  # bytes in _chunks, for streams
        self._reader: asyncio.Future[None] | None = None
        self._failure: Broken | None = None
        self._since = loop.time()
        self._silent = True
        self._paused = False
        self.complete = False
        self.stream = self if request.stream else None
        self.answer: asyncio.Future[Answer] = loop.create_future()
        self.timer = loop.call_later(self._timeout, self._check)

    @property
    def answered(self) -> bool:
        """Whether an answer was handed over."""
        return self.answer.done() and not self.answer.cancelled() and self.answer.exception() is None

    @property
    def ends_with_connection(self) -> bool:
        """Whether the end of the connection is the end of the body (RFC 9112, 6.3, rule 8)."""
        framed = "content-length" in self._headers or "transfer-encoding" in self._headers
        return self._status >= 200 and not framed

    # -- what arrives ----------------------------------------------------------------------------------------

    def heard(self, count: int) -> None:
        self._silent = False
        self._since = self._loop.time()
        if not self._status:
            self._head_bytes += count
            if self._head_bytes > MAX_HEAD:
                self.fail("the answer's head is too large")
                self._connection.abort()

    def header(self, name: bytes, value: bytes) -> None:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def head(self, status: int) -> None:
        if status == 101:
            self.fail("the server switches protocols, which nobody asked for")
            return
        if status < 200:
            self._headers.clear()  # an interim answer (RFC 9110, 15.2): the final one follows
            return
        self._status = status
        if self._bodiless:
            self.end()
            self._connection.abort()  # the parser would wait for the body that HEAD does not have
        elif self.stream is not None and not self.answer.done():
            self.answer.set_result(Answer(status, self._headers, stream=self))

    def body(self, chunk: bytes) -> None:
        self._chunks.append(chunk)
        if self.stream is not None:
            self._waiting += len(chunk)
            if self._waiting > HIGH_WATER and not self._paused:
                self._paused = True
                self._connection.pause()
            self._wake()

    def end(self) -> None:
        if not self._status:
            return
        self.complete = True
        if self.stream is None and not self.answer.done():
            self.answer.set_result(Answer(self._status, self._headers, b"".join(self._chunks)))
        self._wake()

    def fail(self, message: str) -> None:
        if self.complete or self._failure is not None:
            return
        self._failure = Broken(message, self._silent)
        if not self.answer.done():
            self.answer.set_exception(self._failure)
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _check(self) -> None:
        """The deadline counts from the last byte, and not while it is the reader who lets the server wait."""
        idle = self.answer.done() and self._reader is None
        left = self._timeout if idle else self._since + self._timeout - self._loop.time()
        if left > 0:
            self.timer = self._loop.call_later(left, self._check)
            return
        self.fail(f"nothing heard for {self._timeout:g}s")
        self._connection.abort()

    # -- the stream ------------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """What has come in, in one piece."""
        while not self._chunks:
            if self.complete:
                raise StopAsyncIteration
            if self._failure is not None:
                raise Broken(str(self._failure))
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        data = b"".join(self._chunks) if len(self._chunks) > 1 else self._chunks[0]
        self._chunks.clear()
        self._waiting = 0
        if self._paused:
            self._paused = False
            self._since = self._loop.time()
            self._connection.resume()
        return data

    async def aclose(self) -> None:
        self._connection.finish(self)
