"""Status codes of gRPC, how they and deadlines are written in headers, and what HTTP's codes mean to it."""

from __future__ import annotations

import enum
import math
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes


class Code(enum.IntEnum):
    """google.rpc.Code, as it stands in `grpc-status`."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """A call that ended with a status other than OK.

    `sent` False: the other side has certainly not begun with it (no connection, refused stream, GOAWAY), so
    that repeating it is safe whatever it does. `answered`: the status is the other side's own word; without
    it, it describes how the answer got lost.
    """

    def __init__(self, code: Code, text: str, *, sent: bool = True, answered: bool = False) -> None:
        super().__init__(f"{text} ({code.name})")
        self.code = code
        self.text = text
        self.sent, self.answered = sent, answered


_PLAIN: Final = "".join(chr(c) for c in range(0x20, 0x7F) if c != ord("%"))


def encode_message(text: str) -> str:
    """`grpc-message`: UTF-8, with everything but printable ASCII percent-encoded."""
    return quote_from_bytes(text.encode("utf-8", "replace"), safe=_PLAIN)


def decode_message(encoded: str) -> str:
    """The text again. What is not a proper encoding stands as it came."""
    return unquote_to_bytes(encoded).decode("utf-8", "replace")


_UNITS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_MAX_DIGITS: Final = 8


def encode_timeout(seconds: float) -> str:
    """`grpc-timeout`, rounded up; equal budgets give equal strings, so that whole header blocks repeat."""
    if seconds <= 0:
        return "0m"
    for unit in ("m", "S", "M", "H"):
        amount = math.ceil(round(seconds / _UNITS[unit], 3))
        if amount < 10**_MAX_DIGITS:
            return f"{amount}{unit}"
    return f"{10**_MAX_DIGITS - 1}H"


def decode_timeout(encoded: str) -> float:
    """Seconds. Raises ValueError."""
    digits, unit = encoded[:-1], encoded[-1:]
    if unit not in _UNITS or not digits.isdecimal() or not digits.isascii() or len(digits) > _MAX_DIGITS:
        raise ValueError(f"malformed grpc-timeout: {encoded!r}")
    return int(digits) * _UNITS[unit]


_FROM_HTTP: Final = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}


def from_http(status: str) -> Code:
    """What an answer that did not come from gRPC means (http-grpc-status-mapping.md)."""
    return _FROM_HTTP.get(int(status), Code.UNKNOWN) if status.isdecimal() else Code.INTERNAL
