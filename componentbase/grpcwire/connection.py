"""One HTTP/2 connection as gRPC uses it, without a socket: bytes go into `receive`, bytes come out in `out`.

Here is what both ends have in common; `accepting` and `dialling` add what differs. Who owns a stream is its
`receiver`, told of messages and of the end as they happen. Bounds, all of one connection:

* streams that the other side may open at a time; header lists; messages
* `buffered`: bytes of messages that are unfinished, unread or being answered. What would pass it ends its
  own stream
* `unsent`: bytes that wait for the other side's flow control; the shell cuts off who lets too many wait
* resets and empty frames, which cost the sender nothing: `_spend`

The window of the connection is given back as data arrives, that of a stream as its messages are read; so a
stream that nobody reads holds up itself alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from componentbase.grpcwire import frames, messages
from componentbase.grpcwire.frames import ErrorCode, H2Error, Setting
from componentbase.grpcwire.hpack import Decoder, Encoder, Fields, HeaderListTooLarge, HpackError
from componentbase.grpcwire.status import Code, RpcError

_BURST: Final = 5000.0  # frames that cost their sender nothing, at once
_RATE: Final = 500.0  # and per second


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What this side accepts of the other. Sizes in bytes."""

    max_message: int = 4 << 20
    max_streams: int = 10_000
    max_header_list: int = 64 << 10
    max_frame: int = frames.DEFAULT_FRAME
    stream_window: int = 256 << 10
    connection_window: int = 8 << 20
    max_buffered: int = 256 << 20


class Receiver(Protocol):
    """Who owns a stream."""

    def on_headers(self, fields: Fields) -> None:
        """Headers, or trailers, that are not the first of a request."""

    def on_message(self, message: bytes) -> None:
        """A whole message. It counts as unread until `Connection.consumed` is told of it."""

    def on_end(self) -> None:
        """The other side has said all."""

    def on_reset(self, error: RpcError) -> None:
        """The stream is gone, before its end."""

    def on_writable(self) -> None:
        """What waited for flow control has been sent."""


class Stream:
    """One call on a connection."""

    __slots__ = (
        "headers_sent",
        "id",
        "local_closed",
        "pending",
        "pending_bytes",
        "reader",
        "receiver",
        "remote_closed",
        "send_window",
        "unread",
        "window",
    )

    def __init__(self, id: int, receiver: Receiver, send_window: int, limits: Limits) -> None:
        self.id, self.receiver = id, receiver
        self.send_window, self.window = send_window, limits.stream_window
        self.reader = messages.MessageReader(limits.max_message)
        self.unread = 0
        self.pending: deque[memoryview | Fields | None] = deque()  # data, trailers, or a bare end of stream
        self.pending_bytes = 0
        self.local_closed = self.remote_closed = self.headers_sent = False


class Connection(ABC):
    """What both ends have in common."""

    def __init__(self, limits: Limits, now: Callable[[], float]) -> None:
        """`now` is a monotonic clock in seconds."""
        self.limits = limits
        self.out: list[bytes] = []
        self.streams: dict[int, Stream] = {}
        self.unsent = self.buffered = 0
        self.failure: H2Error | None = None
        self.goaway: tuple[int, int, bytes] | None = None  # what the other side said
        self.last_stream = 0  # the highest that the other side has opened
        self.peer_streams = frames.MAX_WINDOW
        self.on_pong: Callable[[bytes], None] = lambda data: None  # our PING has been answered
        self.on_pinged: Callable[[], None] = lambda: None  # the other side has sent one
        self._now, self._tokens, self._counted = now, _BURST, now()
        self._encoder, self._decoder = Encoder(), Decoder(max_list=limits.max_header_list)
        self._rest = b""
        self._block: tuple[int, int, bytearray] | None = None  # a header block that CONTINUATION goes on with
        self._send_window = self._peer_window = frames.DEFAULT_WINDOW
        self._peer_frame = frames.DEFAULT_FRAME
        self._window, self._taken = limits.connection_window, 0
        self._blocked: dict[int, Stream] = {}
        self.settled = False  # the other side's SETTINGS have arrived: it speaks HTTP/2, and to us
        self._handlers: tuple[Callable[[int, int, bytes], None], ...] = (
            self._on_data,
            self._on_headers,
            self._on_priority,
            self._on_rst,
            self._on_settings,
            self._on_push,
            self._on_ping,
            self._on_goaway,
            self._on_window_update,
            self._on_continuation,
        )

    def _greet(self, settings: dict[Setting, int]) -> None:
        limits = self.limits
        settings |= {
            Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
            Setting.MAX_FRAME_SIZE: limits.max_frame,
            Setting.MAX_HEADER_LIST_SIZE: limits.max_header_list,
        }
        self.out.append(frames.settings(settings))
        more = limits.connection_window - frames.DEFAULT_WINDOW
        if more > 0:
            self.out.append(frames.window_update(0, more))

    # -- receiving

    def receive(self, data: bytes) -> None:
        """Take in what arrived. A broken protocol is answered with GOAWAY and shows in `failure`."""
        if self.failure is not None:
            return
        if self._rest:
            data = self._rest + data
        try:
            self._rest = data[self._frames(data) :]
        except H2Error as error:
            self.fail(error)

    def _frames(self, data: bytes) -> int:
        position, size, unpack, limit = 0, len(data), frames.HEAD.unpack_from, self.limits.max_frame
        while size - position >= frames.HEAD_BYTES:
            high, low, kind, flags, stream = unpack(data, position)
            length = high << 8 | low
            if length > limit:
                raise H2Error(ErrorCode.FRAME_SIZE_ERROR, f"frame of {length} bytes")
            start = position + frames.HEAD_BYTES
            position = start + length
            if position > size:
                return start - frames.HEAD_BYTES
            if self._block is not None and kind != frames.CONTINUATION:
                raise H2Error(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")
            if not self.settled:
                self._expect_settings(kind, flags)
            if kind < len(self._handlers):
                self._handlers[kind](flags, stream & frames.MAX_WINDOW, data[start:position])
            else:
                self._spend()
        return position

    def _expect_settings(self, kind: int, flags: int) -> None:
        if kind != frames.SETTINGS or flags & frames.ACK:
            raise H2Error(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        self.settled = True

    def fail(self, error: H2Error) -> None:
        """End the connection: say why, and reset every stream."""
        self.failure = error
        self.out.append(frames.goaway(self.last_stream, error.code, error.reason.encode()))
        self.reset_all(RpcError(Code.UNAVAILABLE, f"connection error: {error}"))

    def reset_all(self, error: RpcError) -> None:
        """The connection is gone, and every stream with it."""
        streams, self.streams = list(self.streams.values()), {}
        self._blocked.clear()
        self.unsent = self.buffered = 0
        for stream in streams:
            stream.local_closed = stream.remote_closed = True
            stream.pending.clear()
            stream.receiver.on_reset(error)

    def _spend(self) -> None:
        """Take a token for a frame that costs its sender nothing. Raises H2Error when there is none."""
        now = self._now()
        self._tokens = min(_BURST, self._tokens + (now - self._counted) * _RATE) - 1
        self._counted = now
        if self._tokens < 0:
            raise H2Error(ErrorCode.ENHANCE_YOUR_CALM, "too many resets or empty frames")

    # -- data

    def _on_data(self, flags: int, id: int, payload: bytes) -> None:
        size = len(payload)
        self._take_window(size)
        stream = self.streams.get(id)
        if stream is None or stream.remote_closed:
            self._stray(id)
            return
        stream.window -= size
        if stream.window < 0:
            self._refuse(stream, ErrorCode.FLOW_CONTROL_ERROR, "data beyond the stream's window")
            return
        if flags & frames.PADDED:
            payload = frames.without_padding(payload, flags & frames.PADDED)
        ended = flags & frames.END_STREAM
        if not payload and not ended:
            self._spend()
        reader = stream.reader
        before = reader.held
        try:
            whole = reader.feed(payload)
        except RpcError as error:
            self.buffered -= before
            reader.held = 0
            self._broken(stream, error)
            return
        self.buffered += reader.held - before
        for message in whole:
            stream.receiver.on_message(message)
        if self.buffered > self.limits.max_buffered:
            text = "too many bytes of unfinished messages on this connection"
            self._broken(stream, RpcError(Code.RESOURCE_EXHAUSTED, text))
        elif ended:
            self._end_of(stream)
        else:
            self._grant(stream)

    def _take_window(self, size: int) -> None:
        self._window -= size
        if self._window < 0:
            raise H2Error(ErrorCode.FLOW_CONTROL_ERROR, "data beyond the connection's window")
        self._taken += size
        if self._taken * 2 >= self.limits.connection_window:
            self.out.append(frames.window_update(0, self._taken))
            self._window += self._taken
            self._taken = 0

    def _end_of(self, stream: Stream) -> None:
        if stream.reader.held:
            self._broken(stream, RpcError(Code.INTERNAL, "the stream ended within a message"))
            return
        stream.remote_closed = True
        stream.receiver.on_end()
        self._forget_if_done(stream)

    def unread(self, stream: Stream, size: int) -> None:
        """A receiver keeps a message of `size` bytes for later."""
        stream.unread += size
        self.buffered += size

    def consumed(self, stream: Stream, size: int) -> None:
        """A kept message has been read."""
        if stream.id not in self.streams:
            return
        stream.unread -= size
        self.buffered -= size
        if not stream.remote_closed:
            self._grant(stream)

    def _grant(self, stream: Stream) -> None:
        """Give window back: half at a time, more at once for a large message, none while much is unread."""
        whole = self.limits.stream_window
        wanted = max(whole, stream.reader.missing)
        if stream.unread * 2 <= whole and stream.window * 2 <= wanted:
            self.out.append(frames.window_update(stream.id, wanted - stream.window))
            stream.window = wanted

    def _stray(self, id: int) -> None:
        """Data of a stream that is not open: late if it was once, else against the protocol."""
        if id == 0 or self._is_idle(id):
            raise H2Error(ErrorCode.PROTOCOL_ERROR, f"data on stream {id}, which is not open")
        self._spend()

    @abstractmethod
    def _is_idle(self, id: int) -> bool:
        """Whether the stream has not been opened yet."""

    @abstractmethod
    def _broken(self, stream: Stream, error: RpcError) -> None:
        """The other side's messages cannot be understood or taken: end the call with that status."""

    # -- headers

    def _on_headers(self, flags: int, id: int, payload: bytes) -> None:
        if flags & (frames.PADDED | frames.PRIORITISED):
            payload = frames.without_padding(payload, flags)
        if flags & frames.END_HEADERS:
            self._take_block(id, payload, flags)
        else:
            self._block = (id, flags, bytearray(payload))

    def _on_continuation(self, flags: int, id: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != id:
            raise H2Error(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        _, first_flags, block = self._block
        if len(payload) < self.limits.max_frame // 4 and not flags & frames.END_HEADERS:
            self._spend()
        block += payload
        if len(block) > 2 * self.limits.max_header_list:
            raise H2Error(ErrorCode.ENHANCE_YOUR_CALM, "header block too large")
        if flags & frames.END_HEADERS:
            self._block = None
            self._take_block(id, bytes(block), first_flags)

    def _take_block(self, id: int, block: bytes, flags: int) -> None:
        try:
            fields: Fields | None = self._decoder.decode(block)
        except HeaderListTooLarge:
            fields = None
        except HpackError as error:
            raise H2Error(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        self._on_fields(id, fields, bool(flags & frames.END_STREAM))

    @abstractmethod
    def _on_fields(self, id: int, fields: Fields | None, ended: bool) -> None:
        """A header list has arrived; None is one that was too large."""

    # -- the other frames

    def _on_priority(self, flags: int, id: int, payload: bytes) -> None:
        if len(payload) != 5:
            raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of a wrong length")
        self._spend()

    def _on_rst(self, flags: int, id: int, payload: bytes) -> None:
        code = frames.word(payload, "RST_STREAM")
        if id == 0 or self._is_idle(id):
            raise H2Error(ErrorCode.PROTOCOL_ERROR, f"reset of stream {id}, which was never open")
        stream = self.streams.get(id)
        self._spend()
        if stream is not None:
            self._drop(stream)
            stream.receiver.on_reset(reset_error(code))

    def _on_settings(self, flags: int, id: int, payload: bytes) -> None:
        if id:
            raise H2Error(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & frames.ACK:
            return
        for name, value in frames.parse_settings(payload):
            self._set(name, value)
        self.out.append(frames.SETTINGS_ACK)
        self._spend()

    def _set(self, name: int, value: int) -> None:
        if name == Setting.HEADER_TABLE_SIZE:
            self._encoder.set_limit(value)
        elif name == Setting.MAX_CONCURRENT_STREAMS:
            self.peer_streams = value
        elif name == Setting.MAX_FRAME_SIZE:
            if not frames.DEFAULT_FRAME <= value <= frames.MAX_FRAME:
                raise H2Error(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value}")
            self._peer_frame = value
        elif name == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise H2Error(ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE {value}")
            for stream in self.streams.values():
                stream.send_window += value - self._peer_window
            self._peer_window = value
            self._pump_all()

    def _on_push(self, flags: int, id: int, payload: bytes) -> None:
        raise H2Error(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE is not supported")

    def _on_ping(self, flags: int, id: int, payload: bytes) -> None:
        if id or len(payload) != 8:
            raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "broken PING")
        if flags & frames.ACK:
            self.on_pong(payload)
        else:
            self.out.append(frames.ping(payload, ack=True))
            self.on_pinged()

    def _on_goaway(self, flags: int, id: int, payload: bytes) -> None:
        self.goaway = frames.parse_goaway(payload)
        last, code, debug = self.goaway
        reason = debug.decode("utf-8", "replace") or f"code {code}"
        for stream in [each for each in self.streams.values() if each.id > last and self._ours(each.id)]:
            self._drop(stream)
            stream.receiver.on_reset(RpcError(Code.UNAVAILABLE, f"GOAWAY: {reason}", sent=False))

    @abstractmethod
    def _ours(self, id: int) -> bool:
        """Whether this side opened the stream."""

    def _on_window_update(self, flags: int, id: int, payload: bytes) -> None:
        increment = frames.word(payload, "WINDOW_UPDATE") & frames.MAX_WINDOW
        if id == 0:
            self._send_window += increment
            if not increment or self._send_window > frames.MAX_WINDOW:
                raise H2Error(ErrorCode.FLOW_CONTROL_ERROR, f"WINDOW_UPDATE by {increment}")
            self._pump_all()
            return
        stream = self.streams.get(id)
        if stream is None:
            if self._is_idle(id):
                raise H2Error(ErrorCode.PROTOCOL_ERROR, f"WINDOW_UPDATE of stream {id}, which was never open")
            return
        stream.send_window += increment
        if not increment or stream.send_window > frames.MAX_WINDOW:
            self._refuse(stream, ErrorCode.FLOW_CONTROL_ERROR, f"WINDOW_UPDATE by {increment}")
        elif stream.pending:
            self._pump(stream)

    # -- sending

    def send_message(self, stream: Stream, message: bytes) -> None:
        """Send one message, now or as the other side's windows allow."""
        size = len(message) + messages.PREFIX_BYTES
        if size > self._peer_frame or not self._fits(stream, size):
            self.send_data(stream, messages.prefix(len(message)) + message)
            return
        stream.send_window -= size
        self._send_window -= size
        head = frames.head(size, frames.DATA, 0, stream.id)
        self.out += (head, messages.prefix(len(message)), message)

    def _fits(self, stream: Stream, size: int) -> bool:
        """Whether so much may be sent at once, and nothing waits before it."""
        return (
            size <= stream.send_window
            and size <= self._send_window
            and not stream.pending
            and not stream.local_closed
        )

    def send_data(self, stream: Stream, data: bytes) -> None:
        """Send what is framed already: one or more prefixed messages."""
        size = len(data)
        if stream.local_closed:
            return
        if size <= self._peer_frame and self._fits(stream, size):
            stream.send_window -= size
            self._send_window -= size
            self.out.append(frames.head(size, frames.DATA, 0, stream.id) + data)
        else:
            stream.pending.append(memoryview(data))
            stream.pending_bytes += size
            self.unsent += size
            self._pump(stream)

    def send_fields(self, stream: Stream, fields: Fields, *, end: bool) -> None:
        """Send headers at once, or trailers behind the data that waits."""
        if stream.local_closed:
            return
        if end and stream.pending:
            stream.pending.append(fields)
            return
        stream.headers_sent = True
        block = self._encoder.encode(fields)
        self.out.append(frames.headers(stream.id, block, end=end, limit=self._peer_frame))
        if end:
            self._end_local(stream)

    def send_end(self, stream: Stream) -> None:
        """Say that nothing more comes."""
        if stream.local_closed:
            return
        if stream.pending:
            stream.pending.append(None)
            return
        self.out.append(frames.head(0, frames.DATA, frames.END_STREAM, stream.id))
        self._end_local(stream)

    def reset(self, stream: Stream, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """End the stream at once. Its receiver, who asked for it, is not told."""
        if stream.id in self.streams:
            self._drop(stream)
            self.out.append(frames.rst_stream(stream.id, code))

    def _refuse(self, stream: Stream, code: ErrorCode, reason: str) -> None:
        """End one stream because the other side broke its rules."""
        self.reset(stream, code)
        stream.receiver.on_reset(RpcError(Code.INTERNAL, reason))

    def _end_local(self, stream: Stream) -> None:
        stream.local_closed = True
        self._forget_if_done(stream)

    def _forget_if_done(self, stream: Stream) -> None:
        if stream.local_closed and stream.remote_closed:
            self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        stream.local_closed = stream.remote_closed = True
        if self.streams.pop(stream.id, None) is None:
            return
        self._blocked.pop(stream.id, None)
        self.unsent -= stream.pending_bytes
        self.buffered -= stream.unread + stream.reader.held
        stream.pending.clear()
        stream.pending_bytes = 0

    def _pump_all(self) -> None:
        for stream in list(self._blocked.values()):
            if self._send_window <= 0:
                return
            self._pump(stream)

    def _pump(self, stream: Stream) -> None:
        """Send what waits, as far as the windows go. One that is still blocked goes to the end of the
        line.
        """
        self._blocked.pop(stream.id, None)
        while stream.pending:
            item = stream.pending[0]
            if not isinstance(item, memoryview):
                stream.pending.popleft()
                if item is None:
                    self.send_end(stream)
                else:
                    self.send_fields(stream, item, end=True)
                return
            size = min(len(item), self._peer_frame, stream.send_window, self._send_window)
            if size <= 0:
                self._blocked[stream.id] = stream
                return
            self.out.append(frames.head(size, frames.DATA, 0, stream.id))
            self.out.append(bytes(item[:size]))
            stream.send_window -= size
            self._send_window -= size
            stream.pending_bytes -= size
            self.unsent -= size
            if size < len(item):
                stream.pending[0] = item[size:]
            else:
                stream.pending.popleft()
        stream.receiver.on_writable()


_RESETS: Final = {
    ErrorCode.REFUSED_STREAM: Code.UNAVAILABLE,
    ErrorCode.CANCEL: Code.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: Code.PERMISSION_DENIED,
}


def reset_error(code: int) -> RpcError:
    """What a RST_STREAM says of a call."""
    name = ErrorCode(code).name if code in ErrorCode._value2member_map_ else str(code)
    status = (
        _RESETS.get(ErrorCode(code), Code.INTERNAL) if code in ErrorCode._value2member_map_ else Code.UNKNOWN
    )
    text = f"stream terminated by RST_STREAM with error code: {name}"
    return RpcError(status, text, sent=code != ErrorCode.REFUSED_STREAM)
