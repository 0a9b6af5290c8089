"""DefaultBinder: says to the API server which node the pod goes to."""

from __future__ import annotations

from scheduler.framework import Handle
from scheduler.podinfo import PodInfo


class DefaultBinder:
    name = "DefaultBinder"

    async def bind(self, handle: Handle, pod: PodInfo, node: str) -> bool:
        await handle.bind_pod(pod, node)
        return True
