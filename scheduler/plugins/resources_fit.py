"""NodeResourcesFit: what a pod requests must be free; emptier nodes score higher (LeastAllocated)."""

from __future__ import annotations

import numpy as np

from scheduler.columns import Columns
from scheduler.framework import MAX_SCORE, ClusterEvent, Rows, Scores, Verdict
from scheduler.podinfo import CPU, MEMORY, PODS, PodInfo


class ResourcesFit:
    name = "NodeResourcesFit"
    events = ClusterEvent.NODE_ADDED | ClusterEvent.NODE_ALLOCATABLE | ClusterEvent.POD_REMOVED

    def filter(self, pod: PodInfo, nodes: Columns) -> Verdict | None:
        wanted = {PODS: 1, **{resource: value for resource, value in pod.requests.items() if value}}
        index = np.array([nodes.resource_row(resource) for resource in wanted])
        asked = np.array(list(wanted.values()), dtype=np.int64)
        lacking = nodes.requested[index] + asked[:, None] > nodes.allocatable[index]
        names = list(wanted)

        def reasons(row: int) -> list[str]:
            short = [names[i] for i in np.flatnonzero(lacking[:, row])]
            return ["Too many pods" if name == PODS else f"Insufficient {name}" for name in short]

        return Verdict(~lacking.any(axis=0), reasons)

    def score(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Scores | None:
        index = [nodes.resources[CPU], nodes.resources[MEMORY]]
        total = nodes.allocatable[index][:, rows]
        used = nodes.scoring[:, rows] + np.array([[pod.scoring_cpu], [pod.scoring_memory]])
        free = np.maximum(total - used, 0)
        scores = free * MAX_SCORE // np.maximum(total, 1)
        counted = (total > 0).sum(axis=0)
        out: Scores = np.floor(scores.sum(axis=0) / np.maximum(counted, 1))
        return out
