"""What header lists and message frames mean: statuses, deadlines, metadata, limits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from componentbase.grpcwire import messages, rpc, status
from componentbase.grpcwire.keepalive import Keepalive, PingGuard, Watchdog
from componentbase.grpcwire.status import Code, RpcError

BASE = ((":method", "POST"), (":scheme", "https"), (":path", "/a.B/C"), ("content-type", "application/grpc"))


@given(st.text(max_size=50))
def test_messages_survive_the_header(text: str) -> None:
    encoded = status.encode_message(text)
    assert all(" " <= c <= "~" for c in encoded)
    assert status.decode_message(encoded) == text.encode("utf-8", "replace").decode()


@pytest.mark.parametrize(
    ("seconds", "encoded"), [(5.0, "5000m"), (0.0001, "1m"), (-1.0, "0m"), (1e6, "1000000S")]
)
def test_timeouts_out(seconds: float, encoded: str) -> None:
    assert status.encode_timeout(seconds) == encoded


@given(st.floats(min_value=0.001, max_value=1e8))
def test_a_timeout_never_gets_shorter(seconds: float) -> None:
    assert status.decode_timeout(status.encode_timeout(seconds)) >= seconds * (1 - 1e-9)


@pytest.mark.parametrize("encoded", ["", "5", "S", "-1S", "123456789S", "5x", "٣S", " 5S"])
def test_timeouts_that_are_none(encoded: str) -> None:
    with pytest.raises(ValueError, match="malformed"):
        status.decode_timeout(encoded)


def test_a_request() -> None:
    fields = (*BASE, ("grpc-timeout", "10S"), ("hasleader", "true"), ("x-bin", "AAH/,AA=="))
    request = rpc.parse_request(fields)
    assert (request.path, request.timeout) == ("/a.B/C", 10.0)
    assert request.metadata == (("hasleader", "true"), ("x-bin", b"\0\1\xff"), ("x-bin", b"\0"))


@pytest.mark.parametrize(
    ("extra", "code", "text"),
    [
        (("grpc-encoding", "gzip"), Code.UNIMPLEMENTED, "gzip"),
        (("grpc-timeout", "soon"), Code.INTERNAL, "grpc-timeout"),
        (("x-bin", "?"), Code.INTERNAL, "x-bin"),
    ],
)
def test_requests_refused_by_name(extra: tuple[str, str], code: Code, text: str) -> None:
    refusal = rpc.parse_request((*BASE, extra)).refusal
    assert refusal is not None
    assert refusal[0] is code
    assert text in refusal[1]


@pytest.mark.parametrize(
    "fields",
    [
        BASE[1:],
        (*BASE, (":late", "x")),
        (*BASE, ("Upper", "x")),
        (*BASE, ("connection", "close")),
        (BASE[0], *BASE),
        (*BASE, ("x", "a\nb")),
        ((":unknown", "x"), *BASE),
    ],
)
def test_what_http2_forbids(fields: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(rpc.Malformed):
        rpc.parse_request(fields)


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        (((":status", "200"), ("content-type", "application/grpc")), None, ""),
        ((("grpc-status", "5"), ("grpc-message", "no%20such %E2%82%AC")), Code.NOT_FOUND, "no such €"),
        ((("grpc-status", "99"),), Code.UNKNOWN, ""),
        (((":status", "503"),), Code.UNAVAILABLE, "unexpected HTTP status code received from server: 503"),
        (((":status", "200"), ("content-type", "text")), Code.UNKNOWN, "unexpected content-type 'text'"),
        (((":status", "100"),), None, ""),
    ],
)
def test_answers(fields: tuple[tuple[str, str], ...], code: Code | None, text: str) -> None:
    answer = rpc.parse_answer(fields)
    assert (answer.code, answer.text) == (code, text)


def test_metadata_out() -> None:
    assert rpc.metadata_fields((("a", "b"), ("c-bin", b"\xff"))) == (("a", "b"), ("c-bin", "/w"))
    for name, value in (("grpc-x", "1"), (":path", "1"), ("te", "1"), ("A", "1"), ("a", b"1")):
        with pytest.raises(ValueError, match=name):
            rpc.metadata_fields(((name, value),))


@given(st.lists(st.binary(max_size=50), max_size=8), st.randoms(use_true_random=False))
def test_messages_come_whole_however_they_are_cut(wanted: list[bytes], random: object) -> None:
    stream = b"".join(messages.prefix(len(each)) + each for each in wanted)
    reader, found, position = messages.MessageReader(50), [], 0
    while position < len(stream):
        size = random.randint(1, 20)  # type: ignore[attr-defined]
        found += reader.feed(stream[position : position + size])
        position += size
        assert reader.held + sum(len(each) + 5 for each in found) == min(position, len(stream))
    assert found == wanted
    assert not reader.held


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (messages.prefix(11), Code.RESOURCE_EXHAUSTED),
        (b"\1\0\0\0\0", Code.INTERNAL),
        (b"\2\0\0\0\0", Code.INTERNAL),
    ],
)
def test_messages_that_are_refused(data: bytes, code: Code) -> None:
    with pytest.raises(RpcError) as caught:
        messages.MessageReader(10).feed(data)
    assert caught.value.code is code


def test_too_large_is_said_as_etcd_says_it() -> None:
    with pytest.raises(RpcError, match=r"grpc: received message larger than max \(11 vs\. 10\)"):
        messages.MessageReader(10).feed(messages.prefix(11))


def test_pings_too_often() -> None:
    guard = PingGuard(5.0)
    times = [0.0, 1.0, 2.0, 3.0]
    assert [guard.pinged(t, has_calls=True, spoke=False) for t in times] == [False, False, False, True]
    patient = PingGuard(5.0)
    assert not any(patient.pinged(t * 5.0, has_calls=True, spoke=False) for t in range(10))
    busy = PingGuard(5.0)
    assert not any(busy.pinged(t * 0.1, has_calls=True, spoke=True) for t in range(100))
    idle = PingGuard(5.0)
    assert any(idle.pinged(t * 10.0, has_calls=False, spoke=False) for t in range(5))


def test_a_silent_peer_is_asked_and_then_given_up() -> None:
    watchdog = Watchdog(Keepalive(interval=10.0, timeout=2.0), 0.0)
    assert not watchdog.check(9.0)
    assert watchdog.next_check(9.0) == 1.0
    assert watchdog.check(10.0)
    assert not watchdog.check(11.0)
    with pytest.raises(TimeoutError):
        watchdog.check(12.0)
    watchdog.heard(12.0)
    assert not watchdog.check(13.0)
