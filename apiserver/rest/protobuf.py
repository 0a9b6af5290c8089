"""Request bodies in `application/vnd.kubernetes.protobuf`, which Go clients prefer for built-in kinds.

The wire form is the magic "k8s\\0" and a `runtime.Unknown` message that holds type and raw bytes. Field
numbers are the API's (generated.proto of each group), kept in `protobuf_fields.json`: message -> number ->
[JSON name, type], the type being s(tring), y (bytes), i(nteger), b(ool), d(ouble), @message, * repeated or
% map to one of these. A message field without a JSON name is inlined, as embedded Go structs are. Answers
are always JSON; clients read either.
"""

from __future__ import annotations

import base64
import datetime
import json
import struct
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any

from apimachinery import errors

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
MAGIC = b"k8s\0"
MAX_DEPTH = 64

META = "io.k8s.apimachinery.pkg.apis.meta.v1."
RUNTIME = "io.k8s.apimachinery.pkg.runtime."
Fields = dict[int, tuple[str, str]]


class Malformed(ValueError):
    """The bytes are not the protobuf of the message."""


@cache
def table() -> dict[str, Fields]:
    text = (resources.files("apiserver.rest") / "protobuf_fields.json").read_text()
    return {
        message: {int(number): (name, kind) for number, (name, kind) in fields.items()}
        for message, fields in json.loads(text).items()
    }


def decode(body: bytes) -> dict[str, Any]:
    """The object in a body, as its JSON form. Raises 400, and 415 for a type whose fields are not known."""
    if not body.startswith(MAGIC):
        raise errors.bad_request("the protobuf body does not start with the expected prefix")
    try:
        envelope = _message(body[len(MAGIC) :], RUNTIME + "Unknown", 0)
        version, kind = (
            envelope.get("typeMeta", {}).get("apiVersion", ""),
            envelope.get("typeMeta", {}).get("kind", ""),
        )
        name = message_name(version, kind)
        if name not in table():
            raise errors.unsupported_media_type(
                f"{kind} in version {version!r} is not supported as protobuf; send it as application/json"
            )
        obj: dict[str, Any] = _message(base64.b64decode(envelope.get("raw", "")), name, 0)
    except (Malformed, struct.error, UnicodeDecodeError, IndexError, OverflowError) as error:
        raise errors.bad_request(f"the protobuf body cannot be decoded: {error}") from None
    return {"kind": kind, "apiVersion": version, **obj}


def message_name(version: str, kind: str) -> str:
    """`apps/v1`, `Deployment` -> `io.k8s.api.apps.v1.Deployment`."""
    group, _, short = version.rpartition("/")
    if kind in ("DeleteOptions", "CreateOptions", "UpdateOptions", "PatchOptions", "Status"):
        return META + kind
    return f"io.k8s.api.{group.partition('.')[0] or 'core'}.{short}.{kind}"


def _message(data: bytes, name: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise Malformed("messages are nested too deeply")
    special = _SPECIAL.get(name)
    if special is not None:
        return special(dict(_fields(data)))
    fields = table().get(name)
    if fields is None:
        raise Malformed(f"unknown message {name}")
    out: dict[str, Any] = {}
    for number, value in _fields(data):
        known = fields.get(number)
        if known is not None:
            _put(out, known[0], known[1], value, depth)
    return out


def _put(out: dict[str, Any], name: str, kind: str, value: Any, depth: int) -> None:
    if kind[0] == "*":
        items = out.setdefault(name, [])
        items.extend(
            _packed(kind[1:], value)
            if kind[1:] in "ib" and isinstance(value, bytes)
            else [_value(kind[1:], value, depth)]
        )
    elif kind[0] == "%":
        pair = dict(_fields(value))
        item = pair.get(2, b"" if kind[1] not in "ibd" else 0)
        out.setdefault(name, {})[_text(pair.get(1, b""))] = _value(kind[1:], item, depth)
    elif not name:
        out.update(_value(kind, value, depth))
    else:
        out[name] = _value(kind, value, depth)


def _value(kind: str, value: Any, depth: int) -> Any:
    if kind[0] == "@":
        return _message(_bytes(value), kind[1:], depth + 1)
    if kind == "s":
        return _text(value)
    if kind == "y":
        return base64.b64encode(_bytes(value)).decode()
    if kind == "b":
        return bool(_signed(value))
    if kind == "d":
        return struct.unpack("<d", _bytes(value))[0]
    return _signed(value)


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise Malformed("expected length-delimited bytes")
    return value


def _text(value: Any) -> str:
    return _bytes(value).decode()


def _signed(value: Any) -> int:
    if not isinstance(value, int):
        raise Malformed("expected a varint")
    return value - (1 << 64) if value >= 1 << 63 else value


def _packed(kind: str, data: bytes) -> list[Any]:
    out, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        out.append(_value(kind, value, 0))
    return out


def _varint(data: bytes, at: int) -> tuple[int, int]:
    result, shift = 0, 0
    while True:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7
        if shift > 63:
            raise Malformed("varint is too long")


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and raw values: integers for varints, bytes for the rest."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise Malformed(f"wire type {wire} is not supported")
        if at + size > len(data):
            raise Malformed("unexpected end of message")
        yield key >> 3, data[at : at + size]
        at += size


def _time(fields: dict[int, Any]) -> str | None:
    """Seconds and nanoseconds since 1970; the zero time is null."""
    if not fields:
        return None
    moment = datetime.datetime.fromtimestamp(_signed(fields.get(1, 0)), datetime.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _micro_time(fields: dict[int, Any]) -> str | None:
    if not fields:
        return None
    moment = datetime.datetime.fromtimestamp(_signed(fields.get(1, 0)), datetime.UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{_signed(fields.get(2, 0)) // 1000:06d}Z"


def _int_or_string(fields: dict[int, Any]) -> int | str:
    return _text(fields.get(3, b"")) if fields.get(1) == 1 else _signed(fields.get(2, 0))


def _raw_json(fields: dict[int, Any]) -> Any:
    data = _bytes(fields.get(1, b""))
    try:
        return json.loads(data) if data else None
    except ValueError:
        raise Malformed("embedded JSON cannot be decoded") from None


_SPECIAL: dict[str, Any] = {
    META + "Time": _time,
    META + "MicroTime": _micro_time,
    META + "FieldsV1": _raw_json,
    META + "Duration": lambda fields: f"{_signed(fields.get(1, 0)) / 1e9:g}s",
    "io.k8s.apimachinery.pkg.api.resource.Quantity": lambda fields: _text(fields.get(1, b"")) or "0",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": _int_or_string,
    RUNTIME + "RawExtension": _raw_json,
    "io.k8s.api.authentication.v1.ExtraValue": lambda fields: [_text(value) for value in fields.values()],
    "io.k8s.api.authorization.v1.ExtraValue": lambda fields: [_text(value) for value in fields.values()],
}
