"""What the scheduler writes about pods besides bindings: events, the PodScheduled condition, and
evictions.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from apimachinery import errors, meta
from kubeclient.events import EventRecorder
from kubeclient.resources import PODS
from kubeclient.rest import STRATEGIC, ConnectionFailed, RestClient
from scheduler.framework import Outcome, Profile
from scheduler.podinfo import PodInfo

log = logging.getLogger(__name__)

WRITE_TIMEOUT = 30.0
_FAILURES = (errors.StatusError, ConnectionFailed, TimeoutError)
Object = dict[str, Any]


def reference(info: PodInfo) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": info.name, "namespace": info.namespace, "uid": info.uid},
    }


class Reporter:
    """Failures to write are logged: the next attempt writes again."""

    def __init__(self, client: RestClient, recorder: EventRecorder) -> None:
        self._client = client
        self._recorder = recorder

    def scheduled(self, info: PodInfo, node: str) -> None:
        text = f"Successfully assigned {info.key} to {node}"
        self._recorder.event(reference(info), "Normal", "Scheduled", text)

    async def unschedulable(self, info: PodInfo, message: str, *, nominated: str | None) -> None:
        """An event, the condition and, if `nominated` is not None, the nominated node ("" removes it)."""
        self._recorder.event(reference(info), "Warning", "FailedScheduling", message)
        status: Object = {"conditions": [_condition("PodScheduled", "False", "Unschedulable", message)]}
        status["conditions"][0]["lastProbeTime"] = None
        if nominated is not None:
            status["nominatedNodeName"] = nominated or None
        await self._patch_status(info, status)

    async def evict(self, profile: Profile, info: PodInfo, outcome: Outcome) -> None:
        """Carry out a preemption: the nominated node is written already, so whoever sees room knows for
        whom.
        """
        for victim in outcome.victims:
            if victim.terminating:
                continue
            text = f"{profile.scheduler_name}: preempting to accommodate a higher priority pod"
            await self._patch_status(
                victim,
                {"conditions": [_condition("DisruptionTarget", "True", "PreemptionByScheduler", text)]},
            )
            if await self._delete(victim):
                said = f"Preempted by pod {info.uid} on node {outcome.node}"
                self._recorder.event(reference(victim), "Normal", "Preempted", said)
        for other in outcome.lowered:
            await self._patch_status(other, {"nominatedNodeName": None})

    async def _delete(self, victim: PodInfo) -> bool:
        try:
            async with asyncio.timeout(WRITE_TIMEOUT):
                await self._client.delete(
                    PODS, victim.name, victim.namespace, options={"preconditions": {"uid": victim.uid}}
                )
        except _FAILURES as error:
            log.warning("victim not deleted", extra={"pod": victim.key, "error": str(error)})
            return False
        return True

    async def _patch_status(self, info: PodInfo, status: Object) -> None:
        body = {"metadata": {"uid": info.uid}, "status": status}
        try:
            async with asyncio.timeout(WRITE_TIMEOUT):
                await self._client.patch(
                    PODS, info.name, body, info.namespace, content_type=STRATEGIC, subresource="status"
                )
        except _FAILURES as error:
            log.debug("pod status not written", extra={"pod": info.key, "error": str(error)})


def _condition(kind: str, status: str, reason: str, message: str) -> Object:
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": meta.now_rfc3339(time.time()),
    }
