"""NodeUnschedulable: cordoned nodes take only pods that tolerate it."""

from __future__ import annotations

from scheduler.columns import Columns, Rows
from scheduler.framework import ClusterEvent, Verdict
from scheduler.podinfo import PodInfo

_TAINT = "node.kubernetes.io/unschedulable"
_REASON = ("node(s) were unschedulable",)


class NodeUnschedulable:
    name = "NodeUnschedulable"
    events = ClusterEvent.NODE_ADDED | ClusterEvent.NODE_TAINTS
    local_filter = True

    def filter(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Verdict | None:
        cordoned = nodes.unschedulable[rows]
        if not cordoned.any():
            return None
        if any(toleration.tolerates(_TAINT, "", "NoSchedule") for toleration in pod.tolerations):
            return None
        return Verdict(~cordoned, lambda _: _REASON, final=True)
