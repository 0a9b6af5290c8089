"""The index: for every key, the revisions at which it changed. Pure; values live in the backend.

A key lives in generations: created by a put, changed by puts, ended by a delete (tombstone). Worked example,
one column a revision:

    revision      2      3      4        5      6      7
    foo          put    put   delete                  put
    generation   ---- first --------                 second...

    get(at=1) none; get(at=2) mod 2, version 1; get(at=3) mod 3, version 2; get(at=4..6) none; get(at=7) mod
    7, created 7, version 1.

    compact(2) changes nothing: 2 is the newest revision that reads at 2 need. compact(3) drops 2. compact(4)
    keeps the tombstone alone, because a watch may start at the compacted revision itself; compact(5) drops
    the generation.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sortedcontainers import SortedDict, SortedSet

from etcdlite.mvcc.revision import Revision, last_of, main_of


class Found(NamedTuple):
    """A key as it was at some revision."""

    key: bytes
    modified: Revision
    created: int  # main revision of the put that began the generation
    version: int


class Life(NamedTuple):
    """What a stored put says of its key's present life."""

    created: int
    version: int


class Generation:
    """One life of a key. Invariant: `revisions` is ascending and not empty; `version` counts the whole life,
    compacted revisions included, so the version at `revisions[i]` follows from the distance to the end.
    """

    __slots__ = ("created", "ended", "revisions", "version")

    def __init__(self, created: int, version: int, first: Revision) -> None:
        self.created = created
        self.version = version
        self.revisions = [first]
        self.ended = False


class KeyIndex:
    """The generations of one key, oldest first. Invariant: all but the last have ended."""

    __slots__ = ("generations", "key")

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.generations: list[Generation] = []

    def put(self, at: Revision) -> tuple[int, int]:
        """Record a put; return the key's create revision and its new version."""
        if not self.generations or self.generations[-1].ended:
            self.generations.append(Generation(main_of(at), 1, at))
            return main_of(at), 1
        generation = self.generations[-1]
        generation.revisions.append(at)
        generation.version += 1
        return generation.created, generation.version

    def restore(self, at: Revision, created: int, version: int) -> None:
        """Record a put read from the database, whose earlier revisions may be compacted."""
        if not self.generations or self.generations[-1].ended:
            self.generations.append(Generation(created, version, at))
            return
        self.put(at)

    def tombstone(self, at: Revision) -> None:
        """End the key's life. A tombstone whose generation is compacted stands alone."""
        if not self.generations or self.generations[-1].ended:
            self.generations.append(Generation(main_of(at), 0, at))
        else:
            self.generations[-1].revisions.append(at)
        self.generations[-1].version += 1
        self.generations[-1].ended = True

    def get(self, at: Revision) -> Found | None:
        """The key as of `at`, None if it did not exist."""
        for generation in reversed(self.generations):
            revisions = generation.revisions
            if revisions[0] > at:
                continue
            if revisions[-1] <= at:
                if generation.ended:
                    return None
                return Found(self.key, revisions[-1], generation.created, generation.version)
            position = bisect_right(revisions, at) - 1
            version = generation.version - (len(revisions) - 1 - position)
            return Found(self.key, revisions[position], generation.created, version)
        return None

    def compact(self, main: int) -> list[tuple[Revision, bool]]:
        """Forget what no read at `main` or later can see; return it as (revision, is tombstone)."""
        dropped: list[tuple[Revision, bool]] = []
        bound = last_of(main)
        while self.generations and self.generations[0].revisions[0] <= bound:
            generation = self.generations[0]
            revisions = generation.revisions
            newest = bisect_right(revisions, bound) - 1
            is_tombstone = generation.ended and newest == len(revisions) - 1
            if is_tombstone and main_of(revisions[newest]) < main:
                dropped += [(each, False) for each in revisions[:-1]]
                dropped.append((revisions[-1], True))
                del self.generations[0]
                continue
            dropped += [(each, False) for each in revisions[:newest]]
            del revisions[:newest]
            break
        return dropped

    @property
    def empty(self) -> bool:
        """Whether nothing is left of the key."""
        return not self.generations


class TreeIndex:
    """All keys, sorted.

    Keys that are dead now are also kept apart, so that counting a range at the newest revision (every page of
    a list asks for it) takes two binary searches instead of a walk.
    """

    def __init__(self) -> None:
        self._keys: SortedDict = SortedDict()
        self._dead: SortedSet = SortedSet()
        self._newest = Revision(0)

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, key: bytes) -> KeyIndex | None:
        """The index of one key, None if it never was (or is wholly compacted)."""
        found: KeyIndex | None = self._keys.get(key)
        return found

    def _touch(self, key: bytes, at: Revision) -> KeyIndex:
        self._newest = at
        found: KeyIndex | None = self._keys.get(key)
        if found is None:
            found = self._keys[key] = KeyIndex(key)
        return found

    def put(self, key: bytes, at: Revision) -> tuple[int, int]:
        """Record a put; return the key's create revision and its new version. Revisions must ascend."""
        self._dead.discard(key)
        return self._touch(key, at).put(at)

    def restore(self, changes: Iterable[tuple[Revision, bytes, Life | None]]) -> None:
        """Fill an empty index with what the database has: ascending revisions, keys, and for a put its life
        so far. Sorting all keys at the end costs a third of inserting each in its place.
        """
        known: dict[bytes, KeyIndex] = {}
        for at, key, life in changes:
            found = known.get(key)
            if found is None:
                found = known[key] = KeyIndex(key)
            if life is None:
                found.tombstone(at)
            else:
                found.restore(at, *life)
            self._newest = at
        self._keys = SortedDict(known)
        self._dead = SortedSet(key for key, found in known.items() if found.generations[-1].ended)

    def tombstone(self, key: bytes, at: Revision) -> None:
        """Record a delete."""
        self._dead.add(key)
        self._touch(key, at).tombstone(at)

    def get(self, key: bytes, at: Revision) -> Found | None:
        """One key as of `at`."""
        found: KeyIndex | None = self._keys.get(key)
        return None if found is None else found.get(at)

    def scan(self, key: bytes, range_end: bytes, at: Revision) -> Iterator[Found]:
        """The keys of a range that existed at `at`, in order. See `in_range` for what `range_end` means."""
        if not range_end:
            found = self.get(key, at)
            if found is not None:
                yield found
            return
        stop = None if range_end == b"\0" else range_end
        if stop is not None and stop <= key:
            return
        keys = self._keys
        for each in keys.irange(key, stop, inclusive=(True, False)):
            found = keys[each].get(at)
            if found is not None:
                yield found

    def count(self, key: bytes, range_end: bytes, at: Revision) -> int:
        """How many keys of a range existed at `at`."""
        if not range_end:
            return int(self.get(key, at) is not None)
        stop = None if range_end == b"\0" else range_end
        if stop is not None and stop <= key:
            return 0
        if at >= self._newest:
            return _span(self._keys, key, stop) - _span(self._dead, key, stop)
        keys, count = self._keys, 0
        for each in keys.irange(key, stop, inclusive=(True, False)):
            known: KeyIndex = keys[each]
            last = known.generations[-1]
            count += not last.ended if last.revisions[-1] <= at else known.get(at) is not None
        return count

    def keys(self) -> list[bytes]:
        """All keys, dead ones included, in order."""
        return list(self._keys)

    def compact_key(self, key: bytes, main: int) -> list[tuple[Revision, bool]]:
        """Compact one key; forget it when nothing is left. A key that is gone already gives nothing."""
        found: KeyIndex | None = self._keys.get(key)
        if found is None:
            return []
        dropped = found.compact(main)
        if found.empty:
            del self._keys[key]
            self._dead.discard(key)
        return dropped


def _span(keys: SortedDict | SortedSet, start: bytes, stop: bytes | None) -> int:
    end: int = len(keys) if stop is None else keys.bisect_left(stop)
    return end - int(keys.bisect_left(start))


def in_range(candidate: bytes, key: bytes, range_end: bytes) -> bool:
    """Whether a key is in [key, range_end): no end is the key alone, one zero byte is no upper bound."""
    if not range_end:
        return candidate == key
    return key <= candidate and (range_end == b"\0" or candidate < range_end)
