"""SchedulingGates: a pod with gates is not queued until they are gone (KEP-3521)."""

from __future__ import annotations

from scheduler.podinfo import PodInfo


class SchedulingGates:
    name = "SchedulingGates"

    def pre_enqueue(self, pod: PodInfo) -> str | None:
        return f"waiting for scheduling gates: {list(pod.gates)}" if pod.gates else None
