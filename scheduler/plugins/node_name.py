"""NodeName: a pod that names its node goes nowhere else."""

from __future__ import annotations

import numpy as np

from scheduler.columns import Columns
from scheduler.framework import ClusterEvent, Verdict
from scheduler.podinfo import PodInfo

_REASON = ("node(s) didn't match the requested node name",)


class NodeName:
    name = "NodeName"
    events = ClusterEvent.NODE_ADDED

    def filter(self, pod: PodInfo, nodes: Columns) -> Verdict | None:
        if not pod.node_name:
            return None
        passes = np.zeros(len(nodes.live), dtype=np.bool_)
        row = nodes.row_of.get(pod.node_name)
        if row is not None:
            passes[row] = True
        return Verdict(passes, lambda _: _REASON)
