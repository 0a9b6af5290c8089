"""What the apiserver needs of a store, whichever it is.

Values that cross this interface are the encoded object *without* `metadata.resourceVersion`, as in
Kubernetes' own key layout; the revision that last wrote the key stands beside it and becomes the
resourceVersion.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

PREFIX = "/registry/"


class StorageError(Exception):
    """Root of what a store raises. The registry maps each leaf to one API status."""


class KeyExists(StorageError):
    """create(): the key is there already."""


class RevisionMismatch(StorageError):
    """A compare-and-swap lost: the key changed since it was read. `current` is what stands there now."""

    def __init__(self, current: Stored | None) -> None:
        super().__init__("revision mismatch")
        self.current = current


class Compacted(StorageError):
    """The asked-for revision is no longer kept."""

    def __init__(self, revision: int) -> None:
        super().__init__(f"revision {revision} has been compacted")
        self.revision = revision


class FutureRevision(StorageError):
    """The asked-for revision does not exist yet."""


class Unavailable(StorageError):
    """No member answered in time; nothing was changed."""


class WriteOutcomeUnknown(StorageError):
    """A write was sent, and whether it took effect could not be found out within the deadline."""


class Undecodable(StorageError):
    """A value could not be decrypted with the configured keys."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One key's state. `revision` is the store revision of its last write."""

    key: str
    value: bytes
    revision: int


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a range read at `revision`. `count` is the size of the whole range from the page's start."""

    items: Sequence[Stored]
    revision: int
    count: int

    @property
    def more(self) -> bool:
        return self.count > len(self.items)


@dataclass(frozen=True, slots=True)
class Change:
    """One event of the store's history; `value` is None for a deletion."""

    key: str
    value: bytes | None
    revision: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Every change up to `revision` that was not in an earlier batch (none: a progress report)."""

    revision: int
    changes: Sequence[Change] = field(default_factory=tuple)


class Store(Protocol):
    """Linearizable reads, compare-and-swap writes, and an ordered history.

    Raises (all methods): Unavailable. Reads at a revision: Compacted, FutureRevision. Writes:
    WriteOutcomeUnknown.
    """

    async def current_revision(self) -> int:
        """A revision at least as new as any write acknowledged before this call."""

    async def get(self, key: str, *, revision: int = 0) -> tuple[Stored | None, int]:
        """The key (None when absent) and the revision it was read at."""

    async def is_stale(self, key: str) -> bool:
        """Whether what is stored under a key would be written in another way today (an encryption key was
        rotated): then an update that changes nothing is written all the same.
        """
        ...

    async def list(self, prefix: str, *, start: str = "", limit: int = 0, revision: int = 0) -> Page:
        """Keys below `prefix` in order, from `start` (inclusive) on."""

    async def create(self, key: str, value: bytes, *, ttl: int = 0) -> Stored:
        """Write a key that must be absent (KeyExists). `ttl` in seconds, 0 for ever."""

    async def update(self, key: str, value: bytes, expected: int, *, ttl: int = 0) -> Stored:
        """Replace a key that must still be at revision `expected` (RevisionMismatch)."""

    async def delete(self, key: str, expected: int) -> int:
        """Remove a key that must still be at revision `expected`; returns the revision of the removal."""

    def watch(self, start: int) -> AsyncIterator[Batch]:
        """All changes below the prefix from revision `start` on, in order, for ever (Compacted)."""
