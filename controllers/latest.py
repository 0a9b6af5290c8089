"""An informer's objects, each as this process last wrote it.

Where one decision concerns all objects of a resource (which volume is free?), waiting until the store shows
every write, as `controllers.written` does, would make each decision wait for the one before it. Here what the
API answered to a write stands in for the cached object until the store holds that version or a later one.
"""

from __future__ import annotations

from collections.abc import Iterator

from controllers import objects as o
from controllers.objects import Object
from controllers.written import Source


class Latest:
    """Reads of one informer's store, seen through this process' own updates."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._written: dict[str, Object] = {}  # store key -> the answer to the last update

    def wrote(self, obj: Object) -> Object:
        """The API answered an update with this object (which is handed back)."""
        self._written[o.key(obj)] = obj
        return obj

    def get(self, key: str) -> Object | None:
        return self._newer(key, self._source.store.get(key))

    def pending(self) -> Iterator[tuple[str, Object]]:
        """What was written and is not shown by the store yet."""
        for key in list(self._written):
            shown = self._source.store.get(key)
            current = self._newer(key, shown)
            if current is not None and current is not shown:
                yield key, current

    def _newer(self, key: str, shown: Object | None) -> Object | None:
        mine = self._written.get(key)
        if mine is None:
            return shown
        same = shown is not None and o.uid(shown) == o.uid(mine)
        if same and shown is not None and o.revision_of(shown) < o.revision_of(mine):
            return mine
        del self._written[key]
        return shown
