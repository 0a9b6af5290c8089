"""NodeResourcesBalancedAllocation: prefer nodes where cpu and memory would be used in equal shares."""

from __future__ import annotations

import numpy as np

from scheduler.columns import Columns
from scheduler.framework import MAX_SCORE, Rows, Scores
from scheduler.podinfo import CPU, MEMORY, PodInfo


class BalancedAllocation:
    name = "NodeResourcesBalancedAllocation"

    def score(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Scores | None:
        """100 less the standard deviation of the shares; pods without requests are not balanced (best
        effort).
        """
        if not pod.requests.get(CPU) and not pod.requests.get(MEMORY):
            return None
        index = [nodes.resources[CPU], nodes.resources[MEMORY]]
        total = nodes.allocatable[index][:, rows]
        asked = np.array([[pod.requests.get(CPU, 0)], [pod.requests.get(MEMORY, 0)]])
        used = nodes.requested[index][:, rows] + asked
        shares = np.minimum(used / np.maximum(total, 1), 1.0)
        deviation = np.abs(shares[0] - shares[1]) / 2
        deviation[(total == 0).any(axis=0)] = 0.0
        out: Scores = np.floor((1 - deviation) * MAX_SCORE)
        return out
