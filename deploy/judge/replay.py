"""Every state a store went through, rebuilt from its log."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace

from deploy.judge.history import Event
from deploy.judge.model import Changes, KeyValue, covers
from deploy.judge.violation import Violation, say_value


class Replay:
    """The states after each revision. `violations` is what the log says that cannot be.

    Creation revisions and versions that the log does not give are filled in, so a log of bare values will do.
    """

    def __init__(self, base: int, initial: Iterable[KeyValue], log: Iterable[Event]) -> None:
        self.base = base
        self.violations: list[Violation] = []
        self._revisions: dict[str, list[int]] = {}
        self._values: dict[str, list[KeyValue | None]] = {}
        self._changes: dict[int, dict[str, KeyValue | None]] = {}
        for found in initial:
            self._append(base, found.key, found)
        for event in sorted(log, key=lambda event: event.revision):
            self._add(event)
        self._keys = sorted(self._revisions)
        self.revisions: Sequence[int] = sorted(self._changes)  # of all changes

    def _append(self, revision: int, key: str, value: KeyValue | None) -> None:
        self._revisions.setdefault(key, []).append(revision)
        self._values.setdefault(key, []).append(value)

    def _add(self, event: Event) -> None:
        changes = self._changes.setdefault(event.revision, {})
        if event.key in changes:
            self._reject(event, "the key changes twice in one revision")
            return
        old = (self._values.get(event.key) or [None])[-1]
        if event.previous is not None and (old is None or not event.previous.agrees(old)):
            self._reject(event, f"previous value {say_value(event.previous)}, but it was {say_value(old)}")
        value = None if event.value is None else self._complete(event, event.value, old)
        if value is None and old is None:
            self._reject(event, "a key is deleted that does not exist")
        changes[event.key] = value
        self._append(event.revision, event.key, value)

    def _complete(self, event: Event, value: KeyValue, old: KeyValue | None) -> KeyValue:
        version = 1 if old is None else None if old.version is None else old.version + 1
        truth = KeyValue(
            event.key,
            value.value,
            event.revision if old is None else old.create,
            event.revision,
            version,
            value.lease,
        )
        if not value.agrees(truth):
            self._reject(event, f"{say_value(value)} must be {say_value(truth)}")
        return replace(truth, version=value.version if version is None else version)

    def _reject(self, event: Event, what: str) -> None:
        self.violations.append(Violation("log", f"revision {event.revision}, key {event.key}: {what}"))

    @property
    def last(self) -> int:
        return self.revisions[-1] if self.revisions else self.base

    def changes(self, revision: int) -> Changes:
        """What changed with a revision (nothing, if it is not in the log)."""
        return self._changes.get(revision, {})

    def at(self, revision: int) -> State:
        """The state after a revision."""
        return State(self, revision)

    def value(self, key: str, revision: int) -> KeyValue | None:
        """A key as it stood after a revision."""
        revisions = self._revisions.get(key)
        position = bisect_right(revisions, revision) if revisions else 0
        return self._values[key][position - 1] if position else None

    def keys(self, key: str, end: str) -> list[str]:
        """All keys of a range that ever were, sorted."""
        if not end:
            return [key]
        first = bisect_left(self._keys, key)
        last = len(self._keys) if end == "\0" else bisect_left(self._keys, end)
        return self._keys[first:last]

    def events(self, key: str, end: str, after: int, until: int) -> list[tuple[int, str, KeyValue | None]]:
        """The changes of a range with revisions in (after, until], in order."""
        return [
            (revision, name, value)
            for revision in self.revisions[
                bisect_right(self.revisions, after) : bisect_right(self.revisions, until)
            ]
            for name, value in sorted(self._changes[revision].items())
            if covers(key, end, name)
        ]


class State:
    """The `View` after one revision."""

    def __init__(self, replay: Replay, revision: int) -> None:
        self._replay = replay
        self.revision = revision

    def lookup(self, key: str) -> KeyValue | None:
        return self._replay.value(key, self.revision)

    def within(self, key: str, end: str) -> list[KeyValue]:
        found = (self.lookup(one) for one in self._replay.keys(key, end))
        return [value for value in found if value is not None]

    def leased(self, lease: int) -> list[KeyValue]:
        return [value for value in self.within("", "\0") if value.lease == lease]

    def past(self, revision: int) -> State:
        return State(self._replay, revision)
