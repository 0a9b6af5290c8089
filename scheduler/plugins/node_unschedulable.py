"""NodeUnschedulable: cordoned nodes take only pods that tolerate it."""

from __future__ import annotations

from scheduler.columns import Columns
from scheduler.framework import ClusterEvent, Verdict
from scheduler.podinfo import PodInfo

_TAINT = "node.kubernetes.io/unschedulable"
_REASON = ("node(s) were unschedulable",)


class NodeUnschedulable:
    name = "NodeUnschedulable"
    events = ClusterEvent.NODE_ADDED | ClusterEvent.NODE_TAINTS

    def filter(self, pod: PodInfo, nodes: Columns) -> Verdict | None:
        if not nodes.unschedulable.any():
            return None
        if any(toleration.tolerates(_TAINT, "", "NoSchedule") for toleration in pod.tolerations):
            return None
        return Verdict(~nodes.unschedulable, lambda _: _REASON)
