"""The asyncio shell of the accepting end: listeners, TLS, one task a call, deadlines, graceful stop.

A method is `Unary`, a coroutine from one message to one message, or `Streaming`, which reads and writes what
it likes and covers the three other kinds. What handlers raise as RpcError is the call's status.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Protocol, Self, cast

from componentbase import tlsutil
from componentbase.grpcwire import frames, rpc
from componentbase.grpcwire.accepting import ServerConnection
from componentbase.grpcwire.connection import Limits, Stream
from componentbase.grpcwire.frames import ErrorCode, H2Error
from componentbase.grpcwire.hpack import Fields
from componentbase.grpcwire.keepalive import TOO_MANY_PINGS, Keepalive, PingGuard, Watchdog
from componentbase.grpcwire.status import Code, RpcError

log = logging.getLogger(__name__)

_GREETING_SECONDS: Final = 20.0
_CLOSING_SECONDS: Final = 0.5  # for the other side to take what is written, and to say goodbye
_DEADLINE_STEP: Final = 0.1
_TELLING: Final = 3  # bytes of the preface that no request line of HTTP/1.1 begins with
_KEEPALIVE_STEP: Final = 5.0
_HIGH_WATER: Final = 256 << 10  # bytes of one connection that wait, above which nothing more is read from it
_STREAM_HIGH_WATER: Final = 64 << 10
_MAX_UNSENT: Final = 256 << 20  # a client that asks for so much and reads nothing is cut off


class Caller(Protocol):
    """Who calls, as a handler sees it."""

    @property
    def metadata(self) -> rpc.Metadata:
        """What the client sent along."""

    @property
    def common_name(self) -> str:
        """Of the client's certificate, if it showed one that verified; else empty."""


class Conversation(Caller, Protocol):
    """A call of many messages, as a handler sees it."""

    on_room: Callable[[], None] | None
    """Called when a client that was slow has room again."""

    @property
    def has_room(self) -> bool:
        """Whether the client keeps up, so that more may be sent."""

    async def read(self) -> bytes | None:
        """The client's next message; None when it has said all."""

    def stop_reading(self) -> None:
        """Let `read` say that the client has said all, from outside of the handler."""

    def send(self, message: bytes) -> None:
        """Send one message without waiting."""

    async def write(self, message: bytes) -> None:
        """Send one message, when the client has room for it."""


@dataclass(frozen=True, slots=True)
class Unary:
    """One message in, one out."""

    handler: Callable[[bytes, Caller], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Streaming:
    """Any number of messages either way. Returning ends the call with OK."""

    handler: Callable[[Conversation], Awaitable[None]]


Method = Unary | Streaming


class Call:
    """One call as its handler sees it, and as its connection does (`connection.Receiver`)."""

    __slots__ = ("_message", "connection", "method", "request", "stream", "task")

    def __init__(self, connection: _Accepted, stream: Stream, request: rpc.Request, method: Any) -> None:
        self.connection, self.stream, self.request = connection, stream, request
        self.method = method
        self.task: asyncio.Task[None] | None = None
        self._message: bytes | None = None

    @property
    def metadata(self) -> rpc.Metadata:
        """See `Caller`."""
        return self.request.metadata

    @property
    def common_name(self) -> str:
        """See `Caller`."""
        return self.connection.common_name

    def on_headers(self, fields: Fields) -> None:
        """Never: a client's trailers carry nothing."""

    def on_message(self, message: bytes) -> None:
        if self._message is not None:
            self.fail(RpcError(Code.INTERNAL, "more than one message in a unary call"))
            return
        self._message = message
        self.connection.core.unread(self.stream, len(message))  # until the call is over

    def on_end(self) -> None:
        if self._message is None:
            self.fail(RpcError(Code.INTERNAL, "a unary call without a message"))
        elif not self.stream.local_closed:
            self.start(self._run(self._message))

    def start(self, work: Any) -> None:
        """Run the handler."""
        self.task = self.connection.server.spawn(work)
        self.task.add_done_callback(self._done)

    def _done(self, _: object) -> None:
        self.task = None
        self.connection.server.calls.pop(self, None)

    def on_reset(self, error: RpcError) -> None:
        if self.task is not None:
            self.task.cancel()

    def on_writable(self) -> None:
        """A unary handler waits for nothing of the kind."""

    def fail(self, error: RpcError) -> None:
        """End the call with a status, from outside of its handler."""
        self.on_reset(error)
        self.connection.core.respond_status(self.stream, error.code, error.text)
        self.connection.schedule()

    async def _run(self, message: bytes) -> None:
        try:
            answer = await self.method.handler(message, self)
        except Exception as error:
            self.connection.end(self.stream, *_status_of(error, self.request.path))
        else:
            self.connection.core.respond(self.stream, answer)
            self.connection.schedule()


def _status_of(error: Exception, path: str) -> tuple[Code, str]:
    if isinstance(error, RpcError):
        return error.code, error.text
    log.error("%s failed: %s: %s", path, type(error).__name__, error, exc_info=error)
    return Code.UNKNOWN, f"{type(error).__name__} in the server"


class StreamCall(Call):
    """A `Conversation` over HTTP/2. Reading gives the client's window back; writing waits while the client is
    slow. Who must not wait looks at `has_room` and leaves a callback in `on_room`.
    """

    __slots__ = ("_ended", "_inbox", "_reading", "_writing", "on_room")

    def __init__(self, connection: _Accepted, stream: Stream, request: rpc.Request, method: Any) -> None:
        super().__init__(connection, stream, request, method)
        self._inbox: deque[bytes] = deque()
        self._ended = False
        self._reading: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self.on_room: Callable[[], None] | None = None

    def on_message(self, message: bytes) -> None:
        self._inbox.append(message)
        self.connection.core.unread(self.stream, len(message))
        _wake(self._reading)

    def on_end(self) -> None:
        self._ended = True
        _wake(self._reading)

    def on_writable(self) -> None:
        if self.on_room is not None and self.has_room:
            self.on_room()
        _wake(self._writing)

    async def read(self) -> bytes | None:
        """See `Conversation`."""
        while not self._inbox:
            if self._ended:
                return None
            self._reading = asyncio.get_running_loop().create_future()
            await self._reading
        message = self._inbox.popleft()
        self.connection.core.consumed(self.stream, len(message))
        if self.connection.core.out:
            self.connection.schedule()
        return message

    def stop_reading(self) -> None:
        """See `Conversation`."""
        self._inbox.clear()
        self.on_end()

    @property
    def has_room(self) -> bool:
        """See `Conversation`."""
        return self.connection.writable and self.stream.pending_bytes < _STREAM_HIGH_WATER

    def send(self, message: bytes) -> None:
        """See `Conversation`."""
        core, stream = self.connection.core, self.stream
        core.spoke = True
        if not stream.headers_sent:
            core.respond_headers(stream)
        core.send_message(stream, message)
        self.connection.schedule()

    async def write(self, message: bytes) -> None:
        """See `Conversation`."""
        while not self.has_room:
            self._writing = asyncio.get_running_loop().create_future()
            await self._writing
        self.send(message)

    def run(self) -> None:
        """Start the handler."""
        self.start(self._stream())

    async def _stream(self) -> None:
        try:
            await self.method.handler(self)
        except Exception as error:
            self.connection.end(self.stream, *_status_of(error, self.request.path))
        else:
            if not self.stream.headers_sent:
                self.connection.core.respond_headers(self.stream)
            self.connection.end(self.stream, Code.OK, "")


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


class _Accepted(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.loop = asyncio.get_running_loop()
        self.core = ServerConnection(server.limits, self.loop.time, self._accept)
        self.core.on_pinged = self._pinged
        self.core.on_pong = self._pong
        self.writable = True
        self.watchdog = Watchdog(server.keepalive, self.loop.time())
        self._transport: asyncio.Transport | None = None
        self._guard = PingGuard(server.keepalive.min_time)
        self._scheduled = False
        self._name: str | None = None
        self._unknown: bytearray | None = None  # the first bytes of who has not said what it speaks
        self._greeting = self.loop.call_later(_GREETING_SECONDS, self.abort)

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(_HIGH_WATER)
        self.server.connections.add(self)
        if not self.server.serving:
            self.abort()
        tls = transport.get_extra_info("ssl_object")
        if self.server.other is not None and (tls is None or tls.selected_alpn_protocol() != "h2"):
            self._unknown = bytearray()
        else:
            self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        self._greeting.cancel()
        self._transport = None
        self.server.lost(self)
        self.core.reset_all(RpcError(Code.UNAVAILABLE, "connection lost"))

    def data_received(self, data: bytes) -> None:
        self.watchdog.heard(self.loop.time())
        if self._unknown is not None:
            self._unknown += data
            if len(self._unknown) < _TELLING:
                return
            data, self._unknown = bytes(self._unknown), None
            if not data.startswith(frames.PREFACE[:_TELLING]):
                self._hand_over(data)
                return
        self.core.receive(data)
        if self.core.settled:
            self._greeting.cancel()
        self.flush()

    def _hand_over(self, data: bytes) -> None:
        """The client speaks the other protocol."""
        assert self._transport is not None and self.server.other is not None
        transport, self._transport = self._transport, None
        self._greeting.cancel()
        self.server.lost(self)
        other = self.server.other()
        transport.set_protocol(other)
        other.connection_made(transport)
        other.data_received(data)

    def pause_writing(self) -> None:
        """The client does not read: it is not read from."""
        self.writable = False
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self.writable = True
        if self._transport is not None:
            self._transport.resume_reading()
        for stream in list(self.core.streams.values()):
            stream.receiver.on_writable()

    # -- output

    def schedule(self) -> None:
        """Write what is in `core.out` at the end of this turn of the loop, in one piece."""
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write it now."""
        self._scheduled = False
        core, transport = self.core, self._transport
        if transport is None:
            core.out.clear()
            return
        if core.out:
            data = b"".join(core.out)
            core.out.clear()
            transport.write(data)
        if core.failure is not None:
            log.info("closing a client's connection: %s", core.failure)
            transport.close()
        elif core.unsent + transport.get_write_buffer_size() > _MAX_UNSENT:
            log.warning("closing a client's connection: it asks and does not read")
            self.abort()

    def end(self, stream: Stream, code: Code, text: str) -> None:
        """End a call with a status."""
        self.core.respond_status(stream, code, text)
        self.schedule()

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    # -- calls

    def _accept(self, stream: Stream, request: rpc.Request) -> None:
        method = self.server.methods.get(request.path)
        if method is None:
            self.core.respond_status(stream, Code.UNIMPLEMENTED, self.server.unknown(request.path))
            return
        kind = Call if type(method) is Unary else StreamCall
        call = stream.receiver = kind(self, stream, request, method)
        if request.timeout is not None:
            self.server.expire_after(call, request.timeout)
        if isinstance(call, StreamCall):
            call.run()

    def tasks(self) -> list[asyncio.Task[None]]:
        """Of the calls under way."""
        calls = (stream.receiver for stream in self.core.streams.values())
        return [call.task for call in calls if isinstance(call, Call) and call.task is not None]

    @property
    def common_name(self) -> str:
        """Of the client's certificate; TLS has verified it."""
        if self._name is None:
            connection = self._transport.get_extra_info("ssl_object") if self._transport else None
            der = connection.getpeercert(binary_form=True) if connection is not None else None
            self._name = tlsutil.identity(der).common_name if der else ""
        return self._name

    # -- keepalive

    def _pinged(self) -> None:
        core = self.core
        if self._guard.pinged(self.loop.time(), has_calls=bool(core.streams), spoke=core.spoke):
            core.fail(H2Error(ErrorCode.ENHANCE_YOUR_CALM, TOO_MANY_PINGS.decode()))
        core.spoke = False

    def _pong(self, data: bytes) -> None:
        if data == _DRAIN_PING and not self.core.draining:
            self.core.drain(final=True)

    def check_alive(self) -> None:
        """Ask a silent client whether it is there; cut it off if it did not answer."""
        try:
            if self.watchdog.check(self.loop.time()):
                self.core.out.append(frames.ping(b"\0" * 8))
                self.flush()
        except TimeoutError as error:
            log.info("closing a client's connection: %s", error)
            self.abort()

    def drain(self) -> None:
        """Say that this server is going away; calls under way may end."""
        self.core.drain(final=False)
        self.core.out.append(frames.ping(_DRAIN_PING))
        self.flush()

    def close(self) -> None:
        """Close after what is written has been sent."""
        if self._transport is not None:
            self._transport.close()


_DRAIN_PING: Final = b"draining"


class Server:
    """Serves `methods` (full path to method). An asynchronous context manager: leaving it stops gracefully,
    within `grace` seconds. `other` makes the protocol for clients that do not speak HTTP/2.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        *,
        limits: Limits | None = None,
        keepalive: Keepalive | None = None,
        grace: float = 0.5,
        other: Callable[[], asyncio.Protocol] | None = None,
    ) -> None:
        self.methods, self.other = methods, other
        self.limits, self.keepalive = limits or Limits(), keepalive or Keepalive()
        self.connections: set[_Accepted] = set()
        self.calls: dict[Call, float] = {}  # those with a deadline, by loop time
        self.serving = True
        self._services = {path.split("/")[1] for path in methods}
        self._grace = grace
        self._listeners: list[asyncio.Server] = []
        self._tasks = asyncio.TaskGroup()
        self._gone = asyncio.Event()
        self._sweep: asyncio.TimerHandle | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._keeper = self._tasks.create_task(self._keep_alive(), name="keepalive")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()
        await self._tasks.__aexit__(None, None, None)

    async def listen(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Accept connections; the port. `tls` is changed to offer h2. Raises OSError.

        Who would take HTTP/1.1 as well as h2 is no client of gRPC, and gets HTTP/1.1 if it is served.
        """
        if tls is not None:
            tls.set_alpn_protocols(["http/1.1", "h2"] if self.other is not None else ["h2"])
        loop = asyncio.get_running_loop()
        listener = await loop.create_server(
            lambda: _Accepted(self), host or None, port, ssl=tls, backlog=1024
        )
        self._listeners.append(listener)
        return int(listener.sockets[0].getsockname()[1])

    def spawn(self, work: Any) -> asyncio.Task[None]:
        """A call's task."""
        return self._tasks.create_task(work)

    def unknown(self, path: str) -> str:
        """What a client is told of a method that is not there."""
        service, _, method = path.removeprefix("/").rpartition("/")
        if service in self._services:
            return f"unknown method {method} for service {service}"
        return f"unknown service {service}"

    # -- deadlines

    def expire_after(self, call: Call, seconds: float) -> None:
        """End the call if it lasts longer, within a tenth of a second: the client's own clock is the exact
        one.
        """
        loop = asyncio.get_running_loop()
        self.calls[call] = loop.time() + seconds
        if self._sweep is None:
            self._sweep = loop.call_later(_DEADLINE_STEP, self._expire)

    def _expire(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for call in [call for call, deadline in self.calls.items() if deadline <= now]:
            del self.calls[call]
            call.fail(RpcError(Code.DEADLINE_EXCEEDED, "context deadline exceeded"))
        self._sweep = loop.call_later(_DEADLINE_STEP, self._expire) if self.calls else None

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(min(_KEEPALIVE_STEP, self.keepalive.interval / 2))
            for connection in list(self.connections):
                connection.check_alive()

    # -- the end

    async def _stop(self) -> None:
        self.serving = False
        for listener in self._listeners:
            listener.close()
        for connection in list(self.connections):
            connection.drain()
        running = [task for connection in self.connections for task in connection.tasks()]
        if running:
            await asyncio.wait(running, timeout=self._grace)
        for connection in list(self.connections):
            connection.core.reset_all(RpcError(Code.UNAVAILABLE, "server is stopping"))
            connection.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_SECONDS):
                await self._all_gone()
        for connection in list(self.connections):
            connection.abort()
        await self._all_gone()
        if self._sweep is not None:
            self._sweep.cancel()
        if self._keeper is not None:
            self._keeper.cancel()

    async def _all_gone(self) -> None:
        while self.connections:
            self._gone.clear()
            await self._gone.wait()

    def lost(self, connection: _Accepted) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        self._gone.set()
