"""Where pods go, plugin by plugin, as kubectl shows it on three real workers.

Most pods are made in one go and judged when the scheduler has had its say about each; their image is nowhere,
since nothing here depends on their running.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.lab import Lab, eventually

Object = dict[str, Any]
NAMESPACE = "placing"
ZONE, HOST = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
WORKERS = ("worker-0", "worker-1", "worker-2")
TEAM = {"key": "team", "value": "red", "effect": "NoSchedule"}
CSI = "csi.example.com"


def pod(name: str, labels: Object | None = None, requests: Object | None = None, **spec: Any) -> Object:
    container: Object = {"name": "c", "image": "nowhere/nothing:1", "imagePullPolicy": "Never"}
    if requests:
        container["resources"] = {"requests": requests}
    container |= spec.pop("container", {})
    metadata = {"name": name, "namespace": NAMESPACE, "labels": labels or {}}
    body = {"terminationGracePeriodSeconds": 0, "containers": [container], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body}


def on(*nodes: str) -> Object:
    """Affinity to nodes by their names."""
    return _required([{"matchExpressions": [{"key": HOST, "operator": "In", "values": list(nodes)}]}])


def _required(terms: list[Object]) -> Object:
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def near(kind: str, app: str, key: str = HOST) -> Object:
    term = {"topologyKey": key, "labelSelector": {"matchLabels": {"app": app}}}
    return {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def spread(app: str, **more: Any) -> list[Object]:
    selector = {"matchLabels": {"app": app}}
    rule = {"topologyKey": ZONE, "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}
    return [{"maxSkew": 1, **rule, **more}]


def claim(name: str, volume: str, mode: str = "ReadWriteOnce", storage: str = "") -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "accessModes": [mode],
            "storageClassName": storage,
            "resources": {"requests": {"storage": "1Mi"}},
            **({"volumeName": volume} if volume else {}),
        },
    }


def volume(name: str, mode: str = "ReadWriteOnce", labels: Object | None = None, **spec: Any) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name, "labels": {"test": NAMESPACE, **(labels or {})}},
        "spec": {
            "accessModes": [mode],
            "capacity": {"storage": "1Mi"},
            "storageClassName": "",
            "persistentVolumeReclaimPolicy": "Retain",
            **spec,
        },
    }


def using(*claims: str) -> list[Object]:
    return [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in claims]


def csi(handle: str) -> Object:
    return {"csi": {"driver": CSI, "volumeHandle": handle}}


def cluster_wide() -> list[Object]:
    """What pods refer to."""
    named = {"labels": {"test": NAMESPACE}}
    return [
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {"name": "placing-late", **named},
            "provisioner": "kubernetes.io/no-provisioner",
            "volumeBindingMode": "WaitForFirstConsumer",
        },
        {
            "apiVersion": "node.k8s.io/v1",
            "kind": "RuntimeClass",
            "metadata": {"name": "placing-heavy", **named},
            "handler": "runc",
            "overhead": {"podFixed": {"cpu": "900"}},
        },
        *(
            {
                "apiVersion": "scheduling.k8s.io/v1",
                "kind": "PriorityClass",
                "metadata": {"name": f"placing-{name}", **named},
                "value": value,
                "preemptionPolicy": policy,
            }
            for name, value, policy in (
                ("high", 1000, "PreemptLowerPriority"),
                ("low", -10, "PreemptLowerPriority"),
                ("polite", 2000, "Never"),
            )
        ),
        volume(
            "placing-local",
            storageClassName="placing-late",
            hostPath={"path": "/tmp"},
            nodeAffinity={"required": on("worker-2")["nodeAffinity"][REQUIRED]},
        ),
        volume("placing-zoned", labels={ZONE: "a"}, hostPath={"path": "/tmp"}),
        volume("placing-single", "ReadWriteOncePod", **csi("single")),
        volume("placing-csi-1", **csi("1")),
        volume("placing-csi-2", **csi("2")),
        claim("local", "", storage="placing-late"),
        claim("zoned", "placing-zoned"),
        claim("single", "placing-single", "ReadWriteOncePod"),
        claim("csi-1", "placing-csi-1"),
        claim("csi-2", "placing-csi-2"),
    ]


REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
TOLERANT = [{"key": "team", "operator": "Exists"}]


def first_wave() -> list[Object]:
    """Pods that others are placed by."""
    return [
        pod("db", {"app": "db"}, affinity=on("worker-1")),
        pod("single-1", volumes=using("single"), affinity=on("worker-2")),
        pod("csi-1", volumes=using("csi-1"), affinity=on("worker-1")),
        *(pod(f"port-{n}", container={"ports": [{"containerPort": 1, "hostPort": 30999}]}) for n in (1, 2)),
    ]


def second_wave() -> list[Object]:
    preferred = {
        "weight": 100,
        "preference": {"matchExpressions": [{"key": HOST, "operator": "In", "values": ["worker-1"]}]},
    }
    by_name = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["worker-2"]}]}]
    return [
        pod("too-big", requests={"cpu": "1000", "memory": "1Gi"}),
        pod("too-big-both", requests={"cpu": "1000", "memory": "900Ti"}, tolerations=TOLERANT),
        pod("heavy", requests={"cpu": "1m"}, runtimeClassName="placing-heavy", tolerations=TOLERANT),
        pod("named", nodeName="worker-0"),
        pod("by-field", affinity=_required(by_name)),
        pod("port-3", container={"ports": [{"containerPort": 1, "hostPort": 30999}]}),
        pod("selected", nodeSelector={"disk": "none"}, tolerations=TOLERANT),
        pod("in-zone-b", affinity=_required([{"matchExpressions": [_in_zone("b")]}])),
        pod(
            "preferring",
            affinity={"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [preferred]}},
        ),
        pod("untolerant", affinity=on("worker-0")),
        pod("tolerant", affinity=on("worker-0"), tolerations=TOLERANT),
        pod("web", affinity=near("podAffinity", "db")),
        pod("apart", affinity=near("podAntiAffinity", "db"), nodeSelector={HOST: "worker-1"}),
        pod("alone", affinity=near("podAffinity", "nobody"), tolerations=TOLERANT),
        *(
            pod(f"spread-{n}", {"app": "s"}, topologySpreadConstraints=spread("s"), tolerations=TOLERANT)
            for n in range(4)
        ),
        *(
            pod(
                f"domains-{n}",
                {"app": "d"},
                topologySpreadConstraints=spread("d", minDomains=3),
                tolerations=TOLERANT,
            )
            for n in range(3)
        ),
        pod("local", volumes=using("local"), tolerations=TOLERANT),
        pod("zoned", volumes=using("zoned"), tolerations=TOLERANT),
        pod("single-2", volumes=using("single"), tolerations=TOLERANT),
        pod("csi-2", volumes=using("csi-2"), affinity=on("worker-1")),
        pod("gated", schedulingGates=[{"name": "example.com/quota"}]),
        pod("elsewhere", schedulerName="nobody-is-called-so"),
        pod("important", priorityClassName="placing-high", affinity=on("worker-2")),
    ]


def _in_zone(*zones: str) -> Object:
    return {"key": ZONE, "operator": "In", "values": list(zones)}


class Placing:
    """The namespace, and what the scheduler said of the pods in it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.pods: dict[str, Object] = {}

    def apply(self, objects: Sequence[Object]) -> None:
        self.lab.kubectl("apply", "-f", "-", stdin="\n".join(json.dumps(each) for each in objects))

    def look(self) -> None:
        found = self.lab.get("pods", "-n", NAMESPACE)["items"]
        self.pods = {item["metadata"]["name"]: item for item in found}

    def settle(self, *names: str) -> None:
        """Wait until the scheduler has decided about each."""

        def decided() -> bool:
            self.look()
            return all(self.node(name) or self.said(name) for name in names)

        eventually(f"a word about {', '.join(names)}", decided, 90)

    def node(self, name: str) -> str:
        return str(self.pods[name]["spec"].get("nodeName", ""))

    def condition(self, name: str) -> Object:
        conditions: list[Object] = self.pods[name].get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == "PodScheduled"), {})

    def said(self, name: str) -> str:
        return str(self.condition(name).get("message", ""))

    def why(self, name: str) -> str:
        return self.lab.hardway("why", f"{NAMESPACE}/{name}")


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

    def score(name: str) -> float:
        lines = placed.why(name).splitlines()
        at = next(number for number, line in enumerate(lines) if line.startswith("NODE") and "TOTAL" in line)
        if "ImageLocality" not in lines[at]:
            return 0.0  # no node has it: nothing to score
        column = lines[at].split().index("ImageLocality")
        row = next(line for line in lines[at + 1 :] if line.startswith("worker-1"))
        return float(row.replace(" *", "").split()[column])

    assert score("unseen") == 0
    assert score("seen") > 0


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


def profiles(kubeconfig: Path) -> Object:
    def rating(name: str, strategy: str) -> Object:
        return {
            "schedulerName": name,
            "plugins": {"score": {"disabled": [{"name": "*"}], "enabled": [{"name": "NodeResourcesFit"}]}},
            "pluginConfig": [
                {
                    "name": "NodeResourcesFit",
                    "args": {
                        "scoringStrategy": {"type": strategy, "resources": [{"name": "cpu", "weight": 1}]}
                    },
                }
            ],
        }

    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "leaderElection": {"leaderElect": False},
        "profiles": [rating("packer", "MostAllocated"), rating("leveller", "LeastAllocated")],
    }


def test_a_second_scheduler_with_two_profiles(placed: Placing, tmp_path: Path) -> None:
    """The fuller node draws the pods of one profile, the emptier one those of the other."""
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
    argv = [sys.executable, "-m", "scheduler", f"--config={file}", "--secure-port=0"]
    second = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        small = {"cpu": "10m"}
        names = {"packed": "packer", "level": "leveller"}
        placed.apply(
            [
                pod(name, requests=small, affinity=both, schedulerName=each, tolerations=TOLERANT)
                for name, each in names.items()
            ]
        )
        placed.settle(*names)
        assert (placed.node("packed"), placed.node("level")) == ("worker-1", "worker-2")
    finally:
        second.terminate()
        second.wait(30)
