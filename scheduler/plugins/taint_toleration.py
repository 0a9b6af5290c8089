"""TaintToleration: a node's NoSchedule and NoExecute taints must be tolerated; PreferNoSchedule taints cost
score.

Nodes with equal taints share an id, so the tolerations are compared once per distinct set of taints, not per
node.
"""

from __future__ import annotations

import numpy as np

from scheduler.columns import Columns, Rows, Taint
from scheduler.framework import MAX_SCORE, ClusterEvent, Scores, Verdict
from scheduler.plugins.matching import normalise
from scheduler.podinfo import PodInfo, Toleration
from scheduler.tallies import Mask

_HARD = ("NoSchedule", "NoExecute")


def _tolerated(tolerations: tuple[Toleration, ...], taint: Taint) -> bool:
    return any(item.tolerates(taint.key, taint.value, taint.effect) for item in tolerations)


def untolerated(pod: PodInfo, taints: tuple[Taint, ...]) -> Taint | None:
    """The first taint that keeps the pod away."""
    for taint in taints:
        if taint.effect in _HARD and not _tolerated(pod.tolerations, taint):
            return taint
    return None


def admitted(pod: PodInfo, nodes: Columns, rows: Rows) -> Mask:
    """Which of the rows have no taint that keeps the pod away."""
    allowed = np.array([untolerated(pod, taints) is None for taints in nodes.taint_sets], dtype=np.bool_)
    out: Mask = allowed[nodes.taint_set[rows]]
    return out


class TaintToleration:
    name = "TaintToleration"
    events = ClusterEvent.NODE_ADDED | ClusterEvent.NODE_TAINTS
    local_filter = True
    local_score = False  # normalised over the feasible nodes

    def filter(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Verdict | None:
        if len(nodes.taint_sets) == 1:
            return None
        sets = nodes.taint_set[rows]

        def reasons(position: int) -> tuple[str, ...]:
            taint = untolerated(pod, nodes.taint_sets[sets[position]])
            assert taint is not None
            return (f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}",)

        return Verdict(
            admitted(pod, nodes, rows),
            reasons,
            final=True,
            kinds=lambda fallen: sets[fallen].astype(np.int64),
        )

    def score(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Scores | float | None:
        soft = [self._cost(pod, taints) for taints in nodes.taint_sets]
        if not any(soft):
            return float(MAX_SCORE)
        return normalise(np.array(soft, dtype=np.float64)[nodes.taint_set[rows]], reverse=True)

    def _cost(self, pod: PodInfo, taints: tuple[Taint, ...]) -> int:
        """PreferNoSchedule taints not tolerated; only tolerations for that effect or for all count."""
        tolerations = tuple(each for each in pod.tolerations if each.effect in ("", "PreferNoSchedule"))
        return sum(t.effect == "PreferNoSchedule" and not _tolerated(tolerations, t) for t in taints)
