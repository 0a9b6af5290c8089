"""Protobuf by hand, for the answers that consist mostly of bytes which exist already.

A stored KeyValue is kept in the encoding it has on the wire, so a range's answer is a join of those bytes,
and a watch event is encoded once for all its watchers. Only the three shapes needed for that are here.
"""

from __future__ import annotations

from collections.abc import Iterable


def varint(value: int) -> bytes:
    """An unsigned base-128 number; negative int64 values take their 64-bit two's complement."""
    if 0 <= value < 0x80:
        return bytes((value,))
    value &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """A varint field; nothing when zero, as proto3 has it."""
    return varint(field << 3) + varint(value) if value else b""


def chunk(field: int, content: bytes) -> bytes:
    """A bytes or message field, present even when empty."""
    return b"".join((varint(field << 3 | 2), varint(len(content)), content))


def chunks(field: int, contents: Iterable[bytes]) -> bytes:
    """A repeated bytes or message field."""
    tag = varint(field << 3 | 2)
    parts: list[bytes] = []
    for content in contents:
        parts += (tag, varint(len(content)), content)
    return b"".join(parts)
