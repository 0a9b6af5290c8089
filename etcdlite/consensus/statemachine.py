"""What consensus needs from the state it replicates. The MVCC store implements it; in tests, a list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(slots=True)
class Entry:
    """One committed log entry as the state machine sees it.

    `data` is what was given to `propose`. It is empty for entries that only consensus understands (a leader's
    first entry, membership changes): those just move `applied_index`.
    """

    index: int
    term: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SnapshotSource:
    """A consistent copy of the state after entry `index` (of term `term`), read lazily.

    The chunks may be pulled in another thread, one at a time, while newer entries are applied. `close()` of
    the iterator (it should be a generator) gives the resources back; it is always called.
    """

    index: int
    term: int
    chunks: Iterator[bytes]


class StateMachine(Protocol):
    """State that is a function of the log. All but `SnapshotSource.chunks` runs on the loop's thread."""

    @property
    def applied_index(self) -> int:
        """Index of the last applied entry, stored together with the data it produced."""

    @property
    def durable_index(self) -> int:
        """Everything up to here survives a crash. The log keeps all entries above it."""

    def apply(self, entries: Sequence[Entry]) -> None:
        """Apply `entries`, which are contiguous and ordered.

        Entries at or below `applied_index` have been applied before a restart and must be skipped. An
        exception stops the member: replicas that disagree are worse than one that is down.
        """

    def snapshot_reader(self) -> SnapshotSource:
        """Open the current state (at `applied_index`) for sending it to another member."""

    def install_snapshot(self, index: int, term: int, chunks: Iterator[bytes]) -> None:
        """Replace everything by the state in `chunks`; durable when this returns.

        A crash halfway must leave either the old state or an `applied_index` below `index`: consensus then
        installs the same snapshot again at the next start.
        """
