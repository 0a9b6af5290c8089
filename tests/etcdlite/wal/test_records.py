"""Framing: what a damaged log reads as."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcdlite.wal.records import SECTOR, RecordKind, WalCorrupt, put_record, read_records

PAYLOADS = st.lists(st.binary(max_size=40), min_size=1, max_size=6)


def encode(payloads: list[bytes], chain: int = 0) -> bytes:
    buffer = bytearray()
    for payload in payloads:
        chain = put_record(buffer, RecordKind.ENTRY, payload, chain)
    return bytes(buffer)


def decode(data: bytes, *, last: bool = True, chain: int = 0) -> list[bytes]:
    return [record.payload for record in read_records("f", data, chain, last=last)]


@settings(deadline=None)
@given(PAYLOADS)
def test_what_is_written_is_read(payloads: list[bytes]) -> None:
    assert decode(encode(payloads), last=False) == payloads


@settings(deadline=None)
@given(PAYLOADS, st.data())
def test_a_truncated_tail_is_cut_at_a_record(payloads: list[bytes], data: st.DataObject) -> None:
    encoded = encode(payloads)
    size = data.draw(st.integers(0, len(encoded)))
    found = decode(encoded[:size])
    assert found == payloads[: len(found)]
    if size < len(encoded):
        assert len(found) < len(payloads)


@settings(deadline=None)
@given(PAYLOADS, st.data())
def test_a_truncated_inner_segment_is_damage(payloads: list[bytes], data: st.DataObject) -> None:
    encoded = encode(payloads)
    size = data.draw(st.integers(1, len(encoded) - 1))
    boundaries = {len(encode(payloads[:n])) for n in range(len(payloads))}
    if size not in boundaries:
        with pytest.raises(WalCorrupt):
            decode(encoded[:size], last=False)


@settings(deadline=None)
@given(PAYLOADS, st.data())
def test_a_changed_byte_never_reads_as_something_else(payloads: list[bytes], data: st.DataObject) -> None:
    encoded = bytearray(encode(payloads))
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    try:
        found = decode(bytes(encoded))
    except WalCorrupt as error:
        assert error.path == "f" and error.offset <= position
    else:
        assert found == payloads[: len(found)] and len(found) < len(payloads)


def test_the_last_record_damaged_is_not_a_torn_tail() -> None:
    """A write that was acknowledged and then decayed must not silently disappear."""
    encoded = bytearray(encode([b"a" * 20, b"b" * 20]))
    encoded[-1] ^= 1
    with pytest.raises(WalCorrupt, match="bad checksum"):
        decode(bytes(encoded))


@pytest.mark.parametrize("kept", [0, 504, 504 + SECTOR])
def test_sectors_that_never_reached_the_disk_are_a_torn_tail(kept: int) -> None:
    first = encode([b"x" * (SECTOR - 5)])
    whole = encode([b"x" * (SECTOR - 5), b"y" * 2000])
    torn = (whole[: len(first) + kept]).ljust(len(whole), b"\0")
    assert decode(torn) == [b"x" * (SECTOR - 5)]


def test_records_out_of_order_break_the_chain() -> None:
    one, two = encode([b"one"]), encode([b"two"])
    with pytest.raises(WalCorrupt, match="bad checksum"):
        decode(one + two)


def test_an_unknown_kind_is_refused() -> None:
    buffer = bytearray()
    put_record(buffer, RecordKind.ENTRY, b"x", 0)
    from etcdlite.wal import records

    buffer = bytearray()
    records._KIND_BYTES[99] = b"\x63"  # type: ignore[index]
    try:
        put_record(buffer, 99, b"x", 0)  # type: ignore[arg-type]
    finally:
        del records._KIND_BYTES[99]  # type: ignore[arg-type]
    with pytest.raises(WalCorrupt, match="unknown record kind 99"):
        decode(bytes(buffer))
