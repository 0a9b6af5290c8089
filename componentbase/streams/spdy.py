"""SPDY/3.1 framing, sans-I/O: bytes in, events out; calls in, bytes out.

Kubernetes' streaming endpoints (exec, attach, port-forward) speak this protocol between old clients,
kubelets and container runtimes. Only what they use is here: streams with headers, data, half-close, reset,
ping and go-away. Flow control windows exist on the wire but no Kubernetes peer enforces them; TCP's own
flow control does the work.

Source: the SPDY protocol draft 3.1 (chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

VERSION = 3
SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS = 1, 2, 3, 4
PING, GOAWAY, HEADERS, WINDOW_UPDATE = 6, 7, 8, 9
FLAG_FIN = 0x01
PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM, CANCEL = 1, 2, 3, 5
MAX_FRAME = (1 << 24) - 1
CHUNK = 32 * 1024
MAX_HEADERS = 256 * 1024
MAX_CONTROL = 64 * 1024

_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language "
    "accept-ranges age allow authorization cache-control connection content-base content-encoding "
    "content-language content-length content-location content-md5 content-range content-type date etag "
    "expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since "
    "last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer "
    "retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate "
    "method get status"
)
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _dictionary() -> bytes:
    """The zlib dictionary of the specification: length-prefixed header words, then common values run
    together.
    """
    words = [
        *_WORDS.split(),
        "200 OK",
        "version",
        "HTTP/1.1",
        "url",
        "public",
        "set-cookie",
        "keep-alive",
        "origin",
    ]
    return b"".join(struct.pack(">I", len(word)) + word.encode() for word in words) + _TAIL.encode()


DICTIONARY = _dictionary()


class SpdyError(Exception):
    """The peer broke the protocol; the connection cannot go on."""


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The peer opened a stream; it expects a reply or a reset."""

    stream_id: int
    headers: Mapping[str, str]
    fin: bool


@dataclass(frozen=True, slots=True)
class StreamReplied:
    """The peer accepted a stream of ours."""

    stream_id: int
    headers: Mapping[str, str]
    fin: bool


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a stream; `fin` means that the peer will send no more on it."""

    stream_id: int
    payload: bytes
    fin: bool


@dataclass(frozen=True, slots=True)
class Reset:
    """The stream ended abnormally, in both directions."""

    stream_id: int
    status: int


@dataclass(frozen=True, slots=True)
class GoneAway:
    """The peer accepts no further streams."""

    last_stream_id: int


Event = StreamOpened | StreamReplied | Data | Reset | GoneAway


class Connection:
    """One end of a SPDY connection. A client opens odd stream ids, a server even ones."""

    def __init__(self, *, client: bool) -> None:
        self._next_id = 1 if client else 2
        self._buffer = bytearray()
        self._deflate = zlib.compressobj(zlib.Z_DEFAULT_COMPRESSION, zlib.DEFLATED, 15, 8, 0, DICTIONARY)
        self._inflate = zlib.decompressobj(15, DICTIONARY)
        self.outgoing = bytearray()
        """Answers that the protocol itself demands (pings); send them as soon as possible."""

    # -- sending -------------------------------------------------------------------------------------------

    def open_stream(self, headers: Mapping[str, str], *, fin: bool = False) -> tuple[int, bytes]:
        """A new stream: its id, and the frame that opens it."""
        stream_id = self._next_id
        self._next_id += 2
        body = struct.pack(">IIBB", stream_id, 0, 0, 0) + self._pack(headers)
        return stream_id, self._control(SYN_STREAM, body, FLAG_FIN if fin else 0)

    def reply(self, stream_id: int, headers: Mapping[str, str] | None = None, *, fin: bool = False) -> bytes:
        """Accept a stream of the peer's."""
        body = struct.pack(">I", stream_id) + self._pack(headers or {})
        return self._control(SYN_REPLY, body, FLAG_FIN if fin else 0)

    def data(self, stream_id: int, payload: bytes, *, fin: bool = False) -> bytes:
        """Data frames for `payload`, the last one closing our half of the stream if `fin`."""
        if len(payload) <= CHUNK:
            return _data_frame(stream_id, payload, fin)
        parts = [payload[at : at + CHUNK] for at in range(0, len(payload), CHUNK)]
        last = len(parts) - 1
        return b"".join(_data_frame(stream_id, part, fin and at == last) for at, part in enumerate(parts))

    def reset(self, stream_id: int, status: int = CANCEL) -> bytes:
        """End a stream at once, in both directions."""
        return self._control(RST_STREAM, struct.pack(">II", stream_id, status))

    def go_away(self, last_stream_id: int = 0) -> bytes:
        """Announce that no further stream is accepted."""
        return self._control(GOAWAY, struct.pack(">II", last_stream_id, 0))

    def ping(self, ping_id: int) -> bytes:
        return self._control(PING, struct.pack(">I", ping_id))

    @staticmethod
    def _control(kind: int, body: bytes, flags: int = 0) -> bytes:
        return struct.pack(">HHI", 0x8000 | VERSION, kind, flags << 24 | len(body)) + body

    def _pack(self, headers: Mapping[str, str]) -> bytes:
        block = struct.pack(">I", len(headers))
        for name, value in headers.items():
            for text in (name.lower().encode(), value.encode()):
                block += struct.pack(">I", len(text)) + text
        return self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    # -- receiving -----------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """What the peer's bytes mean. Raises `SpdyError`, after which the connection must be closed."""
        self._buffer += data
        events: list[Event] = []
        while len(self._buffer) >= 8:
            first, rest = struct.unpack_from(">II", self._buffer)
            flags, length = rest >> 24, rest & MAX_FRAME
            if first >> 31 and length > MAX_CONTROL:
                raise SpdyError(f"control frame of {length} bytes")
            if len(self._buffer) < 8 + length:
                break
            body = bytes(self._buffer[8 : 8 + length])
            del self._buffer[: 8 + length]
            event = self._frame(first, flags, body)
            if event is not None:
                events.append(event)
        return events

    def _frame(self, first: int, flags: int, body: bytes) -> Event | None:
        fin = bool(flags & FLAG_FIN)
        if not first >> 31:
            return Data(first, body, fin)
        version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
        if version != VERSION:
            raise SpdyError(f"SPDY version {version}, expected {VERSION}")
        try:
            return self._control_frame(kind, fin, body)
        except struct.error as error:
            raise SpdyError(f"frame of type {kind} is too short") from error

    def _control_frame(self, kind: int, fin: bool, body: bytes) -> Event | None:
        if kind == SYN_STREAM:
            return StreamOpened(_stream_id(body), self._unpack(body[10:]), fin)
        if kind == SYN_REPLY:
            return StreamReplied(_stream_id(body), self._unpack(body[4:]), fin)
        if kind == HEADERS:
            self._unpack(body[4:])  # keeps the compression state in step
            return Data(_stream_id(body), b"", fin) if fin else None
        if kind == RST_STREAM:
            stream_id, status = struct.unpack_from(">II", body)
            return Reset(stream_id & 0x7FFFFFFF, status)
        if kind == GOAWAY:
            return GoneAway(_stream_id(body))
        if kind == PING:
            (ping_id,) = struct.unpack_from(">I", body)
            # Ours come back with our own parity and need no answer.
            if ping_id % 2 != self._next_id % 2:
                self.outgoing += self.ping(ping_id)
        return None

    def _unpack(self, block: bytes) -> dict[str, str]:
        try:
            plain = self._inflate.decompress(block, MAX_HEADERS)
        except zlib.error as error:
            raise SpdyError(f"header block: {error}") from error
        if self._inflate.unconsumed_tail:
            raise SpdyError(f"header block of more than {MAX_HEADERS} bytes")
        (count,) = struct.unpack_from(">I", plain)
        at, texts = 4, []
        for _ in range(2 * min(count, MAX_HEADERS)):
            (size,) = struct.unpack_from(">I", plain, at)
            texts.append(plain[at + 4 : at + 4 + size].decode("latin-1"))
            at += 4 + size
        return dict(zip(texts[::2], texts[1::2], strict=True))


def _stream_id(body: bytes) -> int:
    (value,) = struct.unpack_from(">I", body)
    return int(value) & 0x7FFFFFFF


def _data_frame(stream_id: int, payload: bytes, fin: bool) -> bytes:
    return struct.pack(">II", stream_id, (FLAG_FIN if fin else 0) << 24 | len(payload)) + payload
