"""The scheduling framework: what a plugin is, and how verdicts and scores are put together.

The extension points are those of the Kubernetes scheduling framework (KEP-624); here a filter judges all
nodes in one call and a score rates all feasible nodes in one call. Plugins hold configuration and no state:
everything they decide from is in the pod and the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from scheduler.columns import Columns, Mask
from scheduler.podinfo import PodInfo

MAX_SCORE = 100
Rows = NDArray[np.intp]
Scores = NDArray[np.float64]


class ClusterEvent(Flag):
    """Changes that can make an unschedulable pod schedulable (queueing hints, KEP-4247)."""

    NODE_ADDED = auto()
    NODE_ALLOCATABLE = auto()
    NODE_LABELS = auto()
    NODE_TAINTS = auto()
    POD_REMOVED = auto()
    POD_PLACED = auto()
    NAMESPACE_LABELS = auto()
    VOLUMES = auto()
    NODE_CHANGED = NODE_ADDED | NODE_ALLOCATABLE | NODE_LABELS | NODE_TAINTS


@dataclass(frozen=True, slots=True)
class Verdict:
    """A filter's answer for all rows: who passes, and why a row that does not fails."""

    passes: Mask
    reasons: Callable[[int], Sequence[str]]


class Filter(Protocol):
    """A hard constraint."""

    name: str
    events: ClusterEvent

    def filter(self, pod: PodInfo, nodes: Columns) -> Verdict | None:
        """Judge every row; None when the pod gives this plugin nothing to judge."""


class Score(Protocol):
    """A preference."""

    name: str

    def score(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Scores | None:
        """Rate the given rows from 0 to MAX_SCORE; None when the pod gives nothing to rate."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The plugins that serve one scheduler name, in order; scores carry their weights."""

    scheduler_name: str
    filters: tuple[Filter, ...]
    scores: tuple[tuple[Score, int], ...]


@dataclass(slots=True)
class Explanation:
    """Why a decision fell: enough to account for every node, without holding on to the columns."""

    node_names: dict[int, str]
    failed_by: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, tuple[str, ...]] = field(default_factory=dict)
    scores: dict[str, dict[int, float]] = field(default_factory=dict)
    totals: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a pod goes, or why it cannot go anywhere."""

    node: str | None
    feasible: int
    total: int
    counts: dict[str, int]  # reason -> number of nodes that gave it
    rejected_by: frozenset[str]  # plugins that turned at least one node down

    @property
    def message(self) -> str:
        """As kube-scheduler words it (framework.FitError)."""
        listed = ", ".join(sorted(f"{count} {reason}" for reason, count in self.counts.items()))
        head = f"0/{self.total} nodes are available"
        return f"{head}: {listed}." if listed else f"{head}."
