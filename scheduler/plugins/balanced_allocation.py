"""NodeResourcesBalancedAllocation: prefer nodes where the resources would be used in equal shares."""

from __future__ import annotations

import numpy as np

from scheduler.columns import Columns, Rows
from scheduler.framework import MAX_SCORE, Scores
from scheduler.plugins.resources_fit import is_scalar
from scheduler.podinfo import CPU, MEMORY, PodInfo


class BalancedAllocation:
    name = "NodeResourcesBalancedAllocation"
    local_score = True

    def __init__(self, resources: tuple[str, ...] = (CPU, MEMORY)) -> None:
        self._resources = resources

    def pre_score(self, pod: PodInfo, nodes: Columns) -> bool:
        """Pods that request nothing are not balanced (best effort)."""
        return any(pod.requests.get(resource) for resource in self._resources)

    def score(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Scores | float | None:
        """100 less the standard deviation of the shares."""
        shares, counted = [], []
        for resource in self._resources:
            wanted = pod.requests.get(resource, 0)
            if is_scalar(resource) and not wanted:
                continue
            index = nodes.resource_row(resource)
            total = nodes.allocatable[index][rows]
            used = nodes.requested[index][rows] + wanted
            shares.append(np.minimum(used / np.maximum(total, 1), 1.0))
            counted.append(total > 0)
        out: Scores = np.floor((1 - _deviation(np.array(shares), np.array(counted))) * MAX_SCORE)
        return out


def _deviation(shares: Scores, counted: np.ndarray) -> Scores:
    """Standard deviation per column over the resources that a node has."""
    if len(shares) == 2:
        both: Scores = np.where(counted.all(axis=0), np.abs(shares[0] - shares[1]) / 2, 0.0)
        return both
    held = np.maximum(counted.sum(axis=0), 1)
    mean = np.where(counted, shares, 0.0).sum(axis=0) / held
    squares = np.where(counted, (shares - mean) ** 2, 0.0).sum(axis=0)
    out: Scores = np.sqrt(squares / held)
    return out
