"""What the page shows of objects and readings."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.console import view

READING = {
    "member": 0xABC,
    "leader": 0xABC,
    "term": 3,
    "index": 9,
    "applied": 8,
    "revision": 7,
    "size": 4096,
    "learner": False,
}


@pytest.mark.parametrize(
    ("change", "role"),
    [
        ({}, "leader"),
        ({"leader": 0xDEF}, "follower"),
        ({"leader": 0}, "no leader"),
        ({"leader": 0xDEF, "learner": True}, "learner"),
    ],
)
def test_the_role_of_a_member(change: dict[str, Any], role: str) -> None:
    found = view.member("controller-0", READING | change)
    assert (found["role"], found["id"], found["term"], found["applied"]) == (role, "abc", 3, 8)


def test_a_silent_member_says_why() -> None:
    found = view.member("controller-0", {"error": "does not answer"})
    assert found == {"host": "controller-0", "role": "unreachable", "error": "does not answer"}


def test_a_host_that_is_off_has_no_units() -> None:
    assert view.host("h", "worker", "10.0.0.1", {"error": "not up"}) == {
        "name": "h",
        "role": "worker",
        "address": "10.0.0.1",
        "up": False,
        "units": [],
    }


def test_a_node_names_what_is_wrong_with_it() -> None:
    node = {
        "metadata": {"name": "w"},
        "spec": {"unschedulable": True, "taints": [{"key": "b"}, {"key": "a"}, {"key": "a"}]},
        "status": {
            "conditions": [
                {"type": "Ready", "status": "True"},
                {"type": "DiskPressure", "status": "True"},
                {"type": "PIDPressure", "status": "False"},
                {"type": "MemoryPressure", "status": "Unknown"},
            ]
        },
    }
    assert view.node(node) == {
        "name": "w",
        "ready": True,
        "cordoned": True,
        "pressure": ["DiskPressure", "MemoryPressure"],
        "taints": ["a", "b"],
    }
    assert not view.node({"metadata": {"name": "new"}})["ready"]


def pod(status: dict[str, Any] | None = None, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"uid": "1", "namespace": "d", "name": "p", **metadata}, "status": status or {}}


@pytest.mark.parametrize(
    ("obj", "state"),
    [
        (pod(), "Unknown"),
        (pod({"phase": "Running"}), "Running"),
        (pod({"phase": "Running"}, deletionTimestamp="2026-01-01T00:00:00Z"), "Terminating"),
        (pod({"phase": "Failed", "reason": "Evicted"}), "Evicted"),
        (
            pod(
                {
                    "phase": "Running",
                    "containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}],
                }
            ),
            "CrashLoopBackOff",
        ),
    ],
)
def test_the_state_of_a_pod_is_kubectls_word(obj: dict[str, Any], state: str) -> None:
    assert view.pod(obj)["state"] == state


def test_a_pod_is_ready_when_all_its_containers_are() -> None:
    assert not view.pod(pod())["ready"]
    both = [{"ready": True, "restartCount": 2}, {"ready": True, "restartCount": 1}]
    found = view.pod(pod({"containerStatuses": both}))
    assert (found["ready"], found["restarts"]) == (True, 3)
    assert not view.pod(pod({"containerStatuses": [*both, {"ready": False}]}))["ready"]


def event(uid: str, **fields: Any) -> dict[str, Any]:
    return {"metadata": {"uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z"}, **fields}


def test_events_newest_first_by_when_they_were_seen_last() -> None:
    found = view.newest(
        [
            event("a", lastTimestamp="2026-01-01T00:00:05Z", count=4),
            event("b"),
            event(
                "c",
                eventTime="2026-01-01T00:00:01.000000Z",
                series={"count": 7, "lastObservedTime": "2026-01-01T00:00:09Z"},
            ),
        ]
    )
    assert [(each["uid"], each["count"]) for each in found] == [("c", 7), ("a", 4), ("b", 1)]


def test_the_page_keeps_a_bounded_number_of_events() -> None:
    assert len(view.newest(event(str(number)) for number in range(view.MAX_EVENTS + 5))) == view.MAX_EVENTS
