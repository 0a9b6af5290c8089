"""Values against a structural schema, with the causes Kubernetes gives. Pure.

An update is ratcheting (KEP-4008): what is wrong already, and did not change, does not stop the update.
"""

from __future__ import annotations

import datetime
import ipaddress
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import orjson

from apimachinery import field, meta
from apimachinery.errors import Cause
from apiserver.extensions.structural import EMBEDDED, ENVELOPE, INT_OR_STRING, Schema

MISSING: Any = object()


def validate(value: Any, schema: Schema, path: str = "", old: Any = MISSING) -> Iterator[Cause]:
    """Every cause for which `value` does not fit; `old` is the stored value at the same place, if there is
    one.
    """
    if old is not MISSING and value == old:
        return
    if value is None and schema.get("nullable"):
        return
    wrong = list(_type(value, schema, path))
    if wrong:
        yield from wrong
        return
    if schema.get("enum") is not None and value not in schema["enum"]:
        yield field.not_supported(path, value, [_plain(item) for item in schema["enum"]])
    if isinstance(value, str):
        yield from _string(value, schema, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _number(value, schema, path)
    elif isinstance(value, list):
        yield from _array(value, schema, path, old)
    elif isinstance(value, dict):
        yield from _object(value, schema, path, old)
    yield from _junctors(value, schema, path)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def sort_of(value: Any) -> str:
    """The JSON type of a value, as schemas call it."""
    if isinstance(value, bool):
        return "boolean"
    names = {
        str: "string",
        int: "integer",
        float: "number",
        list: "array",
        dict: "object",
        type(None): "null",
    }
    return names[type(value)]


def _type(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    found, wanted = sort_of(value), schema.get("type", "")
    if schema.get(INT_OR_STRING):
        fits, wanted = found in ("integer", "string"), "integer,string"
    else:
        whole = isinstance(value, float) and value.is_integer()
        fits = (
            not wanted
            or found == wanted
            or (wanted == "number" and found == "integer")
            or (wanted == "integer" and whole)
        )
    if not fits:
        yield _bad(path, found, f'must be of type {wanted}: "{found}"')


def _bad(path: str, shown: Any, text: str) -> Cause:
    where = path or "<nil>"
    return field.invalid(where, shown, f"{path} in body {text}" if path else f'"" in body {text}')


# -- scalars ------------------------------------------------------------------------------------------------


def _string(value: str, schema: Schema, path: str) -> Iterator[Cause]:
    if (most := schema.get("maxLength")) is not None and len(value) > most:
        yield field.too_long(path, most)
    if (least := schema.get("minLength")) is not None and len(value) < least:
        yield _bad(path, value, f"should be at least {least} chars long")
    pattern = schema.get("pattern")
    if pattern and not _regex(pattern).search(value):
        yield _bad(path, value, f"should match '{pattern}'")
    known = FORMATS.get(schema.get("format", "").replace("-", ""))
    if known is not None and not _holds(known, value):
        yield _bad(path, value, f"must be of type {schema['format']}: {field.show(value)}")


@lru_cache(1024)
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(go_regex(pattern))


def go_regex(pattern: str) -> str:
    """RE2's spelling in Python's: `\\z` ends the text, classes by name."""
    out = pattern.replace(r"\z", r"\Z")
    for name, members in (
        ("alpha", "a-zA-Z"),
        ("digit", "0-9"),
        ("alnum", "a-zA-Z0-9"),
        ("lower", "a-z"),
        ("upper", "A-Z"),
        ("space", r"\s"),
        ("word", r"\w"),
        ("xdigit", "0-9A-Fa-f"),
    ):
        out = out.replace(f"[:{name}:]", members)
    return out


def _holds(known: Callable[[str], Any], value: str) -> bool:
    try:
        return known(value) is not False
    except ValueError:
        return False


def _date_time(text: str) -> float:
    return meta.parse_time(text)


_DURATION = re.compile(
    r"[-+]?(\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))*|0"
)
_MAC = re.compile(r"([0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}")
_HOST = re.compile(
    r"(?=.{1,255}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\.?"
)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


def _full(pattern: re.Pattern[str]) -> Callable[[str], bool]:
    return lambda text: pattern.fullmatch(text) is not None


FORMATS: Mapping[str, Callable[[str], Any]] = {
    "datetime": _date_time,
    "date": datetime.date.fromisoformat,
    "duration": _full(_DURATION),
    "ipv4": ipaddress.IPv4Address,
    "ipv6": ipaddress.IPv6Address,
    "ip": ipaddress.ip_address,
    "cidr": lambda text: "/" in text and ipaddress.ip_network(text, strict=False),
    "mac": _full(_MAC),
    "hostname": _full(_HOST),
    "uri": _full(_URI),
    "email": _full(_EMAIL),
    "uuid": uuid.UUID,
    "byte": _full(_BASE64),
}


def _number(value: float, schema: Schema, path: str) -> Iterator[Cause]:
    if (most := schema.get("maximum")) is not None:
        open_end = bool(schema.get("exclusiveMaximum"))
        if value > most or (open_end and value == most):
            yield _bad(path, value, f"should be less than {'' if open_end else 'or equal to '}{most}")
    if (least := schema.get("minimum")) is not None:
        open_end = bool(schema.get("exclusiveMinimum"))
        if value < least or (open_end and value == least):
            yield _bad(path, value, f"should be greater than {'' if open_end else 'or equal to '}{least}")
    if (factor := schema.get("multipleOf")) and abs(value / factor - round(value / factor)) > 1e-9:
        yield _bad(path, value, f"should be a multiple of {factor}")
    bits = {"int32": 31, "int64": 63}.get(schema.get("format", ""))
    if bits and isinstance(value, int) and not -(1 << bits) <= value < 1 << bits:
        yield _bad(path, value, f"must be of type {schema['format']}: {value}")


# -- containers ---------------------------------------------------------------------------------------------


def _array(value: list[Any], schema: Schema, path: str, old: Any) -> Iterator[Cause]:
    if (most := schema.get("maxItems")) is not None and len(value) > most:
        yield field.too_many(path, len(value), most)
    if (least := schema.get("minItems")) is not None and len(value) < least:
        yield _bad(path, value, f"should have at least {least} items")
    kind, keys = schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys") or ()
    seen: set[bytes] = set()
    before = _by_keys(old, keys) if kind == "map" and isinstance(old, list) else {}
    for at, item in enumerate(value):
        identity = _identity(item, keys) if kind == "map" else orjson.dumps(item, option=orjson.OPT_SORT_KEYS)
        if kind in ("set", "map") and identity in seen:
            yield field.duplicate(f"{path}[{at}]", _key_fields(item, keys) if kind == "map" else item)
        seen.add(identity)
        yield from validate(item, schema.get("items") or {}, f"{path}[{at}]", before.get(identity, MISSING))


def _key_fields(item: Any, keys: Any) -> Any:
    return {key: item.get(key) for key in keys} if isinstance(item, dict) else item


def _identity(item: Any, keys: Any) -> bytes:
    return orjson.dumps(_key_fields(item, keys), option=orjson.OPT_SORT_KEYS)


def _by_keys(items: list[Any], keys: Any) -> dict[bytes, Any]:
    return {_identity(item, keys): item for item in items}


def _object(value: dict[str, Any], schema: Schema, path: str, old: Any) -> Iterator[Cause]:
    if (most := schema.get("maxProperties")) is not None and len(value) > most:
        yield field.too_many(path, len(value), most)
    if (least := schema.get("minProperties")) is not None and len(value) < least:
        yield _bad(path, value, f"should have at least {least} properties")
    for name in schema.get("required") or ():
        if name not in value:
            yield field.required(f"{path}.{name}" if path else name)
    properties, rest = schema.get("properties") or {}, schema.get("additionalProperties")
    earlier = old if isinstance(old, dict) else {}
    for name, item in value.items():
        where = f"{path}.{name}" if path else name
        if name == "metadata" and not path:
            yield from _restricted_metadata(item, properties.get(name) or {})
        elif name in properties:
            yield from validate(item, properties[name], where, earlier.get(name, MISSING))
        elif isinstance(rest, Mapping):
            yield from validate(item, rest, where, earlier.get(name, MISSING))
    if schema.get(EMBEDDED):
        yield from _embedded(value, path)


def _restricted_metadata(metadata: Any, schema: Schema) -> Iterator[Cause]:
    """The root may restrict the name alone."""
    for name, member in (schema.get("properties") or {}).items():
        if isinstance(metadata, dict) and name in metadata:
            yield from validate(metadata[name], member, f"metadata.{name}")


def _embedded(value: dict[str, Any], path: str) -> Iterator[Cause]:
    for name in ENVELOPE[:2]:
        if not value.get(name):
            yield field.required(f"{path}.{name}", "must not be empty")


def _junctors(value: Any, schema: Schema, path: str) -> Iterator[Cause]:
    for below in schema.get("allOf") or ():
        yield from validate(value, below, path)
    if (choices := schema.get("anyOf")) and not any(_fits(value, below) for below in choices):
        yield _bad(path, _shown(value), "must validate at least one schema (anyOf)")
    if choices := schema.get("oneOf"):
        count = sum(_fits(value, below) for below in choices)
        if count != 1:
            found = f"Found {count} valid alternatives" if count else "Found none valid"
            yield _bad(path, _shown(value), f"must validate one and only one schema (oneOf). {found}")
    if (refused := schema.get("not")) and _fits(value, refused):
        yield _bad(path, _shown(value), "must not validate the schema (not)")


def _shown(value: Any) -> Any:
    return value if isinstance(value, (str, int, float)) else sort_of(value)


def _fits(value: Any, schema: Schema) -> bool:
    return next(validate(value, schema), None) is None
