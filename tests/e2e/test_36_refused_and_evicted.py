"""What a node cannot take or keep: a port that is taken, memory that runs out. Status and event say so by the
reason Kubernetes uses, and the node goes on when the cause is gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import yaml

from tests.e2e.lab import Lab, Object, eventually

NODE, CONFIG = "worker-1", "/etc/kubernetes/kubelet-config.yaml"
NAMESPACE = "e2e-pressure"


def pod(name: str, **container: object) -> str:
    """A pod that names its node itself, so that nobody but the kubelet judges it."""
    main = {"name": "main", "image": "busybox:1.35", "command": ["sleep", "3600"], **container}
    spec = {"nodeName": NODE, "terminationGracePeriodSeconds": 0, "containers": [main]}
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})


@pytest.fixture(scope="module")
def space(lab: Lab) -> Iterator[Lab]:
    lab.kubectl("create", "namespace", NAMESPACE)
    account = ("-n", NAMESPACE, "get", "serviceaccounts", "-o", "name")
    eventually("account", lambda: "default" in lab.kubectl(*account))
    yield lab
    lab.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s")


def status(lab: Lab, name: str) -> Object:
    found: Object = lab.get("pod", name, "-n", NAMESPACE)["status"]
    return found


def reasons(lab: Lab, name: str) -> set[str]:
    events = lab.get("events", "-n", NAMESPACE, "--field-selector", f"involvedObject.name={name}")
    return {event["reason"] for event in events["items"]}


def under_pressure(lab: Lab, kind: str = "MemoryPressure") -> bool:
    conditions = lab.get("node", NODE)["status"]["conditions"]
    return any(each["type"] == kind and each["status"] == "True" for each in conditions)


def taints(lab: Lab) -> set[str]:
    return {taint["key"] for taint in lab.get("node", NODE)["spec"].get("taints") or []}


def test_a_port_that_is_taken(space: Lab) -> None:
    ports = [{"containerPort": 80, "hostPort": 31999}]
    space.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=pod("first", ports=ports))
    space.kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", "pod/first", "--timeout=120s")
    space.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=pod("second", ports=ports))
    eventually("refused", lambda: status(space, "second").get("reason") == "NodePorts", 60)
    assert status(space, "second")["phase"] == "Failed"
    eventually("event", lambda: "NodePorts" in reasons(space, "second"), 60)
    space.kubectl("-n", NAMESPACE, "delete", "pod", "first", "second", "--now")
    space.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=pod("third", ports=ports))
    space.kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", "pod/third", "--timeout=120s")


@pytest.fixture
def starved(space: Lab) -> Iterator[Lab]:
    """A node that must keep more memory, and more process ids, free than it has."""
    before = space.on_host(NODE, "cat", CONFIG)

    def put(text: str) -> None:
        space.on_host(NODE, "sh", "-c", f'printf %s "$1" > {CONFIG}', "sh", text)
        space.hardway("restart", NODE, "kubelet")

    wanted = {"memory.available": "1000Gi", "pid.available": "1G"}
    hungry = {"evictionHard": wanted, "evictionPressureTransitionPeriod": "2s"}
    space.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=pod("victim"))
    space.kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", "pod/victim", "--timeout=120s")
    put(yaml.safe_dump({**yaml.safe_load(before), **hungry}))
    yield space
    put(yaml.safe_dump({**yaml.safe_load(before), "evictionPressureTransitionPeriod": "2s"}))
    eventually("relieved", lambda: not under_pressure(space), 120)
    put(before)


def test_memory_that_runs_out_evicts_who_asked_for_none(starved: Lab) -> None:
    eventually("pressure", lambda: under_pressure(starved), 120)
    eventually("evicted", lambda: status(starved, "victim").get("reason") == "Evicted", 120)
    found = status(starved, "victim")
    assert found["phase"] == "Failed" and "low on resource: memory" in found["message"]
    eventually("event", lambda: "Evicted" in reasons(starved, "victim"), 60)
    eventually("processes", lambda: under_pressure(starved, "PIDPressure"), 60)
    wanted = {f"node.kubernetes.io/{what}-pressure" for what in ("memory", "pid")}
    eventually("taints", lambda: wanted <= taints(starved), 60)


def test_a_relieved_node_takes_pods_again(space: Lab) -> None:
    eventually("taints are gone", lambda: not any("pressure" in each for each in taints(space)), 120)
    space.kubectl("-n", NAMESPACE, "apply", "-f", "-", stdin=pod("after"))
    space.kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", "pod/after", "--timeout=120s")
