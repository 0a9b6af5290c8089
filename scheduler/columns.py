"""The nodes as columns: one row a node, one numpy array an attribute, kept up to date as nodes and pods come
and go.

A pod is compared with all nodes at once, so a decision costs a few array operations rather than a loop over
nodes. Strings are interned: a label key is a column of small integers (the value's id, ABSENT where the node
lacks the label), a node's set of taints is one id. Rows are reused, the lowest first: rows `[:top]` hold all
nodes, and `live` says which of them do.

Invariants: every mutation goes through `set_node`, `remove_node`, `add_pod`, `remove_pod` and
`set_namespace_labels`, and each leaves all columns and counters consistent. Whatever changes a row is noted
in `journal`; whatever changes which rows exist, their labels or their taints moves `shape`.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.budgets import Budget
from scheduler.podinfo import CPU, EPHEMERAL, MEMORY, PODS, HostPort, PodInfo, PodTerm, amount
from scheduler.tallies import ABSENT, MAX_KNOWN, Eligible, Ids, Mask, Tally, TermTable
from scheduler.volumes import Volumes
from scheduler.workloads import Workloads

Object = dict[str, Any]
Ints = NDArray[np.int64]
Rows = NDArray[np.intp] | slice

_FIRST_ROWS = 16
_FIRST_RESOURCES = (CPU, MEMORY, EPHEMERAL, PODS)
_MAX_TALLIES = 1024  # a bound: terms of pods long gone must not pile up
_JOURNAL = 4096


@dataclass(frozen=True, slots=True)
class Taint:
    """One node taint (core/v1)."""

    key: str
    value: str
    effect: str


class LabelColumn:
    """One label key over all nodes: `ids[row]` names the value, `values[id]` spells it."""

    def __init__(self, rows: int) -> None:
        self.ids: Ids = np.zeros(rows, dtype=np.int32)
        self.values: list[str] = [""]  # the place of ABSENT
        self._known: dict[str, int] = {}

    def intern(self, value: str) -> int:
        found = self._known.get(value)
        if found is None:
            found = self._known[value] = len(self.values)
            self.values.append(value)
        return found

    def id_of(self, value: str) -> int:
        """The id of a value, or -1 (which no row has) when no node ever had it."""
        return self._known.get(value, -1)


class Journal:
    """Which rows changed since when. Bounded: a reader that lags too far is told to look at everything."""

    def __init__(self) -> None:
        self._rows: list[int] = []
        self._base = 0

    @property
    def position(self) -> int:
        return self._base + len(self._rows)

    def note(self, row: int) -> None:
        if len(self._rows) >= _JOURNAL:
            del self._rows[: _JOURNAL // 2]
            self._base += _JOURNAL // 2
        self._rows.append(row)

    def since(self, position: int) -> list[int] | None:
        """The rows noted after `position`, each once; None when that is no longer known."""
        if position < self._base:
            return None
        return list(dict.fromkeys(self._rows[position - self._base :]))


@dataclass(slots=True)
class Placed:
    """A pod that occupies a node (bound, or assumed to be)."""

    info: PodInfo
    row: int


class Images:
    """Which rows hold which container images; `version` moves whenever that changes."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.rows: dict[str, set[int]] = {}
        self.version = 0
        self._of: dict[int, dict[str, int]] = {}
        self._weights: dict[str, tuple[int, int, int, NDArray[np.float64]]] = {}

    def set(self, row: int, images: Iterable[Object]) -> None:
        held = {name: int(each.get("sizeBytes", 0)) for each in images for name in each.get("names") or ()}
        if held == self._of.get(row, {}):
            return
        for name in self._of.get(row, {}).keys() - held.keys():
            self.rows[name].discard(row)
            if not self.rows[name]:
                del self.rows[name], self.sizes[name]
        for name, size in held.items():
            self.sizes[name] = size
            self.rows.setdefault(name, set()).add(row)
        self._of[row] = held
        self.version += 1

    def weights(self, name: str, top: int, nodes: int) -> NDArray[np.float64]:
        """By row, the image's size times the share of nodes that hold it; 0 where it is not held."""
        known = self._weights.get(name)
        if known is not None and known[:3] == (self.version, top, nodes):
            return known[3]
        out = np.zeros(top)
        holders = self.rows.get(name)
        if holders:
            out[list(holders)] = int(self.sizes[name] * len(holders) / max(nodes, 1))
        if len(self._weights) >= MAX_KNOWN:
            self._weights.clear()
        self._weights[name] = (self.version, top, nodes, out)
        return out


class Columns:
    """All nodes and what is placed on them."""

    def __init__(self) -> None:
        self.names: list[str] = [""] * _FIRST_ROWS
        self.row_of: dict[str, int] = {}
        self.top = 0
        self.shape = 0
        self.journal = Journal()
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
        self.images = Images()
        self.ports: dict[int, Counter[HostPort]] = {}
        self.pods: dict[str, Placed] = {}
        self.pods_on: dict[int, dict[str, PodInfo]] = {}
        self.claim_users: dict[str, dict[str, int]] = {}  # claim -> key and row of the pods that use it
        self.repelling = TermTable()  # required anti-affinity of placed pods
        self.attracting = TermTable()  # required affinity of placed pods
        self.preferring = TermTable()  # their preferences; weight < 0 for anti-affinity
        self.volumes = Volumes()
        self.workloads = Workloads()
        self.budgets: dict[str, Budget] = {}
        self._tallies: dict[Hashable, Tally] = {}
        self._selecting: dict[Hashable, list[Tally]] = {}
        self._waiting: dict[str, dict[str, PodInfo]] = {}  # pods bound to a node not seen yet
        self.namespace_labels: dict[str, Mapping[str, str]] = {}
        self._free: list[int] = list(range(_FIRST_ROWS))

    # -- nodes ----------------------------------------------------------------------------------------------

    @property
    def node_count(self) -> int:
        return len(self.row_of)

    @property
    def every(self) -> slice:
        """All rows that may hold a node."""
        return slice(0, self.top)

    def live_rows(self) -> NDArray[np.intp]:
        return np.flatnonzero(self.live)

    def set_node(self, node: Object) -> None:
        """Add a node or bring its row up to date."""
        name = node["metadata"]["name"]
        row = self.row_of.get(name)
        is_new = row is None
        if row is None:
            row = self._take_row(name)
        spec, status = node.get("spec") or {}, node.get("status") or {}
        self.unschedulable[row] = bool(spec.get("unschedulable"))
        self._set_allocatable(row, status.get("allocatable") or {})
        self._set_images(row, status.get("images") or ())
        taints = self._intern_taints(spec.get("taints") or ())
        relabelled = self._set_labels(row, node["metadata"].get("labels") or {})
        if is_new or relabelled or taints != self.taint_set[row]:
            self.shape += 1
        self.taint_set[row] = taints
        self.journal.note(row)
        if is_new:
            for info in self._waiting.pop(name, {}).values():
                self.add_pod(info, name)

    def _take_row(self, name: str) -> int:
        if not self._free:
            self._grow_rows()
        row = heapq.heappop(self._free)
        self.row_of[name], self.names[row] = row, name
        self.pods_on[row] = {}
        self.live[row] = True
        self.top = max(self.top, row + 1)
        return row

    def remove_node(self, name: str) -> None:
        """Forget a node; pods still bound to it wait for it to come back or to be deleted."""
        row = self.row_of.pop(name, None)
        if row is None:
            return
        for info in list(self.pods_on[row].values()):
            self.remove_pod(info.key)
            self._waiting.setdefault(name, {})[info.key] = info
        self.live[row] = False
        self.names[row] = ""
        self.unschedulable[row] = False
        self.allocatable[:, row] = 0
        self.taint_set[row] = 0
        self._set_labels(row, {})
        self._set_images(row, ())
        del self.pods_on[row]
        heapq.heappush(self._free, row)
        self.shape += 1
        self.journal.note(row)

    def _set_allocatable(self, row: int, allocatable: Mapping[str, Any]) -> None:
        self.allocatable[:, row] = 0
        for resource, text in allocatable.items():
            index = self.resource_row(resource)  # first: it may put a longer array in place
            self.allocatable[index, row] = amount(resource, str(text))

    def _set_labels(self, row: int, labels: Mapping[str, str]) -> bool:
        """Whether anything changed."""
        changed = False
        for key, column in self.labels.items():
            if key not in labels and column.ids[row] != ABSENT:
                column.ids[row] = ABSENT
                changed = True
        for key, value in labels.items():
            column = self.label_column(key)
            index = column.intern(value)
            changed = changed or column.ids[row] != index
            column.ids[row] = index
        return changed

    def _set_images(self, row: int, images: Iterable[Object]) -> None:
        self.images.set(row, images)

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

    def label_ids(self, key: str, rows: Rows) -> Ids:
        """The label's value ids of the given rows."""
        return self.label_column(key).ids[rows]

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
        tables = (self.repelling, self.attracting, self.preferring)
        for tally in [
            *self._tallies.values(),
            *(each for table in tables for each in table.tallies.values()),
        ]:
            tally.grow(old)
        self.shape += 1
        for row in range(old, 2 * old):
            heapq.heappush(self._free, row)

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

    def note_status(self, info: PodInfo) -> None:
        """A placed pod that differs from what is known in its status alone."""
        placed = self.pods[info.key]
        placed.info = self.pods_on[placed.row][info.key] = info

    def remove_pod(self, key: str) -> None:
        placed = self.pods.pop(key, None)
        if placed is None:
            for waiting in self._waiting.values():
                waiting.pop(key, None)
            return
        del self.pods_on[placed.row][key]
        self._account(placed.info, placed.row, -1)

    def _account(self, info: PodInfo, row: int, sign: int) -> None:
        self.journal.note(row)
        for resource, value in info.requests.items():
            index = self.resource_row(resource)
            self.requested[index, row] += sign * value
        self.requested[self.resources[PODS], row] += sign
        self.scoring[0, row] += sign * info.scoring_cpu
        self.scoring[1, row] += sign * info.scoring_memory
        if info.host_ports:
            self.ports.setdefault(row, Counter()).update(dict.fromkeys(info.host_ports, sign))
            self.ports[row] += Counter()  # drops what reached zero
        for claim in info.claims:
            self._use_claim(f"{info.namespace}/{claim}", info.key, row, sign)
        for tally in self._tallies_of(info):
            tally.add(row, sign)
        for term in info.anti_affinity:
            self.repelling.bump(0, term, self.label_column(term.topology_key), row, sign)
        for term in info.affinity:
            self.attracting.bump(0, term, self.label_column(term.topology_key), row, sign)
        for weight, term in info.preferred_affinity:
            self.preferring.bump(weight, term, self.label_column(term.topology_key), row, sign)
        for weight, term in info.preferred_anti_affinity:
            self.preferring.bump(-weight, term, self.label_column(term.topology_key), row, sign)

    def _use_claim(self, claim: str, pod: str, row: int, sign: int) -> None:
        users = self.claim_users.setdefault(claim, {})
        if sign > 0:
            users[pod] = row
        else:
            users.pop(pod, None)
            if not users:
                del self.claim_users[claim]

    # -- pods by term ---------------------------------------------------------------------------------------

    def selects(self, term: PodTerm, info: PodInfo) -> bool:
        """Whether a pod is one that the term speaks of."""
        if term.living and info.terminating:
            return False
        labels = self.namespace_labels.get(info.namespace, {})
        return term.covers(info.namespace, labels) and term.selector.matches(info.labels)

    def tally(
        self, *terms: PodTerm, key: str, eligible: Eligible | None = None, eligible_as: Hashable = None
    ) -> Tally:
        """Pods that all the terms select, by domain of `key`; made when first asked for, then kept by every
        pod change. `eligible_as` names what `eligible` decides by: equal names must mean equal rows.
        """
        name = (terms, key, eligible_as)
        known = self._tallies.get(name)
        if known is None:
            if len(self._tallies) >= _MAX_TALLIES:
                self._tallies.pop(next(iter(self._tallies)))
            known = self._tallies[name] = Tally(terms, self.label_column(key), eligible)
            self._count(known)
            self._selecting.clear()
        return known

    def _count(self, tally: Tally) -> None:
        answers: dict[Hashable, bool] = {}
        for placed in self.pods.values():
            kind = (placed.info.signature, placed.info.terminating)
            counted = answers.get(kind)
            if counted is None:
                counted = answers[kind] = all(self.selects(term, placed.info) for term in tally.terms)
            if counted:
                tally.add(placed.row, 1)

    def _tallies_of(self, info: PodInfo) -> list[Tally]:
        """The tallies in which a pod counts; remembered per kind of pod."""
        if not self._tallies:
            return []
        kind = (info.signature, info.terminating)
        found = self._selecting.get(kind)
        if found is None:
            if len(self._selecting) >= MAX_KNOWN:
                self._selecting.clear()
            found = [
                tally
                for tally in self._tallies.values()
                if all(self.selects(term, info) for term in tally.terms)
            ]
            self._selecting[kind] = found
        return found

    def in_domain(self, tally: Tally, rows: Rows) -> Ids:
        """For each of the rows, how many pods its domain holds (0 without the label)."""
        return tally.sums(self.shape).take(tally.column.ids[rows])

    def set_namespace_labels(self, namespace: str, labels: Mapping[str, str] | None) -> None:
        """Namespace labels feed namespace selectors; a change makes the counts be taken anew."""
        if labels is None:
            self.namespace_labels.pop(namespace, None)
        elif self.namespace_labels.get(namespace) == labels:
            return
        else:
            self.namespace_labels[namespace] = labels
        self._tallies.clear()
        self._selecting.clear()
        for table in (self.repelling, self.attracting, self.preferring):
            table.forget_answers()
