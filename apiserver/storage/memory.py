"""A store in memory with the semantics of the real one: the fake that the registry's tests run on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sortedcontainers import SortedDict

from apiserver.storage.interface import (
    PREFIX,
    Batch,
    Change,
    Compacted,
    FutureRevision,
    KeyExists,
    Page,
    RevisionMismatch,
    Stored,
    Unavailable,
)


class MemoryStore:
    """Keeps the whole history as a list of changes; a read at a revision replays it."""

    def __init__(self) -> None:
        self.revision = 1
        self.available = True
        self._compacted = 0
        self._history: list[Change] = []
        self._now: SortedDict = SortedDict()
        self._changed = asyncio.Event()

    async def current_revision(self) -> int:
        self._check()
        return self.revision

    async def get(self, key: str, *, revision: int = 0) -> tuple[Stored | None, int]:
        self._check()
        state = self._at(revision)
        return state.get(key), revision or self.revision

    async def is_stale(self, key: str) -> bool:
        return False

    async def list(self, prefix: str, *, start: str = "", limit: int = 0, revision: int = 0) -> Page:
        self._check()
        state = self._at(revision)
        found = [state[key] for key in state.irange(start or prefix) if key.startswith(prefix)]
        return Page(found[:limit] if limit else found, revision or self.revision, len(found))

    async def create(self, key: str, value: bytes, *, ttl: int = 0) -> Stored:
        self._check()
        if key in self._now:
            raise KeyExists(key)
        return self._write(key, value)

    async def update(self, key: str, value: bytes, expected: int, *, ttl: int = 0) -> Stored:
        self._expect(key, expected)
        return self._write(key, value)

    async def delete(self, key: str, expected: int) -> int:
        self._expect(key, expected)
        self.revision += 1
        del self._now[key]
        self._record(Change(key, None, self.revision))
        return self.revision

    async def watch(self, start: int) -> AsyncIterator[Batch]:
        if start <= self._compacted:
            raise Compacted(start)
        position = next((i for i, c in enumerate(self._history) if c.revision >= start), len(self._history))
        while True:
            fresh = self._history[position:]
            position = len(self._history)
            changed = self._changed
            if fresh:
                yield Batch(fresh[-1].revision, fresh)
            else:
                await changed.wait()

    def compact(self, revision: int) -> None:
        """Forget history up to `revision`; reads and watches below it raise Compacted."""
        self._compacted = revision

    def bump(self) -> None:
        """Advance the revision as a write outside the prefix would, with the progress report that follows."""
        self.revision += 1
        self._record(Change("/other", b"", self.revision))

    def _check(self) -> None:
        if not self.available:
            raise Unavailable("the store is not available")

    def _expect(self, key: str, expected: int) -> None:
        self._check()
        current = self._now.get(key)
        if current is None or current.revision != expected:
            raise RevisionMismatch(current)

    def _write(self, key: str, value: bytes) -> Stored:
        self.revision += 1
        stored = Stored(key, value, self.revision)
        self._now[key] = stored
        self._record(Change(key, value, self.revision))
        return stored

    def _record(self, change: Change) -> None:
        self._history.append(change)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _at(self, revision: int) -> SortedDict:
        if not revision or revision == self.revision:
            return self._now
        if revision > self.revision:
            raise FutureRevision(str(revision))
        if revision < self._compacted:
            raise Compacted(revision)
        state: SortedDict = SortedDict()
        for change in self._history:
            if change.revision > revision:
                break
            if change.value is None:
                state.pop(change.key, None)
            elif change.key.startswith(PREFIX):
                state[change.key] = Stored(change.key, change.value, change.revision)
        return state
