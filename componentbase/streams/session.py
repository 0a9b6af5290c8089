"""SPDY streams as asyncio sees them: a session over any byte stream, from either end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Protocol

from componentbase.streams import spdy

log = logging.getLogger(__name__)

QUEUE = 64
"""Unread chunks of a stream before the whole session waits: the protocol's peers have no windows of their
own.
"""
BACKLOG = 256
"""Streams a peer may have open at once."""


class ByteStream(Protocol):
    """What a session runs over: `componentbase.http.stream.RawStream`, or a WebSocket tunnel."""

    async def read(self) -> bytes: ...

    async def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class SpdyStream:
    """One stream: read until b"", write, `finish` our half. Both directions end with a reset or the
    session.
    """

    def __init__(self, session: Session, stream_id: int, headers: Mapping[str, str]) -> None:
        self.session = session
        self.id = stream_id
        self.headers = headers
        self.replied = asyncio.Event()
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue(QUEUE)
        self._ended = False
        self._finished = False
        self.broken = False

    async def read(self) -> bytes:
        """The next bytes; b"" at the end. Raises ConnectionError after a reset or a lost session."""
        if self._ended and self._chunks.empty():
            if self.broken:
                raise ConnectionResetError("stream was reset")
            return b""
        chunk = await self._chunks.get()
        if not chunk:
            self._ended = True
            return await self.read()
        return chunk

    async def write(self, data: bytes) -> None:
        if self._finished or self.broken:
            raise ConnectionResetError("write to a finished stream")
        await self.session.send(self.session.core.data(self.id, data))

    async def finish(self) -> None:
        """Send no more; reading goes on."""
        if not self._finished and not self.broken:
            self._finished = True
            await self.session.send(self.session.core.data(self.id, b"", fin=True))

    async def reset(self) -> None:
        if not self.broken:
            self.break_off()
            await self.session.send(self.session.core.reset(self.id))
        self.session.drop(self.id)

    async def feed(self, payload: bytes, fin: bool) -> None:
        if payload and not self.broken:
            await self._chunks.put(payload)
        if fin and not self.broken:
            await self._chunks.put(b"")

    def break_off(self) -> None:
        """No reader may be left waiting, however full its queue is."""
        self.broken = True
        self._ended = True
        self.replied.set()
        if self._chunks.full():
            self._chunks.get_nowait()
        self._chunks.put_nowait(b"")


class Session:
    """A SPDY session. `run` must run as a task for as long as its streams are used; it ends with the
    connection.
    """

    def __init__(self, stream: ByteStream, *, client: bool) -> None:
        self.core = spdy.Connection(client=client)
        self._stream = stream
        self._streams: dict[int, SpdyStream] = {}
        self._accepted: asyncio.Queue[SpdyStream | None] = asyncio.Queue(BACKLOG + 1)
        self._writing = asyncio.Lock()
        self.closed = False

    async def send(self, frame: bytes) -> None:
        async with self._writing:
            await self._stream.write(frame)

    async def open(self, headers: Mapping[str, str]) -> SpdyStream:
        """Open a stream; the peer's reply is not waited for (await `stream.replied` where it matters)."""
        async with self._writing:
            # Header blocks share one compression state: they must go out in the order they were packed.
            stream_id, frame = self.core.open_stream(headers)
            stream = self._streams[stream_id] = SpdyStream(self, stream_id, headers)
            await self._stream.write(frame)
        return stream

    async def accept(self) -> SpdyStream | None:
        """The next stream of the peer's, already replied to; None when the session has ended."""
        return await self._accepted.get()

    def drop(self, stream_id: int) -> None:
        self._streams.pop(stream_id, None)

    async def run(self) -> None:
        """Move frames until the connection ends; a protocol error ends it."""
        try:
            while data := await self._stream.read():
                for event in self.core.receive(data):
                    await self._handle(event)
                if self.core.outgoing:
                    answer = bytes(self.core.outgoing)
                    self.core.outgoing.clear()
                    await self.send(answer)
        except spdy.SpdyError as error:
            log.info("SPDY session ended: %s", error)
        except ConnectionError:
            pass
        finally:
            self.closed = True
            for stream in list(self._streams.values()):
                stream.break_off()
            if self._accepted.full():
                self._accepted.get_nowait()
            self._accepted.put_nowait(None)
            self._stream.close()

    async def _handle(self, event: spdy.Event) -> None:
        if isinstance(event, spdy.StreamOpened):
            await self._opened(event)
            return
        if isinstance(event, spdy.GoneAway):
            return
        stream = self._streams.get(event.stream_id)
        if stream is None:
            return
        if isinstance(event, spdy.StreamReplied):
            stream.replied.set()
            await stream.feed(b"", event.fin)
        elif isinstance(event, spdy.Data):
            await stream.feed(event.payload, event.fin)
        else:
            stream.break_off()
            self.drop(event.stream_id)

    async def _opened(self, event: spdy.StreamOpened) -> None:
        if self._accepted.qsize() >= BACKLOG or len(self._streams) >= BACKLOG:
            await self.send(self.core.reset(event.stream_id, spdy.REFUSED_STREAM))
            return
        stream = SpdyStream(self, event.stream_id, event.headers)
        self._streams[event.stream_id] = stream
        async with self._writing:
            await self._stream.write(self.core.reply(event.stream_id))
        await stream.feed(b"", event.fin)
        await self._accepted.put(stream)

    def close(self) -> None:
        self._stream.close()
