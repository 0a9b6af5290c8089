"""Answers of upstream servers, remembered as long as they allow. Pure: the caller says what time it is.

A message is kept as it came; what changes are its id and its TTLs, whose places are found once.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import NamedTuple

CAPACITY = 9984
"""Messages of each kind, as in CoreDNS' cache plugin."""
MAX_TTL = 30
MAX_DENIAL_TTL = 30
"""Seconds; what a cluster's usual Corefile asks for (`cache 30`)."""
NOERROR, NXDOMAIN = 0, 3
_OPT, _SOA = 41, 6
_HEADER = 12
_TRUNCATED = 0x02


class Malformed(ValueError):
    """The message ends too early."""


class _Entry(NamedTuple):
    message: bytes
    stored: float
    expires: float
    ttls: tuple[tuple[int, int], ...]


class _Layout(NamedTuple):
    """Where the TTLs are, as (position, seconds), and what a negative answer's SOA allows."""

    ttls: tuple[tuple[int, int], ...]
    answers: int
    denial: int | None


def layout(message: bytes) -> _Layout:
    """Raises Malformed."""
    try:
        questions, *counts = struct.unpack_from(">4H", message, 4)
        position = _HEADER
        for _ in range(questions):
            position = _after_name(message, position) + 4
        ttls: list[tuple[int, int]] = []
        denial: int | None = None
        for number in range(sum(counts)):
            position = _after_name(message, position)
            kind, _, ttl, size = struct.unpack_from(">HHIH", message, position)
            # The TTL of an OPT record is no time (RFC 6891 6.1.3).
            if kind != _OPT:
                ttls.append((position + 4, ttl))
            position += 10 + size
            if kind == _SOA and counts[0] <= number < counts[0] + counts[1]:
                (minimum,) = struct.unpack_from(">I", message, position - 4)
                denial = min(ttl, minimum)
        if position > len(message):
            raise Malformed("a record ends behind the message")
    except (struct.error, IndexError) as error:
        raise Malformed(str(error)) from None
    return _Layout(tuple(ttls), counts[0], denial)


def _after_name(message: bytes, position: int) -> int:
    while size := message[position]:
        if size >= 0xC0:
            return position + 2
        position += size + 1
    return position + 1


def key_of(query: bytes) -> bytes:
    """What a query asks: all of it but the id, in lower case. The flags and EDNS options are part of it, so
    that an answer is only given to those who asked the same way.
    """
    return query[2:].lower()


class Cache:
    """Least recently used messages go first; those that deny have a room of their own, so that a flood of
    names that do not exist takes nobody's place.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._found: OrderedDict[bytes, _Entry] = OrderedDict()
        self._denied: OrderedDict[bytes, _Entry] = OrderedDict()

    @property
    def sizes(self) -> tuple[int, int]:
        """How many messages are kept: with answers, denials."""
        return len(self._found), len(self._denied)

    def get(self, query: bytes, now: float) -> tuple[bytes, str] | None:
        """The remembered answer to `query`, under its id, with TTLs that have grown older, and its kind:
        `success` or `denial`.
        """
        key = key_of(query)
        for room, kind in ((self._found, "success"), (self._denied, "denial")):
            entry = room.get(key)
            if entry is None:
                continue
            if entry.expires <= now:
                del room[key]
                continue
            room.move_to_end(key)
            return _aged(entry, query, int(now - entry.stored)), kind
        return None

    def put(self, query: bytes, message: bytes, now: float) -> bool:
        """Remember; whether it may be. Truncated and failed answers may not, nor those of no duration."""
        rcode = message[3] & 0x0F if len(message) >= _HEADER else -1
        if rcode not in (NOERROR, NXDOMAIN) or message[2] & _TRUNCATED:
            return False
        try:
            found = layout(message)
        except Malformed:
            return False
        positive = rcode == NOERROR and found.answers > 0
        if positive:
            seconds = min(MAX_TTL, *(ttl for _, ttl in found.ttls))
        elif found.denial is None:
            # RFC 2308 5: without SOA a denial is not to be remembered.
            return False
        else:
            seconds = min(MAX_DENIAL_TTL, found.denial)
        if seconds <= 0:
            return False
        key = key_of(query)
        room, other = (self._found, self._denied) if positive else (self._denied, self._found)
        other.pop(key, None)
        room[key] = _Entry(message, now, now + seconds, found.ttls)
        room.move_to_end(key)
        if len(room) > self._capacity:
            room.popitem(last=False)
        return True


def _aged(entry: _Entry, query: bytes, age: int) -> bytes:
    message = bytearray(entry.message)
    message[:2] = query[:2]
    # The client compares the question byte by byte, letter case and all.
    end = _after_name(query, _HEADER)
    message[_HEADER:end] = query[_HEADER:end]
    for position, ttl in entry.ttls:
        struct.pack_into(">I", message, position, max(0, ttl - age))
    return bytes(message)
