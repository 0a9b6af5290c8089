"""The log in memory: everything since the last compaction, and marks for how far each stage has come.

Invariants (checked by the simulation after every step):

    base <= applied <= handed <= committed <= last        base <= stable <= last        handed <= stable

* `base` stands for the compacted prefix; its term is kept for the consistency check of the first append.
* `bytes`: what the entries take in memory, about.
* `stable`: on this member's disk. Entries are handed to the state machine only when they are stable here, so
  the state machine on disk is never ahead of the log on disk.
* Only entries above `committed` are ever replaced (State Machine Safety, Figure 3.2).
"""

from __future__ import annotations

from etcdlite.raft.types import Entry, EntryKind, Index, Term

_ENTRY_BYTES = 150  # what an entry takes beside its data


def _size(entries: list[Entry]) -> int:
    return sum(len(entry.data) for entry in entries) + _ENTRY_BYTES * len(entries)


class LogInvariant(AssertionError):
    """The caller or a peer asked for something Raft rules out; the member must stop."""


class Log:
    """See the module."""

    __slots__ = ("_entries", "applied", "base", "base_term", "bytes", "committed", "handed", "stable")

    def __init__(self, base: Index, base_term: Term, entries: list[Entry], committed: Index, applied: Index):
        if entries and (entries[0].index != base + 1 or entries[-1].index != base + len(entries)):
            raise LogInvariant(f"entries do not follow index {base}")
        self.base, self.base_term = base, base_term
        self._entries = entries
        self.bytes = _size(entries)
        self.committed = max(committed, applied)
        self.applied = self.handed = applied
        self.stable = self.last
        if not base <= applied <= self.committed <= self.last:
            raise LogInvariant(f"base {base}, applied {applied}, committed {committed}, last {self.last}")

    @property
    def last(self) -> Index:
        """Index of the last entry, or of the compacted prefix."""
        return Index(self.base + len(self._entries))

    @property
    def last_term(self) -> Term:
        """Term of the last entry."""
        return self._entries[-1].term if self._entries else self.base_term

    def term(self, index: Index) -> Term | None:
        """Term of the entry at `index`; None if it is compacted or not there."""
        if index == self.base:
            return self.base_term
        if self.base < index <= self.last:
            return self._entries[index - self.base - 1].term
        return None

    def slice(self, low: Index, high: Index, max_bytes: int | None = None) -> list[Entry]:
        """Entries `low` to `high` inclusive; with `max_bytes`, as many as fit, but at least one."""
        if low <= self.base:
            raise LogInvariant(f"entry {low} is compacted (base {self.base})")
        found = self._entries[low - self.base - 1 : high - self.base]
        if max_bytes is None:
            return found
        size = 0
        for count, entry in enumerate(found):
            size += len(entry.data)
            if count and size > max_bytes:
                return found[:count]
        return found

    def is_up_to_date(self, index: Index, term: Term) -> bool:
        """Whether a log ending with (`index`, `term`) may lead this one (section 3.6.1)."""
        return (term, index) >= (self.last_term, self.last)

    def append(self, entries: list[Entry]) -> None:
        """Put `entries` after the entry before the first of them, dropping what was there."""
        first = entries[0].index
        if first <= self.committed:
            raise LogInvariant(f"entry {first} would replace a committed one (committed {self.committed})")
        if first > self.last + 1:
            raise LogInvariant(f"entry {first} would leave a hole after {self.last}")
        if first <= self.last:
            self.bytes -= _size(self._entries[first - self.base - 1 :])
            del self._entries[first - self.base - 1 :]
            self.stable = min(self.stable, Index(first - 1))
        self._entries.extend(entries)
        self.bytes += _size(entries)

    def maybe_append(self, prev_index: Index, prev_term: Term, entries: list[Entry]) -> Index | None:
        """AppendEntries, receiver steps 2 to 4 (Figure 3.1): index of the last new entry; None if refused."""
        if self.term(prev_index) != prev_term:
            return None
        for position, entry in enumerate(entries):
            if self.term(entry.index) != entry.term:
                self.append(entries[position:] if position else entries)
                break
        return Index(prev_index + len(entries))

    def agreement_hint(self, index: Index, term: Term) -> tuple[Index, Term]:
        """The last place at or below `index` whose term is at most `term`: where two logs may still agree."""
        index = min(index, self.last)
        while index > self.base:
            found = self._entries[index - self.base - 1].term
            if found <= term:
                return index, found
            index = Index(index - 1)
        return index, self.base_term if index == self.base else Term(0)

    def commit_to(self, index: Index) -> bool:
        """Raise `committed`; it never falls. Returns whether it rose."""
        if index <= self.committed:
            return False
        if index > self.last:
            raise LogInvariant(f"commit {index} is beyond the last entry {self.last}: was the log truncated?")
        self.committed = index
        return True

    def unstable(self) -> list[Entry]:
        """Entries not yet on disk."""
        return self._entries[self.stable - self.base :]

    def stable_to(self, index: Index, term: Term) -> None:
        """Entries up to (`index`, `term`) are on disk. Ignored if that entry has been replaced meanwhile."""
        if index > self.stable and self.term(index) == term:
            self.stable = index

    def next_committed(self, max_bytes: int) -> list[Entry]:
        """Entries to apply now; the same are not given twice."""
        high = min(self.committed, self.stable)
        if high <= self.handed:
            return []
        found = self.slice(Index(self.handed + 1), high, max_bytes)
        self.handed = found[-1].index
        return found

    def applied_to(self, index: Index) -> None:
        """The state machine has applied everything up to `index`."""
        if not self.applied <= index <= self.handed:
            raise LogInvariant(f"applied {index} is not within {self.applied} to {self.handed}")
        self.applied = index

    def bounded(self, index: Index, max_bytes: int) -> Index:
        """The lowest index from `index` on such that the entries above it hold at most `max_bytes`."""
        size = self.bytes - _size(self._entries[: max(index - self.base, 0)])
        while size > max_bytes and index < self.last:
            index = Index(index + 1)
            size -= len(self._entries[index - self.base - 1].data) + _ENTRY_BYTES
        return index

    def first_of_last_term(self) -> Index:
        """Index of the first entry that has the term of the last; `base` if that is compacted."""
        index, term = self.last, self.last_term
        while index > self.base and self.term(Index(index - 1)) == term:
            index = Index(index - 1)
        return index

    def has_conf_change(self, low: Index, high: Index) -> bool:
        """Whether a membership change lies in `low` to `high` inclusive."""
        low = max(low, Index(self.base + 1))
        return any(e.kind is EntryKind.CONF_CHANGE for e in self.slice(low, high)) if low <= high else False

    def compact(self, index: Index) -> None:
        """Forget entries up to `index`, which must be applied."""
        if index > self.applied:
            raise LogInvariant(f"cannot compact to {index}, only {self.applied} is applied")
        if index > self.base:
            term = self._entries[index - self.base - 1].term
            self.bytes -= _size(self._entries[: index - self.base])
            del self._entries[: index - self.base]
            self.base, self.base_term = index, term

    def restore(self, index: Index, term: Term) -> None:
        """Replace the whole log by a snapshot."""
        self._entries, self.bytes = [], 0
        self.base, self.base_term = index, term
        self.committed = self.applied = self.handed = self.stable = index
