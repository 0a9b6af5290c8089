"""Who owns which field of which object: managedFields of every write, and server-side apply, per kind.

The rules are `apimachinery.managedfields`; here is what a kind and a way of writing add to them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from apimachinery import meta
from apimachinery.managedfields import manager, types
from apimachinery.managedfields.fieldset import FieldSet
from apimachinery.scheme import Kind
from apiserver.registry.call import Call, Writer

Object = dict[str, Any]
Schema = Mapping[str, Any]

STATUS: FieldSet = {"f:status": {}}
SPEC: FieldSet = {"f:spec": {}}


class Ownership:
    """Types by kind: of a kind with a `schema` (a custom resource) by it, else by the schema table."""

    def __init__(self) -> None:
        self._custom: dict[tuple[str, str, str], tuple[Schema, types.Type]] = {}

    def type_of(self, kind: Kind) -> types.Type:
        schema: Schema | None = getattr(kind, "schema", None)
        key = (kind.group, kind.version, kind.kind)
        if schema is None:
            return types.of_kind(*key)
        known = self._custom.get(key)
        if known is None or known[0] is not schema:
            known = self._custom[key] = (schema, types.custom(schema))
        return known[1]

    def track(self, call: Call, new: Object, old: Object | None, now: float) -> Object:
        """The new object with what this call's writer owns of it; unchanged for a call that has none."""
        if call.writer is None:
            return new
        return manager.update(self._write(call.kind, call.writer, now), old, new)

    def apply(
        self, kind: Kind, writer: Writer, live: Object, config: Object, now: float, *, force: bool
    ) -> Object:
        """The live object with an applied configuration. Raises 409 for conflicts, else 400."""
        return manager.apply(self._write(kind, writer, now), live, config, force=force)

    def _write(self, kind: Kind, writer: Writer, now: float) -> manager.Write:
        return manager.Write(
            self.type_of(kind),
            kind.api_version,
            writer.name,
            meta.now_rfc3339(now),
            writer.subresource,
            _ignored(kind, writer.subresource),
            lambda version: self._version(kind, version),
        )

    def _version(self, kind: Kind, version: str) -> tuple[types.Type, Callable[[Object], Object]] | None:
        """How to see an object in another version: as it is stored, or unchanged within a group."""
        group, _, number = version.rpartition("/")
        custom = self._custom.get((group, number, kind.kind))
        other = custom[1] if custom else types.of_kind(group, number, kind.kind)
        if kind.to_storage is not None and group != kind.group:
            return other, kind.to_storage
        return (other, lambda obj: obj) if group == kind.group else None


def _ignored(kind: Kind, subresource: str) -> FieldSet | None:
    """The fields that this way of writing leaves alone (GetResetFields of Kubernetes' strategies)."""
    if subresource in ("status", "approval"):
        return SPEC
    return STATUS if "status" in kind.subresources and not subresource else None
