"""NodeAffinity: nodeSelector and node affinity, required and preferred, and what the profile adds for all
pods (NodeAffinityArgs.addedAffinity).
"""

from __future__ import annotations

import numpy as np

from scheduler.columns import Columns, Rows
from scheduler.framework import ClusterEvent, Scores, Verdict
from scheduler.plugins import matching
from scheduler.podinfo import NodeTerm, PodInfo

_REASON = ("node(s) didn't match Pod's node affinity/selector",)
_ENFORCED = ("node(s) didn't match scheduler-enforced node affinity",)
Preferences = tuple[tuple[int, NodeTerm], ...]


class NodeAffinity:
    name = "NodeAffinity"
    events = ClusterEvent.NODE_ADDED | ClusterEvent.NODE_LABELS
    local_filter = True
    local_score = False  # normalised over the feasible nodes

    def __init__(self, added: tuple[NodeTerm, ...] | None = None, preferred: Preferences = ()) -> None:
        self._added = added
        self._preferred = preferred

    def filter(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Verdict | None:
        passes = matching.required(pod, nodes, rows)
        if self._added is None:
            return None if passes is None else Verdict(passes, lambda _: _REASON, final=True)
        enforced = matching.any_term(self._added, nodes, rows)
        return Verdict(
            enforced if passes is None else passes & enforced,
            lambda at: _REASON if enforced[at] else _ENFORCED,
            final=True,
            kinds=lambda fallen: enforced[fallen].astype(np.int64),
        )

    def pre_score(self, pod: PodInfo, nodes: Columns) -> bool:
        return bool(pod.preferred_node_terms or self._preferred)

    def score(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Scores | float | None:
        total = np.zeros(nodes.live[rows].size)
        for weight, node_term in (*pod.preferred_node_terms, *self._preferred):
            total += weight * matching.term(node_term, nodes, rows)
        return matching.normalise(total)
