"""A byte stream over an asyncio transport with flow control in both directions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

READ_LIMIT = 256 * 1024
"""Bytes buffered before the peer is made to wait."""


class RawStream(asyncio.Protocol):
    """What is left of an HTTP connection after an upgrade: bytes in, bytes out.

    One task may read and one may write at a time. The reader never sees more than READ_LIMIT unread bytes
    pile up, and the writer waits while the transport's buffer is above its high-water mark.
    """

    def __init__(self, on_closed: Callable[[RawStream], None] | None = None) -> None:
        self._on_closed = on_closed
        self.transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        self._size = 0
        self._eof = False
        self._error: Exception | None = None
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = asyncio.Event()
        self._reading_paused = False

    def attach(self, transport: asyncio.Transport, early: bytes = b"") -> None:
        """Take over `transport`, whose protocol is this object already; `early` are bytes that came with
        the head.
        """
        self.transport = transport
        if transport.is_closing():
            self.connection_lost(None)
        elif early:
            self.data_received(early)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of asyncio.Transport, only alike.
        self.attach(cast(asyncio.Transport, transport))

    def data_received(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        self._readable.set()
        if self._size > READ_LIMIT and not self._reading_paused and self.transport is not None:
            self._reading_paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self._eof = True
        self._readable.set()
        # A plain TCP peer may half-close and still read; TLS transports close by themselves.
        return self.transport is not None and self.transport.can_write_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        self._eof = True
        self._error = exc
        self._readable.set()
        self._writable.set()
        self._closed.set()
        if self._on_closed is not None:
            self._on_closed(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def read(self) -> bytes:
        """All bytes that have arrived, waiting for the first; b"" once the peer has ended.

        Raises ConnectionError when the connection broke before its end.
        """
        if not self._chunks and not self._eof:
            self._readable.clear()
            await self._readable.wait()
        if self._chunks:
            data = b"".join(self._chunks) if len(self._chunks) > 1 else self._chunks[0]
            self._chunks.clear()
            self._size = 0
            self._resume_reading()
            return data
        if self._error is not None:
            raise ConnectionResetError(f"connection lost: {self._error}") from self._error
        return b""

    def unread(self, data: bytes) -> None:
        """Put bytes back in front of what will be read next."""
        if data:
            self._chunks.insert(0, data)
            self._size += len(data)
            self._readable.set()

    def _resume_reading(self) -> None:
        if self._reading_paused and self.transport is not None and not self._closed.is_set():
            self._reading_paused = False
            self.transport.resume_reading()

    async def write(self, data: bytes) -> None:
        """Send, and wait while the transport has too much to send already. Raises ConnectionError after the
        end.
        """
        if self.transport is None or self._closed.is_set() or self.transport.is_closing():
            raise ConnectionResetError("write to a closed connection")
        self.transport.write(data)
        if not self._writable.is_set():
            await self._writable.wait()
            if self._closed.is_set():
                raise ConnectionResetError("connection closed while writing")

    def write_eof(self) -> bool:
        """Half-close, and say whether that was possible: TLS on asyncio has no half-close."""
        if self.transport is None or self.transport.is_closing() or not self.transport.can_write_eof():
            return False
        self.transport.write_eof()
        return True

    def close(self) -> None:
        """Close after what was written has been sent."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Close now; what was not sent is lost."""
        if self.transport is not None:
            self.transport.abort()

    def shutdown(self) -> None:
        """The server is ending."""
        self.close()

    async def wait_closed(self) -> None:
        await self._closed.wait()

    @property
    def buffered(self) -> int:
        """Bytes that have arrived and were not read."""
        return self._size

    @property
    def closed(self) -> bool:
        return self._closed.is_set()
