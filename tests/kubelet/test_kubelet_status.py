"""The status of pods: phases, conditions and container states as Kubernetes names them."""

from __future__ import annotations

from typing import Any

import pytest

from kubelet.pods.observed import ContainerView, SandboxView
from kubelet.pods.status import Facts, Status, Waiting, pod_status, stamp
from kubelet.statuses import differs, merge_patch
from tests.kubelet.builders import EXITED, NOW, container, pod, sandbox, seen, view


def status(made: dict[str, Any], *parts: SandboxView | ContainerView, **facts: Any) -> Status:
    return pod_status(made, view(*parts), Facts(now=NOW, host_ips=("10.240.0.20",), **facts))


def condition(made: Status, kind: str) -> str:
    return next(str(c["status"]) for c in made["conditions"] if c["type"] == kind)


def test_a_pod_that_has_not_begun_is_pending() -> None:
    made = status(pod())
    assert made["phase"] == "Pending"
    assert made["containerStatuses"][0]["state"] == {"waiting": {"reason": "ContainerCreating"}}
    assert condition(made, "Ready") == "False"
    assert "podIP" not in made
    assert made["hostIP"] == "10.240.0.20"


def test_a_running_pod_is_ready_and_has_its_address() -> None:
    made = status(pod(), sandbox(), seen())
    assert (made["phase"], made["podIP"], made["podIPs"]) == ("Running", "10.200.0.5", [{"ip": "10.200.0.5"}])
    assert [condition(made, kind) for kind in ("Initialized", "ContainersReady", "Ready")] == ["True"] * 3


def test_readiness_follows_the_probe() -> None:
    made = pod(container(readinessProbe={"exec": {}}))
    assert condition(status(made, sandbox(), seen()), "Ready") == "False"
    assert condition(status(made, sandbox(), seen(), ready={"c-0": True}), "Ready") == "True"


def test_an_unstarted_container_is_not_ready() -> None:
    made = pod(container(startupProbe={"exec": {}}))
    shown = status(made, sandbox(), seen())["containerStatuses"][0]
    assert (shown["started"], shown["ready"]) == (False, False)


def test_readiness_gates_hold_the_pod_back() -> None:
    made = pod(readinessGates=[{"conditionType": "example.com/ok"}])
    assert condition(status(made, sandbox(), seen()), "Ready") == "False"
    made["status"] = {"conditions": [{"type": "example.com/ok", "status": "True"}]}
    shown = status(made, sandbox(), seen())
    assert condition(shown, "Ready") == "True"
    assert condition(shown, "example.com/ok") == "True"


@pytest.mark.parametrize(
    ("policy", "code", "phase"),
    [
        ("Always", 0, "Running"),
        ("Always", 1, "Running"),
        ("OnFailure", 0, "Succeeded"),
        ("OnFailure", 1, "Running"),
        ("Never", 0, "Succeeded"),
        ("Never", 1, "Failed"),
    ],
)
def test_phase_after_the_only_container_ended(policy: str, code: int, phase: str) -> None:
    waiting = {"c": Waiting("CrashLoopBackOff")} if phase == "Running" else {}
    made = status(pod(restartPolicy=policy), sandbox(), seen(state=EXITED, code=code), waiting=waiting)
    assert made["phase"] == phase


def test_crash_loop_shows_the_end_as_last_state() -> None:
    waiting = {"c": Waiting("CrashLoopBackOff", "back-off 10s")}
    shown = status(pod(), sandbox(), seen(state=EXITED, code=3, attempt=2), waiting=waiting)
    held = shown["containerStatuses"][0]
    assert held["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}
    assert held["lastState"]["terminated"]["exitCode"] == 3
    assert held["restartCount"] == 2


def test_a_failed_init_container_fails_the_pod_that_never_restarts() -> None:
    made = pod(init=(container("i"),), restartPolicy="Never")
    assert status(made, sandbox(), seen("i", EXITED, code=1))["phase"] == "Failed"
    assert status(pod(init=(container("i"),)), sandbox(), seen("i", EXITED, code=1))["phase"] == "Pending"


def test_an_ended_pod_keeps_its_address_and_tells_why_it_is_not_ready() -> None:
    made = pod(restartPolicy="Never")
    made["status"] = {"podIP": "10.200.0.5", "podIPs": [{"ip": "10.200.0.5"}]}
    shown = status(made, sandbox(ready=False), seen(state=EXITED), finished=True)
    assert (shown["phase"], shown["podIP"]) == ("Succeeded", "10.200.0.5")
    reasons = {c["type"]: c.get("reason") for c in shown["conditions"]}
    assert reasons["Ready"] == reasons["ContainersReady"] == "PodCompleted"


def test_a_refused_pod_fails_with_its_reason_and_no_containers() -> None:
    shown = status(pod(), failed=("OutOfcpu", "no room"))
    assert (shown["phase"], shown["reason"], shown["containerStatuses"]) == ("Failed", "OutOfcpu", [])


def test_a_container_lost_without_a_trace_counts_as_killed() -> None:
    shown = status(pod(restartPolicy="Never"), finished=True)
    held = shown["containerStatuses"][0]["state"]["terminated"]
    assert (held["exitCode"], held["reason"]) == (137, "ContainerStatusUnknown")
    assert shown["phase"] == "Failed"


def test_transition_times_move_only_with_the_status() -> None:
    made = pod()
    made["status"] = status(made, sandbox(), seen())
    later = pod_status(made, view(sandbox(), seen()), Facts(now=NOW + 60, host_ips=()))
    assert {c["lastTransitionTime"] for c in later["conditions"]} == {stamp(NOW)}
    fallen = pod_status(made, view(sandbox(), seen(state=EXITED)), Facts(now=NOW + 60, host_ips=()))
    ready = next(c for c in fallen["conditions"] if c["type"] == "Ready")
    assert ready["lastTransitionTime"] == stamp(NOW + 60)


def test_host_network_pods_have_the_address_of_the_node() -> None:
    assert status(pod(hostNetwork=True), sandbox(), seen())["podIP"] == "10.240.0.20"


def test_only_real_changes_are_written() -> None:
    made = status(pod(), sandbox(), seen())
    assert not differs(made, {**made, "conditions": [dict(c) for c in made["conditions"]]})
    assert differs(made, {**made, "phase": "Failed"})
    foreign = {**made, "conditions": [*made["conditions"], {"type": "other", "status": "True"}]}
    assert not differs(foreign, made)


def test_the_patch_removes_what_is_no_more_and_names_the_pod_by_uid() -> None:
    made = pod()
    made["status"] = {"reason": "Old", "podIP": "10.200.0.5"}
    patch = merge_patch(made, {"phase": "Running"})
    assert patch["metadata"] == {"uid": "uid-1"}
    assert patch["status"] == {"phase": "Running", "reason": None, "podIP": None}
