"""VolumeRestrictions: a claim of access mode ReadWriteOncePod serves one pod at a time (KEP-2485)."""

from __future__ import annotations

import numpy as np

from scheduler.columns import Columns, Rows
from scheduler.framework import ClusterEvent, Verdict
from scheduler.podinfo import PodInfo

_REASON = ("node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode",)


class VolumeRestrictions:
    name = "VolumeRestrictions"
    events = ClusterEvent.POD_REMOVED | ClusterEvent.VOLUMES | ClusterEvent.NODE_ADDED
    local_filter = False

    def filter(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Verdict | None:
        for key, claim in nodes.volumes.claims_of(pod):
            if claim is None or "ReadWriteOncePod" not in (claim["spec"].get("accessModes") or ()):
                continue
            if any(user != pod.key for user in nodes.claim_users.get(key, ())):
                return Verdict(np.zeros_like(nodes.live[rows]), lambda _: _REASON)
        return None
