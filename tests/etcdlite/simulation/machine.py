"""A state machine for the simulation: the list of everything applied, which survives a crash only up to a
point.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence

from etcdlite.consensus.statemachine import Entry, SnapshotSource


class SimMachine:
    """Remembers all entries, so that any two machines can be compared entry by entry.

    Like a database that syncs now and then: a crash throws it back to some point since the last sync.
    """

    def __init__(self, rng: random.Random, on_apply: Callable[[Entry], None]) -> None:
        self.history: list[tuple[int, int, bytes]] = []
        self.durable_index = self.installed = 0
        self._rng, self.on_apply = rng, on_apply

    @property
    def applied_index(self) -> int:
        """Index of the last entry."""
        return self.history[-1][0] if self.history else 0

    def apply(self, entries: Sequence[Entry]) -> None:
        """Append, skipping what is known."""
        for entry in entries:
            if entry.index <= self.applied_index:
                continue
            assert entry.index == self.applied_index + 1, "a hole in what is applied"
            self.history.append((entry.index, entry.term, entry.data))
            self.on_apply(entry)
        if self._rng.random() < 0.2:
            self.durable_index = self.applied_index

    def crash(self) -> None:
        """Back to some moment since the last sync."""
        del self.history[self._rng.randint(self.durable_index, self.applied_index) :]

    def snapshot_reader(self) -> SnapshotSource:
        """The history as JSON, in small chunks."""
        index, term, _ = self.history[-1]
        data = json.dumps([(i, t, d.decode("latin1")) for i, t, d in self.history]).encode()
        return SnapshotSource(index, term, (data[n : n + 1000] for n in range(0, len(data), 1000)))

    def install_snapshot(self, index: int, term: int, chunks: Iterator[bytes]) -> None:
        """Take the history of another."""
        history = [(i, t, d.encode("latin1")) for i, t, d in json.loads(b"".join(chunks))]
        assert history[-1][:2] == (index, term)
        self.history, self.durable_index = history, index
        self.installed += 1
