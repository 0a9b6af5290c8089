"""Which pod is next: the active, back-off and unschedulable queues (KEP-4247's hints, without its
goroutines).

Pure: the clock is a function handed in. A pod is in exactly one place: active, back-off, unschedulable,
gated, or in flight (popped and not yet settled). Events that come while a pod is in flight are remembered, so
that a pod which fails for a reason that has just gone is tried again rather than parked.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from scheduler.framework import NOTHING, ClusterEvent
from scheduler.plugins.priority_sort import PrioritySort
from scheduler.plugins.scheduling_gates import SchedulingGates
from scheduler.podinfo import PodInfo

Gate = Callable[[PodInfo], str | None]
SortKey = Callable[[PodInfo, float], tuple[float, ...]]

INITIAL_BACKOFF = 1.0
MAXIMUM_BACKOFF = 10.0
UNSCHEDULABLE_TIMEOUT = 300.0  # even without an event, a parked pod is tried again after this


class Place(Enum):
    ACTIVE = "active"
    BACKOFF = "backoff"
    UNSCHEDULABLE = "unschedulable"
    GATED = "gated"
    IN_FLIGHT = "in-flight"


@dataclass(slots=True)
class QueuedPod:
    """A pod that waits to be placed, and its history."""

    info: PodInfo
    place: Place
    added: float
    attempts: int = 0
    since: float = 0.0
    ready_at: float = 0.0
    ticket: int = 0
    wakes_on: ClusterEvent = NOTHING
    seen: ClusterEvent = NOTHING


class SchedulingQueue:
    """Pods in the order of the QueueSort plugin; those that a PreEnqueue plugin holds back wait aside."""

    def __init__(
        self, now: Callable[[], float], gate: Gate | None = None, sort_key: SortKey | None = None
    ) -> None:
        self._now = now
        self._gate = gate or SchedulingGates().pre_enqueue
        self._sort_key = sort_key or PrioritySort().sort_key
        self._pods: dict[str, QueuedPod] = {}
        self._parked: dict[str, QueuedPod] = {}
        self._in_flight: dict[str, QueuedPod] = {}
        self._active: list[tuple[tuple[float, ...], int, str]] = []
        self._backoff: list[tuple[float, int, str]] = []
        self._tickets = itertools.count(1)

    def __len__(self) -> int:
        return len(self._pods)

    def depths(self) -> dict[str, int]:
        """Pods per place, for metrics."""
        out = {place.value: 0 for place in Place}
        for queued in self._pods.values():
            out[queued.place.value] += 1
        return out

    def get(self, key: str) -> QueuedPod | None:
        return self._pods.get(key)

    def add(self, info: PodInfo) -> None:
        """A pod that wants a node appeared, or changed."""
        queued = self._pods.get(info.key)
        if queued is not None and queued.info.uid == info.uid:
            self._update(queued, info)
            return
        queued = QueuedPod(info, Place.GATED, self._now())
        self._pods[info.key] = queued
        if self._gate(info) is None:
            self._activate(queued)

    def _update(self, queued: QueuedPod, info: PodInfo) -> None:
        changed = info != queued.info
        queued.info = info
        if queued.place is Place.GATED and self._gate(info) is None:
            self._activate(queued)
        elif queued.place is Place.UNSCHEDULABLE and changed:
            self._wake(queued)

    def delete(self, key: str) -> None:
        self._pods.pop(key, None)
        self._parked.pop(key, None)
        self._in_flight.pop(key, None)

    def pop(self) -> QueuedPod | None:
        """The next pod to place, now in flight; None when there is none at this moment."""
        self.flush()
        while self._active:
            *_, ticket, key = heapq.heappop(self._active)
            queued = self._pods.get(key)
            if queued is None or queued.place is not Place.ACTIVE or queued.ticket != ticket:
                continue
            queued.place = Place.IN_FLIGHT
            self._in_flight[key] = queued
            queued.attempts += 1
            queued.seen = NOTHING
            return queued
        return None

    def settle(self, key: str, uid: str) -> None:
        """The pod in flight has its node."""
        queued = self._pods.get(key)
        if queued is not None and queued.info.uid == uid:
            self.delete(key)

    def park(self, queued: QueuedPod, wakes_on: ClusterEvent) -> None:
        """No node fits; wait for an event that may change it."""
        if self._pods.get(queued.info.key) is not queued:
            return
        if queued.seen & wakes_on:
            self._back_off(queued)
            return
        del self._in_flight[queued.info.key]
        self._parked[queued.info.key] = queued
        queued.place, queued.since, queued.wakes_on = Place.UNSCHEDULABLE, self._now(), wakes_on

    def retry(self, queued: QueuedPod) -> None:
        """Placing failed for a reason outside the pod (a conflict, a lost connection): try again after
        back-off.
        """
        if self._pods.get(queued.info.key) is queued:
            self._back_off(queued)

    def on_event(self, event: ClusterEvent) -> None:
        """The cluster changed: wake the pods for which this may matter."""
        for queued in self._in_flight.values():
            queued.seen |= event
        for queued in list(self._parked.values()):
            if queued.wakes_on & event:
                self._wake(queued)

    def flush(self) -> None:
        """Move what has waited long enough."""
        now = self._now()
        while self._backoff and self._backoff[0][0] <= now:
            _, ticket, key = heapq.heappop(self._backoff)
            queued = self._pods.get(key)
            if queued is not None and queued.place is Place.BACKOFF and queued.ticket == ticket:
                self._activate(queued)
        while self._parked:
            oldest = next(iter(self._parked.values()))  # parked in order of time
            if now - oldest.since < UNSCHEDULABLE_TIMEOUT:
                break
            self._wake(oldest)

    def next_deadline(self) -> float | None:
        """When `pop` may have something new without any event; None if never."""
        times = [self._backoff[0][0]] if self._backoff else []
        if self._parked:
            times.append(next(iter(self._parked.values())).since + UNSCHEDULABLE_TIMEOUT)
        return min(times, default=None)

    def _wake(self, queued: QueuedPod) -> None:
        """Back to work: at once if its back-off has passed while it was parked."""
        if queued.since + self._backoff_of(queued) <= self._now():
            self._activate(queued)
        else:
            self._back_off(queued, queued.since)

    def _backoff_of(self, queued: QueuedPod) -> float:
        return float(min(INITIAL_BACKOFF * 2 ** max(queued.attempts - 1, 0), MAXIMUM_BACKOFF))

    def _back_off(self, queued: QueuedPod, since: float | None = None) -> None:
        start = self._now() if since is None else since
        self._leave(queued)
        queued.place, queued.ticket = Place.BACKOFF, next(self._tickets)
        queued.ready_at = start + self._backoff_of(queued)
        heapq.heappush(self._backoff, (queued.ready_at, queued.ticket, queued.info.key))

    def _leave(self, queued: QueuedPod) -> None:
        self._parked.pop(queued.info.key, None)
        self._in_flight.pop(queued.info.key, None)

    def _activate(self, queued: QueuedPod) -> None:
        self._leave(queued)
        queued.place, queued.ticket = Place.ACTIVE, next(self._tickets)
        order = self._sort_key(queued.info, queued.added)
        heapq.heappush(self._active, (order, queued.ticket, queued.info.key))
