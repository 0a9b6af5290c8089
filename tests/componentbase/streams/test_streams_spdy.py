"""SPDY/3.1 as a dialogue of two ends, in one process and without sockets."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from componentbase.streams import spdy
from componentbase.streams.spdy import (
    Connection,
    Data,
    GoneAway,
    Reset,
    SpdyError,
    StreamOpened,
    StreamReplied,
)


def ends() -> tuple[Connection, Connection]:
    return Connection(client=True), Connection(client=False)


def test_the_dictionary_is_the_one_of_the_specification() -> None:
    """Its checksum is on the wire at the start of every SPDY/3 header stream ever sent."""
    assert zlib.adler32(spdy.DICTIONARY) == 0xE3C6A7C2


def test_a_stream_from_its_opening_to_its_end() -> None:
    client, server = ends()
    stream, frame = client.open_stream({"StreamType": "stdin"})
    assert server.receive(frame) == [StreamOpened(1, {"streamtype": "stdin"}, False)]
    assert client.receive(server.reply(stream)) == [StreamReplied(1, {}, False)]
    assert server.receive(client.data(stream, b"hello")) == [Data(1, b"hello", False)]
    assert server.receive(client.data(stream, b"", fin=True)) == [Data(1, b"", True)]
    assert client.receive(server.data(stream, b"bye", fin=True)) == [Data(1, b"bye", True)]


def test_ids_are_odd_for_clients_and_even_for_servers() -> None:
    client, server = ends()
    assert [client.open_stream({})[0] for _ in range(3)] == [1, 3, 5]
    assert [server.open_stream({})[0] for _ in range(3)] == [2, 4, 6]


def test_header_compression_carries_on_from_frame_to_frame() -> None:
    client, server = ends()
    sizes = []
    for number in range(5):
        _, frame = client.open_stream({"streamtype": "data", "port": "8080", "requestid": str(number)})
        sizes.append(len(frame))
        (event,) = server.receive(frame)
        assert isinstance(event, StreamOpened)
        assert event.headers["requestid"] == str(number)
    assert sizes[-1] < sizes[0]


def test_reset_and_go_away() -> None:
    client, server = ends()
    assert server.receive(client.reset(1, spdy.CANCEL) + client.go_away(3)) == [
        Reset(1, spdy.CANCEL),
        GoneAway(3),
    ]


def test_pings_are_answered_and_answers_are_not() -> None:
    client, server = ends()
    assert server.receive(client.ping(1)) == []
    answer = bytes(server.outgoing)
    assert answer == client.ping(1)
    assert client.receive(answer) == []
    assert client.outgoing == b""


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack(">HHI", 0x8002, spdy.PING, 4) + bytes(4),
        struct.pack(">HHI", 0x8003, spdy.SYN_STREAM, 4) + bytes(4),
        struct.pack(">HHI", 0x8003, spdy.SYN_STREAM, 20) + bytes(20),
        struct.pack(">HHI", 0x8003, spdy.SYN_STREAM, spdy.MAX_FRAME),
    ],
    ids=["version", "short", "no-zlib", "huge"],
)
def test_what_breaks_the_protocol_ends_it(frame: bytes) -> None:
    with pytest.raises(SpdyError):
        Connection(client=False).receive(frame)


def test_a_header_bomb_is_refused() -> None:
    client, server = ends()
    _, frame = client.open_stream({"x": "a" * (spdy.MAX_HEADERS + 1)})
    with pytest.raises(SpdyError, match="header block"):
        server.receive(frame)


@given(payload=st.binary(max_size=100_000), cuts=st.lists(st.integers(1, 5000), max_size=50))
def test_frames_survive_any_cut(payload: bytes, cuts: list[int]) -> None:
    client, server = ends()
    stream, wire = client.open_stream({"streamtype": "data"})
    wire += client.data(stream, payload, fin=True)
    events: list[spdy.Event] = []
    for cut in cuts:
        events += server.receive(wire[:cut])
        wire = wire[cut:]
    events += server.receive(wire)
    assert isinstance(events[0], StreamOpened)
    data = [event for event in events[1:] if isinstance(event, Data)]
    assert b"".join(event.payload for event in data) == payload
    assert [event.fin for event in data] == [False] * (len(data) - 1) + [True]
