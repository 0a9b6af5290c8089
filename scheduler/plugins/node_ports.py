"""NodePorts: two pods cannot hold the same host port of a node."""

from __future__ import annotations

import numpy as np

from scheduler.columns import Columns
from scheduler.framework import ClusterEvent, Verdict
from scheduler.podinfo import PodInfo

_REASON = ("node(s) didn't have free ports for the requested pod ports",)


class NodePorts:
    name = "NodePorts"
    events = ClusterEvent.NODE_ADDED | ClusterEvent.POD_REMOVED

    def filter(self, pod: PodInfo, nodes: Columns) -> Verdict | None:
        if not pod.host_ports:
            return None
        passes = np.ones(len(nodes.live), dtype=np.bool_)
        for row, used in nodes.ports.items():
            if any(want.conflicts(held) for want in pod.host_ports for held in used):
                passes[row] = False
        return Verdict(passes, lambda _: _REASON)
