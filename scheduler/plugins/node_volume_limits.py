"""NodeVolumeLimits: how many volumes of a CSI driver a node can attach (CSINode)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from scheduler.columns import Columns, Rows
from scheduler.framework import ClusterEvent, Verdict
from scheduler.podinfo import PodInfo

_REASON = ("node(s) exceed max volume count",)


def _handles(pods: Iterable[PodInfo], nodes: Columns) -> dict[str, set[str]]:
    """Distinct volumes by CSI driver that the pods use."""
    out: dict[str, set[str]] = {}
    for pod in pods:
        for _, claim in nodes.volumes.claims_of(pod) if pod.claims else ():
            name = claim["spec"].get("volumeName", "") if claim is not None else ""
            csi = nodes.volumes.volumes.get(name, {}).get("spec", {}).get("csi")
            if csi:
                out.setdefault(csi["driver"], set()).add(csi["volumeHandle"])
    return out


class NodeVolumeLimits:
    name = "NodeVolumeLimits"
    events = ClusterEvent.POD_REMOVED | ClusterEvent.VOLUMES | ClusterEvent.NODE_ADDED
    local_filter = False

    def filter(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Verdict | None:
        wanted = _handles([pod], nodes) if pod.claims else {}
        if not wanted:
            return None
        over = np.zeros(nodes.top, dtype=np.bool_)
        for name, csi_node in nodes.volumes.csi_nodes.items():
            row = nodes.row_of.get(name)
            if row is not None:
                over[row] = self._exceeds(wanted, csi_node["spec"].get("drivers") or (), row, nodes)
        return Verdict(~over[rows], lambda _: _REASON)

    def _exceeds(
        self, wanted: dict[str, set[str]], drivers: Iterable[dict[str, object]], row: int, nodes: Columns
    ) -> bool:
        held = _handles(nodes.pods_on[row].values(), nodes)
        for driver in drivers:
            name, allocatable = str(driver["name"]), driver.get("allocatable")
            count = allocatable.get("count") if isinstance(allocatable, dict) else None
            new = wanted.get(name, set()) - held.get(name, set())
            if count is not None and new and len(new) + len(held.get(name, ())) > int(count):
                return True
        return False
