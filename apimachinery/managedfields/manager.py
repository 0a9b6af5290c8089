"""The two operations on ownership: what a write takes over (`update`), and server-side apply (`apply`).

The rules are those of KEP-555 and of `structured-merge-diff`, package merge:

- An update owns every field that it adds or changes; whoever owned it before loses it, and a field that is
  gone has no owner.
- An apply owns exactly what its configuration says. What it changes while another manager owns it is a
  conflict, unless forced; a field with the same value is owned by both. What it owned before and no longer
  says is removed, unless someone else owns it too.
- An update's entry gets the time of the write whenever the write changed one of its fields, even if the set
  of its fields stays the same (`managedFieldsUpdater` of k8s.io/apimachinery). A write that changes nothing
  keeps all times (`keep_times`), so that it stores nothing.
- An object that has no managed fields (they were stripped, or it is older than they are) stays without them
  until someone applies; all fields it then has belong to `before-first-apply`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson

from apimachinery import errors
from apimachinery.errors import Cause, StatusError
from apimachinery.managedfields import fieldset, owners, walk
from apimachinery.managedfields.fieldset import FieldSet
from apimachinery.managedfields.owners import APPLY, UPDATE, Manager, Owned, Owners
from apimachinery.managedfields.types import Type
from apimachinery.managedfields.walk import Comparison

Object = dict[str, Any]
# A type and a way to bring an object into an API version; None when that version is not known (any more).
Convert = Callable[[str], tuple[Type, Callable[[Object], Object]] | None]

BEFORE_FIRST_APPLY = "before-first-apply"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
LAST_APPLIED_LIMIT = 256 * 1024  # bytes; the annotation is left away beyond
KUBECTL = "kubectl"
NOBODYS = "clusterName creationTimestamp generation managedFields name namespace resourceVersion selfLink uid"
# What is never owned: it identifies the object or is the server's own.
STRIPPED: FieldSet = {
    "f:apiVersion": {},
    "f:kind": {},
    "f:metadata": {".": {}, **{"f:" + name: {} for name in NOBODYS.split()}},
}
NOTHING: FieldSet = {}


@dataclass(frozen=True, slots=True)
class Write:
    """Who writes, through what, at what time.

    `kind` and `api_version` are the ones the objects are in; `ignored` are fields that this way of writing
    cannot change (`status` at the object itself, `spec` at its status): they are never owned through it.
    """

    kind: Type
    api_version: str
    manager: str
    now: str
    subresource: str = ""
    ignored: FieldSet | None = None
    convert: Convert | None = None

    def as_manager(self, operation: str) -> Manager:
        known = self.api_version if operation == UPDATE else ""
        return Manager(self.manager or owners.UNKNOWN, operation, known, self.subresource)


def update(write: Write, live: Object | None, new: Object) -> Object:
    """The new object with its managedFields brought up to date. `live` is None when it is being created."""
    current = _of(live)
    entries = _chosen(current, _of(new), bool(write.subresource))
    known = owners.decode(entries) or {}
    if live is not None and not known:
        return with_entries(new, None)
    after = _updated(write, live or {}, new, known)
    if after is known and entries is current:
        return with_entries(new, current)
    return with_entries(new, owners.encode(owners.capped(after), known, entries))


def _chosen(live: Any, new: Any, from_live: bool) -> Any:
    """The entries before a write: a client may edit them, except through a subresource. An empty list, or one
    that says nothing that can be understood, is a client that does not know about them.
    """
    if from_live or not new or new is live or new == live:
        return live
    if owners.is_reset(new):
        return ()
    return new if owners.are_valid(new) else live


def _updated(write: Write, live: Object, new: Object, known: Owners) -> Owners:
    changes = walk.compare(write.kind, live, new)
    if write.ignored:
        changes = changes.without(write.ignored)
    if not changes:
        return known
    taken = fieldset.difference(changes.changed, STRIPPED)
    after, _ = _take(write, known, changes, live, new, None)
    if taken:
        me = write.as_manager(UPDATE)
        before = known.get(me)
        # What it owned of these it keeps: others lose what they owned, the writer only what is gone.
        mine = fieldset.difference(before.fields, changes.removed) if before else NOTHING
        after[me] = Owned(fieldset.union(mine, taken), write.api_version, write.now)
    return after


Conflicts = dict[Manager, FieldSet]


def _take(
    write: Write, known: Owners, changes: Comparison, live: Object, new: Object, spared: Manager | None
) -> tuple[Owners, Conflicts]:
    """The owners after changed fields went to the writer (`spared`) and removed ones to nobody; and who lost
    what.
    """
    versions: dict[str, Comparison | None] = {write.api_version: changes}
    after: Owners = {}
    lost: Conflicts = {}
    for manager, owned in known.items():
        if manager == spared:
            after[manager] = owned
            continue
        if owned.api_version not in versions:
            versions[owned.api_version] = _in_version(write, owned.api_version, live, new)
        seen = versions[owned.api_version]
        if seen is None:
            continue  # of a version that is not served any more
        taken = fieldset.intersection(owned.fields, seen.changed)
        if taken:
            lost[manager] = taken
        rest = fieldset.difference(fieldset.difference(owned.fields, taken), seen.removed)
        if rest:
            after[manager] = owned.with_fields(rest)
    return after, lost


def _in_version(write: Write, version: str, live: Object, new: Object) -> Comparison | None:
    found = write.convert(version) if write.convert else None
    if found is None:
        return None
    kind, convert = found
    return walk.compare(kind, convert(live) if live else live, convert(new))


# -- apply --------------------------------------------------------------------------------------------------


def apply(write: Write, live: Object, config: Object, *, force: bool) -> Object:
    """The live object (empty when it does not exist yet) with the configuration applied.

    Raises 400 for managedFields in the configuration or where it does not fit its type, and 409 with one
    FieldManagerConflict cause a field.
    """
    if _of(config) is not None:
        raise errors.bad_request("metadata.managedFields must be nil")
    known = owners.decode(_of(live))
    if known is None:
        raise errors.internal_error("failed to decode managed fields")
    if not known and live:
        first = replace(write, manager=BEFORE_FIRST_APPLY, subresource="", ignored=None)
        known = _updated(first, {}, live, {})
    new, after, lost = _applied(write, live, config, known)
    if lost and not force:
        lost = _not_excused(write, live, lost)
        if lost:
            raise _conflict(lost)
    new = _with_last_applied(new, config) if write.manager == KUBECTL else new
    return with_entries(new, owners.encode(after, known, _of(live)))


def _applied(write: Write, live: Object, config: Object, known: Owners) -> tuple[Object, Owners, Conflicts]:
    me = write.as_manager(APPLY)
    try:
        claimed = walk.fields_of(write.kind, config)
    except walk.Untypable as error:
        raise _untypable(write, config, error) from None
    if write.ignored:
        claimed = fieldset.recursive_difference(claimed, write.ignored)
    reconciled = {
        manager: owned.with_fields(walk.collapsed(write.kind, owned.fields))
        if owned.api_version == write.api_version
        else owned
        for manager, owned in known.items()
    }
    merged = walk.merge(write.kind, live, config)
    last = reconciled.get(me)
    claims = {**reconciled, me: Owned(claimed, write.api_version, write.now)}
    new = _pruned(write, merged, claims, last) if last else merged
    changes = walk.compare(write.kind, live, new)
    if write.ignored:
        changes = changes.without(write.ignored)
    after, lost = _take(write, claims, changes, live, new, me)
    mine = fieldset.difference(claimed, STRIPPED)
    if mine:
        after[me] = Owned(mine, write.api_version, write.now)
    else:
        after.pop(me, None)
    return new, after, lost


def _pruned(write: Write, merged: Object, claims: Owners, last: Owned) -> Object:
    """Without what this manager applied last time, and nobody, itself included, claims now."""
    kind = write.kind
    if not fieldset.difference(last.fields, claims[write.as_manager(APPLY)].fields):
        return merged
    of_last = walk.with_structs(kind, last.fields)
    claimed: FieldSet = {}
    for owned in claims.values():
        if owned.api_version == write.api_version:
            claimed = fieldset.union(claimed, owned.fields)
    claimed = walk.with_structs(kind, claimed)
    every = walk.with_structs(kind, _set_of(kind, merged))
    bare = walk.with_structs(kind, _set_of(kind, walk.remove(kind, merged, of_last)))
    # First back with what others claim, then back with all that was never this manager's.
    owned_back = walk.remove(kind, merged, fieldset.difference(every, fieldset.union(bare, claimed)))
    kept = walk.with_structs(kind, _set_of(kind, owned_back))
    gone = fieldset.intersection(fieldset.difference(every, kept), of_last)
    pruned: Object = walk.remove(kind, merged, gone)
    return pruned


def _set_of(kind: Type, value: Any) -> FieldSet:
    return walk.fields_of(kind, value, lenient=True) if value else {}


def _untypable(write: Write, config: Object, error: walk.Untypable) -> StatusError:
    """400, as the pull request 139255 of kubernetes has it; up to 1.34 Kubernetes calls the client's mistake
    its own (500, without a reason).
    """
    metadata = metadata_of(config)
    name = "/".join(str(metadata[part]) for part in ("namespace", "name") if metadata.get(part))
    what = f"{name}; {write.api_version}, Kind={config.get('kind', '')}"
    return errors.bad_request(f"failed to create typed patch object ({what}): {error}")


def _not_excused(write: Write, live: Object, lost: Conflicts) -> Conflicts:
    """Without the conflicts over what `kubectl apply` itself wrote before: that is an upgrade from
    client-side to server-side apply, not a conflict. Its last-applied annotation says what it wrote; where
    the object no longer has that value, someone else did.
    """
    text = _annotations(live).get(LAST_APPLIED)
    if write.manager != KUBECTL or not text:
        return lost
    try:
        applied = orjson.loads(text)
        own = walk.fields_of(write.kind, applied)
    except (ValueError, walk.Untypable):
        return lost
    if not isinstance(applied, dict) or applied.get("apiVersion") != write.api_version:
        return lost
    differs = walk.compare(write.kind, applied, live)
    for part in (differs.modified, differs.added, differs.removed):
        own = fieldset.difference(own, part)
    rest = {manager: fieldset.difference(fields, own) for manager, fields in lost.items()}
    return {manager: fields for manager, fields in rest.items() if fields}


def _with_last_applied(new: Object, config: Object) -> Object:
    """Keeps an existing last-applied annotation true when kubectl changes over to server-side apply."""
    if LAST_APPLIED not in _annotations(new):
        return new
    metadata = dict(new["metadata"])
    annotations = {name: value for name, value in metadata["annotations"].items() if name != LAST_APPLIED}
    text = _last_applied(config)
    size = sum(len(name) + len(value) for name, value in annotations.items() if isinstance(value, str))
    if size + len(LAST_APPLIED) + len(text) <= LAST_APPLIED_LIMIT:
        annotations[LAST_APPLIED] = text
    return {**new, "metadata": {**metadata, "annotations": annotations}}


def _last_applied(config: Object) -> str:
    """What the annotation holds: the configuration without the annotation itself."""
    metadata = dict(config.get("metadata") or {})
    kept = {name: value for name, value in _annotations(config).items() if name != LAST_APPLIED}
    if "annotations" in metadata:
        metadata["annotations"] = kept
    plain = {**config, "metadata": metadata}
    return orjson.dumps(plain, option=orjson.OPT_SORT_KEYS).decode() + "\n"


def _annotations(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    found = metadata_of(obj).get("annotations")
    return found if isinstance(found, dict) else {}


def _conflict(lost: Conflicts) -> StatusError:
    """409 with a cause for every path, by manager."""
    ranked = sorted(lost.items(), key=lambda item: str(item[0]))
    found = [(str(who), fieldset.show(path)) for who, fields in ranked for path in fieldset.paths(fields)]
    causes = [Cause("FieldManagerConflict", f"conflict with {who}", path).as_dict() for who, path in found]
    if len(found) == 1:
        text = f"Apply failed with 1 conflict: conflict with {found[0][0]}: {found[0][1]}"
    else:
        lines = []
        for who in dict.fromkeys(name for name, _ in found):
            lines.append(f"conflicts with {who}:")
            lines += [f"- {path}" for name, path in found if name == who]
        text = f"Apply failed with {len(found)} conflicts: " + "\n".join(lines)
    return errors.status(409, "Conflict", text, details={"causes": causes})


# -- entries in objects -------------------------------------------------------------------------------------


def _of(obj: Object | None) -> Any:
    return metadata_of(obj).get("managedFields") if obj else None


def metadata_of(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    """The metadata of what may not have been checked yet; empty where it is no map."""
    found = obj.get("metadata")
    return found if isinstance(found, dict) else {}


def with_entries(obj: Object, entries: Any) -> Object:
    """The object with these managedFields (none: without the field)."""
    metadata = obj.get("metadata") or {}
    if metadata.get("managedFields") is entries and entries:
        return obj
    out = without_entries(obj)
    if entries:
        out["metadata"]["managedFields"] = entries
    return out


def without_entries(obj: Object) -> Object:
    metadata = obj.get("metadata") or {}
    kept = {name: value for name, value in metadata.items() if name != "managedFields"}
    return {**obj, "metadata": kept}


def keep_times(new: Object, old: Object) -> Object:
    """The new object with the old entries where the two differ in nothing but the entries' times.

    Kubernetes does so before it stores an update (`IgnoreManagedFieldsTimestampsTransformer`): a write that
    changes nothing does not move the resourceVersion.
    """
    after, before = _of(new), _of(old)
    if after is before or not after or not before or len(after) != len(before):
        return new
    if any(not _same_but_time(*pair) for pair in zip(after, before, strict=True)):
        return new
    ours, theirs = without_entries(new), without_entries(old)
    return with_entries(new, before) if ours == theirs and walk.same(ours, theirs) else new


def _same_but_time(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if one is other:
        return True
    names = (one.keys() | other.keys()) - {"time"}
    return all(one.get(name) == other.get(name) for name in names)
