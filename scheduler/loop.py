"""The scheduling cycle: pop, decide, assume, and hand over to the binding cycle while the next pod is
decided.

One decision at a time, many bindings at once (bounded). A decision is visible to the next one because the pod
is assumed on its node before its binding is sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from componentbase import metrics
from componentbase.tasks import Background
from kubeclient.events import EventRecorder
from kubeclient.rest import RestClient
from scheduler.binding import Binder, Rejected, Waiting
from scheduler.cluster import Cluster
from scheduler.core import decide
from scheduler.explain import Archive
from scheduler.framework import NOTHING, ClusterEvent, Decision, Outcome, Profile, Refuser, Rng
from scheduler.podinfo import PodInfo
from scheduler.queue import QueuedPod
from scheduler.report import Reporter
from scheduler.sheets import Sheets

log = logging.getLogger(__name__)

# Enough for the store to share its fsyncs among bindings; more would only wait longer in the apiserver.
MAX_BINDINGS = 32

ATTEMPTS = metrics.counter(
    "scheduler_schedule_attempts_total", "Attempts to place a pod, by outcome.", ("result", "profile")
)
ATTEMPT_SECONDS = metrics.histogram(
    "scheduler_scheduling_attempt_duration_seconds", "Decision and binding of a pod.", ("result", "profile")
)
DECISION_SECONDS = metrics.histogram(
    "scheduler_scheduling_algorithm_duration_seconds", "The decision alone.", ()
)
PREEMPTIONS = metrics.counter("scheduler_preemption_attempts_total", "Attempts to make room.", ())
PENDING = metrics.gauge("scheduler_pending_pods", "Pods waiting, by queue.", ("queue",))


class SchedulingLoop:
    """Runs while this process leads."""

    def __init__(
        self,
        client: RestClient,
        cluster: Cluster,
        profiles: Mapping[str, Profile],
        recorder: EventRecorder,
        rng: Rng,
        archive: Archive | None = None,
    ) -> None:
        self._cluster = cluster
        self._profiles = profiles
        self._rng = rng
        self._sheets = Sheets()
        self._archive = archive or Archive()
        self._changed = asyncio.Event()
        self._room = asyncio.Semaphore(MAX_BINDINGS)
        self.waiting = Waiting()
        self._binder = Binder(client, cluster, self.waiting)
        self._report = Reporter(client, recorder)
        cluster.on_change = self._wake

    def _wake(self) -> None:
        self._changed.set()
        self._binder.notify()

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
        except Exception:
            # Whatever it was, the pod must not stay in flight, nor on a node it did not get.
            log.exception("attempt failed", extra={"pod": queued.info.key})
            self._cluster.forget(queued.info)
            self._cluster.queue.retry(queued)
            result = "error"
        finally:
            self._room.release()
        ATTEMPTS.labels(result, profile.scheduler_name).inc()
        ATTEMPT_SECONDS.labels(result, profile.scheduler_name).observe(time.perf_counter() - started)

    def _decide(self, info: PodInfo, profile: Profile) -> Decision:
        started = time.perf_counter()
        columns, nominated = self._cluster.columns, self._cluster.nominated
        self._archive.remember(profile, info, columns, nominated, time.time())
        decision = decide(profile, info, columns, self._rng, sheets=self._sheets, nominated=nominated)
        DECISION_SECONDS.observe(time.perf_counter() - started)
        return decision

    async def _attempt(self, queued: QueuedPod, profile: Profile) -> str:
        """Decide and bind one pod. Until the first await this runs alone: decision and assumption are one
        step.
        """
        info = queued.info
        decision = self._decide(info, profile)
        if decision.node is None:
            await self._refuse(queued, profile, decision)
            return "unschedulable"
        self._archive.placed(info, decision.node)
        self._cluster.assume(info, decision.node)
        self._cluster.nominate(info, "")
        try:
            await self._binder.bind(profile, info, decision.node)
        except Rejected as error:
            self._cluster.forget(info)
            await self._give_back(queued, profile, decision, error)
            return "unschedulable" if error.plugin else "error"
        self._cluster.queue.settle(info.key, info.uid)
        self._report.scheduled(info, decision.node)
        return "scheduled"

    async def _give_back(
        self, queued: QueuedPod, profile: Profile, decision: Decision, error: Rejected
    ) -> None:
        """The binding cycle failed: park the pod if a plugin said no, else retry after back-off."""
        if error.vanished:
            self._cluster.queue.delete(queued.info.key)
            return
        log.warning("not bound", extra={"pod": queued.info.key, "error": str(error)})
        if error.plugin:
            self._cluster.queue.park(queued, ~NOTHING)
            await self._report.unschedulable(queued.info, str(error), nominated=None)
        else:
            self._cluster.queue.retry(queued)

    async def _refuse(self, queued: QueuedPod, profile: Profile, decision: Decision) -> None:
        """No node fits: try to make room, park, and say why."""
        info = queued.info
        outcome = self._make_room(info, profile, decision)
        message = f"{decision.message} {outcome.message}".rstrip()
        self._archive.refused(info, message)
        nominated = outcome.node if outcome.node or info.nominated_node else None
        self._cluster.nominate(info, outcome.node)
        self._cluster.queue.park(queued, wakes_on(profile, decision))
        if outcome.node:
            PREEMPTIONS.inc()
            await self._report.unschedulable(info, message, nominated=nominated)
            await self._report.evict(profile, info, outcome)
        else:
            await self._report.unschedulable(info, message, nominated=nominated)

    def _make_room(self, info: PodInfo, profile: Profile, decision: Decision) -> Outcome:
        """The first plan of a PostFilter plugin, or all their messages."""
        messages: list[str] = []
        if not decision.total:
            return Outcome("")
        for plugin in profile.post_filters:
            outcome = plugin.post_filter(
                profile, info, self._cluster.columns, decision.failures, self._cluster.nominated, self._rng
            )
            if outcome.node:
                return outcome
            messages.append(outcome.message)
        return Outcome(", ".join(message for message in messages if message))


def wakes_on(profile: Profile, decision: Decision) -> ClusterEvent:
    """Events that could change this refusal: those of the plugins that refused, or a node's coming if
    there is none.
    """
    events = ClusterEvent.NODE_ADDED
    refusers: tuple[Refuser, ...] = (*profile.pre_filters, *profile.filters)
    for plugin in refusers:
        if plugin.name in decision.rejected_by:
            events |= plugin.events
    return events
