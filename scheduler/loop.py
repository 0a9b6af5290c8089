"""The scheduling cycle and the binding cycle: pop, decide, assume, and bind while the next pod is decided.

One decision at a time, many bindings at once (bounded). A decision is visible to the next one because the pod
is assumed on its node before its binding is sent.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from typing import Any

from apimachinery import errors, meta
from componentbase import metrics
from componentbase.tasks import Background
from kubeclient.events import EventRecorder
from kubeclient.resources import PODS
from kubeclient.rest import STRATEGIC, ConnectionFailed, RestClient
from scheduler.cluster import Cluster
from scheduler.core import decide
from scheduler.framework import ClusterEvent, Decision, Profile
from scheduler.podinfo import PodInfo
from scheduler.queue import QueuedPod

log = logging.getLogger(__name__)

MAX_BINDINGS = 64
BIND_TIMEOUT = 30.0

ATTEMPTS = metrics.counter(
    "scheduler_schedule_attempts_total", "Attempts to place a pod, by outcome.", ("result", "profile")
)
ATTEMPT_SECONDS = metrics.histogram(
    "scheduler_scheduling_attempt_duration_seconds", "Decision and binding of a pod.", ("result", "profile")
)
DECISION_SECONDS = metrics.histogram(
    "scheduler_scheduling_algorithm_duration_seconds", "The decision alone.", ()
)
PENDING = metrics.gauge("scheduler_pending_pods", "Pods waiting, by queue.", ("queue",))


class SchedulingLoop:
    """Runs while this process leads."""

    def __init__(
        self,
        client: RestClient,
        cluster: Cluster,
        profiles: Mapping[str, Profile],
        recorder: EventRecorder,
        rng: random.Random,
    ) -> None:
        self._client = client
        self._cluster = cluster
        self._profiles = profiles
        self._recorder = recorder
        self._rng = rng
        self._changed = asyncio.Event()
        self._room = asyncio.Semaphore(MAX_BINDINGS)
        cluster.on_change = self._changed.set

    async def run(self) -> None:
        async with Background("bindings") as bindings:
            while True:
                queued = self._cluster.queue.pop()
                if queued is None:
                    await self._wait()
                    continue
                await self._room.acquire()
                bindings.spawn(queued.info.key, self._place(queued))
                await asyncio.sleep(0)

    async def _wait(self) -> None:
        """Until something changed, or the next pod's back-off ends."""
        for place, depth in self._cluster.queue.depths().items():
            PENDING.labels(place).set(depth)
        deadline = self._cluster.queue.next_deadline()
        self._changed.clear()
        delay = 60.0 if deadline is None else max(deadline - time.monotonic(), 0.0)
        try:
            async with asyncio.timeout(min(delay, 60.0)):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _place(self, queued: QueuedPod) -> None:
        started = time.perf_counter()
        profile = self._profiles[queued.info.scheduler_name]
        try:
            result = await self._attempt(queued, profile)
        finally:
            self._room.release()
        ATTEMPTS.labels(result, profile.scheduler_name).inc()
        ATTEMPT_SECONDS.labels(result, profile.scheduler_name).observe(time.perf_counter() - started)

    async def _attempt(self, queued: QueuedPod, profile: Profile) -> str:
        """Decide and bind one pod. Until the first await this runs alone: decision and assumption are one
        step.
        """
        started = time.perf_counter()
        decision = decide(profile, queued.info, self._cluster.columns, self._rng)
        DECISION_SECONDS.observe(time.perf_counter() - started)
        if decision.node is None:
            self._cluster.queue.park(queued, wakes_on(profile, decision))
            await self._report_unschedulable(queued.info, decision)
            return "unschedulable"
        self._cluster.assume(queued.info, decision.node)
        try:
            async with asyncio.timeout(BIND_TIMEOUT):
                await self._bind(queued.info, decision.node)
        except (errors.StatusError, ConnectionFailed, TimeoutError) as error:
            log.warning("binding failed", extra={"pod": queued.info.key, "error": str(error)})
            self._cluster.forget(queued.info)
            if errors.is_not_found(error):
                self._cluster.queue.delete(queued.info.key)
            else:
                self._cluster.queue.retry(queued)
            return "error"
        self._cluster.queue.settle(queued.info.key, queued.info.uid)
        text = f"Successfully assigned {queued.info.key} to {decision.node}"
        self._recorder.event(_reference(queued.info), "Normal", "Scheduled", text)
        return "scheduled"

    async def _bind(self, info: PodInfo, node: str) -> None:
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": info.name, "namespace": info.namespace, "uid": info.uid},
            "target": {"kind": "Node", "name": node},
        }
        await self._client.create(PODS, binding, info.namespace, name=info.name, subresource="binding")

    async def _report_unschedulable(self, info: PodInfo, decision: Decision) -> None:
        """An event and the pod's condition, as kube-scheduler words them."""
        self._recorder.event(_reference(info), "Warning", "FailedScheduling", decision.message)
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": decision.message,
            "lastProbeTime": None,
            "lastTransitionTime": meta.now_rfc3339(time.time()),
        }
        try:
            async with asyncio.timeout(BIND_TIMEOUT):
                await self._client.patch(
                    PODS,
                    info.name,
                    {"metadata": {"uid": info.uid}, "status": {"conditions": [condition]}},
                    info.namespace,
                    content_type=STRATEGIC,
                    subresource="status",
                )
        except (errors.StatusError, ConnectionFailed, TimeoutError) as error:
            log.debug("pod condition not written", extra={"pod": info.key, "error": str(error)})


def wakes_on(profile: Profile, decision: Decision) -> ClusterEvent:
    """Events that could change this refusal: those of the plugins that refused, or a node's coming if
    there is none.
    """
    events = ClusterEvent.NODE_ADDED
    for plugin in profile.filters:
        if plugin.name in decision.rejected_by:
            events |= plugin.events
    return events


def _reference(info: PodInfo) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": info.name, "namespace": info.namespace, "uid": info.uid},
    }
