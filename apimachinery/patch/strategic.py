"""Strategic merge patch: a merge patch that knows from the schema how lists merge.

Directives: `$patch: replace|delete|merge` on maps and list items, `$deleteFromPrimitiveList/<field>`,
`$setElementOrder/<field>`, `$retainKeys`. Algorithm of `k8s.io/apimachinery/pkg/util/strategicpatch`,
without mutation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from apimachinery.errors import StatusError, bad_request, status
from apimachinery.patch import rejected
from apimachinery.schema.table import Field, Table, load, ref_of
from apimachinery.scheme import Object

DIRECTIVE = "$patch"
RETAIN_KEYS = "$retainKeys"
DELETE_PRIMITIVES = "$deleteFromPrimitiveList/"
ELEMENT_ORDER = "$setElementOrder/"


def apply(original: Object, patch: Any, schema_ref: str | None, table: Table | None = None) -> Object:
    """Merge `patch` into `original`, whose type is the definition `schema_ref`.

    Raises BadRequest for a malformed directive, Invalid (422) for an unknown one, and status 415 for a type
    without a schema (custom resources have no strategic merge).
    """
    if not isinstance(patch, dict):
        raise bad_request("invalid JSON document")
    if schema_ref is None:
        raise status(415, "UnsupportedMediaType", "strategic merge patch format is not supported")
    return _Merger(table or load()).merge(original, patch, schema_ref)


class _Merger:
    def __init__(self, table: Table) -> None:
        self._table = table

    def merge(self, original: Object, patch: Object, ref: str | None) -> Object:
        directive = patch.get(DIRECTIVE)
        if directive == "replace":
            return {key: value for key, value in patch.items() if key != DIRECTIVE}
        if directive == "delete":
            return {}
        if directive not in (None, "merge"):
            raise rejected(f"unknown patch type: {directive}")
        out = _retain(dict(original), patch)
        for key, value in patch.items():
            if key in (DIRECTIVE, RETAIN_KEYS) or key.startswith(ELEMENT_ORDER):
                continue
            if key.startswith(DELETE_PRIMITIVES):
                _delete_primitives(out, key.removeprefix(DELETE_PRIMITIVES), value)
            else:
                self._member(out, key, value, self._field(ref, key), patch.get(ELEMENT_ORDER + key))
        self._reorder_untouched(out, patch, ref)
        return out

    def _field(self, ref: str | None, key: str) -> Field | None:
        definition = self._table.get(ref) if ref else None
        return definition.fields.get(key) if definition else None

    def _member(self, out: Object, key: str, value: Any, field: Field | None, order: Any) -> None:
        if value is None:
            out.pop(key, None)
            return
        present = out.get(key)
        if isinstance(present, dict) and isinstance(value, dict):
            if "replace" in _strategies(field):
                out[key] = _without_directives(value)
            else:
                # Inside a map of structs every value has the map's element type, so `_field` finds nothing
                # for it.
                out[key] = self.merge(present, value, _struct_of(field))
        elif isinstance(value, list) and "merge" in _strategies(field):
            out[key] = self._merge_list(present if isinstance(present, list) else [], value, field, order)
        elif isinstance(present, dict) and value == {DIRECTIVE: "delete"}:
            out.pop(key, None)
        else:
            out[key] = _without_directives(value)

    def _merge_list(
        self, original: list[Any], patch: list[Any], field: Field | None, order: Any
    ) -> list[Any]:
        assert field is not None
        key = field.merge_key
        identity = _identity(key)
        if order is not None:
            _check_order(patch, order, identity)
        if not key:
            merged = list(dict.fromkeys([*original, *patch]))
            wanted = patch
        else:
            merged, wanted = self._merge_items(original, patch, key, ref_of(field.type))
        merged = _ordered(merged, wanted, original, identity)
        return _ordered(merged, order, original, identity) if order is not None else merged

    def _merge_items(
        self, original: list[Any], patch: list[Any], key: str, ref: str | None
    ) -> tuple[list[Any], list[Any]]:
        """The original list with the patch's items merged in, and those items."""
        if any(not isinstance(item, dict) for item in patch):
            raise bad_request("invalid JSON document")
        items = [item for item in patch if DIRECTIVE not in item]
        for item in patch:
            directive = item.get(DIRECTIVE)
            if directive == "replace":
                return [_without_directives(kept) for kept in items], items
            if directive == "delete":
                value = _key_of(item, key)
                original = [kept for kept in original if kept.get(key) != value]
            elif directive == "merge":
                raise rejected("merging lists cannot yet be specified in the patch")
            elif directive is not None:
                raise rejected(f"unknown patch type: {directive}")
        merged = list(original)
        for item in items:
            value = _key_of(item, key)
            at = next((at for at, kept in enumerate(merged) if kept.get(key) == value), None)
            if at is None:
                merged.append(_without_directives(item))
            else:
                merged[at] = self.merge(merged[at], item, ref)
        return merged, items

    def _reorder_untouched(self, out: Object, patch: Object, ref: str | None) -> None:
        """`$setElementOrder` alone: no item changes, only their order."""
        for name, order in patch.items():
            if not name.startswith(ELEMENT_ORDER):
                continue
            if not isinstance(order, list):
                raise bad_request("invalid patch format of setElementOrder list")
            key = name.removeprefix(ELEMENT_ORDER)
            field, present = self._field(ref, key), out.get(key)
            if key in patch or field is None or not isinstance(present, list):
                continue
            out[key] = _ordered(present, order, present, _identity(field.merge_key))


Identity = Callable[[Any], Any]


def _identity(key: str) -> Identity:
    """What makes two list items the same one: the merge key's value, or the scalar itself."""
    return (lambda item: item.get(key) if isinstance(item, dict) else item) if key else (lambda item: item)


def _strategies(field: Field | None) -> Sequence[str]:
    return field.patch_strategy.split(",") if field and field.patch_strategy else ()


def _struct_of(field: Field | None) -> str | None:
    """The definition of a field that holds one struct (not a map of them)."""
    if field is None or not isinstance(field.type, list) or field.type[0] != "ref":
        return None
    return str(field.type[1])


def _key_of(item: Object, key: str) -> Any:
    if key not in item:
        raise no_merge_key(item, key)
    return item[key]


def no_merge_key(item: Object, key: str) -> StatusError:
    """The words are kube-apiserver's; it answers 500, which blames the server for the client's patch."""
    shown = " ".join(f"{name}:{value}" for name, value in sorted(item.items()))
    return status(422, "", f"map: map[{shown}] does not contain declared merge key: {key}")


def _retain(out: Object, patch: Object) -> Object:
    keys = patch.get(RETAIN_KEYS)
    if keys is None:
        return out
    changed = {key for key, value in patch.items() if not key.startswith("$") and value is not None}
    if not isinstance(keys, list) or not changed <= set(keys):
        raise bad_request("invalid patch format of retainKeys")
    return {key: value for key, value in out.items() if key in keys}


def _delete_primitives(out: Object, key: str, values: Any) -> None:
    if not isinstance(values, list) or any(isinstance(value, (dict, list)) for value in values):
        raise bad_request("invalid patch format of primitive list")
    present = out.get(key)
    if isinstance(present, list):
        out[key] = [item for item in present if item not in values]


def _check_order(patch: list[Any], order: Any, identity: Identity) -> None:
    if not isinstance(order, list):
        raise bad_request("invalid patch format of setElementOrder list")
    wanted = [identity(item) for item in order]
    deleted = {"delete"}
    given = [
        identity(item) for item in patch if not (isinstance(item, dict) and item.get(DIRECTIVE) in deleted)
    ]
    if [item for item in wanted if item in given] != list(dict.fromkeys(given)):
        text = (
            f"The order in patch list:\n{patch}\n doesn't match {ELEMENT_ORDER.rstrip('/')} list:\n{order}\n"
        )
        raise rejected(text)


def _ordered(items: list[Any], wanted: list[Any], before: list[Any], identity: Identity) -> list[Any]:
    """Items in the wanted order; those it does not name stay where they stood `before` relative to the
    others.
    """
    rank = {identity(item): at for at, item in enumerate(wanted)}
    stood = {identity(item): at for at, item in enumerate(before)}
    named = sorted((item for item in items if identity(item) in rank), key=lambda item: rank[identity(item)])
    others = [item for item in items if identity(item) not in rank]
    out: list[Any] = []
    while named and others:
        left, right = stood.get(identity(named[0])), stood.get(identity(others[0]))
        named_first = left is not None and right is not None and left < right
        out.append((named if named_first else others).pop(0))
    return [*out, *named, *others]


def _without_directives(value: Any) -> Any:
    """A value that is new to the object: what tells how to merge has no meaning in it."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if not key.startswith("$") and item is not None}
        return {key: _without_directives(item) for key, item in kept.items()}
    if isinstance(value, list):
        kept_items = [item for item in value if not (isinstance(item, dict) and DIRECTIVE in item)]
        return [_without_directives(item) for item in kept_items]
    return value
