"""The scheduling queue as a transcript: one place per pod, priority then age, back-off, hints."""

from __future__ import annotations

from dataclasses import replace

from scheduler.framework import ClusterEvent
from scheduler.podinfo import PodInfo, compile_pod
from scheduler.queue import Place, SchedulingQueue
from tests.scheduler.objects import pod


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def info(name: str, priority: int = 0, gates: tuple[str, ...] = ()) -> PodInfo:
    return replace(compile_pod(pod(name)), priority=priority, gates=gates)


def popped(queue: SchedulingQueue) -> str | None:
    queued = queue.pop()
    return queued.info.name if queued else None


def test_priority_first_then_age() -> None:
    clock = Clock()
    queue = SchedulingQueue(clock)
    for name, priority in (("low", 0), ("old", 5), ("high", 9), ("young", 5)):
        queue.add(info(name, priority))
        clock.now += 1
    assert [popped(queue) for _ in range(5)] == ["high", "old", "young", "low", None]


def test_a_parked_pod_wakes_only_for_its_events_and_backs_off_longer_each_time() -> None:
    clock = Clock()
    queue = SchedulingQueue(clock)
    queue.add(info("a"))
    for wait in (1.0, 2.0, 4.0, 8.0, 10.0, 10.0):
        queued = queue.pop()
        assert queued is not None
        queue.park(queued, ClusterEvent.NODE_ADDED)
        queue.on_event(ClusterEvent.POD_REMOVED)
        assert queued.place is Place.UNSCHEDULABLE
        queue.on_event(ClusterEvent.NODE_ADDED)
        assert queue.next_deadline() == clock.now + wait
        assert queue.pop() is None
        clock.now += wait
    assert popped(queue) == "a"


def test_an_event_during_the_flight_is_not_missed() -> None:
    queue = SchedulingQueue(Clock())
    queue.add(info("a"))
    queued = queue.pop()
    assert queued is not None
    queue.on_event(ClusterEvent.NODE_TAINTS)
    queue.park(queued, ClusterEvent.NODE_TAINTS)
    assert queued.place is Place.BACKOFF


def test_a_parked_pod_is_tried_again_after_five_minutes() -> None:
    clock = Clock()
    queue = SchedulingQueue(clock)
    queue.add(info("a"))
    queued = queue.pop()
    assert queued is not None
    queue.park(queued, ClusterEvent(0))
    clock.now += 299
    assert queue.pop() is None
    clock.now += 1
    assert popped(queue) == "a"


def test_gates_hold_a_pod_until_they_are_gone() -> None:
    queue = SchedulingQueue(Clock())
    queue.add(info("a", gates=("wait",)))
    assert queue.pop() is None
    queue.add(info("a"))
    assert popped(queue) == "a"


def test_deleted_and_settled_pods_are_gone() -> None:
    queue = SchedulingQueue(Clock())
    queue.add(info("a"))
    queue.add(info("b"))
    queue.delete("default/a")
    assert popped(queue) == "b"
    queue.settle("default/b", "uid-b")
    assert len(queue) == 0


def test_a_pod_of_the_same_name_is_a_new_pod() -> None:
    queue = SchedulingQueue(Clock())
    queue.add(info("a"))
    first = queue.pop()
    assert first is not None
    second = replace(info("a"), uid="other")
    queue.add(second)
    queue.park(first, ClusterEvent(0))
    again = queue.pop()
    assert again is not None
    assert again.info.uid == "other"
