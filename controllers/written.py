"""Read your own writes, solved once.

A controller acts on its informers' stores, which lag behind what it has just written; acting again before
they have caught up would create twice. `Written` remembers, per work-queue key, what was written, and says
when the store shows it:

- a create or update is shown once the informer's store is complete up to the written resourceVersion (a watch
  delivers in revision order, a list states its revision);
- a delete is shown once the store no longer holds that UID, or holds it with a deletionTimestamp.

Both come to pass as long as the informer makes progress, so nothing here expires.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from controllers import objects as o
from controllers.objects import Object


class Reader(Protocol):
    """The part of an informer's store this module needs."""

    def get(self, key: str, /) -> Object | None: ...


class Source(Protocol):
    """The part of an informer this module needs."""

    @property
    def store(self) -> Reader: ...

    @property
    def resource_version(self) -> str:
        """The version up to which the store is complete."""
        ...


@dataclass(slots=True)
class _Pending:
    revision: int = 0
    deleted: dict[str, str] = field(default_factory=dict)  # uid -> store key


class Written:
    """What this process wrote to one resource and its informer has not shown yet, per key of the writing
    controller.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._pending: dict[str, _Pending] = {}

    def wrote(self, key: str, obj: Object) -> None:
        """The API answered a create or update of `key`'s controller with this object."""
        pending = self._pending.setdefault(key, _Pending())
        pending.revision = max(pending.revision, o.revision_of(obj))

    def deleted(self, key: str, obj: Object) -> None:
        """The API accepted a delete of this (cached) object."""
        self._pending.setdefault(key, _Pending()).deleted[o.uid(obj)] = o.key(obj)

    def settled(self, key: str) -> bool:
        """True when the store shows everything written for `key`."""
        pending = self._pending.get(key)
        if pending is None:
            return True
        pending.deleted = {uid: at for uid, at in pending.deleted.items() if self._still_shown(uid, at)}
        if pending.revision > int(self._source.resource_version or 0) or pending.deleted:
            return False
        del self._pending[key]
        return True

    def forget(self, key: str) -> None:
        """The controlling object is gone."""
        self._pending.pop(key, None)

    def _still_shown(self, uid: str, at: str) -> bool:
        shown = self._source.store.get(at)
        return shown is not None and o.uid(shown) == uid and not o.is_terminating(shown)
