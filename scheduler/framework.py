"""The scheduling framework: what a plugin is, and how verdicts and scores are put together.

The extension points are those of the Kubernetes scheduling framework (KEP-624); here a filter judges many
nodes in one call and a score rates all feasible nodes in one call. What decides (PreEnqueue to Score, and
PostFilter, which plans) is pure and holds configuration but no state: everything it decides from is in the
pod and the columns. What acts (Reserve to PostBind) is driven by the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Flag, auto
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from scheduler.columns import Columns, Rows
from scheduler.podinfo import PodInfo
from scheduler.tallies import Mask

MAX_SCORE = 100
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


Object = dict[str, Any]
NOTHING = ClusterEvent(0)
Nominated = Sequence[tuple[PodInfo, str]]  # pods that were promised a node, and which


class Rng(Protocol):
    """Where chance comes from; handed in, so that decisions can be replayed."""

    def randrange(self, stop: int, /) -> int: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """A filter's answer for the rows it was given, in their order: who passes, and why one that does not
    fails.

    `kinds` groups positions that fail for the same reasons (None: all do); `final` marks failures that
    removing pods cannot cure (UnschedulableAndUnresolvable), for all positions alike or one by one.
    """

    passes: Mask
    reasons: Callable[[int], Sequence[str]]
    final: bool | Callable[[int], bool] = False
    kinds: Callable[[NDArray[np.intp]], NDArray[np.int64]] | None = None

    def is_final(self, position: int) -> bool:
        return self.final if isinstance(self.final, bool) else self.final(position)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A PreFilter's no for all nodes at once."""

    plugin: str
    reason: str
    final: bool = True


class Plugin(Protocol):
    """What every plugin has; each further method is one extension point."""

    @property
    def name(self) -> str: ...


class QueueSort(Plugin, Protocol):
    def sort_key(self, pod: PodInfo, added: float) -> tuple[float, ...]:
        """Smaller comes first; `added` is when the pod was queued, in seconds."""


class PreEnqueue(Plugin, Protocol):
    def pre_enqueue(self, pod: PodInfo) -> str | None:
        """Why the pod may not be queued yet; None when it may."""


class Refuser(Plugin, Protocol):
    """A plugin that can make a pod unschedulable; `events` may make it schedulable again."""

    @property
    def events(self) -> ClusterEvent: ...


class PreFilter(Refuser, Protocol):
    def pre_filter(self, pod: PodInfo, nodes: Columns) -> Refusal | None:
        """Refuse before any node is looked at."""


class Filter(Refuser, Protocol):
    """A hard constraint. `local_filter`: a row's verdict depends on that row (and the pod) alone."""

    @property
    def local_filter(self) -> bool: ...

    def filter(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Verdict | None:
        """Judge the rows; None when the pod gives this plugin nothing to judge."""


class PreScore(Plugin, Protocol):
    def pre_score(self, pod: PodInfo, nodes: Columns) -> bool:
        """Whether this plugin has anything to rate; False spares the call of `score`."""


class Score(Plugin, Protocol):
    """A preference. `local_score`: a row's score depends on that row (and the pod) alone."""

    @property
    def local_score(self) -> bool: ...

    def score(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Scores | float | None:
        """Rate the given rows from 0 to MAX_SCORE; a number when all rate the same, None for nothing to
        rate.
        """


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a PostFilter came to: a message, and a plan if there is one."""

    message: str
    node: str = ""
    victims: tuple[PodInfo, ...] = ()
    lowered: tuple[PodInfo, ...] = ()  # less important pods that lose their nomination to the node


class PostFilter(Plugin, Protocol):
    def post_filter(
        self,
        profile: Profile,
        pod: PodInfo,
        nodes: Columns,
        failures: Failures,
        nominated: Nominated,
        rng: Rng,
    ) -> Outcome:
        """What could be done for a pod that fits nowhere."""


class Handle(Protocol):
    """What acting plugins may use of the scheduler."""

    @property
    def columns(self) -> Columns: ...

    async def bind_pod(self, pod: PodInfo, node: str) -> None:
        """The pod's binding subresource."""

    async def get(self, gvr: Any, name: str, namespace: str | None = None) -> Object: ...

    async def update(self, gvr: Any, obj: Object) -> Object: ...

    async def changed(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until `ready`, asked after every change of the volumes; raises TimeoutError."""


class Reserve(Plugin, Protocol):
    def reserve(self, pod: PodInfo, node: str, nodes: Columns) -> str | None:
        """Take what the pod needs besides its place; a text is a refusal."""

    def unreserve(self, pod: PodInfo, node: str, nodes: Columns) -> None:
        """Give it back; called also when `reserve` was not, and then does nothing."""


@dataclass(frozen=True, slots=True)
class Permission:
    """A Permit's answer: go (the default), no with a `reason`, or wait up to `wait` seconds to be allowed."""

    reason: str = ""
    wait: float = 0.0


class Permit(Plugin, Protocol):
    def permit(self, pod: PodInfo, node: str) -> Permission: ...


class PreBind(Plugin, Protocol):
    async def pre_bind(self, handle: Handle, pod: PodInfo, node: str) -> None:
        """What must be done before the binding; raises what the client raises."""


class Bind(Plugin, Protocol):
    async def bind(self, handle: Handle, pod: PodInfo, node: str) -> bool:
        """Bind the pod; False leaves it to the next plugin."""


class PostBind(Plugin, Protocol):
    def post_bind(self, pod: PodInfo, node: str) -> None:
        """The pod is bound."""


# Extension point in the configuration file -> the method that makes a plugin part of it.
POINTS: Mapping[str, str] = {
    "queueSort": "sort_key",
    "preEnqueue": "pre_enqueue",
    "preFilter": "pre_filter",
    "filter": "filter",
    "postFilter": "post_filter",
    "preScore": "pre_score",
    "score": "score",
    "reserve": "reserve",
    "permit": "permit",
    "preBind": "pre_bind",
    "bind": "bind",
    "postBind": "post_bind",
}


@dataclass(frozen=True, eq=False)
class Profile:
    """The plugins that serve one scheduler name, in order; scores carry their weights."""

    scheduler_name: str
    queue_sort: QueueSort
    filters: tuple[Filter, ...]
    scores: tuple[tuple[Score, int], ...]
    pre_enqueues: tuple[PreEnqueue, ...] = ()
    pre_filters: tuple[PreFilter, ...] = ()
    post_filters: tuple[PostFilter, ...] = ()
    pre_scores: tuple[PreScore, ...] = ()
    reserves: tuple[Reserve, ...] = ()
    permits: tuple[Permit, ...] = ()
    pre_binds: tuple[PreBind, ...] = ()
    binds: tuple[Bind, ...] = ()
    post_binds: tuple[PostBind, ...] = ()

    def __post_init__(self) -> None:
        split = object.__setattr__
        split(self, "local_filters", tuple(each for each in self.filters if each.local_filter))
        split(self, "wide_filters", tuple(each for each in self.filters if not each.local_filter))
        split(self, "local_scores", tuple(each for each in self.scores if each[0].local_score))
        split(self, "wide_scores", tuple(each for each in self.scores if not each[0].local_score))

    local_filters: tuple[Filter, ...] = field(init=False)
    wide_filters: tuple[Filter, ...] = field(init=False)
    local_scores: tuple[tuple[Score, int], ...] = field(init=False)
    wide_scores: tuple[tuple[Score, int], ...] = field(init=False)

    def gate(self, pod: PodInfo) -> str | None:
        """Why the pod may not be queued yet."""
        for plugin in self.pre_enqueues:
            reason = plugin.pre_enqueue(pod)
            if reason is not None:
                return reason
        return None


@dataclass(slots=True)
class Explanation:
    """Why a decision fell: enough to account for every node, without holding on to the columns."""

    node_names: dict[int, str]
    failed_by: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, tuple[str, ...]] = field(default_factory=dict)
    scores: dict[str, dict[int, float]] = field(default_factory=dict)
    totals: dict[int, float] = field(default_factory=dict)


@dataclass(slots=True)
class Failures:
    """Why no node would do: reasons counted, plugins named, and the rows where removing pods may help."""

    counts: dict[str, int] = field(default_factory=dict)
    rejected_by: set[str] = field(default_factory=set)
    curable: list[int] = field(default_factory=list)
    refusal: str = ""  # a PreFilter's reason, which stands for all nodes


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a pod goes, or why it cannot go anywhere."""

    node: str | None
    feasible: int
    total: int
    failures: Failures

    @property
    def rejected_by(self) -> set[str]:
        """Plugins that turned at least one node down."""
        return self.failures.rejected_by

    @property
    def message(self) -> str:
        """As kube-scheduler words it (framework.FitError)."""
        if not self.total:
            return "no nodes available to schedule pods"
        return fit_error(self.total, self.failures.counts, self.failures.refusal)


def fit_error(total: int, counts: Mapping[str, int], refusal: str = "") -> str:
    """`0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`"""
    listed = refusal or ", ".join(sorted(f"{count} {reason}" for reason, count in counts.items()))
    head = f"0/{total} nodes are available"
    return f"{head}: {listed}." if listed else f"{head}:"
