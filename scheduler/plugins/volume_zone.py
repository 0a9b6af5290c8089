"""VolumeZone: a volume labelled with a zone or region is reachable only from nodes there."""

from __future__ import annotations

import numpy as np

from scheduler.columns import Columns, Rows
from scheduler.framework import ClusterEvent, Verdict
from scheduler.podinfo import PodInfo
from scheduler.tallies import ABSENT, Mask

_REASON = ("node(s) had no available volume zone",)
# Label -> its name since it became stable; a node may carry either.
_TOPOLOGY = {
    "topology.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region": "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
}


class VolumeZone:
    name = "VolumeZone"
    events = ClusterEvent.VOLUMES | ClusterEvent.NODE_ADDED | ClusterEvent.NODE_LABELS
    local_filter = False

    def filter(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Verdict | None:
        wanted = self._wanted(pod, nodes)
        if not wanted:
            return None
        unzoned: Mask = np.ones_like(nodes.live[rows])
        for key in _TOPOLOGY:
            unzoned &= nodes.label_ids(key, rows) == ABSENT
        passes: Mask = np.ones_like(unzoned)
        for key, values in wanted:
            passes &= _among(key, values, nodes, rows) | (
                (nodes.label_ids(key, rows) == ABSENT) & _among(_TOPOLOGY[key], values, nodes, rows)
            )
        return Verdict(passes | unzoned, lambda _: _REASON, final=True)

    def _wanted(self, pod: PodInfo, nodes: Columns) -> list[tuple[str, list[str]]]:
        out: list[tuple[str, list[str]]] = []
        for _, claim in nodes.volumes.claims_of(pod):
            name = claim["spec"].get("volumeName") if claim is not None else None
            labels = nodes.volumes.volumes.get(name or "", {}).get("metadata", {}).get("labels") or {}
            out += [(key, labels[key].split("__")) for key in _TOPOLOGY if key in labels]
        return out


def _among(key: str, values: list[str], nodes: Columns, rows: Rows) -> Mask:
    column = nodes.label_column(key)
    return np.isin(column.ids[rows], [column.id_of(value) for value in values])
