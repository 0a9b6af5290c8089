"""Where pods go, plugin by plugin, as kubectl shows it on three real workers.

Most pods are made in one go and judged when the scheduler has had its say about each; their image is nowhere,
since nothing here depends on their running.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.lab import Lab, Object, eventually
from tests.e2e.placing import (
    CSI,
    NAMESPACE,
    TOLERANT,
    WORKERS,
    ZONE,
    Placing,
    cluster_wide,
    first_wave,
    on,
    pod,
    second_wave,
)


def _limit_volumes(placing: Placing) -> None:
    """One volume of the driver on worker-1, whether its CSINode is there already or not."""
    driver = {"name": CSI, "nodeID": "x", "topologyKeys": None, "allocatable": {"count": 1}}
    owner = {"apiVersion": "v1", "kind": "Node", "name": "worker-1"}
    owner["uid"] = placing.lab.get("node", "worker-1")["metadata"]["uid"]
    metadata = {"name": "worker-1", "ownerReferences": [owner]}
    placing.apply(
        [
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "CSINode",
                "metadata": metadata,
                "spec": {"drivers": [driver]},
            }
        ]
    )


@pytest.fixture(scope="module")
def placing(lab: Lab) -> Iterator[Placing]:
    made = Placing(lab)
    lab.kubectl("create", "namespace", NAMESPACE)
    lab.kubectl("label", "node", "worker-0", f"{ZONE}=a", "--overwrite")
    lab.kubectl("label", "node", "worker-1", "worker-2", f"{ZONE}=b", "--overwrite")
    lab.kubectl("taint", "node", "worker-0", "team=red:NoSchedule", "--overwrite")
    try:
        yield made
    finally:
        lab.kubectl("taint", "node", "worker-0", "team-", code=None)
        lab.kubectl("label", "node", *WORKERS, f"{ZONE}-", code=None)
        lab.kubectl("delete", "namespace", NAMESPACE, "--timeout=90s", code=None)
        kinds = "persistentvolumes,storageclasses,runtimeclasses,priorityclasses"
        lab.kubectl("delete", kinds, "-l", f"test={NAMESPACE}", "--timeout=60s", code=None)
        lab.kubectl("delete", "csinode", "worker-1", "--ignore-not-found", code=None)


@pytest.fixture(scope="module")
def placed(placing: Placing) -> Placing:
    """Everything below in one go, in two waves; decided, but nothing else waited for."""
    placing.apply(cluster_wide())
    _limit_volumes(placing)
    eventually(
        "the service account",
        lambda: placing.lab.kubectl("get", "sa", "default", "-n", NAMESPACE, code=None).count("default"),
    )
    placing.apply(first_wave())
    first = [each["metadata"]["name"] for each in first_wave()]
    placing.settle(*first)
    assert all(placing.node(name) for name in first), {name: placing.said(name) for name in first}
    placing.apply(second_wave())
    silent = {"gated", "elsewhere"}
    placing.settle(*({each["metadata"]["name"] for each in second_wave()} - silent))
    return placing


REFUSALS = {
    "too-big": "0/3 nodes are available: 1 node(s) had untolerated taint {team: red}, 2 Insufficient cpu.",
    "too-big-both": "0/3 nodes are available: 3 Insufficient cpu, 3 Insufficient memory.",
    "heavy": "0/3 nodes are available: 3 Insufficient cpu.",
    "port-3": "0/3 nodes are available: 1 node(s) had untolerated taint {team: red}, "
    "2 node(s) didn't have free ports for the requested pod ports.",
    "selected": "0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.",
    "untolerant": "1 node(s) had untolerated taint {team: red}",
    "apart": "1 node(s) didn't match pod anti-affinity rules",
    "alone": "0/3 nodes are available: 3 node(s) didn't match pod affinity rules.",
    "csi-2": "1 node(s) exceed max volume count",
    "single-2": "ReadWriteOncePod access mode",
    "devices": "this scheduler allocates no devices",
}


@pytest.mark.parametrize("name", sorted(REFUSALS))
def test_a_refusal_counts_every_node(placed: Placing, name: str) -> None:
    assert REFUSALS[name] in placed.said(name), placed.said(name)
    assert placed.node(name) == ""
    assert placed.condition(name)["reason"] == "Unschedulable"


PLACES = {
    "named": {"worker-0"},  # by its author, not by the scheduler: no taint counts
    "by-field": {"worker-2"},
    "in-zone-b": {"worker-1", "worker-2"},
    "preferring": {"worker-1"},
    "tolerant": {"worker-0"},
    "web": {"worker-1"},
    "local": {"worker-2"},  # where its volume is
    "zoned": {"worker-0"},  # in its volume's zone
    "important": {"worker-2"},
}


@pytest.mark.parametrize("name", sorted(PLACES))
def test_a_pod_is_where_it_must_be(placed: Placing, name: str) -> None:
    assert placed.node(name) in PLACES[name], placed.said(name)


def test_a_port_of_the_host_is_used_once(placed: Placing) -> None:
    assert {placed.node("port-1"), placed.node("port-2")} == {"worker-1", "worker-2"}


def test_zones_are_level(placed: Placing) -> None:
    zones = sorted(placed.node(f"spread-{n}") == "worker-0" for n in range(4))
    assert zones == [False, False, True, True]


def test_too_few_domains_hold_one_pod_each(placed: Placing) -> None:
    nodes = [placed.node(f"domains-{n}") for n in range(3)]
    assert nodes.count("") == 1, nodes
    refused = placed.said(f"domains-{nodes.index('')}")
    assert "0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints." in refused


def test_a_gate_holds_a_pod_until_it_is_lifted(placed: Placing) -> None:
    gate = placed.condition("gated")
    assert (gate["status"], gate["reason"]) == ("False", "SchedulingGated")
    assert "SchedulingGated" in placed.lab.kubectl("get", "pod", "gated", "-n", NAMESPACE)
    placed.lab.kubectl(
        "patch", "pod", "gated", "-n", NAMESPACE, "-p", '{"spec":{"schedulingGates":null}}', "--type=merge"
    )

    def bound() -> bool:
        placed.look()
        return placed.node("gated") != ""

    eventually("the pod is placed once the gate is gone", bound)


def test_pods_of_another_scheduler_are_left_alone(placed: Placing) -> None:
    assert placed.condition("elsewhere") == {}
    assert placed.node("elsewhere") == ""


def test_a_priority_class_gives_the_priority(placed: Placing) -> None:
    assert placed.pods["important"]["spec"]["priority"] == 1000
    assert placed.pods["heavy"]["spec"]["overhead"] == {"cpu": "900"}


def test_events_say_what_the_conditions_say(placed: Placing) -> None:
    def events() -> bool:
        text = placed.lab.kubectl("get", "events", "-n", NAMESPACE)
        assert "0/3 nodes are available: 3 Insufficient cpu, 3 Insufficient memory." in text, text
        assert f"Successfully assigned {NAMESPACE}/tolerant to worker-0" in text, text
        return "FailedScheduling" in text

    eventually("events", events)
    text = placed.lab.kubectl("describe", "pod", "alone", "-n", NAMESPACE)
    assert "default-scheduler" in text, text
    assert "0/3 nodes are available: 3 node(s) didn't match pod affinity rules." in text, text


def test_why_tells_each_node_and_each_score(placed: Placing) -> None:
    text = placed.why("preferring")
    assert "worker-1 *" in text, text
    assert {"NodeAffinity", "NodeResourcesFit"} <= set(text.split()), text
    assert "TaintToleration" in text.split("REFUSED BY")[1], text
    text = placed.why("too-big")
    for node in WORKERS:
        assert node in text, text
    assert "Insufficient cpu" in text, text


def test_a_cordoned_node_takes_nobody_and_an_uncordoned_one_again(placed: Placing) -> None:
    placed.lab.kubectl("cordon", "worker-2")
    try:
        placed.apply([pod("waiting", affinity=on("worker-2"))])
        placed.settle("waiting")
        assert "1 node(s) were unschedulable" in placed.said("waiting"), placed.said("waiting")
    finally:
        placed.lab.kubectl("uncordon", "worker-2")

    def bound() -> bool:
        placed.look()
        return placed.node("waiting") == "worker-2"

    eventually("the pod is placed once the node is open again", bound)


def test_the_image_that_is_there_attracts(placed: Placing) -> None:
    """Of the cluster's images that of the DNS server is large enough to count (23 MiB)."""
    images = placed.lab.get("node", "worker-1")["status"]["images"]
    big = max(images, key=lambda image: int(image["sizeBytes"]))["names"][-1]
    placed.apply([pod("seen", container={"image": big}), pod("unseen")])
    placed.settle("seen", "unseen")
    assert placed.scores("unseen", "ImageLocality").get("worker-1", 0) == 0  # no node has it
    assert placed.scores("seen", "ImageLocality")["worker-1"] > 0


def test_preferences_are_rated(placed: Placing) -> None:
    """Near the pod `db` of worker-1, away from it, level with it; and a taint that asks to keep away."""
    for name, plugin, better, worse in (
        ("sociable", "InterPodAffinity", "worker-1", "worker-2"),
        ("shy", "InterPodAffinity", "worker-2", "worker-1"),
        ("preferring", "NodeAffinity", "worker-1", "worker-2"),
    ):
        rated = placed.scores(name, plugin)
        assert rated[better] > rated[worse], (name, rated)
    assert placed.node("levelled") != ""
    placed.lab.kubectl("taint", "node", "worker-2", "e2e=soft:PreferNoSchedule")
    try:
        eventually("it counts", lambda: _rated_after_the_taint(placed))
    finally:
        placed.lab.kubectl("taint", "node", "worker-2", "e2e-")


def _rated_after_the_taint(placed: Placing) -> bool:
    name = f"sensitive-{len(placed.pods)}"
    placed.apply([pod(name)])
    placed.settle(name)
    rated = placed.scores(name, "TaintToleration")
    return rated.get("worker-1", 0) > rated.get("worker-2", 0)


def test_a_closed_zone_counts_or_not_as_told(placed: Placing) -> None:
    """Zone a is closed to these pods by its taint: counted, it is the emptiest for ever."""
    assert all(placed.node(f"honor-{n}") for n in range(2))
    assert [bool(placed.node(f"ignore-{n}")) for n in range(2)].count(True) == 1


def test_a_volume_is_bound_before_its_pod(placed: Placing) -> None:
    """The claim waited for its first consumer (Reserve, PreBind)."""
    found = placed.lab.get("pvc", "local", "-n", NAMESPACE)
    assert found["status"]["phase"] == "Bound" and found["spec"]["volumeName"] == "placing-local"


def test_the_least_important_pod_without_a_budget_makes_room(placed: Placing) -> None:
    lab, room = placed.lab, _free_cpu(placed, "worker-1", "worker-2")
    budget = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "kept", "namespace": NAMESPACE},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "kept"}}},
    }
    low = {"priorityClassName": "placing-low"}
    kept = pod("kept", {"app": "kept"}, {"cpu": f"{room['worker-1']}m"}, affinity=on("worker-1"), **low)
    spare = pod("spare", {"app": "spare"}, {"cpu": f"{room['worker-2']}m"}, affinity=on("worker-2"), **low)
    spare["metadata"]["finalizers"] = ["example.com/hold"]  # keeps it visible while it goes
    placed.apply([budget, kept, spare])
    placed.settle("kept", "spare")
    assert (placed.node("kept"), placed.node("spare")) == ("worker-1", "worker-2")

    size = {"cpu": f"{min(room.values()) // 2}m"}
    both = on("worker-1", "worker-2")
    placed.apply([pod("polite", requests=size, affinity=both, priorityClassName="placing-polite")])
    placed.settle("polite")
    assert placed.node("polite") == ""
    assert "preemptionPolicy=Never" in placed.said("polite"), placed.said("polite")
    lab.kubectl("delete", "pod", "polite", "-n", NAMESPACE)
    placed.apply([pod("urgent", requests=size, affinity=both, priorityClassName="placing-high")])

    def nominated() -> bool:
        placed.look()
        assert "deletionTimestamp" in placed.pods["spare"]["metadata"]
        assert "deletionTimestamp" not in placed.pods["kept"]["metadata"]
        return bool(placed.pods["urgent"]["status"].get("nominatedNodeName") == "worker-2")

    eventually("worker-2 is nominated", nominated)
    lab.kubectl(
        "patch", "pod", "spare", "-n", NAMESPACE, "--type=merge", "-p", '{"metadata":{"finalizers":null}}'
    )

    def bound() -> bool:
        placed.look()
        return placed.node("urgent") == "worker-2"

    eventually("the pod is where room was made", bound)
    eventually("the event", lambda: "Preempted" in lab.kubectl("get", "events", "-n", NAMESPACE))


def _free_cpu(placed: Placing, *nodes: str) -> dict[str, int]:
    """Most of what is left of a node, in thousandths of a CPU."""
    pods = placed.lab.get("pods", "-A")["items"]
    free = {}
    for name in nodes:
        allocatable = _milli(placed.lab.get("node", name)["status"]["allocatable"]["cpu"])
        used = sum(
            _milli(container.get("resources", {}).get("requests", {}).get("cpu", "0"))
            for each in pods
            if each["spec"].get("nodeName") == name
            for container in each["spec"]["containers"]
        )
        free[name] = (allocatable - used) * 9 // 10
    return free


def _milli(quantity: str) -> int:
    return int(quantity[:-1]) if quantity.endswith("m") else int(quantity) * 1000


SHAPE = [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]


def only(plugin: str) -> Object:
    return {"score": {"disabled": [{"name": "*"}], "enabled": [{"name": plugin}]}}


def profiles(kubeconfig: Path) -> Object:
    def rating(name: str, strategy: str, **more: Any) -> Object:
        arguments = {"type": strategy, "resources": [{"name": "cpu", "weight": 1}], **more}
        return {
            "schedulerName": name,
            "plugins": only("NodeResourcesFit"),
            "pluginConfig": [{"name": "NodeResourcesFit", "args": {"scoringStrategy": arguments}}],
        }

    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "leaderElection": {"leaderElect": False},
        "profiles": [
            rating("packer", "MostAllocated"),
            rating("leveller", "LeastAllocated"),
            rating("shaper", "RequestedToCapacityRatio", requestedToCapacityRatio={"shape": SHAPE}),
            {"schedulerName": "balancer", "plugins": only("NodeResourcesBalancedAllocation")},
        ],
    }


def matching_memory(placed: Placing, cpu: int) -> str:
    """As large a part of worker-1's memory as so many thousandths are of its CPU."""
    room = placed.lab.get("node", "worker-1")["status"]["allocatable"]
    return f"{int(room['memory'].removesuffix('Ki')) * cpu // _milli(room['cpu'])}Ki"


def contenders() -> list[Object]:
    """One port, and the more important pod comes later."""
    port = {"ports": [{"containerPort": 1, "hostPort": 30998}]}
    where: Object = {"affinity": on("worker-2"), "schedulerName": "packer"}
    return [
        pod("sooner", container=port, **where),
        pod("later", container=port, priorityClassName="placing-high", **where),
    ]


def test_a_second_scheduler_with_its_own_profiles(placed: Placing, tmp_path: Path) -> None:
    """The fuller node draws the pods of some profiles, the emptier one those of another; the one whose CPU is
    taken draws who asks for memory. What waits is served by its importance.
    """
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(profiles(placed.lab.kubeconfig)))
    ballast = {"cpu": "300m"}
    both = on("worker-1", "worker-2")
    placed.lab.kubectl("delete", "pods", "-n", NAMESPACE, "kept", "urgent", "--ignore-not-found")
    placed.apply([pod("ballast", requests=ballast, affinity=on("worker-1"))])

    def loaded() -> bool:
        placed.look()
        return placed.node("ballast") == "worker-1"

    eventually("worker-1 is the fuller", loaded)  # not at once, if the scheduler has yet to see the room made
    placed.apply(contenders())
    argv = [sys.executable, "-m", "scheduler", f"--config={file}", "--secure-port=0"]
    second = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        small = {"cpu": "10m"}
        names = {"packed": "packer", "level": "leveller", "shaped": "shaper"}
        memory = {"cpu": "10m", "memory": matching_memory(placed, 300)}
        placed.apply([pod("balanced", requests=memory, affinity=both, schedulerName="balancer")])
        placed.apply(
            [
                pod(name, requests=small, affinity=both, schedulerName=each, tolerations=TOLERANT)
                for name, each in names.items()
            ]
        )
        placed.settle(*names)
        assert (placed.node("packed"), placed.node("level")) == ("worker-1", "worker-2")
        placed.settle("balanced", "sooner", "later")
        assert (placed.node("shaped"), placed.node("balanced")) == ("worker-1", "worker-1")
        assert (placed.node("later"), placed.node("sooner")) == ("worker-2", "")
    finally:
        second.terminate()
        second.wait(30)
