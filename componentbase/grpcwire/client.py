"""The asyncio shell of the dialling end: one connection a channel, unary calls and streams, deadlines.

A channel connects when it is first used and again when its connection has ended. It repeats nothing: every
failure is an RpcError, whose `sent` says whether the call can have reached the other side.
"""

from __future__ import annotations

import asyncio
import select
import ssl
from collections import deque
from typing import Final, cast

from componentbase.grpcwire import frames, rpc
from componentbase.grpcwire.connection import Limits, Stream
from componentbase.grpcwire.dialling import ClientConnection
from componentbase.grpcwire.hpack import Fields
from componentbase.grpcwire.keepalive import TOO_MANY_PINGS, Keepalive, Watchdog
from componentbase.grpcwire.status import Code, RpcError, encode_timeout

_CONNECT_SECONDS: Final = 5.0
_CLIENT_LIMITS: Final = Limits(max_message=1 << 31, max_buffered=1 << 31, stream_window=1 << 20)
# Only while there are calls; no more often than a server of etcd allows.
_CLIENT_KEEPALIVE: Final = Keepalive(interval=10.0, timeout=2.0)
_STREAM_HIGH_WATER: Final = 64 << 10


class _Dialled(asyncio.Protocol):
    """One connection to the server."""

    def __init__(self, keepalive: Keepalive, limits: Limits) -> None:
        self.loop = asyncio.get_running_loop()
        self.core = ClientConnection(limits, self.loop.time)
        self.core.on_pong = self._pong
        self.freed: deque[asyncio.Future[None]] = deque()  # calls that wait for a free stream
        self.writable, self.refused_pings = True, False
        self._hangup = select.poll()
        self._transport: asyncio.Transport | None = None
        self._keepalive = keepalive
        self._watchdog = Watchdog(keepalive, self.loop.time())
        self._timer: asyncio.TimerHandle | None = None
        self._scheduled = False
        self._reason = "connection closed"
        self.lost: asyncio.Future[None] = self.loop.create_future()
        self._greeted: asyncio.Future[None] = self.loop.create_future()

    @property
    def usable(self) -> bool:
        """Whether new calls may begin here.

        The loop learns that the server hung up when it next polls; asking the socket itself keeps a call from
        being sent to a server that is known to be gone, when nobody could say any more what became of it.
        """
        if self._transport is None or not self.core.usable:
            return False
        return bool(self.core.streams) or not self._hangup.poll(0)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._hangup.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self.core.reset_all(RpcError(Code.UNAVAILABLE, str(error or self._reason)))
        self._wake_waiters()
        if not self.lost.done():
            self.lost.set_result(None)
        self._on_greeting(str(error or "closed by the server before it said anything"))

    def _on_greeting(self, failure: str = "") -> None:
        if self._greeted.done():
            return
        if failure:
            self._greeted.set_exception(ConnectionError(failure))
            self._greeted.exception()  # seen, also when nobody comes to ask
        else:
            self._greeted.set_result(None)

    async def greeted(self) -> None:
        """Wait for the server's SETTINGS. Before them nobody knows whether it lets us in: with TLS 1.3 a
        client certificate is judged after the handshake is over for the client. Raises ConnectionError.
        """
        await self._greeted

    def data_received(self, data: bytes) -> None:
        self._watchdog.heard(self.loop.time())
        core = self.core
        core.receive(data)
        if core.settled:
            self._on_greeting()
        if core.out:
            self.flush()
        if core.failure is not None:
            self.close(str(core.failure))
        elif core.goaway is not None:
            self.refused_pings = core.goaway[2] == TOO_MANY_PINGS
            if not core.streams:
                self.close("the server is going away")
        if self.freed:
            self._wake_waiters()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        for stream in list(self.core.streams.values()):
            stream.receiver.on_writable()

    def _wake_waiters(self) -> None:
        while self.freed and (not self.core.full or not self.usable):
            waiter = self.freed.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    # -- output

    def schedule(self) -> None:
        """Write what is in `core.out` at the end of this turn of the loop, in one piece."""
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self.flush)
        if self._timer is None:
            self._timer = self.loop.call_later(self._keepalive.interval, self._check_alive)

    def flush(self) -> None:
        """Write it now."""
        self._scheduled = False
        out = self.core.out
        if out and self._transport is not None:
            self._transport.write(b"".join(out))
        out.clear()

    def close(self, reason: str) -> None:
        """Drop the connection; calls that wait on it end as UNAVAILABLE."""
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()

    # -- keepalive

    def _pong(self, data: bytes) -> None:
        """Answered; the watchdog has heard it."""

    def _check_alive(self) -> None:
        self._timer = None
        if self._transport is None or not self.core.streams:
            return
        try:
            if self._watchdog.check(self.loop.time()):
                self.core.out.append(frames.ping(b"\0" * 8))
                self.flush()
            wait = self._watchdog.next_check(self.loop.time())
        except TimeoutError as error:
            self.close(str(error))
            return
        self._timer = self.loop.call_later(wait, self._check_alive)


class _UnaryCall:
    """Receives the answer of a unary call."""

    __slots__ = ("answer", "future", "stream")

    def __init__(self, future: asyncio.Future[bytes]) -> None:
        self.future = future
        self.answer: bytes | None = None
        self.stream: Stream | None = None

    def on_headers(self, fields: Fields) -> None:
        answer = _parse(fields)
        if answer.code is None or self.future.done():
            return
        if answer.code is not Code.OK:
            self.future.set_exception(RpcError(answer.code, answer.text, answered=True))
        elif self.answer is None:
            self.future.set_exception(RpcError(Code.INTERNAL, "OK without a message"))
        else:
            self.future.set_result(self.answer)

    def on_message(self, message: bytes) -> None:
        if self.answer is not None:
            self.on_reset(RpcError(Code.INTERNAL, "more than one answer to a unary call"))
        self.answer = message

    def on_end(self) -> None:
        self.on_reset(RpcError(Code.INTERNAL, "the answer ended without a status"))

    def on_reset(self, error: RpcError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def on_writable(self) -> None:
        """Nobody waits for it."""


def _parse(fields: Fields) -> rpc.Answer:
    try:
        return rpc.parse_answer(fields)
    except ValueError as error:
        return rpc.Answer(Code.INTERNAL, str(error))


class ClientStream:
    """A call of many messages either way. Failures are RpcError, also from reads that come after."""

    def __init__(self, connection: _Dialled) -> None:
        self._connection = connection
        self._stream: Stream | None = None
        self._inbox: deque[bytes] = deque()
        self._status: RpcError | None = None
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def open(self, fields: Fields, timeout: float | None) -> None:
        """Send the headers."""
        self._stream = self._connection.core.open(fields, self)
        self._connection.schedule()
        if timeout is not None:
            self._timer = self._connection.loop.call_later(timeout, self._expire)

    # -- connection.Receiver

    def on_headers(self, fields: Fields) -> None:
        answer = _parse(fields)
        if answer.code is not None:
            ok = answer.code is Code.OK
            self._finish(None if ok else RpcError(answer.code, answer.text, answered=True))

    def on_message(self, message: bytes) -> None:
        self._inbox.append(message)
        if self._stream is not None:
            self._connection.core.unread(self._stream, len(message))
        self._wake()

    def on_end(self) -> None:
        if not self._ended:
            self._finish(RpcError(Code.INTERNAL, "the answer ended without a status"))

    def on_reset(self, error: RpcError) -> None:
        self._finish(error)

    def on_writable(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _finish(self, error: RpcError | None) -> None:
        if not self._ended:
            self._ended, self._status = True, error
            if self._timer is not None:
                self._timer.cancel()
            self._wake()
            self.on_writable()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _expire(self) -> None:
        self.cancel(RpcError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded"))

    # -- for the caller

    async def read(self) -> bytes | None:
        """The next message; None when the server has ended the call with OK. Raises RpcError."""
        while not self._inbox:
            if self._ended:
                if self._status is not None:
                    raise self._status
                return None
            self._waiter = self._connection.loop.create_future()
            await self._waiter
        message = self._inbox.popleft()
        core = self._connection.core
        if self._stream is not None:
            core.consumed(self._stream, len(message))
            if core.out:
                self._connection.schedule()
        return message

    async def write(self, message: bytes) -> None:
        """Send one message, when the server has room for it. Raises RpcError."""
        assert self._stream is not None
        while not self._connection.writable or self._stream.pending_bytes > _STREAM_HIGH_WATER:
            if self._ended:
                break
            self._room = self._connection.loop.create_future()
            await self._room
        if self._ended:
            raise self._status or RpcError(Code.CANCELLED, "the server has ended the call")
        self._connection.core.send_message(self._stream, message)
        self._connection.schedule()

    def done_writing(self) -> None:
        """Tell the server that no further message comes."""
        if self._stream is not None:
            self._connection.core.send_end(self._stream)
            self._connection.schedule()

    def cancel(self, status: RpcError | None = None) -> None:
        """End the call. Safe to repeat."""
        if not self._ended and self._stream is not None:
            self._finish(status or RpcError(Code.CANCELLED, "cancelled by the caller"))
            self._connection.core.reset(self._stream)
            self._connection.schedule()


class Channel:
    """Calls to one server. `tls` None is plain text. Not for more than one event loop."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        user_agent: str = "grpcwire",
        keepalive: Keepalive = _CLIENT_KEEPALIVE,
        limits: Limits = _CLIENT_LIMITS,
        connect_timeout: float = _CONNECT_SECONDS,
    ) -> None:
        if tls is not None:
            tls.set_alpn_protocols(["h2"])
        self._host, self._port, self._tls = host, port, tls
        self._keepalive, self._limits, self._connect_timeout = keepalive, limits, connect_timeout
        name = f"[{host}]" if ":" in host else host
        self._common: Fields = (
            (":method", "POST"),
            (":scheme", "http" if tls is None else "https"),
            (":authority", f"{name}:{port}"),
            ("content-type", rpc.CONTENT_TYPE),
            ("te", "trailers"),
            ("user-agent", user_agent),
        )
        self._connection: _Dialled | None = None
        self._dialling: asyncio.Future[str] | None = None  # why the attempt under way failed; empty if not
        self._fields: dict[tuple[str, str], Fields] = {}

    @property
    def connected(self) -> bool:
        """Whether there is a connection that new calls can use."""
        return self._connection is not None and self._connection.usable

    async def connect(self, timeout: float) -> None:
        """Connect now rather than with the first call. Raises RpcError."""
        await self._ready(timeout)

    def close(self) -> None:
        """Drop the connection; calls that wait on it end as UNAVAILABLE. The channel can be used again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close("connection closed")

    async def aclose(self) -> None:
        """The same, and wait until the connection is gone."""
        connection = self._connection
        self.close()
        if connection is not None:
            await connection.lost

    async def unary(self, path: str, message: bytes, *, timeout: float, metadata: rpc.Metadata = ()) -> bytes:
        """One message for one message, within `timeout` seconds. Raises RpcError."""
        connection = self._connection
        if connection is None or not connection.usable or connection.core.full:
            loop = asyncio.get_running_loop()
            deadline = loop.time() + timeout
            connection = await self._ready(timeout)
            timeout = max(deadline - loop.time(), 0.0)
        loop = connection.loop
        future: asyncio.Future[bytes] = loop.create_future()
        call = _UnaryCall(future)
        stream = connection.core.call(self._headers(path, timeout, metadata), call, message)
        connection.schedule()
        timer = loop.call_later(timeout, _expire, future)
        try:
            return await future
        finally:
            timer.cancel()
            if stream.id in connection.core.streams:  # expired, cancelled, or ended early by the server
                connection.core.reset(stream)
                connection.schedule()

    async def stream(
        self, path: str, *, timeout: float | None = None, metadata: rpc.Metadata = ()
    ) -> ClientStream:
        """Begin a call of many messages. `timeout` bounds all of it. Raises RpcError if there is no
        connection.
        """
        connection = await self._ready(self._connect_timeout if timeout is None else timeout)
        call = ClientStream(connection)
        call.open(self._headers(path, timeout, metadata), timeout)
        return call

    def _headers(self, path: str, timeout: float | None, metadata: rpc.Metadata) -> Fields:
        budget = "" if timeout is None else encode_timeout(timeout)
        known = self._fields.get((path, budget)) if not metadata else None
        if known is not None:
            return known
        method, scheme, *rest = self._common
        fields = (method, scheme, (":path", path), *rest)
        if budget:
            fields += (("grpc-timeout", budget),)
        if metadata:
            return fields + rpc.metadata_fields(metadata)
        if len(self._fields) >= 256:
            self._fields.clear()
        self._fields[path, budget] = fields
        return fields

    async def _ready(self, timeout: float) -> _Dialled:
        """A connection with room for one more call. Raises RpcError, none of which was `sent`."""
        try:
            async with asyncio.timeout(timeout):
                connection = await self._connected()
                while connection.core.full and connection.usable:
                    waiter: asyncio.Future[None] = connection.loop.create_future()
                    connection.freed.append(waiter)
                    await waiter
                    connection = await self._connected()
                return connection
        except TimeoutError:
            text = f"failed to connect to {self._host}:{self._port}: no answer in time"
            raise RpcError(Code.UNAVAILABLE, text, sent=False) from None

    async def _connected(self) -> _Dialled:
        """The connection, made now if there is none. Callers share an attempt and its failure."""
        while self._dialling is not None:
            failure = await asyncio.shield(self._dialling)
            if failure:
                raise RpcError(Code.UNAVAILABLE, failure, sent=False)
        connection = self._connection
        if connection is not None and connection.usable:
            return connection
        if connection is not None and connection.refused_pings:
            doubled = 2 * self._keepalive.interval
            self._keepalive = Keepalive(interval=doubled, timeout=self._keepalive.timeout)
        attempt = self._dialling = asyncio.get_running_loop().create_future()
        failure = "the attempt to connect was cancelled"
        try:
            connection = self._connection = await self._dial()
            failure = ""
            return connection
        except RpcError as error:
            failure = error.text
            raise
        finally:
            self._dialling = None
            attempt.set_result(failure)

    async def _dial(self) -> _Dialled:
        loop = asyncio.get_running_loop()
        made: _Dialled | None = None

        def make() -> _Dialled:
            nonlocal made
            made = _Dialled(self._keepalive, self._limits)
            return made

        name = self._host if self._tls is not None else None
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(
                    make, self._host, self._port, ssl=self._tls, server_hostname=name
                )
                await connection.greeted()
                return connection
        except (OSError, TimeoutError) as error:
            text = f"failed to connect to {self._host}:{self._port}: {str(error) or 'no answer in time'}"
            raise RpcError(Code.UNAVAILABLE, text, sent=False) from None
        finally:
            if made is not None and not made.core.settled:
                made.close("not greeted")


def _expire(future: asyncio.Future[bytes]) -> None:
    if not future.done():
        future.set_exception(RpcError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded"))
