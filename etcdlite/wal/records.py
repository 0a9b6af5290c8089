"""Framing of the log: length, kind, two checksums, payload.

    length u32 | kind u8 | head u32 | body u32 | payload          (little endian)

`head` is the CRC32C of the five bytes before it, so a damaged length is seen as damage, not as a record that
runs past the end. `body` is the CRC32C of kind and payload, continued from the `body` of the record before: a
record that is missing, doubled or out of place breaks the chain.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import NamedTuple

from google_crc32c import extend as _extend
from google_crc32c import value as _value

_HEAD = struct.Struct("<IB")
_SUMS = struct.Struct("<II")
HEADER_BYTES = _HEAD.size + _SUMS.size
SECTOR = 512


class RecordKind(enum.IntEnum):
    """What the payload is."""

    METADATA = 1
    ENTRY = 2
    HARD_STATE = 3
    SNAPSHOT = 4


_KIND_BYTES = {kind: bytes([kind]) for kind in RecordKind}


class WalCorrupt(Exception):
    """A file holds what was never written. The member must not start; restore it from its peers."""

    def __init__(self, path: str, offset: int, reason: str) -> None:
        super().__init__(f"{path}: damaged at offset {offset}: {reason}")
        self.path, self.offset, self.reason = path, offset, reason


class Record(NamedTuple):
    """A verified record; `end` is the offset behind it."""

    kind: RecordKind
    payload: bytes
    chain: int
    end: int


def put_record(buffer: bytearray, kind: RecordKind, payload: bytes, chain: int) -> int:
    """Append one record; return the chain after it."""
    head = _HEAD.pack(len(payload), kind)
    chain = _extend(_extend(chain, _KIND_BYTES[kind]), payload)
    buffer += head
    buffer += _SUMS.pack(_value(head), chain)
    buffer += payload
    return chain


def read_records(path: str, data: bytes, chain: int, *, last: bool) -> Iterator[Record]:
    """The records of one segment.

    Ends early, at the last whole record, where the rest of the last segment is a write that a crash cut
    short. Raises WalCorrupt for any other damage.
    """
    offset = 0
    while offset < len(data):
        record = _read_record(path, data, offset, chain, last=last)
        if record is None:
            return
        yield record
        offset, chain = record.end, record.chain


def _read_record(path: str, data: bytes, offset: int, chain: int, *, last: bool) -> Record | None:
    if offset + HEADER_BYTES > len(data):
        return _torn(path, offset, "header runs past the end", torn=last)
    head = data[offset : offset + _HEAD.size]
    head_sum, body_sum = _SUMS.unpack_from(data, offset + _HEAD.size)
    if _value(head) != head_sum:
        torn = last and _has_zero_sector(data, offset, offset + HEADER_BYTES)
        return _torn(path, offset, "bad header checksum", torn=torn)
    length, kind = _HEAD.unpack(head)
    start = offset + HEADER_BYTES
    end = start + length
    if end > len(data):
        return _torn(path, offset, "record runs past the end", torn=last)
    payload = data[start:end]
    found = _extend(_extend(chain, bytes([kind])), payload)
    if found != body_sum:
        torn = last and _has_zero_sector(data, start, end)
        return _torn(path, offset, "bad checksum", torn=torn)
    try:
        return Record(RecordKind(kind), payload, found, end)
    except ValueError:
        raise WalCorrupt(path, offset, f"unknown record kind {kind}") from None


def _torn(path: str, offset: int, reason: str, *, torn: bool) -> Record | None:
    """No record, if a crash explains it."""
    if not torn:
        raise WalCorrupt(path, offset, reason)
    return None


def _zero(data: bytes, start: int, end: int) -> bool:
    return data.count(0, start, end) == end - start


def _has_zero_sector(data: bytes, start: int, end: int) -> bool:
    """A sector that never reached the disk reads as zeros: the mark of a write cut short, not of decay."""
    while start < end:
        stop = min(end, (start // SECTOR + 1) * SECTOR)
        if _zero(data, start, stop):
            return True
        start = stop
    return False
