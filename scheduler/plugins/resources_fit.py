"""NodeResourcesFit: what a pod requests must be free; how full a node would be decides its score.

The three scoring strategies are those of NodeResourcesFitArgs: LeastAllocated (the default), MostAllocated
and RequestedToCapacityRatio.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scheduler.columns import Columns, Ints, Rows
from scheduler.framework import MAX_SCORE, ClusterEvent, Scores, Verdict
from scheduler.podinfo import CPU, EPHEMERAL, MEMORY, PODS, PodInfo
from scheduler.tallies import Mask

_NATIVE = frozenset((CPU, MEMORY, EPHEMERAL, PODS))
Strategy = Callable[[Ints, Ints], Ints]  # capacity, used with the pod -> 0..MAX_SCORE


def is_scalar(resource: str) -> bool:
    """An extended resource, huge pages: one that a node either has or does not know."""
    return resource not in _NATIVE


def least_allocated(capacity: Ints, used: Ints) -> Ints:
    out: Ints = np.maximum(capacity - used, 0) * MAX_SCORE // np.maximum(capacity, 1)
    return out


def most_allocated(capacity: Ints, used: Ints) -> Ints:
    out: Ints = np.minimum(used, capacity) * MAX_SCORE // np.maximum(capacity, 1)
    return out


@dataclass(frozen=True, slots=True)
class RequestedToCapacityRatio:
    """A broken line through points (utilisation 0..100, score 0..10), flat outside of them."""

    shape: tuple[tuple[int, int], ...]

    def __call__(self, capacity: Ints, used: Ints) -> Ints:
        share = used * MAX_SCORE // np.maximum(capacity, 1)
        share = np.where(used > capacity, MAX_SCORE, share)
        first = self.shape[0]
        out: Ints = np.full_like(share, self.shape[-1][1] * 10)
        done = share <= first[0]
        out[done] = first[1] * 10
        for (x0, y0), (x1, y1) in zip(self.shape, self.shape[1:], strict=False):
            here = ~done & (share <= x1)
            rise = 10 * (y1 - y0) * (share[here] - x0)
            out[here] = 10 * y0 + np.trunc(rise / (x1 - x0)).astype(np.int64)  # Go's division truncates
            done |= here
        return out


class ResourcesFit:
    name = "NodeResourcesFit"
    events = ClusterEvent.NODE_ADDED | ClusterEvent.NODE_ALLOCATABLE | ClusterEvent.POD_REMOVED
    local_filter = True
    local_score = True

    def __init__(
        self,
        strategy: Strategy = least_allocated,
        resources: tuple[tuple[str, int], ...] = ((CPU, 1), (MEMORY, 1)),
        ignored: frozenset[str] = frozenset(),
        ignored_groups: frozenset[str] = frozenset(),
    ) -> None:
        self._strategy = strategy
        self._resources = resources
        self._ignored = ignored
        self._ignored_groups = ignored_groups

    def _checked(self, resource: str) -> bool:
        if not is_scalar(resource):
            return True
        return resource not in self._ignored and resource.partition("/")[0] not in self._ignored_groups

    def filter(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Verdict | None:
        wanted = {PODS: 1}
        wanted.update((name, value) for name, value in pod.requests.items() if value and self._checked(name))
        names = list(wanted)
        free: list[Mask] = []
        passes: Mask | None = None
        for name, value in wanted.items():
            index = nodes.resource_row(name)
            enough = nodes.allocatable[index][rows] - nodes.requested[index][rows] >= value
            free.append(enough)
            passes = enough if passes is None else passes & enough
        assert passes is not None

        def reasons(position: int) -> list[str]:
            short = [name for name, enough in zip(names, free, strict=True) if not enough[position]]
            return ["Too many pods" if name == PODS else f"Insufficient {name}" for name in short]

        def hopeless(position: int) -> bool:
            """Even the empty node would be too small."""
            row = rows.start + position if isinstance(rows, slice) else rows[position]
            short = [name for name, enough in zip(names, free, strict=True) if not enough[position]]
            return any(
                name != PODS and wanted[name] > nodes.allocatable[nodes.resource_row(name), row]
                for name in short
            )

        def kinds(fallen: Rows) -> Ints:
            out = np.zeros(passes[fallen].size, dtype=np.int64)
            for (name, value), enough in zip(wanted.items(), free, strict=True):
                total = nodes.allocatable[nodes.resource_row(name)][rows][fallen]
                out = out * 3 + np.where(enough[fallen], 0, np.where(total < value, 2, 1))
            return out

        return Verdict(passes, reasons, final=hopeless, kinds=kinds)

    def score(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Scores | float | None:
        sums = np.zeros(nodes.live[rows].size, dtype=np.int64)
        weights = np.zeros_like(sums)
        ratio = isinstance(self._strategy, RequestedToCapacityRatio)
        for resource, weight in self._resources:
            if is_scalar(resource) and not pod.requests.get(resource):
                continue
            capacity, used = self._usage(pod, nodes, rows, resource)
            scores = self._strategy(capacity, used)
            counted = (capacity > 0) & (scores > 0) if ratio else capacity > 0
            sums += np.where(counted, scores * weight, 0)
            weights += np.where(counted, weight, 0)
        out = sums / np.maximum(weights, 1)
        result: Scores = np.floor(out + 0.5) if ratio else np.floor(out)
        return result

    def _usage(self, pod: PodInfo, nodes: Columns, rows: Rows, resource: str) -> tuple[Ints, Ints]:
        """Capacity, and what would be used with the pod; for cpu and memory absent requests count by
        default.
        """
        index = nodes.resource_row(resource)
        capacity = nodes.allocatable[index][rows]
        if resource == CPU:
            return capacity, nodes.scoring[0][rows] + pod.scoring_cpu
        if resource == MEMORY:
            return capacity, nodes.scoring[1][rows] + pod.scoring_memory
        return capacity, nodes.requested[index][rows] + pod.requests.get(resource, 0)
