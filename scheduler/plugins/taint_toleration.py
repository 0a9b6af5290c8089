"""TaintToleration: a node's NoSchedule and NoExecute taints must be tolerated; PreferNoSchedule taints cost
score.

Nodes with equal taints share an id, so the tolerations are compared once per distinct set of taints, not per
node.
"""

from __future__ import annotations

import numpy as np

from scheduler.columns import Columns, Taint
from scheduler.framework import ClusterEvent, Rows, Scores, Verdict
from scheduler.plugins.matching import normalise
from scheduler.podinfo import PodInfo

_HARD = ("NoSchedule", "NoExecute")


def _tolerated(pod: PodInfo, taint: Taint) -> bool:
    return any(item.tolerates(taint.key, taint.value, taint.effect) for item in pod.tolerations)


def untolerated(pod: PodInfo, taints: tuple[Taint, ...]) -> Taint | None:
    """The first taint that keeps the pod away."""
    return next((taint for taint in taints if taint.effect in _HARD and not _tolerated(pod, taint)), None)


class TaintToleration:
    name = "TaintToleration"
    events = ClusterEvent.NODE_ADDED | ClusterEvent.NODE_TAINTS

    def filter(self, pod: PodInfo, nodes: Columns) -> Verdict | None:
        if len(nodes.taint_sets) == 1:
            return None
        blocking = [untolerated(pod, taints) for taints in nodes.taint_sets]
        allowed = np.array([taint is None for taint in blocking], dtype=np.bool_)

        def reasons(row: int) -> tuple[str, ...]:
            taint = blocking[nodes.taint_set[row]]
            assert taint is not None
            return (f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}",)

        return Verdict(allowed[nodes.taint_set], reasons)

    def score(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Scores | None:
        if len(nodes.taint_sets) == 1:
            return None
        soft = [
            sum(taint.effect == "PreferNoSchedule" and not _tolerated(pod, taint) for taint in taints)
            for taints in nodes.taint_sets
        ]
        counts = np.array(soft, dtype=np.float64)[nodes.taint_set[rows]]
        return normalise(counts, reverse=True)
