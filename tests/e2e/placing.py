"""What the scheduler's tests place: pods and all they refer to, in two waves, and what was said of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from tests.e2e.lab import Lab, Object, eventually

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


def among(policy: str) -> list[Object]:
    """Whether zones count that are closed to the pod by a taint."""
    return spread(policy, nodeTaintsPolicy=policy)


def preferring(kind: str, app: str) -> Object:
    term = {"topologyKey": HOST, "labelSelector": {"matchLabels": {"app": app}}}
    return {
        kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}
    }


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
            pod(f"{policy.lower()}-{n}", {"app": policy}, topologySpreadConstraints=among(policy))
            for policy in ("Honor", "Ignore")
            for n in range(2)
        ),
        pod("sociable", affinity=preferring("podAffinity", "db")),
        pod("shy", affinity=preferring("podAntiAffinity", "db")),
        pod("levelled", topologySpreadConstraints=spread("db", whenUnsatisfiable="ScheduleAnyway")),
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
        pod("devices", resourceClaims=[{"name": "gpu", "resourceClaimName": "gpu"}]),
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

    def scores(self, name: str, plugin: str) -> dict[str, float]:
        """By node, as the plugin rated it for the pod; nothing when it rated none."""
        lines = self.why(name).splitlines()
        at = next(number for number, line in enumerate(lines) if line.startswith("NODE") and "TOTAL" in line)
        if plugin not in lines[at]:
            return {}
        column = lines[at].split().index(plugin)
        table = takewhile(lambda line: line.startswith("worker-"), lines[at + 1 :])
        rows = [line.replace(" *", "").split() for line in table]
        return {row[0]: float(row[column]) for row in rows}
