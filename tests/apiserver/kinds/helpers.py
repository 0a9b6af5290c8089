"""Run one object through what the registry does to it on its way in."""

from __future__ import annotations

import copy
from typing import Any

from apimachinery.meta import validate_object_meta
from apimachinery.schema.decode import decode
from apimachinery.scheme import Kind
from apimachinery.table import table
from apiserver.kinds import SCHEME

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z


def kind_of(group: str, resource: str, version: str = "v1") -> Kind:
    kind = SCHEME.resource(group, version, resource)
    assert kind is not None, (group, resource)
    return kind


def made(kind: Kind, **members: Any) -> dict[str, Any]:
    """A minimal object of a kind, named `x`."""
    metadata = {"name": "x", **({"namespace": "default"} if kind.namespaced else {})}
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata, **members}


def accepted(kind: Kind, obj: dict[str, Any]) -> dict[str, Any]:
    """The object after decoding, defaulting and preparation for its creation."""
    decoded, warnings = decode(kind, copy.deepcopy(obj))
    assert warnings == []
    kind.strategy.default(decoded)
    kind.strategy.prepare_create(decoded)
    return decoded


def causes(kind: Kind, obj: dict[str, Any]) -> list[str]:
    """What validation says of a new object."""
    ready = accepted(kind, obj)
    found = [*validate_object_meta(ready, kind), *kind.strategy.validate(ready)]
    return [f"{cause.field}: {cause.message}" for cause in found]


def update_causes(kind: Kind, new: dict[str, Any], old: dict[str, Any]) -> list[str]:
    stored, fresh = accepted(kind, old), decode(kind, copy.deepcopy(new))[0]
    kind.strategy.default(fresh)
    kind.strategy.prepare_update(fresh, stored)
    return [f"{cause.field}: {cause.message}" for cause in kind.strategy.validate_update(fresh, stored)]


def cells(kind: Kind, obj: dict[str, Any]) -> dict[str, Any]:
    """The table row of an object, by column name."""
    made_table = table(kind, [obj], "None", now=NOW)
    names = [column["name"] for column in made_table["columnDefinitions"]]
    return dict(zip(names, made_table["rows"][0]["cells"], strict=True))
