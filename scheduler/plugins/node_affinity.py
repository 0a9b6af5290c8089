"""NodeAffinity: nodeSelector and node affinity, required and preferred."""

from __future__ import annotations

import numpy as np

from scheduler.columns import Columns
from scheduler.framework import ClusterEvent, Rows, Scores, Verdict
from scheduler.plugins import matching
from scheduler.podinfo import PodInfo

_REASON = ("node(s) didn't match Pod's node affinity/selector",)


class NodeAffinity:
    name = "NodeAffinity"
    events = ClusterEvent.NODE_ADDED | ClusterEvent.NODE_LABELS

    def filter(self, pod: PodInfo, nodes: Columns) -> Verdict | None:
        passes = matching.required(pod, nodes)
        return None if passes is None else Verdict(passes, lambda _: _REASON)

    def score(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Scores | None:
        if not pod.preferred_node_terms:
            return None
        total = np.zeros(rows.size, dtype=np.float64)
        for weight, node_term in pod.preferred_node_terms:
            total += weight * matching.term(node_term, nodes)[rows]
        return matching.normalise(total)
