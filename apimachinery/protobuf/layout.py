"""How a definition of the schema table lies on the wire; the types whose JSON is not their message. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from apimachinery.schema import table
from apimachinery.schema.table import Type

# Unions of apiextensions, which JSON writes as either of two values: field of JSONSchemaProps -> the kind of
# its second member (number 1 or 2 is a schema). Sources: types_jsonschema.go, marshal.go.
SCHEMA = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps"
OR_ARRAY, OR_BOOLEAN, OR_STRINGS = "schema-or-array", "schema-or-boolean", "schema-or-strings"
_UNIONS: dict[tuple[str, str], Type] = {
    (SCHEMA, "items"): OR_ARRAY,
    (SCHEMA, "additionalProperties"): OR_BOOLEAN,
    (SCHEMA, "additionalItems"): OR_BOOLEAN,
    (SCHEMA, "dependencies"): ["map", OR_STRINGS],
}
# A struct without fields, of which the schema table keeps no definition.
EMPTY = "empty"
_EMPTY = {("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceSubresources", "status")}


@dataclass(frozen=True, slots=True)
class Slot:
    """One field by its number."""

    name: str
    type: Type


# Number -> the field, or what an embedded struct has there.
Layout = dict[int, "Slot | Layout"]


@cache
def of(definition: str) -> Layout:
    """Raises KeyError for a name that is not in the schema table."""
    layout: Layout = {}
    for field in table.load()[definition].fields.values():
        if not field.numbers:
            continue
        place = layout
        for number in field.numbers[:-1]:
            inner = place.setdefault(number, {})
            assert isinstance(inner, dict)
            place = inner
        place[field.numbers[-1]] = Slot(field.name, _type(definition, field))
    return layout


def _type(definition: str, field: table.Field) -> Type:
    if (definition, field.name) in _EMPTY:
        return EMPTY
    return _UNIONS.get((definition, field.name), field.type)
