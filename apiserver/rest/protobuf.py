"""The envelope of `application/vnd.kubernetes.protobuf`, which Go clients prefer for built-in kinds.

The magic "k8s\\0", then a `runtime.Unknown` that holds the type and the bytes of the object's own message.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from apimachinery import errors
from apimachinery.protobuf import MEDIA_TYPE, decode, encode, wire
from apimachinery.schema import table

__all__ = ["MAGIC", "MEDIA_TYPE", "WATCH_MEDIA_TYPE", "definition_of", "frame", "read", "write"]

MAGIC = b"k8s\0"
WATCH_MEDIA_TYPE = MEDIA_TYPE + ";stream=watch"
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
# Kinds that every group version has.
_COMMON = {"DeleteOptions": META + "DeleteOptions", "Status": META + "Status"}


def read(body: bytes) -> dict[str, Any]:
    """The object in a body, as its JSON form. Raises 400, and 415 for a kind without field numbers (a custom
    resource).
    """
    if not body.startswith(MAGIC):
        raise errors.bad_request("the protobuf body does not start with the expected prefix")
    try:
        version, kind, raw = _unknown(body[len(MAGIC) :])
        name = definition_of(version, kind)
        if name is None:
            raise errors.unsupported_media_type(
                f"{kind} in version {version!r} is not supported as protobuf; send it as application/json"
            )
        return {"kind": kind, "apiVersion": version, **decode.message(raw, name)}
    except wire.Malformed as error:
        raise errors.bad_request(f"the protobuf body cannot be decoded: {error}") from None


def write(obj: Mapping[str, Any]) -> bytes:
    """An object in its envelope. Raises ValueError for a kind without field numbers."""
    version, kind = str(obj.get("apiVersion", "")), str(obj.get("kind", ""))
    name = definition_of(version, kind)
    if name is None:
        raise ValueError(f"{kind} in version {version!r} has no form in protobuf")
    types = wire.delimited(1, version.encode()) + wire.delimited(2, kind.encode())
    raw = encode.message(obj, name)
    empty = wire.delimited(3, b"") + wire.delimited(4, b"")  # content encoding and type, as Go spells them
    return MAGIC + wire.delimited(1, types) + wire.delimited(2, raw) + empty


def frame(kind: str, obj: Mapping[str, Any]) -> bytes:
    """One watch event: its length in four bytes, then a WatchEvent whose object is in its own envelope."""
    event = wire.delimited(1, kind.encode()) + wire.delimited(2, wire.delimited(1, write(obj)))
    types = wire.delimited(1, b"v1") + wire.delimited(2, b"WatchEvent")
    whole = MAGIC + wire.delimited(1, types) + wire.delimited(2, event)
    return struct.pack(">I", len(whole)) + whole


def definition_of(version: str, kind: str) -> str | None:
    """`apps/v1`, `Deployment` -> its definition, if that has a form in protobuf."""
    group, _, short = version.rpartition("/")
    name = table.load().definition_of(group, short, kind) or _COMMON.get(kind)
    return name if name and any(field.numbers for field in table.load()[name].fields.values()) else None


def _unknown(data: bytes) -> tuple[str, str, bytes]:
    """apiVersion, kind and bytes of a `runtime.Unknown`. Raises Malformed."""
    fields = dict(wire.fields(data))
    types = dict(wire.fields(_bytes(fields.get(1, b""))))
    if fields.get(3):
        raise wire.Malformed("content encodings are not supported")
    version, kind = (_bytes(types.get(number, b"")) for number in (1, 2))
    return version.decode(errors="replace"), kind.decode(errors="replace"), _bytes(fields.get(2, b""))


def _bytes(value: int | bytes) -> bytes:
    if not isinstance(value, bytes):
        raise wire.Malformed("expected length-delimited bytes")
    return value
