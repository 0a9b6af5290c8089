"""What a store has been through: the truth that lists and watches are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import orjson

from apiserver.storage.interface import Change

PREFIX = "/registry/configmaps/"
Object = dict[str, Any]
Accepts = Callable[[Object], bool]


class Seen(NamedTuple):
    """One event or list item, as far as clients can compare it."""

    type: str
    name: str
    revision: int
    data: str


class Reference:
    """Told of every change in the order of their revisions."""

    def __init__(self) -> None:
        self._changes: list[Change] = []

    def record(self, change: Change) -> None:
        if change.key.startswith(PREFIX):
            self._changes.append(change)

    def state_at(self, revision: int, accepts: Accepts) -> list[Seen]:
        """What a list at this revision shows, in the order of keys."""
        state: dict[str, Seen] = {}
        for change in self._changes:
            if change.revision > revision:
                break
            if change.value is None:
                state.pop(change.key)
            else:
                state[change.key] = shown("", orjson.loads(change.value), change.revision, accepts)
        return [state[key] for key in sorted(state) if state[key].type != "hidden"]

    def throughout(self, first: int, last: int, accepts: Accepts) -> set[str]:
        """Names of what was there, and accepted, at every revision of a span."""
        spans = [self.state_at(first, accepts)]
        spans += [self.state_at(c.revision, accepts) for c in self._changes if first < c.revision <= last]
        return set.intersection(*({seen.name for seen in span} for span in spans))

    def events(self, after: int, until: int, accepts: Accepts) -> Iterator[Seen]:
        """What a watch from `after` must have sent when it has come to `until`."""
        before: dict[str, Object] = {}
        for change in self._changes:
            old = before.pop(change.key, None)
            new = orjson.loads(change.value) if change.value is not None else None
            if new is not None:
                before[change.key] = new
            had, has = old is not None and accepts(old), new is not None and accepts(new)
            if not after < change.revision <= until or not (had or has):
                continue
            kind = "DELETED" if not has else "MODIFIED" if had else "ADDED"
            obj = new if has else old
            assert obj is not None
            yield shown(kind, obj, change.revision)


def shown(kind: str, obj: Object, revision: int, accepts: Accepts | None = None) -> Seen:
    metadata = obj["metadata"]
    name = f"{metadata['namespace']}/{metadata['name']}"
    hidden = accepts is not None and not accepts(obj)
    return Seen("hidden" if hidden else kind, name, revision, (obj.get("data") or {}).get("k", ""))
