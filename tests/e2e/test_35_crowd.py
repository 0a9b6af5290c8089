"""A node that is full, and five hundred real pods over three workers. Minutes and gigabytes: HARDWAY_LONG=1
runs it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
import yaml

from tests.e2e.lab import Lab, Object, eventually

pytestmark = [
    pytest.mark.skipif(os.environ.get("HARDWAY_LONG") != "1", reason="HARDWAY_LONG=1 runs it"),
    pytest.mark.timeout(3600),
]
NAMESPACE, CONFIG = "e2e-crowd", "/etc/kubernetes/kubelet-config.yaml"
WORKERS = ("worker-0", "worker-1", "worker-2")
FULL, FIVE_HUNDRED, ROOM = 110, 500, 250
PATIENCE = 1200.0


def deployment(name: str, replicas: int, node: str = "") -> Object:
    """Pods that wait, on one node or as the scheduler spreads them, and a Service of all of them."""
    container = {"name": "main", "image": "busybox:1.35", "command": ["sleep", "infinity"]}
    selector = {"nodeSelector": {"kubernetes.io/hostname": node}} if node else {}
    spec = {**selector, "terminationGracePeriodSeconds": 0, "containers": [container]}
    template = {"metadata": {"labels": {"app": name}}, "spec": spec}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template},
    }


def pods(lab: Lab, *selection: str) -> list[Object]:
    found: list[Object] = lab.get("pods", *selection)["items"]
    return found


def running(lab: Lab, node: str) -> int:
    """Tasks that the runtime has on a node: two a pod of one container."""
    listed = lab.on_host(node, "ctr", "-n", "k8s.io", "tasks", "ls")
    return sum("RUNNING" in line for line in listed.splitlines())


def until_ready(lab: Lab, name: str, count: int) -> None:
    def ready() -> bool:
        status = lab.get("deployment", name, "-n", NAMESPACE)["status"]
        return bool(status.get("readyReplicas") == count)

    eventually(f"{count} pods of {name}", ready, PATIENCE)


def gone(lab: Lab, name: str, before: dict[str, int]) -> None:
    lab.kubectl("-n", NAMESPACE, "delete", "deployment", name)
    eventually("no pods", lambda: not pods(lab, "-n", NAMESPACE), PATIENCE)
    eventually("nothing left", lambda: all(running(lab, node) <= n for node, n in before.items()), PATIENCE)


@pytest.fixture(scope="module")
def crowd(lab: Lab) -> Iterator[Lab]:
    lab.kubectl("create", "namespace", NAMESPACE)
    yield lab
    lab.kubectl("delete", "namespace", NAMESPACE, "--timeout=600s", timeout=660)


@pytest.fixture
def roomy(crowd: Lab) -> Iterator[Lab]:
    """Workers that take more pods than a node usually does."""
    before = {node: crowd.on_host(node, "cat", CONFIG) for node in WORKERS}

    def put(node: str, text: str) -> None:
        crowd.on_host(node, "sh", "-c", f'printf %s "$1" > {CONFIG}', "sh", text)
        crowd.hardway("restart", node, "kubelet")

    for node, text in before.items():
        put(node, yaml.safe_dump({**yaml.safe_load(text), "maxPods": ROOM}))

    def has_room() -> bool:
        found = {node: crowd.get("node", node)["status"]["allocatable"]["pods"] for node in WORKERS}
        return set(found.values()) == {str(ROOM)}

    eventually("room", has_room, 120)
    yield crowd
    for node, text in before.items():
        put(node, text)


def test_a_node_is_filled_to_its_last_pod_and_outlives_its_kubelet(crowd: Lab) -> None:
    node = WORKERS[0]
    there = len(pods(crowd, "-A", "--field-selector", f"spec.nodeName={node}"))
    before = {node: running(crowd, node)}
    crowd.kubectl("apply", "-f", "-", stdin=json.dumps(deployment("full", FULL - there, node)))
    until_ready(crowd, "full", FULL - there)
    crowd.kubectl("-n", NAMESPACE, "scale", "deployment/full", f"--replicas={FULL - there + 1}")

    def one_too_many() -> bool:
        waiting = pods(crowd, "-n", NAMESPACE, "--field-selector", "status.phase=Pending")
        return len(waiting) == 1 and "Too many pods" in json.dumps(waiting[0]["status"])

    eventually("the one too many waits", one_too_many, 120)
    crowd.hardway("kill", node, "kubelet")
    eventually("the node is back", lambda: node_is_ready(crowd, node), 120)
    for pod in pods(crowd, "-n", NAMESPACE, "--field-selector", "status.phase=Running"):
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
    gone(crowd, "full", before)


def node_is_ready(lab: Lab, node: str) -> bool:
    conditions = lab.get("node", node)["status"]["conditions"]
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def test_five_hundred_pods_start_once_each(roomy: Lab) -> None:
    before = {node: running(roomy, node) for node in WORKERS}
    roomy.kubectl("apply", "-f", "-", stdin=json.dumps(deployment("many", FIVE_HUNDRED)))
    roomy.kubectl("-n", NAMESPACE, "expose", "deployment/many", "--port=80")
    until_ready(roomy, "many", FIVE_HUNDRED)
    found = pods(roomy, "-n", NAMESPACE)
    restarted = [
        each["metadata"]["name"] for each in found if each["status"]["containerStatuses"][0]["restartCount"]
    ]
    assert not restarted, "each was started once"

    def endpoints() -> int:
        listed = roomy.get("endpointslices", "-n", NAMESPACE, "-l", "kubernetes.io/service-name=many")[
            "items"
        ]
        return sum(len(each["endpoints"]) for each in listed)

    eventually("all of them serve", lambda: endpoints() == FIVE_HUNDRED, 120)
    gone(roomy, "many", before)
    roomy.kubectl("-n", NAMESPACE, "delete", "service", "many")
