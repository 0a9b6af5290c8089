"""NodePorts: two pods cannot hold the same host port of a node."""

from __future__ import annotations

import numpy as np

from scheduler.columns import Columns, Rows
from scheduler.framework import ClusterEvent, Verdict
from scheduler.podinfo import PodInfo

_REASON = ("node(s) didn't have free ports for the requested pod ports",)


class NodePorts:
    name = "NodePorts"
    events = ClusterEvent.NODE_ADDED | ClusterEvent.POD_REMOVED
    local_filter = True

    def filter(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Verdict | None:
        if not pod.host_ports:
            return None
        among = nodes.ports if isinstance(rows, slice) else rows.tolist()
        taken = np.zeros(nodes.top, dtype=np.bool_)
        for row in among:
            held = nodes.ports.get(row) or ()
            taken[row] = any(want.conflicts(each) for want in pod.host_ports for each in held)
        return Verdict(~taken[rows], lambda _: _REASON)
