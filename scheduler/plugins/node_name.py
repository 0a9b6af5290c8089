"""NodeName: a pod that names its node goes nowhere else."""

from __future__ import annotations

from scheduler.columns import Columns, Rows
from scheduler.framework import ClusterEvent, Verdict
from scheduler.plugins import matching
from scheduler.podinfo import PodInfo

_REASON = ("node(s) didn't match the requested node name",)


class NodeName:
    name = "NodeName"
    events = ClusterEvent.NODE_ADDED
    local_filter = True

    def filter(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Verdict | None:
        if not pod.node_name:
            return None
        return Verdict(matching.named((pod.node_name,), nodes, rows), lambda _: _REASON, final=True)
