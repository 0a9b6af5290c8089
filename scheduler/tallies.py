"""Counts of pods per topology domain, kept while pods come and go.

Inter-pod affinity and topology spread both ask "how many pods that this term selects are in the domain of
each node?". A `Tally` answers with one array lookup: `sums` by label value, kept current by every pod change,
read through the column of label ids. A `TermTable` does the same for terms that placed pods carry themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from scheduler.podinfo import PodInfo, PodTerm

if TYPE_CHECKING:
    from scheduler.columns import LabelColumn

Mask = NDArray[np.bool_]
Ids = NDArray[np.int32]
Eligible = Callable[[], Mask]
ABSENT = 0
MAX_KNOWN = 4096  # answers remembered per kind of pod


class Tally:
    """Pods by row and by domain of one topology key. With `eligible`, only those rows count in the sums.

    Invariant: `sums[id]` is the sum of `counts` over the eligible rows whose label has that id, and
    `sums[ABSENT]` is 0, so that rows without the label read 0. `shape` is the version of the node set for
    which that holds.
    """

    def __init__(
        self, terms: tuple[PodTerm, ...], column: LabelColumn, eligible: Eligible | None = None
    ) -> None:
        self.terms = terms
        self.column = column
        self.counts: Ids = np.zeros(len(column.ids), dtype=np.int32)
        self.total = 0
        self.domains: Ids = np.zeros(0, dtype=np.int32)
        self._eligible = eligible
        self._mask: Mask | None = None
        self._sums: Ids = np.zeros(0, dtype=np.int32)
        self._shape = -1

    def add(self, row: int, sign: int) -> None:
        self.counts[row] += sign
        self.total += sign
        index = self.column.ids[row]
        if index >= len(self._sums) or not index:
            return  # a value that came after the sums were made: the shape moved, and they will be made anew
        if self._mask is None or (row < len(self._mask) and self._mask[row]):
            self._sums[index] += sign

    def grow(self, by: int) -> None:
        self.counts = np.pad(self.counts, (0, by))

    def sums(self, shape: int) -> Ids:
        """Pods by label id, for the node set of that version."""
        if self._shape != shape:
            self._rebuild()
            self._shape = shape
        return self._sums

    def _rebuild(self) -> None:
        ids, counts = self.column.ids, self.counts
        self._mask = None
        if self._eligible is not None:
            self._mask = self._eligible()
            top = len(self._mask)
            ids, counts = ids[:top], np.where(self._mask, counts[:top], 0)
            present = np.zeros(len(self.column.values), dtype=np.bool_)
            present[ids[self._mask]] = True
            present[ABSENT] = False
            self.domains = np.flatnonzero(present).astype(np.int32)
        size = len(self.column.values)
        self._sums = np.bincount(ids, weights=counts, minlength=size).astype(np.int32)
        self._sums[ABSENT] = 0


class TermTable:
    """Terms that placed pods own: per (weight, term) how many owners each domain holds."""

    def __init__(self) -> None:
        self.tallies: dict[tuple[int, PodTerm], Tally] = {}
        self._selecting: dict[Hashable, list[tuple[int, PodTerm, Tally]]] = {}

    def bump(self, weight: int, term: PodTerm, column: LabelColumn, row: int, sign: int) -> None:
        tally = self.tallies.get((weight, term))
        if tally is None:
            tally = self.tallies[weight, term] = Tally((term,), column)
            self._selecting.clear()
        tally.add(row, sign)
        if not tally.total:
            del self.tallies[weight, term]
            self._selecting.clear()

    def selecting(
        self, pod: PodInfo, selects: Callable[[PodTerm, PodInfo], bool]
    ) -> list[tuple[int, PodTerm, Tally]]:
        """The terms that speak of this pod; remembered per kind of pod until the set of terms changes."""
        if not self.tallies:
            return []
        found = self._selecting.get(pod.signature)
        if found is None:
            if len(self._selecting) >= MAX_KNOWN:
                self._selecting.clear()
            found = [(w, term, tally) for (w, term), tally in self.tallies.items() if selects(term, pod)]
            self._selecting[pod.signature] = found
        return found

    def forget_answers(self) -> None:
        """What selects what may have changed (namespace labels)."""
        self._selecting.clear()
