"""Component schemas of an OpenAPI v3 document, from the schema table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from apimachinery.schema import facts
from apimachinery.schema.table import Definition, Field, Type, load, ref_of

QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
TIME = "io.k8s.apimachinery.pkg.apis.meta.v1.Time"
MICRO_TIME = "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime"
RAW = "io.k8s.apimachinery.pkg.runtime.RawExtension"

_SHARED: dict[str, dict[str, Any]] = {
    QUANTITY: {
        "description": "Quantity is a fixed-point number with a unit suffix, such as 500m, 1.5 or 64Mi.",
        "oneOf": [{"type": "string"}, {"type": "number"}],
    },
    INT_OR_STRING: {
        "description": "IntOrString holds an int32 or a string (a name, or a percentage).",
        "format": "int-or-string",
        "oneOf": [{"type": "integer"}, {"type": "string"}],
    },
    TIME: {"description": "Time is an RFC 3339 time.", "format": "date-time", "type": "string"},
    MICRO_TIME: {
        "description": "MicroTime is an RFC 3339 time with microseconds.",
        "format": "date-time",
        "type": "string",
    },
    RAW: {"description": "RawExtension holds an object of any kind.", "type": "object"},
}
_TYPE_REFS = {
    "quantity": QUANTITY,
    "int-or-string": INT_OR_STRING,
    "date-time": TIME,
    "micro-time": MICRO_TIME,
    "raw": RAW,
}
_SCALARS: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "number": {"type": "number", "format": "double"},
    "boolean": {"type": "boolean"},
    "bytes": {"type": "string", "format": "byte"},
    "any": {},
    "object": {"type": "object"},
}
_DEFAULTS: dict[str, Any] = {"string": "", "int32": 0, "int64": 0, "boolean": False}


def schemas(definitions: Iterable[str]) -> dict[str, Any]:
    """Schemas of these definitions and of everything they refer to, by definition name."""
    table = load()
    out: dict[str, Any] = {}
    waiting = [name for name in definitions if name in table]
    while waiting:
        name = waiting.pop()
        if name in out:
            continue
        definition = table[name]
        out[name] = _definition(definition)
        for field in definition.fields.values():
            _note_shared(field.type, out)
            if (ref := ref_of(field.type)) and ref in table and ref not in out:
                waiting.append(ref)
    return dict(sorted(out.items()))


def definitions_of(group: str, version: str) -> list[str]:
    """The top-level definitions of a group version, in the table's order."""
    return [
        name
        for name, definition in load().items()
        if definition.gvk and definition.gvk[:2] == (group, version)
    ]


def _note_shared(kind: Type, out: dict[str, Any]) -> None:
    while isinstance(kind, list) and kind[0] != "ref":
        kind = kind[1]
    if isinstance(kind, str) and kind in _TYPE_REFS:
        out[_TYPE_REFS[kind]] = _SHARED[_TYPE_REFS[kind]]


def _definition(definition: Definition) -> dict[str, Any]:
    out: dict[str, Any] = {"description": definition.description, "type": "object"}
    if definition.fields:
        out["properties"] = {
            name: _property(field, f"{definition.short}.{name}") for name, field in definition.fields.items()
        }
    required = [field.name for field in definition.fields.values() if field.required]
    if required:
        out["required"] = required
    if definition.atomic:
        out["x-kubernetes-map-type"] = "atomic"
    if definition.gvk:
        group, version, kind = definition.gvk
        out["x-kubernetes-group-version-kind"] = [{"group": group, "kind": kind, "version": version}]
    return out


def _property(field: Field, full: str) -> dict[str, Any]:
    """The schema of a field; `full` is its name among the facts."""
    out = _schema(field.type)
    # A reference may have no siblings: its description wraps it.
    if "$ref" in out:
        out = {"allOf": [out], "default": {}}
        if isinstance(field.type, str):
            del out["default"]
    elif field.required and isinstance(field.type, str) and field.type in _DEFAULTS:
        out["default"] = _DEFAULTS[field.type]
    if full in facts.KEY_DEFAULTS:
        out["default"] = facts.KEY_DEFAULTS[full]
    out["description"] = field.description
    if field.patch_strategy:
        out["x-kubernetes-patch-strategy"] = field.patch_strategy
    if field.merge_key:
        out["x-kubernetes-patch-merge-key"] = field.merge_key
    if field.list_type:
        out["x-kubernetes-list-type"] = field.list_type
    if field.list_keys:
        out["x-kubernetes-list-map-keys"] = list(field.list_keys)
    if field.map_type:
        out["x-kubernetes-map-type"] = field.map_type
    if full in facts.GRANULAR_FIELDS:
        out["x-kubernetes-map-type"] = "granular"
    return out


def _schema(kind: Type) -> dict[str, Any]:
    if isinstance(kind, str):
        ref = _TYPE_REFS.get(kind)
        return {"$ref": f"#/components/schemas/{ref}"} if ref else dict(_SCALARS[kind])
    if kind[0] == "array":
        return {"type": "array", "items": _element(kind[1])}
    if kind[0] == "map":
        return {"type": "object", "additionalProperties": _element(kind[1])}
    return {"$ref": f"#/components/schemas/{kind[1]}"}


def _element(kind: Type) -> dict[str, Any]:
    out = _schema(kind)
    if "$ref" in out:
        return {"allOf": [out], "default": {}} if isinstance(kind, list) else out
    if isinstance(kind, str) and kind in _DEFAULTS:
        out["default"] = _DEFAULTS[kind]
    return out
