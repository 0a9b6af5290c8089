"""What a value's type says about who can own what in it (`structured-merge-diff`, package schema).

Built-in types come from the schema table, those of custom resources from their OpenAPI schema. A type without
a schema is *deduced* from the value: maps are granular, lists are atomic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from apimachinery.schema import facts
from apimachinery.schema.table import Definition, Field, load
from apimachinery.schema.table import Type as TableType

Object = dict[str, Any]
META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
ABSENT: Any = object()


@dataclass(frozen=True, slots=True)
class Leaf:
    """Owned as a whole: a scalar, or an atomic list, map or struct. `shape` is what validation asks for."""

    shape: str = "any"  # any, string, numeric, boolean, list, map


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """A struct (`fields`), a map of anything (`element`), or a struct with free keys (both).

    `zero` gives the value that Go writes for a field that was never set, where it writes one: a struct or
    list without `omitempty`. Such a field is never added or removed, only what is in it.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    element: Any = None
    zero: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Keyed:
    """A list whose items are known by key fields (`x-kubernetes-list-type: map`)."""

    keys: tuple[str, ...]
    element: Any
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Values:
    """A list of distinct scalars (`x-kubernetes-list-type: set`)."""


@dataclass(frozen=True, slots=True)
class Deduced:
    """No schema: the value tells."""


@dataclass(frozen=True, slots=True)
class Lazy:
    """A type made when first met, since types refer to themselves."""

    make: Callable[[], Any]


Type = Leaf | Map | Keyed | Values | Deduced | Lazy

ANY, LIST, MAP, DEDUCED = Leaf(), Leaf("list"), Leaf("map"), Deduced()
FREE = Map(element=DEDUCED)
_SCALARS = {
    "string": Leaf("string"),
    "bytes": Leaf("string"),
    "date-time": Leaf("string"),
    "micro-time": Leaf("string"),
    "int32": Leaf("numeric"),
    "int64": Leaf("numeric"),
    "number": Leaf("numeric"),
    "boolean": Leaf("boolean"),
}
_ZEROS: Mapping[str, Any] = {"string": "", "int32": 0, "int64": 0, "boolean": False}


def resolve(kind: Type) -> Type:
    while isinstance(kind, Lazy):
        kind = kind.make()
    return kind


def of_value(value: Any) -> Leaf | Map:
    """The type of a value that has no schema."""
    return FREE if isinstance(value, dict) else LIST if isinstance(value, list) else ANY


@cache
def of_kind(group: str, version: str, kind: str) -> Type:
    """The type of a built-in kind; of any other, deduced but for its metadata."""
    name = load().definition_of(group, version, kind)
    return _definition(name) if name else custom(None)


def custom(schema: Mapping[str, Any] | None) -> Map:
    """A custom resource, by the structural schema of its version (None: there is none)."""
    root = resolve(from_openapi(schema)) if schema else DEDUCED
    declared, element = (root.fields, root.element) if isinstance(root, Map) else ({}, DEDUCED)
    scalars = {"apiVersion": _SCALARS["string"], "kind": _SCALARS["string"]}
    return Map({**declared, **scalars, "metadata": _definition(META)}, element)


# -- from the schema table ----------------------------------------------------------------------------------


@cache
def _definition(name: str) -> Map:
    definition = load()[name]
    fields = {entry.name: _field(definition, entry) for entry in definition.fields.values()}
    return Map(fields, None, _zeros(definition))


def _field(owner: Definition, entry: Field) -> Type:
    kind = entry.type
    if isinstance(kind, str):
        return _SCALARS.get(kind, ANY)
    if kind[0] == "array":
        return _list(owner, entry)
    if kind[0] == "map":
        return MAP if entry.map_type == "atomic" else Map(element=_element(kind[1]))
    granular = f"{owner.short}.{entry.name}" in facts.GRANULAR_FIELDS
    return _ref(str(kind[1]), granular)


def _list(owner: Definition, entry: Field) -> Type:
    if entry.list_type == "set":
        return Values()
    if entry.list_type != "map":
        return LIST
    element = entry.type[1]
    short = str(element[1]).rpartition(".")[2]
    defaults = {
        name: facts.KEY_DEFAULTS[f"{short}.{name}"]
        for name in entry.list_keys
        if f"{short}.{name}" in facts.KEY_DEFAULTS
    }
    return Keyed(entry.list_keys, _element(element), defaults)


def _element(kind: TableType) -> Type:
    if isinstance(kind, str):
        return _SCALARS.get(kind, ANY)
    if kind[0] == "array":
        return LIST
    return Map(element=_element(kind[1])) if kind[0] == "map" else _ref(str(kind[1]))


def _ref(name: str, granular: bool = False) -> Type:
    definition = load().get(name)
    if definition is None or not definition.fields:
        return ANY
    if definition.atomic and not granular:
        return MAP
    return Lazy(lambda: _definition(name))


def _zeros(definition: Definition) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for entry in definition.fields.values():
        if isinstance(entry.type, str):
            if entry.required and entry.type in _ZEROS:
                out[entry.name] = _ZEROS[entry.type]
        elif entry.type[0] == "ref":
            if entry.required or _is_value_struct(definition, entry.name):
                out[entry.name] = {}
        elif entry.required:
            out[entry.name] = [] if entry.type[0] == "array" else {}
    return out


def _is_value_struct(definition: Definition, name: str) -> bool:
    """A struct field that is no pointer: `omitempty` does not drop it in Go."""
    if definition.gvk and name in ("metadata", "spec", "status"):
        return True
    return f"{definition.short}.{name}" in facts.VALUE_STRUCTS


# -- from OpenAPI -------------------------------------------------------------------------------------------


def from_openapi(schema: Mapping[str, Any]) -> Type:
    """The type that a structural schema describes (`x-kubernetes-*` markers as in the CRD documentation)."""
    if schema.get("x-kubernetes-int-or-string"):
        return ANY
    if schema.get("x-kubernetes-embedded-resource"):
        return custom({**schema, "x-kubernetes-embedded-resource": False})
    sort = schema.get("type")
    if sort == "array":
        return _openapi_list(schema)
    if sort == "object" or "properties" in schema:
        return _openapi_map(schema)
    shapes = {"string": "string", "integer": "numeric", "number": "numeric", "boolean": "boolean"}
    if schema.get("nullable") or sort not in shapes:
        return DEDUCED if schema.get("x-kubernetes-preserve-unknown-fields") else ANY
    return Leaf(shapes[sort])


def _openapi_list(schema: Mapping[str, Any]) -> Type:
    sort, items = schema.get("x-kubernetes-list-type"), schema.get("items") or {}
    if sort == "set":
        return Values()
    if sort != "map":
        return LIST
    keys = tuple(schema.get("x-kubernetes-list-map-keys") or ())
    properties = items.get("properties") or {}
    defaults = {name: properties[name]["default"] for name in keys if "default" in properties.get(name, {})}
    return Keyed(keys, from_openapi(items), defaults)


def _openapi_map(schema: Mapping[str, Any]) -> Type:
    if schema.get("x-kubernetes-map-type") == "atomic":
        return MAP
    properties, extra = schema.get("properties") or {}, schema.get("additionalProperties")
    element: Type | None = from_openapi(extra) if isinstance(extra, dict) and extra else None
    if element is None and (schema.get("x-kubernetes-preserve-unknown-fields") or extra or not properties):
        element = DEDUCED
    return Map({name: from_openapi(part) for name, part in properties.items()}, element)
