"""DynamicResources: devices (KEP-4381) are allocated by the scheduler, and this one allocates none.

A pod that asks for them is refused by name; placed without its devices, it would wait on its node for ever.
"""

from __future__ import annotations

from scheduler.columns import Columns
from scheduler.framework import ClusterEvent, Refusal
from scheduler.podinfo import PodInfo


class DynamicResources:
    name = "DynamicResources"
    events = ClusterEvent(0)

    def pre_filter(self, pod: PodInfo, nodes: Columns) -> Refusal | None:
        if not pod.devices:
            return None
        return Refusal(self.name, f"this scheduler allocates no devices (spec.resourceClaims: {pod.devices})")
