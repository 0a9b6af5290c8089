"""Frames of HTTP/2 (RFC 9113, sections 4 and 6): names, numbers, and how each is written. Pure."""

from __future__ import annotations

import enum
import struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD: Final = struct.Struct(">HBBBL")  # length (16 and 8 bits), kind, flags, stream
HEAD_BYTES: Final = HEAD.size
MAX_WINDOW: Final = (1 << 31) - 1
DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME: Final = 16_384
MAX_FRAME: Final = (1 << 24) - 1

# Kinds
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)

# Flags
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITISED = 0x1, 0x1, 0x4, 0x8, 0x20


class ErrorCode(enum.IntEnum):
    """Why a stream or a connection is ended (section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Setting(enum.IntEnum):
    """Parameters of SETTINGS (section 6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class H2Error(Exception):
    """The other side broke the protocol: the connection ends with GOAWAY and this code."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(f"{code.name}: {reason}")
        self.code, self.reason = code, reason


_SETTING = struct.Struct(">HL")
_WORD = struct.Struct(">L")
_GOAWAY = struct.Struct(">LL")


def head(length: int, kind: int, flags: int, stream: int) -> bytes:
    """The nine bytes in front of a payload."""
    return HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream)


def settings(values: dict[Setting, int]) -> bytes:
    """SETTINGS."""
    payload = b"".join(_SETTING.pack(key, value) for key, value in values.items())
    return head(len(payload), SETTINGS, 0, 0) + payload


SETTINGS_ACK: Final = head(0, SETTINGS, ACK, 0)


def parse_settings(payload: bytes) -> list[tuple[int, int]]:
    """Pairs of parameter and value. Raises H2Error."""
    if len(payload) % _SETTING.size:
        raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a broken length")
    return list(_SETTING.iter_unpack(payload))


def window_update(stream: int, increment: int) -> bytes:
    """WINDOW_UPDATE."""
    return head(4, WINDOW_UPDATE, 0, stream) + _WORD.pack(increment)


def rst_stream(stream: int, code: ErrorCode) -> bytes:
    """RST_STREAM."""
    return head(4, RST_STREAM, 0, stream) + _WORD.pack(code)


def ping(data: bytes, *, ack: bool = False) -> bytes:
    """PING of eight bytes."""
    return head(8, PING, ACK if ack else 0, 0) + data


def goaway(last_stream: int, code: ErrorCode, debug: bytes = b"") -> bytes:
    """GOAWAY."""
    return head(8 + len(debug), GOAWAY, 0, 0) + _GOAWAY.pack(last_stream, code) + debug


def parse_goaway(payload: bytes) -> tuple[int, int, bytes]:
    """Last stream, code, debug data. Raises H2Error."""
    if len(payload) < _GOAWAY.size:
        raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "short GOAWAY")
    last, code = _GOAWAY.unpack_from(payload)
    return last & MAX_WINDOW, code, payload[_GOAWAY.size :]


def word(payload: bytes, what: str) -> int:
    """The four bytes of RST_STREAM and WINDOW_UPDATE. Raises H2Error."""
    if len(payload) != _WORD.size:
        raise H2Error(ErrorCode.FRAME_SIZE_ERROR, f"{what} of {len(payload)} bytes")
    return int(_WORD.unpack(payload)[0])


def headers(stream: int, block: bytes, *, end: bool, limit: int) -> bytes:
    """HEADERS, and CONTINUATION for what is over the frame limit."""
    flags = END_STREAM if end else 0
    if len(block) <= limit:
        return head(len(block), HEADERS, flags | END_HEADERS, stream) + block
    parts = [head(limit, HEADERS, flags, stream), block[:limit]]
    for start in range(limit, len(block), limit):
        piece = block[start : start + limit]
        last = start + limit >= len(block)
        parts += [head(len(piece), CONTINUATION, END_HEADERS if last else 0, stream), piece]
    return b"".join(parts)


def without_padding(payload: bytes, flags: int) -> bytes:
    """The payload of DATA or HEADERS without padding and priority. Raises H2Error."""
    start, end = 0, len(payload)
    if flags & PADDED:
        if not payload:
            raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "padded frame without a length")
        start, end = 1, end - payload[0]
    if flags & PRIORITISED:
        start += 5
    if start > end:
        raise H2Error(ErrorCode.PROTOCOL_ERROR, "padding is longer than the frame")
    return payload[start:end]
