"""The nodes as columns: one row a node, one numpy array an attribute, kept up to date as nodes and pods come
and go.

A pod is compared with all nodes at once, so a decision costs a few array operations rather than a loop over
nodes. Strings are interned: a label key is a column of small integers (the value's id, -1 where the node
lacks the label), a node's set of taints is one id. Rows are reused; `live` says which ones hold a node.

Invariant: every mutation goes through `set_node`, `remove_node`, `add_pod`, `remove_pod` and
`set_namespace_labels`, and each leaves all columns and counters consistent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.podinfo import CPU, EPHEMERAL, MEMORY, PODS, HostPort, PodInfo, PodTerm, amount

Object = dict[str, Any]
Mask = NDArray[np.bool_]
Ints = NDArray[np.int64]
Ids = NDArray[np.int32]

ABSENT = -1
HARD_AFFINITY_WEIGHT = (
    1  # what a placed pod's required affinity adds to a score (hardPodAffinityWeight's default)
)
_FIRST_ROWS = 16
_FIRST_RESOURCES = (CPU, MEMORY, EPHEMERAL, PODS)


@dataclass(frozen=True, slots=True)
class Taint:
    """One node taint (core/v1)."""

    key: str
    value: str
    effect: str


class LabelColumn:
    """One label key over all nodes: `ids[row]` names the value, `values[id]` spells it."""

    def __init__(self, rows: int) -> None:
        self.ids: Ids = np.full(rows, ABSENT, dtype=np.int32)
        self.values: list[str] = []
        self._known: dict[str, int] = {}

    def intern(self, value: str) -> int:
        found = self._known.get(value)
        if found is None:
            found = self._known[value] = len(self.values)
            self.values.append(value)
        return found

    def id_of(self, value: str) -> int:
        """The id of a value, or -2 (which no row has) when no node ever had it."""
        return self._known.get(value, -2)


@dataclass(slots=True)
class TermCount:
    """How many pods on each node a term selects; made when first asked for, then kept by every pod change."""

    term: PodTerm
    counts: Ints


@dataclass(slots=True)
class Placed:
    """A pod that occupies a node (bound, or assumed to be)."""

    info: PodInfo
    row: int


@dataclass(slots=True)
class _Images:
    sizes: dict[str, int] = field(default_factory=dict)
    rows: dict[str, set[int]] = field(default_factory=dict)


class Columns:
    """All nodes and what is placed on them."""

    def __init__(self) -> None:
        self.names: list[str] = [""] * _FIRST_ROWS
        self.row_of: dict[str, int] = {}
        self.live: Mask = np.zeros(_FIRST_ROWS, dtype=np.bool_)
        self.unschedulable: Mask = np.zeros(_FIRST_ROWS, dtype=np.bool_)
        self.resources: dict[str, int] = {name: i for i, name in enumerate(_FIRST_RESOURCES)}
        self.allocatable: Ints = np.zeros((len(_FIRST_RESOURCES), _FIRST_ROWS), dtype=np.int64)
        self.requested: Ints = np.zeros((len(_FIRST_RESOURCES), _FIRST_ROWS), dtype=np.int64)
        self.scoring: Ints = np.zeros((2, _FIRST_ROWS), dtype=np.int64)
        self.taint_set: Ids = np.zeros(_FIRST_ROWS, dtype=np.int32)
        self.taint_sets: list[tuple[Taint, ...]] = [()]
        self._taint_ids: dict[tuple[Taint, ...], int] = {(): 0}
        self.labels: dict[str, LabelColumn] = {}
        self.images = _Images()
        self.ports: dict[int, Counter[HostPort]] = {}
        self.pods: dict[str, Placed] = {}
        self.pods_on: dict[int, dict[str, PodInfo]] = {}
        self.anti_affinity: dict[PodTerm, Ints] = {}  # required terms of placed pods, counted by row
        self.weighted_terms: dict[tuple[int, PodTerm], Ints] = {}  # soft terms; weight < 0 for anti-affinity
        self._term_counts: dict[PodTerm, TermCount] = {}
        self._waiting: dict[str, dict[str, PodInfo]] = {}  # pods bound to a node not seen yet
        self.namespace_labels: dict[str, Mapping[str, str]] = {}
        self._free: list[int] = list(range(_FIRST_ROWS - 1, -1, -1))

    # -- nodes ----------------------------------------------------------------------------------------------

    @property
    def node_count(self) -> int:
        return len(self.row_of)

    def live_rows(self) -> NDArray[np.intp]:
        return np.flatnonzero(self.live)

    def set_node(self, node: Object) -> None:
        """Add a node or bring its row up to date."""
        name = node["metadata"]["name"]
        row = self.row_of.get(name)
        is_new = row is None
        if row is None:
            if not self._free:
                self._grow_rows()
            row = self._free.pop()
            self.row_of[name], self.names[row] = row, name
            self.pods_on[row] = {}
        self.live[row] = True
        spec, status = node.get("spec") or {}, node.get("status") or {}
        self.unschedulable[row] = bool(spec.get("unschedulable"))
        self.taint_set[row] = self._intern_taints(spec.get("taints") or ())
        self._set_allocatable(row, status.get("allocatable") or {})
        self._set_labels(row, node["metadata"].get("labels") or {})
        self._set_images(row, status.get("images") or ())
        if is_new:
            for info in self._waiting.pop(name, {}).values():
                self.add_pod(info, name)

    def remove_node(self, name: str) -> None:
        """Take a node away; pods bound to it wait for its return."""
        row = self.row_of.pop(name, None)
        if row is None:
            return
        for info in list(self.pods_on[row].values()):
            self.remove_pod(info.key)
            self._waiting.setdefault(name, {})[info.key] = info
        self.live[row] = False
        self.names[row] = ""
        self.allocatable[:, row] = 0
        self._set_labels(row, {})
        self._set_images(row, ())
        del self.pods_on[row]
        self._free.append(row)

    def _set_allocatable(self, row: int, allocatable: Mapping[str, Any]) -> None:
        self.allocatable[:, row] = 0
        for resource, text in allocatable.items():
            index = self.resource_row(resource)  # first: it may put a longer array in place
            self.allocatable[index, row] = amount(resource, str(text))

    def _set_labels(self, row: int, labels: Mapping[str, str]) -> None:
        for column in self.labels.values():
            column.ids[row] = ABSENT
        for key, value in labels.items():
            column = self.label_column(key)
            column.ids[row] = column.intern(value)

    def _set_images(self, row: int, images: Iterable[Object]) -> None:
        for rows in self.images.rows.values():
            rows.discard(row)
        for image in images:
            for name in image.get("names") or ():
                self.images.sizes[name] = int(image.get("sizeBytes", 0))
                self.images.rows.setdefault(name, set()).add(row)

    def _intern_taints(self, taints: Iterable[Object]) -> int:
        key = tuple(Taint(taint["key"], taint.get("value", ""), taint["effect"]) for taint in taints)
        found = self._taint_ids.get(key)
        if found is None:
            found = self._taint_ids[key] = len(self.taint_sets)
            self.taint_sets.append(key)
        return found

    def label_column(self, key: str) -> LabelColumn:
        column = self.labels.get(key)
        if column is None:
            column = self.labels[key] = LabelColumn(len(self.live))
        return column

    def resource_row(self, resource: str) -> int:
        """The row of `allocatable` and `requested` that counts this resource; made when first named."""
        found = self.resources.get(resource)
        if found is None:
            found = self.resources[resource] = len(self.resources)
            line = np.zeros((1, len(self.live)), dtype=np.int64)
            self.allocatable = np.concatenate((self.allocatable, line))
            self.requested = np.concatenate((self.requested, line.copy()))
        return found

    def _grow_rows(self) -> None:
        old = len(self.live)
        self.names += [""] * old
        self.live = np.pad(self.live, (0, old))
        self.unschedulable = np.pad(self.unschedulable, (0, old))
        self.allocatable = np.pad(self.allocatable, ((0, 0), (0, old)))
        self.requested = np.pad(self.requested, ((0, 0), (0, old)))
        self.scoring = np.pad(self.scoring, ((0, 0), (0, old)))
        self.taint_set = np.pad(self.taint_set, (0, old))
        for column in self.labels.values():
            column.ids = np.pad(column.ids, (0, old), constant_values=ABSENT)
        for count in self._term_counts.values():
            count.counts = np.pad(count.counts, (0, old))
        self.anti_affinity = {term: np.pad(line, (0, old)) for term, line in self.anti_affinity.items()}
        self.weighted_terms = {term: np.pad(line, (0, old)) for term, line in self.weighted_terms.items()}
        self._free.extend(range(2 * old - 1, old - 1, -1))

    # -- pods -----------------------------------------------------------------------------------------------

    def add_pod(self, info: PodInfo, node: str) -> None:
        """Count a pod on its node, replacing what was known of the same pod."""
        if info.key in self.pods:
            self.remove_pod(info.key)
        row = self.row_of.get(node)
        if row is None:
            self._waiting.setdefault(node, {})[info.key] = info
            return
        self.pods[info.key] = Placed(info, row)
        self.pods_on[row][info.key] = info
        self._account(info, row, 1)

    def remove_pod(self, key: str) -> None:
        placed = self.pods.pop(key, None)
        if placed is None:
            for waiting in self._waiting.values():
                waiting.pop(key, None)
            return
        del self.pods_on[placed.row][key]
        self._account(placed.info, placed.row, -1)

    def _account(self, info: PodInfo, row: int, sign: int) -> None:
        for resource, value in info.requests.items():
            index = self.resource_row(resource)
            self.requested[index, row] += sign * value
        self.requested[self.resources[PODS], row] += sign
        self.scoring[0, row] += sign * info.scoring_cpu
        self.scoring[1, row] += sign * info.scoring_memory
        if info.host_ports:
            self.ports.setdefault(row, Counter()).update(dict.fromkeys(info.host_ports, sign))
            self.ports[row] += Counter()  # drops what reached zero
        for count in self._term_counts.values():
            if self.selects(count.term, info):
                count.counts[row] += sign
        for term in info.anti_affinity:
            self._bump(self.anti_affinity, term, row, sign)
        for term in info.affinity:
            self._bump(self.weighted_terms, (HARD_AFFINITY_WEIGHT, term), row, sign)
        for weight, term in info.preferred_affinity:
            self._bump(self.weighted_terms, (weight, term), row, sign)
        for weight, term in info.preferred_anti_affinity:
            self._bump(self.weighted_terms, (-weight, term), row, sign)

    def _bump(self, table: dict[Any, Ints], key: Any, row: int, sign: int) -> None:
        line = table.get(key)
        if line is None:
            line = table[key] = np.zeros(len(self.live), dtype=np.int64)
        line[row] += sign
        if sign < 0 and not line.any():
            del table[key]

    # -- pods by term ---------------------------------------------------------------------------------------

    def selects(self, term: PodTerm, info: PodInfo) -> bool:
        """Whether a placed pod is one that the term speaks of."""
        labels = self.namespace_labels.get(info.namespace, {})
        return term.covers(info.namespace, labels) and term.selector.matches(info.labels)

    def term_counts(self, term: PodTerm) -> Ints:
        """Pods selected by a term, by row. The topology key plays no part, but shares the cache's key."""
        known = self._term_counts.get(term)
        if known is None:
            counts = np.zeros(len(self.live), dtype=np.int64)
            for placed in self.pods.values():
                if self.selects(term, placed.info):
                    counts[placed.row] += 1
            if len(self._term_counts) >= 1024:  # a bound: terms of pods long gone must not pile up
                self._term_counts.pop(next(iter(self._term_counts)))
            known = self._term_counts[term] = TermCount(term, counts)
        return known.counts

    def joint_counts(self, terms: Sequence[PodTerm]) -> Ints:
        """Pods selected by every one of several terms, by row."""
        counts = np.zeros(len(self.live), dtype=np.int64)
        for placed in self.pods.values():
            if all(self.selects(term, placed.info) for term in terms):
                counts[placed.row] += 1
        return counts

    def by_domain(self, counts: Ints, topology_key: str) -> Ints:
        """Sum counts over each topology domain and give every row its domain's sum (0 without the label)."""
        ids = self.label_column(topology_key).ids
        present = ids >= 0
        if not present.any():
            return np.zeros(len(ids), dtype=np.int64)
        sums = np.bincount(ids[present], weights=counts[present]).astype(np.int64)
        out = np.zeros(len(ids), dtype=np.int64)
        out[present] = sums[ids[present]]
        return out

    def set_namespace_labels(self, namespace: str, labels: Mapping[str, str] | None) -> None:
        """Namespace labels feed namespace selectors; a change makes the counts be taken anew."""
        if labels is None:
            self.namespace_labels.pop(namespace, None)
        elif self.namespace_labels.get(namespace) == labels:
            return
        else:
            self.namespace_labels[namespace] = labels
        self._term_counts.clear()
