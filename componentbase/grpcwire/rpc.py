"""What the header lists of a call mean to gRPC (PROTOCOL-HTTP2.md). Pure.

Meanings are made once for a header list and remembered: calls repeat theirs.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from componentbase.grpcwire.hpack import Fields
from componentbase.grpcwire.status import Code, decode_message, decode_timeout, from_http

CONTENT_TYPE: Final = "application/grpc"
Metadata = tuple[tuple[str, str | bytes], ...]

_RESERVED: Final = frozenset(
    {
        "content-type",
        "te",
        "grpc-timeout",
        "grpc-encoding",
        "grpc-accept-encoding",
        "grpc-status",
        "grpc-message",
    }
)
_CONNECTION_SPECIFIC: Final = frozenset(
    {"connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"}
)
_REMEMBERED: Final = 512


class Malformed(ValueError):
    """A header list that HTTP/2 itself forbids (RFC 9113, section 8.1.1)."""


@dataclass(frozen=True, slots=True)
class Request:
    """How a call begins. One of `http_status` and `refusal` says why it cannot go on, if it cannot."""

    path: str
    metadata: Metadata = ()
    timeout: float | None = None
    http_status: str = ""
    refusal: tuple[Code, str] | None = None


@lru_cache(_REMEMBERED)
def parse_request(fields: Fields) -> Request:
    """The meaning of a request's headers. Raises Malformed."""
    pseudo, plain = _split(fields)
    if not {":method", ":path", ":scheme"} <= pseudo.keys() or not pseudo[":path"]:
        raise Malformed("a request needs :method, :scheme and :path")
    if not pseudo.keys() <= {":method", ":path", ":scheme", ":authority"}:
        raise Malformed("unknown pseudo-header")
    named, path = dict(plain), pseudo[":path"]
    if pseudo[":method"] != "POST":
        return Request(path, http_status="405")
    if not named.get("content-type", "").startswith(CONTENT_TYPE):
        return Request(path, http_status="415")
    encoding = named.get("grpc-encoding", "identity")
    if encoding != "identity":
        text = f'grpc: Decompressor is not installed for grpc-encoding "{encoding}"'
        return Request(path, refusal=(Code.UNIMPLEMENTED, text))
    try:
        timeout = decode_timeout(named["grpc-timeout"]) if "grpc-timeout" in named else None
        return Request(path, _metadata(plain), timeout)
    except ValueError as error:
        return Request(path, refusal=(Code.INTERNAL, str(error)))


@dataclass(frozen=True, slots=True)
class Answer:
    """Headers or trailers of an answer. `code` is None where they do not say how the call ended."""

    code: Code | None
    text: str = ""
    metadata: Metadata = ()


@lru_cache(_REMEMBERED)
def parse_answer(fields: Fields) -> Answer:
    """The meaning of an answer's headers or trailers. Raises Malformed."""
    pseudo, plain = _split(fields)
    named, status = dict(plain), pseudo.get(":status", "200")
    if "grpc-status" in named:
        number = named["grpc-status"]
        known = number.isdecimal() and int(number) in Code._value2member_map_
        code = Code(int(number)) if known else Code.UNKNOWN
        return Answer(code, decode_message(named.get("grpc-message", "")), _metadata(plain))
    if status.startswith("1"):
        return Answer(None)
    kind = named.get("content-type", CONTENT_TYPE)
    if status != "200":
        return Answer(from_http(status), f"unexpected HTTP status code received from server: {status}")
    if not kind.startswith(CONTENT_TYPE):
        return Answer(Code.UNKNOWN, f"unexpected content-type {kind!r}")
    if named.get("grpc-encoding", "identity") != "identity":
        text = f"compression {named['grpc-encoding']!r} is not supported"
        return Answer(Code.INTERNAL, text)
    return Answer(None, metadata=_metadata(plain))


def _split(fields: Fields) -> tuple[dict[str, str], Fields]:
    pseudo: dict[str, str] = {}
    for position, (name, value) in enumerate(fields):
        if not name.startswith(":"):
            plain = fields[position:]
            break
        if name in pseudo:
            raise Malformed(f"{name} twice")
        pseudo[name] = value
    else:
        plain = ()
    for name, value in plain:
        if not name or name.startswith(":") or name != name.lower() or name in _CONNECTION_SPECIFIC:
            raise Malformed(f"header {name!r} may not be here")
        if "\r" in value or "\n" in value or "\0" in value:
            raise Malformed(f"header {name!r} holds a line break")
    return pseudo, plain


def _metadata(plain: Fields) -> Metadata:
    """What is the application's. Raises ValueError on a binary value that is not base64."""
    found: list[tuple[str, str | bytes]] = []
    for name, value in plain:
        if name in _RESERVED:
            continue
        if not name.endswith("-bin"):
            found.append((name, value))
            continue
        for part in value.split(","):
            try:
                found.append((name, base64.b64decode(part + "=" * (-len(part) % 4), validate=True)))
            except binascii.Error as error:
                raise ValueError(f"malformed binary metadata {name!r}: {error}") from None
    return tuple(found)


def metadata_fields(metadata: Sequence[tuple[str, str | bytes]]) -> Fields:
    """Header fields for metadata. Raises ValueError for names that are not the application's to set."""
    fields: list[tuple[str, str]] = []
    for name, value in metadata:
        if name in _RESERVED or name.startswith((":", "grpc-")) or name != name.lower():
            raise ValueError(f"metadata {name!r} may not be set")
        if isinstance(value, bytes):
            if not name.endswith("-bin"):
                raise ValueError(f"binary metadata {name!r} must end in -bin")
            value = base64.b64encode(value).decode().rstrip("=")
        fields.append((name, value))
    return tuple(fields)
