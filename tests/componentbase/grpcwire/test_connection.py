"""Both ends of a connection, without a socket: bytes of one are fed to the other, or to nonsense."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from componentbase.grpcwire import frames, messages, rpc
from componentbase.grpcwire.accepting import ServerConnection
from componentbase.grpcwire.client import _parse
from componentbase.grpcwire.connection import Connection, Limits, Stream
from componentbase.grpcwire.dialling import ClientConnection
from componentbase.grpcwire.frames import ErrorCode, Setting
from componentbase.grpcwire.hpack import Encoder, Fields
from componentbase.grpcwire.status import Code, RpcError

REQUEST: Fields = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/a.B/C"),
    ("content-type", "application/grpc"),
)


class Heard:
    """A receiver that notes everything."""

    def __init__(self) -> None:
        self.stream: Stream
        self.messages: list[bytes] = []
        self.status: list[Code | None] = []
        self.ended = False
        self.reset: RpcError | None = None
        self.writable = 0

    def on_headers(self, fields: Fields) -> None:
        self.status.append(_parse(fields).code)

    def on_message(self, message: bytes) -> None:
        self.messages.append(message)

    def on_end(self) -> None:
        self.ended = True

    def on_reset(self, error: RpcError) -> None:
        self.reset = error

    def on_writable(self) -> None:
        self.writable += 1


class Pair:
    """A client and a server that hear each other when `talk` is called."""

    def __init__(self, *, server: Limits | None = None, client: Limits | None = None) -> None:
        self.now = 0.0
        self.calls: list[Heard] = []
        self.server = ServerConnection(server or Limits(), lambda: self.now, self._accept)
        self.client = ClientConnection(client or Limits(), lambda: self.now)
        self.talk()

    def _accept(self, stream: Stream, request: rpc.Request) -> None:
        heard = Heard()
        heard.stream, stream.receiver = stream, heard
        self.calls.append(heard)

    def talk(self, piece: int = 0) -> None:
        while self.client.out or self.server.out:
            for sender, receiver in ((self.client, self.server), (self.server, self.client)):
                data = b"".join(sender.out)
                sender.out.clear()
                for start in range(0, len(data), piece or max(len(data), 1)):
                    receiver.receive(data[start : start + (piece or len(data))])

    def open(self) -> tuple[Heard, Heard]:
        heard = Heard()
        heard.stream = self.client.open(REQUEST, heard)
        self.talk()
        return heard, self.calls[-1]


def ended(connection: Connection) -> ErrorCode | None:
    return connection.failure.code if connection.failure is not None else None


def test_a_unary_call() -> None:
    pair = Pair()
    heard = Heard()
    pair.client.call(REQUEST, heard, b"question")
    pair.talk()
    asked = pair.calls[0]
    assert asked.messages == [b"question"]
    assert asked.ended
    pair.server.respond(asked.stream, b"answer")
    pair.talk()
    assert (heard.messages, heard.status, heard.ended) == ([b"answer"], [None, Code.OK], True)
    assert not pair.client.streams
    assert not pair.server.streams


def test_an_error_before_the_client_has_said_all() -> None:
    pair = Pair()
    heard, asked = pair.open()
    pair.server.respond_status(asked.stream, Code.NOT_FOUND, "nothing here")
    pair.talk()
    assert heard.status == [Code.NOT_FOUND]
    pair.client.send_message(heard.stream, b"late")
    pair.talk()
    assert pair.server.failure is None
    assert not pair.client.streams
    assert not pair.server.streams


@settings(deadline=None)
@given(st.lists(st.binary(max_size=40_000), min_size=1, max_size=6), st.integers(1, 30_000))
def test_large_streams_both_ways_within_small_windows(wanted: list[bytes], piece: int) -> None:
    small = Limits(stream_window=65_535, connection_window=70_000)
    pair = Pair(server=small, client=small)
    heard, asked = pair.open()
    for message in wanted:
        pair.client.send_message(heard.stream, message)
        pair.server.send_message(asked.stream, message)
    pair.client.send_end(heard.stream)
    pair.talk(piece)
    pair.server.respond_status(asked.stream, Code.OK, "")
    pair.talk(piece)
    assert heard.messages == asked.messages == wanted
    assert heard.ended
    assert pair.client.unsent == pair.server.unsent == pair.client.buffered == pair.server.buffered == 0
    assert not pair.client.streams
    assert not pair.server.streams


def test_who_is_not_read_from_is_held_up_alone() -> None:
    pair = Pair(server=Limits(stream_window=65_535, connection_window=1 << 20))
    slow, asked = pair.open()
    asked.on_message = lambda message: pair.server.unread(asked.stream, len(message))  # type: ignore[method-assign]
    for _ in range(200):
        pair.client.send_message(slow.stream, b"x" * 1000)
    pair.talk()
    assert pair.client.unsent > 100_000
    assert pair.server.buffered <= 65_535
    quick = Heard()
    pair.client.call(REQUEST, quick, b"q")
    pair.talk()
    pair.server.respond(pair.calls[-1].stream, b"a")
    pair.talk()
    assert quick.messages == [b"a"], "another stream is served"
    while pair.server.buffered:
        pair.server.consumed(asked.stream, 1000)
        pair.talk()
    assert pair.client.unsent == 0
    assert slow.writable == 1


def test_messages_without_end_are_bounded() -> None:
    limits = Limits(max_message=1 << 20, max_buffered=300_000, stream_window=65_535)
    pair = Pair(server=limits)
    streams = [pair.open() for _ in range(8)]
    for heard, _ in streams:
        pair.client.send_data(heard.stream, messages.prefix(1 << 20) + b"x" * 60_000)
        pair.talk()
    refused = [heard.status for heard, _ in streams if heard.status]
    assert refused
    assert all(status == [Code.RESOURCE_EXHAUSTED] for status in refused)
    assert pair.server.buffered <= 300_000


def test_too_many_streams() -> None:
    pair = Pair(server=Limits(max_streams=2))
    pair.open(), pair.open()
    assert pair.client.full
    heard = Heard()
    pair.client.open(REQUEST, heard)
    pair.talk()
    assert heard.reset is not None
    assert (heard.reset.code, heard.reset.sent) == (Code.UNAVAILABLE, False)


def test_rapid_reset_ends_the_connection() -> None:
    pair = Pair()
    for _ in range(20_000):
        heard = Heard()
        stream = pair.client.open(REQUEST, heard)
        pair.client.reset(stream)
        pair.talk()
        if pair.server.failure is not None:
            break
    assert ended(pair.server) is ErrorCode.ENHANCE_YOUR_CALM
    assert len(pair.calls) < 6_000


def test_slow_resets_do_not() -> None:
    pair = Pair()
    for _ in range(8_000):
        heard = Heard()
        pair.client.reset(pair.client.open(REQUEST, heard))
        pair.now += 0.01
        pair.talk()
    assert pair.server.failure is None


def test_goaway_lets_calls_end_and_refuses_new_ones() -> None:
    pair = Pair()
    heard, asked = pair.open()
    pair.server.drain(final=False)
    pair.server.drain(final=True)
    late = Heard()
    pair.client.open(REQUEST, late)
    pair.talk()
    assert late.reset is not None
    assert not late.reset.sent
    assert not pair.client.usable
    pair.server.respond_status(asked.stream, Code.OK, "")
    pair.talk()
    assert heard.status == [Code.OK]


def greeting(*parts: bytes) -> bytes:
    return frames.PREFACE + frames.settings({}) + b"".join(parts)


def listening(limits: Limits | None = None) -> ServerConnection:
    def accept(stream: Stream, _request: rpc.Request) -> None:
        stream.receiver = Heard()

    return ServerConnection(limits or Limits(), lambda: 0.0, accept)


def opened(id: int = 1, *, end: bool = False) -> bytes:
    return frames.headers(id, Encoder().encode(REQUEST), end=end, limit=16_384)


BROKEN: list[tuple[bytes, ErrorCode]] = [
    (b"GET / HTTP/1.1\r\n", ErrorCode.PROTOCOL_ERROR),
    (frames.PREFACE + frames.ping(b"x" * 8), ErrorCode.PROTOCOL_ERROR),
    (greeting(frames.head(20_000, frames.DATA, 0, 1)), ErrorCode.FRAME_SIZE_ERROR),
    (greeting(frames.head(0, frames.DATA, 0, 0)), ErrorCode.PROTOCOL_ERROR),
    (greeting(frames.head(1, frames.DATA, 0, 1) + b"x"), ErrorCode.PROTOCOL_ERROR),
    (greeting(frames.head(1, frames.HEADERS, 4, 2) + b"\x82"), ErrorCode.PROTOCOL_ERROR),
    (greeting(frames.head(1, frames.HEADERS, 4, 1) + b"\xff"), ErrorCode.COMPRESSION_ERROR),
    (greeting(frames.head(1, frames.HEADERS, 0, 1) + b"\x82", frames.SETTINGS_ACK), ErrorCode.PROTOCOL_ERROR),
    (greeting(frames.head(1, frames.CONTINUATION, 4, 1) + b"\x82"), ErrorCode.PROTOCOL_ERROR),
    (greeting(frames.head(4, frames.PUSH_PROMISE, 4, 1) + b"1234"), ErrorCode.PROTOCOL_ERROR),
    (greeting(frames.head(3, frames.PING, 0, 0) + b"123"), ErrorCode.FRAME_SIZE_ERROR),
    (greeting(frames.head(5, frames.SETTINGS, 0, 0) + b"12345"), ErrorCode.FRAME_SIZE_ERROR),
    (greeting(frames.settings({Setting.INITIAL_WINDOW_SIZE: 1 << 31})), ErrorCode.FLOW_CONTROL_ERROR),
    (greeting(frames.settings({Setting.MAX_FRAME_SIZE: 1})), ErrorCode.PROTOCOL_ERROR),
    (greeting(frames.window_update(0, 0)), ErrorCode.FLOW_CONTROL_ERROR),
    (greeting(frames.window_update(0, frames.MAX_WINDOW)), ErrorCode.FLOW_CONTROL_ERROR),
    (greeting(frames.window_update(9, 1)), ErrorCode.PROTOCOL_ERROR),
    (greeting(frames.rst_stream(1, ErrorCode.CANCEL)), ErrorCode.PROTOCOL_ERROR),
    (greeting(frames.head(4, frames.PRIORITY, 0, 1) + b"1234"), ErrorCode.FRAME_SIZE_ERROR),
    (greeting(opened(), opened()), ErrorCode.PROTOCOL_ERROR),
    (greeting(opened(), frames.head(1, frames.DATA, frames.PADDED, 1) + b"\x09"), ErrorCode.PROTOCOL_ERROR),
]


@pytest.mark.parametrize(("data", "code"), BROKEN, ids=[str(n) for n in range(len(BROKEN))])
def test_what_breaks_the_protocol(data: bytes, code: ErrorCode) -> None:
    server = listening()
    server.receive(data)
    assert ended(server) is code
    assert not server.streams
    server.receive(b"more")  # and nothing after it counts


def test_floods_of_frames_that_cost_nothing() -> None:
    piece = frames.head(0, frames.CONTINUATION, 0, 1)
    floods = {
        "continuation": greeting(frames.head(1, frames.HEADERS, 0, 1) + b"\x82") + piece * 10_000,
        "settings": greeting() + frames.settings({}) * 10_000,
        "empty data": greeting(opened()) + frames.head(0, frames.DATA, 0, 1) * 10_000,
        "priority": greeting() + (frames.head(5, frames.PRIORITY, 0, 1) + b"12345") * 10_000,
        "unknown": greeting() + frames.head(0, 99, 0, 0) * 10_000,
    }
    for name, flood in floods.items():
        server = listening()
        server.receive(flood)
        assert ended(server) is ErrorCode.ENHANCE_YOUR_CALM, name


def test_a_header_block_in_many_pieces_and_one_that_is_too_large() -> None:
    limits = Limits(max_header_list=20_000)
    accepted: list[rpc.Request] = []

    def accept(stream: Stream, request: rpc.Request) -> None:
        stream.receiver = Heard()
        accepted.append(request)

    server = ServerConnection(limits, lambda: 0.0, accept)
    fields = (*REQUEST, *((f"x-{n}", "v" * 100) for n in range(100)))
    server.receive(greeting(frames.headers(1, Encoder().encode(fields), end=False, limit=1_000)))
    assert len(accepted[0].metadata) == 100
    large = (*REQUEST, ("x-large", "v" * 21_000))
    server.out.clear()
    server.receive(frames.headers(3, Encoder().encode(large), end=True, limit=16_384))
    assert len(accepted) == 1
    assert b"431" in b"".join(server.out)
    assert server.failure is None
    server.receive(frames.headers(5, b"\0" * 50_000, end=True, limit=16_384))
    assert ended(server) is ErrorCode.ENHANCE_YOUR_CALM


def test_data_beyond_the_windows() -> None:
    server = listening(Limits(stream_window=65_535))
    server.receive(greeting(opened()))
    server.streams[1].window = 10
    server.out.clear()
    server.receive(frames.head(11, frames.DATA, 0, 1) + messages.prefix(100) + b"x" * 6)
    assert b"".join(server.out) == frames.rst_stream(1, ErrorCode.FLOW_CONTROL_ERROR)
    assert server.failure is None


Make = Callable[[], Connection]
MAKES: list[Make] = [
    listening,
    lambda: ClientConnection(Limits(), lambda: 0.0),
]
FRAME = st.builds(
    lambda kind, flags, id, payload: frames.head(len(payload), kind, flags, id) + payload,
    st.integers(0, 12),
    st.sampled_from([0, 1, 4, 5, 8, 13, 0x20, 0x2D, 255]),
    st.sampled_from([0, 1, 2, 3, 5, 1 << 31 | 1]),
    st.one_of(st.binary(max_size=30), st.just(Encoder().encode(REQUEST)), st.binary(min_size=8, max_size=8)),
)


@pytest.mark.parametrize("make", MAKES, ids=["server", "client"])
@settings(max_examples=300, deadline=None)
@given(st.lists(FRAME, max_size=25), st.integers(1, 50))
def test_fuzz(make: Make, story: list[bytes], piece: int) -> None:
    """Whatever frames come, in whatever pieces: nothing is raised, and the books balance."""
    connection = make()
    if isinstance(connection, ClientConnection):
        for _ in range(3):
            connection.open(REQUEST, Heard())
        data = frames.settings({}) + b"".join(story)
    else:
        data = greeting(*story)
    for start in range(0, len(data), piece):
        connection.receive(data[start : start + piece])
    if connection.failure is not None:
        assert not connection.streams
    held = sum(stream.reader.held + stream.unread for stream in connection.streams.values())
    assert connection.buffered == held
    assert connection.unsent == sum(stream.pending_bytes for stream in connection.streams.values())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_fuzz_of_bytes(data: bytes) -> None:
    for make in MAKES:
        connection = make()
        connection.receive(data)
        connection.receive(frames.PREFACE + data)
