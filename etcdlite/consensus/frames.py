"""Frames on a connection between members: a length (u32, big endian) and that many bytes."""

from __future__ import annotations

import struct

_LENGTH = struct.Struct(">I")
MAX_FRAME = 64 << 20


class FrameTooLarge(Exception):
    """The peer announced a frame that no member would send."""


def frame(payload: bytes) -> bytes:
    """One frame."""
    return _LENGTH.pack(len(payload)) + payload


class FrameReader:
    """Cuts a byte stream into frames. Pure; keeps at most one unfinished frame."""

    __slots__ = ("_parts", "_size", "_wanted")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size, self._wanted = 0, _LENGTH.size

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes. Raises FrameTooLarge."""
        self._parts.append(data)
        self._size += len(data)
        if self._size < self._wanted:
            return []  # joining what is there now would make a large frame quadratic
        data = b"".join(self._parts) if len(self._parts) > 1 else data
        found: list[bytes] = []
        position, self._wanted = 0, _LENGTH.size
        while len(data) - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, position)
            if length > MAX_FRAME:
                raise FrameTooLarge(f"frame of {length} bytes (at most {MAX_FRAME})")
            start = position + _LENGTH.size
            if len(data) - start < length:
                self._wanted = _LENGTH.size + length
                break
            found.append(data[start : start + length])
            position = start + length
        rest = data[position:]
        self._parts, self._size = ([rest] if rest else []), len(rest)
        return found
