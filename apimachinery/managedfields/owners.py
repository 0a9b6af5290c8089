"""The entries of `metadata.managedFields`: reading them, writing them, and keeping their number down.

Who owns fields is a *manager*: a name together with the operation, the subresource and, for updates, the API
version of its writes. An applier keeps one entry whatever version it applies in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from apimachinery.managedfields import fieldset
from apimachinery.managedfields.fieldset import FieldSet

APPLY, UPDATE = "Apply", "Update"
FIELDS_TYPE = "FieldsV1"
MAX_UPDATERS = 10
ANCIENT = "ancient-changes"
UNKNOWN = "unknown"
NAME_LIMIT = 128  # bytes


class Manager(NamedTuple):
    """Who writes; `api_version` is empty for appliers."""

    name: str
    operation: str
    api_version: str = ""
    subresource: str = ""

    def __str__(self) -> str:
        """As conflict messages name it."""
        out = '"' + self.name + '"'
        if self.subresource:
            out += f' with subresource "{self.subresource}"'
        return f"{out} using {self.api_version}" if self.operation == UPDATE else out


@dataclass(frozen=True, slots=True)
class Owned:
    """What a manager owns, in the API version of its last write, at that time (RFC 3339; "" when unknown)."""

    fields: FieldSet
    api_version: str
    time: str = ""

    def with_fields(self, fields: FieldSet) -> Owned:
        return self if fields is self.fields else Owned(fields, self.api_version, self.time)


Owners = dict[Manager, Owned]


def decode(entries: Any) -> Owners | None:
    """Owners by manager; None when an entry is malformed. Entries of the same manager are one."""
    out: Owners = {}
    for entry in entries or ():
        read = _entry(entry)
        if read is None:
            return None
        manager, owned = read
        if manager in out:
            owned = Owned(fieldset.union(out[manager].fields, owned.fields), owned.api_version, owned.time)
        out[manager] = owned
    return out


def _entry(entry: Any) -> tuple[Manager, Owned] | None:
    if not isinstance(entry, dict) or entry.get("operation") not in (APPLY, UPDATE):
        return None
    version, fields = entry.get("apiVersion"), entry.get("fieldsV1") or {}
    if not version or not isinstance(version, str) or entry.get("fieldsType", FIELDS_TYPE) != FIELDS_TYPE:
        return None
    operation, subresource = entry["operation"], entry.get("subresource") or ""
    known = version if operation == UPDATE else ""
    manager = Manager(entry.get("manager") or UNKNOWN, operation, known, subresource)
    return manager, Owned(fields, version, entry.get("time") or "")


def are_valid(entries: Any) -> bool:
    """Whether entries that a client sent can be taken for what they say (ours need no such look)."""
    return isinstance(entries, list) and all(
        _entry(entry) is not None and fieldset.is_valid(entry.get("fieldsV1") or {}) for entry in entries
    )


def is_reset(entries: Any) -> bool:
    """One empty entry is how a client asks to forget all owners; an empty list asks for nothing."""
    return isinstance(entries, list) and len(entries) == 1 and not entries[0]


def encode(owners: Owners, before: Owners, entries: Any) -> list[dict[str, Any]]:
    """The entries, appliers first, then by time. `before` was read from `entries`: what did not change since
    keeps its entry.
    """
    stored = {read[0]: entry for entry in entries or () if (read := _entry(entry))}
    out = []
    for manager, owned in sorted(owners.items(), key=_rank):
        known, entry = before.get(manager), stored.get(manager)
        if known is None or entry is None or known.fields is not owned.fields:
            out.append(_encoded(manager, owned))
        elif known is owned:
            out.append(entry)
        else:
            out.append({**entry, "apiVersion": owned.api_version, "time": owned.time})
    return out


def _encoded(manager: Manager, owned: Owned) -> dict[str, Any]:
    out: dict[str, Any] = {
        "manager": manager.name,
        "operation": manager.operation,
        "apiVersion": owned.api_version,
        "time": owned.time,
        "fieldsType": FIELDS_TYPE,
        "fieldsV1": fieldset.ordered(owned.fields),
        "subresource": manager.subresource,
    }
    return {name: value for name, value in out.items() if value or name == "fieldsV1"}


def _rank(item: tuple[Manager, Owned]) -> tuple[str, str, str, str, str]:
    manager, owned = item
    return manager.operation, owned.time, manager.name, owned.api_version, manager.subresource


def capped(owners: Owners, limit: int = MAX_UPDATERS) -> Owners:
    """At most `limit` updaters: the oldest of each API version are merged into one, `ancient-changes`."""
    updaters = [item for item in owners.items() if item[0].operation == UPDATE]
    if len(updaters) <= limit:
        return owners
    out, first, length = dict(owners), dict[str, Manager](), len(updaters)
    for manager, owned in sorted(updaters, key=lambda item: (item[1].time, item[0])):
        if length <= limit:
            break
        version = owned.api_version
        if version not in first:
            first[version] = manager
            continue
        bucket = Manager(ANCIENT, UPDATE, version)
        if bucket not in out:
            out[bucket] = out.pop(first[version])
        elif manager == bucket:
            continue
        merged = fieldset.union(owned.fields, out[bucket].fields)
        out[bucket] = Owned(merged, version, owned.time)
        del out[manager]
        length -= 1
    return out


def name_from_agent(agent: str) -> str:
    """The manager's name of a request that gives none: its User-Agent up to the first slash."""
    out = ""
    for letter in agent.partition("/")[0]:
        if not letter.isprintable():
            continue
        if len((out + letter).encode()) > NAME_LIMIT:
            break
        out += letter
    return out
