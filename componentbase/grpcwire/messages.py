"""Messages inside a stream: a flag byte, four bytes of length, then that many bytes. Pure."""

from __future__ import annotations

import struct
from typing import Final

from componentbase.grpcwire.status import Code, RpcError

_PREFIX = struct.Struct(">BL")
PREFIX_BYTES: Final = _PREFIX.size


def prefix(length: int) -> bytes:
    """What goes in front of an uncompressed message."""
    return _PREFIX.pack(0, length)


class MessageReader:
    """Cuts the data of one stream into messages. `held`: bytes kept of an unfinished one; `missing`: how
    many more it needs.
    """

    __slots__ = ("_limit", "_parts", "held", "missing")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self.held = 0
        self.missing = PREFIX_BYTES

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes. Raises RpcError for one that is too large or compressed."""
        if self.held:
            self._parts.append(data)
            self.held += len(data)
            if len(data) < self.missing:  # joining now would make a large message quadratic
                self.missing -= len(data)
                return []
            data = b"".join(self._parts)
            self._parts.clear()
        found: list[bytes] = []
        position, size = 0, len(data)
        while True:
            self.missing = PREFIX_BYTES - (size - position)
            if self.missing > 0:
                break
            start = position + PREFIX_BYTES
            end = start + self._length(data, position)
            self.missing = end - size
            if self.missing > 0:
                break
            found.append(data[start:end])
            position = end
        self.held = size - position
        if self.held:
            self._parts.append(data[position:] if position else data)
        return found

    def _length(self, data: bytes, position: int) -> int:
        flag, length = _PREFIX.unpack_from(data, position)
        if length > self._limit:
            text = f"grpc: received message larger than max ({length} vs. {self._limit})"
            raise RpcError(Code.RESOURCE_EXHAUSTED, text)
        if flag == 1:
            text = "grpc: compressed flag set with identity or empty encoding"
            raise RpcError(Code.INTERNAL, text)
        if flag:
            raise RpcError(Code.INTERNAL, f"grpc: unexpected payload flag {flag}")
        return int(length)
