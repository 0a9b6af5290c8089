"""Events: what is combined, counted, dropped, and how the rest is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kubeclient import events
from kubeclient.events import Correlator, EventRecorder, Outcome
from kubeclient.owners import controller_of, controller_ref, is_controlled_by, is_owned_by, without_owner
from tests.kubeclient.fakeapi import running
from tests.kubeclient.loops import eventually, on_loop

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "x", "namespace": "a", "uid": "u", "resourceVersion": "5"},
}


def event(message: str, *, reason: str = "Failed", stamp: str = "t0", name: str = "x") -> dict[str, Any]:
    return {
        "metadata": {"name": f"{name}.1", "namespace": "a"},
        "involvedObject": {"kind": "Pod", "namespace": "a", "name": name, "uid": name},
        "type": "Warning",
        "reason": reason,
        "message": message,
        "source": {"component": "kubelet"},
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }


def test_a_repeated_event_raises_its_count() -> None:
    correlator = Correlator()
    first = correlator.correlate(event("m"), 0)
    second = correlator.correlate(event("m", stamp="t1"), 1)
    third = correlator.correlate(event("m", stamp="t2"), 2)
    assert isinstance(first, Outcome)
    assert first.patch is None
    assert second is not None
    assert second.patch == {"count": 2, "message": "m", "lastTimestamp": "t1"}
    assert third is not None
    assert (third.patch, third.event["firstTimestamp"]) == (
        {"count": 3, "message": "m", "lastTimestamp": "t2"},
        "t0",
    )


def test_similar_events_are_combined_after_ten() -> None:
    correlator = Correlator()
    outcomes = [correlator.correlate(event(f"m{n}"), n) for n in range(13)]
    assert all(each is not None and each.patch is None for each in outcomes[:11])
    assert outcomes[10] is not None
    assert outcomes[10].event["message"] == "(combined from similar events): m10"
    assert outcomes[12] is not None
    assert outcomes[12].patch is not None
    assert outcomes[12].patch["count"] == 3


def test_a_quiet_while_ends_the_combining() -> None:
    correlator = Correlator()
    for n in range(12):
        correlator.correlate(event(f"m{n}"), 0)
    later = correlator.correlate(event("later"), events.SIMILAR_WINDOW + 1)
    assert later is not None
    assert later.event["message"] == "later"


def test_one_object_may_be_spoken_of_so_often_and_no_more() -> None:
    correlator = Correlator()
    sent = [correlator.correlate(event("m", reason=f"R{n}"), 0) for n in range(30)]
    assert [each is not None for each in sent] == [True] * 25 + [False] * 5
    assert correlator.correlate(event("m", name="other"), 0) is not None
    assert correlator.correlate(event("m", reason="R99"), 301) is not None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "CACHE_SIZE", 10)
    correlator = Correlator()
    for n in range(50):
        correlator.correlate(event("m", name=f"p{n}"), 0)
    assert len(correlator._known) == len(correlator._buckets) == len(correlator._similar) == 10


def test_events_reach_the_server_and_survive_expiry() -> None:
    async def test() -> None:
        async with running() as (api, client):
            recorder = EventRecorder(client, "kubelet", "node-a")
            async with asyncio.TaskGroup() as group:
                task = group.create_task(recorder.run())
                recorder.event(POD, events.WARNING, "BackOff", "restarting")
                recorder.event(POD, events.WARNING, "BackOff", "restarting")
                await eventually(lambda: len(api.requests) == 2)
                await eventually(lambda: len(api.objects) == 1)
                ((path, stored),) = api.objects.items()
                assert path.startswith("/api/v1/namespaces/a/events/x.")
                await eventually(lambda: next(iter(api.objects.values()))["count"] == 2)
                assert stored["involvedObject"] == {
                    "kind": "Pod",
                    "namespace": "a",
                    "name": "x",
                    "uid": "u",
                    "apiVersion": "v1",
                    "resourceVersion": "5",
                }
                assert stored["source"] == {"component": "kubelet", "host": "node-a"}
                # The server forgets events after an hour; the next one must not be lost with them.
                api.objects.clear()
                recorder.event(POD, events.WARNING, "BackOff", "restarting")
                await eventually(lambda: len(api.objects) == 1)
                assert next(iter(api.objects.values()))["count"] == 3
                task.cancel()

    on_loop(test)


def test_a_refused_event_is_dropped_and_the_next_is_sent() -> None:
    async def test() -> None:
        async with running() as (api, client):
            api.answers.append((403, {}, b"no"))
            recorder = EventRecorder(client, "kubelet")
            recorder.event(POD, events.NORMAL, "One", "m")
            recorder.event(POD, events.NORMAL, "Two", "m")
            async with asyncio.TaskGroup() as group:
                task = group.create_task(recorder.run())
                await eventually(lambda: [each["reason"] for each in api.objects.values()] == ["Two"])
                task.cancel()

    on_loop(test)


def test_recording_never_waits_nor_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "QUEUE_SIZE", 3)
    client: Any = None

    async def test() -> None:
        recorder = EventRecorder(client, "kubelet")
        for n in range(10):
            recorder.event(POD, events.NORMAL, f"R{n}", "m")
        assert recorder._queue.qsize() == 3

    on_loop(test)


def test_owners() -> None:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "rs", "uid": "1"}}
    other = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "rs", "uid": "2"}}
    reference = controller_ref(owner)
    assert reference == {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "rs",
        "uid": "1",
        "controller": True,
        "blockOwnerDeletion": True,
    }
    child = {"metadata": {"name": "p", "ownerReferences": [{**reference, "controller": False}, reference]}}
    assert controller_of(child) == reference
    assert is_controlled_by(child, owner)
    assert not is_controlled_by(child, other)
    assert is_owned_by(child, owner)
    assert not is_owned_by({"metadata": {}}, owner)
    assert controller_of({"metadata": {}}) is None
    assert without_owner(child, "1") == []
