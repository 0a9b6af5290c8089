"""PrioritySort: the more important pod first, the older one among equals."""

from __future__ import annotations

from scheduler.podinfo import PodInfo


class PrioritySort:
    name = "PrioritySort"

    def sort_key(self, pod: PodInfo, added: float) -> tuple[float, ...]:
        return (-pod.priority, added)
