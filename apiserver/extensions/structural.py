"""Structural schemas at work: pruning, defaulting, and which schemas are structural at all (KEP-1152). Pure.

A schema is the plain dict under `openAPIV3Schema`. Nothing here changes a schema.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from apimachinery import field
from apimachinery.errors import Cause

Object = dict[str, Any]
Schema = Mapping[str, Any]

PRESERVE = "x-kubernetes-preserve-unknown-fields"
EMBEDDED = "x-kubernetes-embedded-resource"
INT_OR_STRING = "x-kubernetes-int-or-string"
RULES = "x-kubernetes-validations"
ENVELOPE = ("apiVersion", "kind", "metadata")
TYPES = ("array", "boolean", "integer", "number", "object", "string")
LIST_TYPES, MAP_TYPES = ("atomic", "map", "set"), ("atomic", "granular")
JUNCTORS = ("allOf", "anyOf", "oneOf")
# What a schema below a junctor may not say: it only judges what the structure around it describes.
_ONLY_STRUCTURAL = (
    "type",
    "description",
    "title",
    "default",
    "additionalProperties",
    "nullable",
    PRESERVE,
    EMBEDDED,
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
)
_REFUSED = ("$ref", "$schema", "definitions", "dependencies", "patternProperties", "additionalItems", "id")


# -- pruning ------------------------------------------------------------------------------------------------


def prune(obj: Object, schema: Schema) -> list[str]:
    """Drop in place what the schema does not know; returns the dropped paths."""
    dropped: list[str] = []
    _prune(obj, schema, "", dropped, envelope=True)
    return dropped


def _prune(value: Any, schema: Schema, path: str, dropped: list[str], *, envelope: bool = False) -> None:
    if isinstance(value, list):
        items = schema.get("items")
        for at, item in enumerate(value):
            _prune(item, items or {}, f"{path}[{at}]", dropped)
    elif isinstance(value, dict):
        envelope = envelope or bool(schema.get(EMBEDDED))
        properties: Mapping[str, Schema] = schema.get("properties") or {}
        rest = schema.get("additionalProperties")
        for name in list(value):
            where = f"{path}.{name}" if path else name
            if envelope and name in ENVELOPE:
                continue
            if name in properties:
                _prune(value[name], properties[name], where, dropped)
            elif isinstance(rest, Mapping):
                _prune(value[name], rest, where, dropped)
            elif not rest and not schema.get(PRESERVE):
                del value[name]
                dropped.append(where)


# -- defaulting ---------------------------------------------------------------------------------------------


def default(value: Any, schema: Schema) -> None:
    """Fill in place what is absent and has a default. A null that is not allowed counts as absent."""
    if isinstance(value, list):
        for item in value:
            default(item, schema.get("items") or {})
    elif isinstance(value, dict):
        properties: Mapping[str, Schema] = schema.get("properties") or {}
        for name, member in properties.items():
            if name in value and value[name] is None and not member.get("nullable"):
                del value[name]
            if name not in value and "default" in member:
                value[name] = copy.deepcopy(member["default"])
            if name in value:
                default(value[name], member)
        rest = schema.get("additionalProperties")
        if isinstance(rest, Mapping):
            for name, item in value.items():
                if name not in properties:
                    default(item, rest)


# -- which schemas are structural ---------------------------------------------------------------------------


def check(schema: Schema, path: str) -> Iterator[Cause]:
    """Why a root schema is not structural."""
    if schema.get("type") != "object":
        yield field.invalid(f"{path}.type", schema.get("type", ""), "must be object at the root")
    metadata = (schema.get("properties") or {}).get("metadata") or {}
    for name in metadata:
        if name not in ("type", "properties", "description"):
            yield field.forbidden(f"{path}.properties[metadata].{name}", "must not be specified at the root")
    for name in metadata.get("properties") or {}:
        if name not in ("name", "generateName"):
            where = f"{path}.properties[metadata].properties[{name}]"
            yield field.forbidden(where, "only name and generateName can be restricted")
    yield from _structural(schema, path)


def _structural(schema: Schema, path: str) -> Iterator[Cause]:
    for name in _REFUSED:
        if schema.get(name):
            yield field.forbidden(f"{path}.{name}", f"{name} is not supported")
    if schema.get("uniqueItems"):
        yield field.forbidden(
            f"{path}.uniqueItems",
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        )
    yield from _type(schema, path)
    yield from _lists(schema, path)
    yield from _members(schema, path)
    for name in (*JUNCTORS, "not"):
        for where, below in _junctors(schema, name, path):
            yield from _logical(below, where, is_typed=not _loose_type(schema))


def _type(schema: Schema, path: str) -> Iterator[Cause]:
    kind = schema.get("type", "")
    if schema.get(INT_OR_STRING):
        if kind:
            yield field.invalid(f"{path}.type", kind, f"must be empty if {INT_OR_STRING} is true")
    elif not kind:
        if not schema.get(PRESERVE):
            yield field.required(f"{path}.type", "must not be empty for specified object fields")
    elif kind not in TYPES:
        yield field.not_supported(f"{path}.type", kind, TYPES)
    if schema.get(EMBEDDED) and kind != "object":
        yield field.invalid(f"{path}.type", kind, f"must be object if {EMBEDDED} is true")
    if PRESERVE in schema and schema[PRESERVE] is False:
        yield field.invalid(f"{path}.{PRESERVE}", False, "must be true or undefined")


def _lists(schema: Schema, path: str) -> Iterator[Cause]:
    kind, list_type = schema.get("type", ""), schema.get("x-kubernetes-list-type")
    keys = schema.get("x-kubernetes-list-map-keys") or []
    if kind == "array" and not isinstance(schema.get("items"), Mapping):
        yield field.required(f"{path}.items", "must be specified")
    if list_type is not None:
        where = f"{path}.x-kubernetes-list-type"
        if kind != "array":
            yield field.invalid(f"{path}.type", kind, "must be array if x-kubernetes-list-type is specified")
        if list_type not in LIST_TYPES:
            yield field.not_supported(where, list_type, LIST_TYPES)
    if list_type == "map":
        if not keys:
            yield field.required(
                f"{path}.x-kubernetes-list-map-keys", "must not be empty if x-kubernetes-list-type is map"
            )
        items = schema.get("items")
        items = items if isinstance(items, Mapping) else {}  # else refused above
        for key in keys:
            member = (items.get("properties") or {}).get(key)
            if member is None:
                yield field.invalid(
                    f"{path}.x-kubernetes-list-map-keys",
                    list(keys),
                    "entries have to be keys of a scalar property of the items",
                )
            elif key not in (items.get("required") or ()) and "default" not in member:
                yield field.required(
                    f"{path}.items.properties[{key}].default",
                    "this property is in x-kubernetes-list-map-keys, so it must have a default "
                    "or be a required property",
                )
    elif keys:
        yield field.forbidden(
            f"{path}.x-kubernetes-list-map-keys", "must be empty if x-kubernetes-list-type is not map"
        )
    map_type = schema.get("x-kubernetes-map-type")
    if map_type is not None and map_type not in MAP_TYPES:
        yield field.not_supported(f"{path}.x-kubernetes-map-type", map_type, MAP_TYPES)


def _members(schema: Schema, path: str) -> Iterator[Cause]:
    properties, rest = schema.get("properties"), schema.get("additionalProperties")
    if properties and rest not in (None, False):
        yield field.forbidden(
            f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive"
        )
    if rest is False:
        yield field.forbidden(f"{path}.additionalProperties", "must not be false: unknown fields are pruned")
    for name, member in (properties or {}).items():
        yield from _structural(member, f"{path}.properties[{name}]")
    if isinstance(rest, Mapping):
        yield from _structural(rest, f"{path}.additionalProperties")
    if isinstance(schema.get("items"), Mapping):
        yield from _structural(schema["items"], f"{path}.items")


def _loose_type(schema: Schema) -> bool:
    """int-or-string allows types inside its own junctors, as controller-gen writes them."""
    return bool(schema.get(INT_OR_STRING))


def _logical(schema: Schema, path: str, *, is_typed: bool) -> Iterator[Cause]:
    for name in _ONLY_STRUCTURAL:
        if schema.get(name) and (is_typed or name != "type"):
            yield field.forbidden(f"{path}.{name}", "must be empty to be structural")
    for name, member in (schema.get("properties") or {}).items():
        yield from _logical(member, f"{path}.properties[{name}]", is_typed=True)
    if isinstance(schema.get("items"), Mapping):
        yield from _logical(schema["items"], f"{path}.items", is_typed=True)
    for name in (*JUNCTORS, "not"):
        for where, below in _junctors(schema, name, path):
            yield from _logical(below, where, is_typed=is_typed)


def _junctors(schema: Schema, name: str, path: str) -> Iterator[tuple[str, Schema]]:
    found = schema.get(name)
    if name == "not":
        if found:
            yield f"{path}.not", found
        return
    for at, below in enumerate(found or ()):
        yield f"{path}.{name}[{at}]", below


def subschemas(schema: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """A schema and every structural one below it, with their paths."""
    yield path, schema
    for name, member in (schema.get("properties") or {}).items():
        yield from subschemas(member, f"{path}.properties[{name}]")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), Mapping):
            yield from subschemas(schema[name], f"{path}.{name}")
