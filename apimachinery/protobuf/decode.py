"""Messages to the JSON form of objects. Fields without a known number are skipped, as Go does. Pure."""

from __future__ import annotations

import base64
import datetime
import json
import struct
from collections.abc import Callable, Iterable
from typing import Any

from apimachinery.protobuf import layout as layouts
from apimachinery.protobuf import wire
from apimachinery.protobuf.wire import Malformed
from apimachinery.schema.table import Type

MAX_DEPTH = 128
Raw = int | bytes


def message(data: bytes, definition: str, depth: int = 0) -> dict[str, Any]:
    """The fields of a message. Raises Malformed (also for what is nested deeper than `MAX_DEPTH`)."""
    if depth > MAX_DEPTH:
        raise Malformed("messages are nested too deeply")
    out: dict[str, Any] = {}
    _into(out, data, layouts.of(definition), depth)
    return out


def _into(out: dict[str, Any], data: bytes, layout: layouts.Layout, depth: int) -> None:
    for number, raw in wire.fields(data):
        slot = layout.get(number)
        if isinstance(slot, dict):
            _into(out, _bytes(raw), slot, depth)
        elif slot is not None:
            _put(out, slot.name, slot.type, raw, depth)


def _put(out: dict[str, Any], name: str, kind: Type, raw: Raw, depth: int) -> None:
    if isinstance(kind, list) and kind[0] == "array":
        out.setdefault(name, []).extend(_elements(kind[1], raw, depth))
    elif isinstance(kind, list) and kind[0] == "map":
        entry = dict(wire.fields(_bytes(raw)))
        value = _map_value(kind[1], entry.get(2, b""), depth)
        out.setdefault(name, {})[_text(entry.get(1, b""))] = value
    else:
        out[name] = _value(kind, raw, depth)


def _elements(kind: Type, raw: Raw, depth: int) -> Iterable[Any]:
    """One element, or all of a packed field: numbers may come either way."""
    if isinstance(kind, list) or kind not in _VARINTS or isinstance(raw, int):
        return (_value(kind, raw, depth),)
    out, at = [], 0
    while at < len(raw):
        number, at = wire.read_varint(raw, at)
        out.append(_value(kind, number, depth))
    return out


def _map_value(kind: Type, raw: Raw, depth: int) -> Any:
    """A list inside a map is a message of its own in Go (`ExtraValue`), whose field 1 repeats."""
    if isinstance(kind, list) and kind[0] == "array":
        return [_value(kind[1], item, depth) for number, item in wire.fields(_bytes(raw)) if number == 1]
    return _value(kind, raw, depth)


def _value(kind: Type, raw: Raw, depth: int) -> Any:
    if isinstance(kind, list):
        return message(_bytes(raw), str(kind[1]), depth + 1)
    if kind in _UNIONS:
        return _UNIONS[kind](_bytes(raw), depth)
    return _SCALARS[kind](raw)


# Scalars ----------------------------------------------------------------------------------------------------


def _bytes(raw: Raw) -> bytes:
    if not isinstance(raw, bytes):
        raise Malformed("expected length-delimited bytes")
    return raw


def _text(raw: Raw) -> str:
    try:
        return _bytes(raw).decode()
    except UnicodeDecodeError:
        raise Malformed("a string is not UTF-8") from None


def _integer(raw: Raw) -> int:
    if not isinstance(raw, int):
        raise Malformed("expected a varint")
    return wire.signed(raw)


def _double(raw: Raw) -> float:
    data = _bytes(raw)
    if len(data) != 8:
        raise Malformed("expected a double")
    value = float(struct.unpack("<d", data)[0])
    if value - value != 0.0:
        raise Malformed("infinities and NaN have no JSON form")
    return value


def _moment(raw: Raw) -> tuple[datetime.datetime, int] | None:
    """Seconds and nanoseconds since 1970; the zero time is an empty message."""
    fields = dict(wire.fields(_bytes(raw)))
    if not fields:
        return None
    start = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    try:
        moment = start + datetime.timedelta(seconds=_integer(fields.get(1, 0)))
    except OverflowError:
        raise Malformed("a time is not between the years 1 and 9999") from None
    return moment, _integer(fields.get(2, 0))


def _stamp(moment: datetime.datetime) -> str:
    return moment.replace(tzinfo=None).isoformat(timespec="seconds")


def _time(raw: Raw) -> str | None:
    found = _moment(raw)
    return f"{_stamp(found[0])}Z" if found else None


def _micro_time(raw: Raw) -> str | None:
    found = _moment(raw)
    return f"{_stamp(found[0])}.{found[1] // 1000 % 1_000_000:06d}Z" if found else None


def _quantity(raw: Raw) -> str:
    return _text(dict(wire.fields(_bytes(raw))).get(1, b"")) or "0"


def _int_or_string(raw: Raw) -> int | str:
    fields = dict(wire.fields(_bytes(raw)))
    return _text(fields.get(3, b"")) if fields.get(1) == 1 else _integer(fields.get(2, 0))


def _embedded_json(raw: Raw) -> Any:
    """RawExtension, FieldsV1 and apiextensions' JSON: one field of bytes that are JSON."""
    data = _bytes(dict(wire.fields(_bytes(raw))).get(1, b""))
    try:
        return json.loads(data) if data else None
    except (ValueError, RecursionError):
        raise Malformed("embedded JSON cannot be decoded") from None


def _base64(raw: Raw) -> str:
    return base64.b64encode(_bytes(raw)).decode()


_SCALARS: dict[str, Callable[[Raw], Any]] = {
    "string": _text,
    "bytes": _base64,
    "int32": _integer,
    "int64": _integer,
    "boolean": lambda raw: bool(_integer(raw)),
    "number": _double,
    "date-time": _time,
    "micro-time": _micro_time,
    "quantity": _quantity,
    "int-or-string": _int_or_string,
    "raw": _embedded_json,
    "any": _embedded_json,
    layouts.EMPTY: lambda raw: {},
}
_VARINTS = ("int32", "int64", "boolean")


# Unions -----------------------------------------------------------------------------------------------------


def _schema(raw: Raw, depth: int) -> dict[str, Any]:
    return message(_bytes(raw), layouts.SCHEMA, depth + 1)


def _or_array(data: bytes, depth: int) -> Any:
    found = list(wire.fields(data))
    several = [_schema(raw, depth) for number, raw in found if number == 2]
    return several or _schema(dict(found).get(1, b""), depth)


def _or_boolean(data: bytes, depth: int) -> Any:
    found = dict(wire.fields(data))
    return _schema(found[2], depth) if 2 in found else bool(_integer(found.get(1, 0)))


def _or_strings(data: bytes, depth: int) -> Any:
    found = list(wire.fields(data))
    schema = dict(found).get(1)
    return [_text(raw) for number, raw in found if number == 2] if schema is None else _schema(schema, depth)


_UNIONS: dict[str, Callable[[bytes, int], Any]] = {
    layouts.OR_ARRAY: _or_array,
    layouts.OR_BOOLEAN: _or_boolean,
    layouts.OR_STRINGS: _or_strings,
}
