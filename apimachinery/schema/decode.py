"""Apply the schema to a document: what Go's decoder does to a request body, on plain dicts.

Each definition becomes one closure that copies known fields, checks their types, and drops what `omitempty`
would drop (an empty list, an empty map, a zero that is not behind a pointer, null). The text of an error is
the one that the apiserver gives for the same mistake. Paths are cons cells, rendered only when something is
wrong.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable
from functools import cache
from typing import Any, Literal, cast

from apimachinery import quantity
from apimachinery.errors import StatusError, bad_request
from apimachinery.meta import parse_time
from apimachinery.schema.table import Definition, Field, Type, load
from apimachinery.scheme import Kind

Strictness = Literal["Ignore", "Warn", "Strict"]
Path = tuple[Any, str | int] | None
Decoder = Callable[[Any, Path, list[Path]], Any]

_INT_BOUNDS = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


class Mismatch(Exception):
    """A value the schema does not allow; the message is Go's."""


class _WrongType(Exception):
    """A JSON value of one sort where Go expects another; becomes a Mismatch where the struct is known."""

    def __init__(self, found: str, expected: str) -> None:
        super().__init__(found, expected)
        self.found = found
        self.expected = expected


def definition_of(group: str, version: str, kind: str) -> str | None:
    """The definition name of a built-in kind; None for a custom resource."""
    return load().definition_of(group, version, kind)


def decode(
    ref: str | Kind, obj: Any, *, strict: Strictness = "Warn", duplicates: tuple[str, ...] = ()
) -> tuple[dict[str, Any], list[str]]:
    """Return a normalised copy of `obj` and the warnings about it.

    `ref` is a definition name or a served kind; a kind that is not built in is only checked in its
    metadata. Unknown fields are dropped; `Warn` reports them (and `duplicates`, found by the parser),
    `Strict` refuses them. Raises BadRequest for a wrong type.
    """
    table = load()
    name = ref if isinstance(ref, str) else table.definition_of(ref.group, ref.version, ref.kind)
    shown, version = _shown(ref, name)
    unknown: list[Path] = []
    try:
        out = _decoder(name)(obj, None, unknown) if name else _custom(obj, unknown)
    except Mismatch as error:
        raise _cannot_handle(shown, version, str(error)) from None
    except _WrongType as error:
        text = f"json: cannot unmarshal {error.found} into Go value of type {_go_type(['ref', name])}"
        raise _cannot_handle(shown, version, text) from None
    if strict == "Ignore" or not (unknown or duplicates):
        return out, []
    found = [f'duplicate field "{path}"' for path in duplicates]
    found += [f'unknown field "{render(path)}"' for path in unknown]
    if strict == "Strict":
        raise _cannot_handle(shown, version, "strict decoding error: " + ", ".join(found))
    return out, found


def _shown(ref: str | Kind, name: str | None) -> tuple[str, str]:
    if not isinstance(ref, str):
        return ref.kind, ref.version
    gvk = load()[ref].gvk if name else None
    return (gvk[2], gvk[1]) if gvk else (ref.rpartition(".")[2], ref.split(".")[-2])


def _cannot_handle(kind: str, version: str, why: str) -> StatusError:
    return bad_request(f'{kind} in version "{version}" cannot be handled as a {kind}: {why}')


def _custom(obj: Any, unknown: list[Path]) -> dict[str, Any]:
    """A document without a schema: only its envelope is known."""
    if not isinstance(obj, dict):
        raise Mismatch(f"json: cannot unmarshal {_sort(obj)} into Go value of type map[string]interface {{}}")
    out = dict(obj)
    if isinstance(metadata := out.get("metadata"), dict):
        out["metadata"] = _decoder(META)(metadata, (None, "metadata"), unknown)
    elif metadata is not None:
        raise Mismatch(_into(_sort(metadata), "ObjectMeta", (None, "metadata"), "v1.ObjectMeta"))
    return out


META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


def render(path: Path) -> str:
    """`spec.containers[0].name`."""
    parts: list[str] = []
    while path is not None:
        head, part = path
        parts.append(f"[{part}]" if isinstance(part, int) else part if head is None else f".{part}")
        path = head
    return "".join(reversed(parts))


def _json_path(path: Path) -> str:
    """The path as Go's decoder gives it: field names only."""
    parts: list[str] = []
    while path is not None:
        path, part = path
        if isinstance(part, str):
            parts.append(part)
    return ".".join(reversed(parts))


def _into(found: str, struct: str, path: Path, expected: str) -> str:
    return (
        f"json: cannot unmarshal {found} into Go struct field {struct}.{_json_path(path)} of type {expected}"
    )


def _sort(value: Any) -> str:
    """What Go calls this sort of JSON value."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, (int, float)):
        return "number"
    return {str: "string", list: "array", dict: "object", type(None): "null"}.get(type(value), "value")


_GO_SCALARS = {"boolean": "bool", "number": "float64", "bytes": "[]uint8", "quantity": "resource.Quantity"}


def _go_type(kind: Type) -> str:
    if isinstance(kind, str):
        return _GO_SCALARS.get(kind, kind)
    if kind[0] == "array":
        return "[]" + _go_type(kind[1])
    if kind[0] == "map":
        return "v1.ResourceList" if kind[1] == "quantity" else "map[string]" + _go_type(kind[1])
    *_, version, name = str(kind[1]).split(".")
    return f"{version}.{name}"


# -- decoders -----------------------------------------------------------------------------------------------


@cache
def _decoder(name: str) -> Decoder:
    """The closure for one definition."""
    definition = load()[name]
    fields: dict[str, tuple[type, bool, Decoder]] = {
        field.name: (_plain(field.type), field.required or field.keeps_zero, _of(field.type))
        for field in definition.fields.values()
    }
    return _struct(definition, fields)


def _struct(definition: Definition, fields: dict[str, tuple[type, bool, Decoder]]) -> Decoder:
    find = fields.get

    def decode_struct(value: Any, path: Path, unknown: list[Path]) -> Any:
        if type(value) is not dict:
            raise _WrongType(_sort(value), _go_type(["ref", definition.name]))
        out: dict[str, Any] = {}
        for key, item in value.items():
            known = find(key)
            if known is None:
                unknown.append((path, key))
                continue
            if item is None:
                continue
            plain, keep, decoder = known
            if type(item) is not plain:
                try:
                    item = decoder(item, (path, key), unknown)
                except _WrongType as error:
                    text = _into(error.found, definition.short, (path, key), error.expected)
                    raise Mismatch(text) from None
            if item or keep:
                out[key] = item
        return out

    return decode_struct


def _plain(kind: Type) -> type:
    """The Python type whose values need no further look; `object` is no value's exact type."""
    return {"string": str, "boolean": bool}.get(kind, object) if isinstance(kind, str) else object


def _of(kind: Type) -> Decoder:
    if isinstance(kind, str):
        return _SCALARS[kind]
    if kind[0] == "array":
        return _array(kind)
    if kind[0] == "map":
        return _map(kind)
    return _lazy(str(kind[1]))


def _lazy(name: str) -> Decoder:
    """A definition by name, compiled when first met: definitions refer to themselves and to each other."""

    def decode_ref(value: Any, path: Path, unknown: list[Path]) -> Any:
        return _decoder(name)(value, path, unknown)

    return decode_ref


def _empty(kind: Type) -> Any:
    """Go's zero for an element that is null."""
    if isinstance(kind, str):
        zeros: dict[str, Any] = {"string": "", "int32": 0, "int64": 0, "boolean": False, "quantity": "0"}
        return zeros.get(kind, "")
    return [] if kind[0] == "array" else {}


def _array(kind: list[Any]) -> Decoder:
    element, empty = _of(kind[1]), _empty(kind[1])
    plain = _plain(kind[1])

    def decode_array(value: Any, path: Path, unknown: list[Path]) -> Any:
        if type(value) is not list:
            raise _WrongType(_sort(value), _go_type(kind))
        return [
            item if type(item) is plain else empty if item is None else element(item, (path, at), unknown)
            for at, item in enumerate(value)
        ]

    return decode_array


def _map(kind: list[Any]) -> Decoder:
    element, empty = _of(kind[1]), _empty(kind[1])
    plain = _plain(kind[1])

    def decode_map(value: Any, path: Path, unknown: list[Path]) -> Any:
        if type(value) is not dict:
            raise _WrongType(_sort(value), _go_type(kind))
        return {
            key: item
            if type(item) is plain
            else empty
            if item is None
            else element(item, (path, key), unknown)
            for key, item in value.items()
        }

    return decode_map


def _scalar(expected: type, go: str) -> Decoder:
    def decode_scalar(value: Any, path: Path, unknown: list[Path]) -> Any:
        if type(value) is not expected:
            raise _WrongType(_sort(value), go)
        return value

    return decode_scalar


def _integer(go: str) -> Decoder:
    low, high = _INT_BOUNDS[go]

    def decode_integer(value: Any, path: Path, unknown: list[Path]) -> Any:
        if type(value) is float and value.is_integer() and low <= value <= high:
            return int(value)
        if type(value) is not int:
            shown = f"number {value}" if type(value) is float else _sort(value)
            raise _WrongType(shown, go)
        if not low <= value <= high:
            raise _WrongType(f"number {value}", go)
        return value

    return decode_integer


def _number(value: Any, path: Path, unknown: list[Path]) -> Any:
    if type(value) not in (int, float):
        raise _WrongType(_sort(value), "float64")
    return value


def _int_or_string(value: Any, path: Path, unknown: list[Path]) -> Any:
    return value if type(value) is str else cast(Any, _INT32(value, path, unknown))


def _quantity(value: Any, path: Path, unknown: list[Path]) -> Any:
    if type(value) not in (str, int, float):
        raise Mismatch(quantity.FORMAT_ERROR)
    try:
        return quantity.canonical(value)
    except ValueError as error:
        raise Mismatch(str(error)) from None


_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def _time(layout: str) -> Decoder:
    def decode_time(value: Any, path: Path, unknown: list[Path]) -> Any:
        if type(value) is not str:
            raise Mismatch(f"json: cannot unmarshal {_sort(value)} into Go value of type string")
        try:
            if not _TIME.fullmatch(value):
                raise ValueError(value)
            parse_time(value)
        except ValueError:
            text = f'parsing time "{value}" as "{layout}": cannot parse "{value}" as "2006"'
            raise Mismatch(text) from None
        return value

    return decode_time


def _bytes(value: Any, path: Path, unknown: list[Path]) -> Any:
    if type(value) is not str:
        raise _WrongType(_sort(value), "[]uint8")
    try:
        binascii.a2b_base64(value.encode().replace(b"\n", b"").replace(b"\r", b""), strict_mode=True)
    except (ValueError, UnicodeEncodeError):
        raise Mismatch(f"illegal base64 data at input byte {_first_bad(value)}") from None
    return value


def _first_bad(value: str) -> int:
    """Where Go's base64 reader stops."""
    good = re.match(r"[A-Za-z0-9+/\r\n]*", value)
    at = good.end() if good else 0
    return at if at < len(value) and value[at] != "=" else at - at % 4


def _raw(value: Any, path: Path, unknown: list[Path]) -> Any:
    return value


_INT32 = _integer("int32")
_SCALARS: dict[str, Decoder] = {
    "string": _scalar(str, "string"),
    "boolean": _scalar(bool, "bool"),
    "int32": _INT32,
    "int64": _integer("int64"),
    "number": _number,
    "int-or-string": _int_or_string,
    "quantity": _quantity,
    "date-time": _time("2006-01-02T15:04:05Z07:00"),
    "micro-time": _time("2006-01-02T15:04:05.000000Z07:00"),
    "bytes": _bytes,
    "raw": _raw,
    "any": _raw,
    "object": _raw,
}


def required_fields(name: str) -> list[Field]:
    """The fields of a definition that its OpenAPI schema calls required."""
    return [field for field in load()[name].fields.values() if field.required]
