"""The JSON form of objects to messages, fields in the order of their numbers. Pure."""

from __future__ import annotations

import base64
import datetime
import struct
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from apimachinery.protobuf import layout as layouts
from apimachinery.protobuf import wire
from apimachinery.schema.table import Type


def message(obj: Mapping[str, Any], definition: str) -> bytes:
    """A message's bytes; what is null and what has no number is left out. The object is one that was decoded
    against its schema: a value of another type raises TypeError, ValueError or AttributeError.
    """
    return _fields(obj, layouts.of(definition))


def _fields(obj: Mapping[str, Any], layout: layouts.Layout) -> bytes:
    parts = []
    for number in sorted(layout):
        slot = layout[number]
        if isinstance(slot, dict):
            if inner := _fields(obj, slot):
                parts.append(wire.delimited(number, inner))
        elif (value := obj.get(slot.name)) is not None:
            parts.append(_field(number, slot.type, value))
    return b"".join(parts)


def _field(number: int, kind: Type, value: Any) -> bytes:
    if isinstance(kind, str):
        return _SCALARS[kind](number, value)
    if kind[0] == "array":
        return b"".join(_field(number, kind[1], item) for item in value)
    if kind[0] == "map":
        return b"".join(
            wire.delimited(number, wire.delimited(1, key.encode()) + _map_value(kind[1], item))
            for key, item in value.items()
        )
    return wire.delimited(number, message(value, kind[1]))


def _map_value(kind: Type, value: Any) -> bytes:
    inner = _field(1, kind, value) if isinstance(kind, list) and kind[0] == "array" else None
    return _field(2, kind, value) if inner is None else wire.delimited(2, inner)


def _text(number: int, value: str) -> bytes:
    return wire.delimited(number, value.encode())


def _moment(number: int, value: str) -> bytes:
    moment = datetime.datetime.fromisoformat(value)
    start = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    past = moment - start
    seconds, nanos = past.days * 86400 + past.seconds, past.microseconds * 1000
    return wire.delimited(number, wire.integer(1, seconds) + wire.integer(2, nanos))


def _int_or_string(number: int, value: int | str) -> bytes:
    if isinstance(value, str):
        inner = wire.integer(1, 1) + wire.integer(2, 0) + wire.delimited(3, value.encode())
    else:
        inner = wire.integer(1, 0) + wire.integer(2, value) + wire.delimited(3, b"")
    return wire.delimited(number, inner)


def _embedded_json(number: int, value: Any) -> bytes:
    return wire.delimited(number, wire.delimited(1, orjson.dumps(value)))


def _or_array(number: int, value: Any) -> bytes:
    several = isinstance(value, list)
    parts = [wire.delimited(2 if several else 1, _schema(item)) for item in (value if several else [value])]
    return wire.delimited(number, b"".join(parts))


def _or_boolean(number: int, value: Any) -> bytes:
    if isinstance(value, bool):
        return wire.delimited(number, wire.integer(1, value))
    return wire.delimited(number, wire.integer(1, True) + wire.delimited(2, _schema(value)))


def _or_strings(number: int, value: Any) -> bytes:
    if isinstance(value, list):
        return wire.delimited(number, b"".join(_text(2, item) for item in value))
    return wire.delimited(number, wire.delimited(1, _schema(value)))


def _schema(value: Mapping[str, Any]) -> bytes:
    return message(value, layouts.SCHEMA)


_SCALARS: dict[str, Callable[[int, Any], bytes]] = {
    "string": _text,
    "bytes": lambda number, value: wire.delimited(number, base64.b64decode(value)),
    "int32": wire.integer,
    "int64": wire.integer,
    "boolean": wire.integer,
    "number": lambda number, value: wire.fixed64(number, struct.pack("<d", value)),
    "date-time": _moment,
    "micro-time": _moment,
    "quantity": lambda number, value: wire.delimited(number, _text(1, str(value))),
    "int-or-string": _int_or_string,
    "raw": _embedded_json,
    "any": _embedded_json,
    layouts.EMPTY: lambda number, value: wire.delimited(number, b""),
    layouts.OR_ARRAY: _or_array,
    layouts.OR_BOOLEAN: _or_boolean,
    layouts.OR_STRINGS: _or_strings,
}
