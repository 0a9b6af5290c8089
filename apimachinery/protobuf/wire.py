"""The protobuf wire format itself: varints, tags, lengths (protobuf.dev, "Encoding"). Pure."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
LONGEST_VARINT = 10  # bytes of a 64-bit number


class Malformed(ValueError):
    """The bytes are not the protobuf of the message."""


def fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and raw values in their order: integers for varints, bytes for the rest. Raises
    Malformed.
    """
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value, at = read_varint(data, at)
            yield key >> 3, value
            continue
        if kind == BYTES:
            size, at = read_varint(data, at)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise Malformed(f"wire type {kind} is not supported")
        if at + size > len(data):
            raise Malformed("unexpected end of message")
        yield key >> 3, data[at : at + size]
        at += size


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at an offset and the offset behind it. Raises Malformed."""
    result = 0
    for count, byte in enumerate(data[at : at + LONGEST_VARINT]):
        result |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            return result, at + count + 1
    raise Malformed("a varint does not end")


def signed(value: int) -> int:
    """A varint as the int64 it stands for (int32 are sent in the same ten bytes when negative)."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >= 1 << 63 else value


def varint(value: int) -> bytes:
    """An int64, negative ones in ten bytes."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def integer(number: int, value: int) -> bytes:
    return varint(number << 3 | VARINT) + varint(value)


def delimited(number: int, value: bytes) -> bytes:
    """Strings, bytes and messages."""
    return varint(number << 3 | BYTES) + varint(len(value)) + value


def fixed64(number: int, value: bytes) -> bytes:
    return varint(number << 3 | FIXED64) + value
