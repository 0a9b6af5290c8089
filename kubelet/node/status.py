"""The Node object and its status, from facts. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apimachinery import quantity
from kubelet.cri.pb import api_pb2 as pb
from kubelet.node.machine import Machine
from kubelet.pods.resources import milli, whole
from kubelet.pods.status import stamp

MEMORY_FLOOR = 100 << 20  # bytes; memory.available<100Mi of the default hard eviction thresholds
DISK_FLOOR = 0.10  # nodefs.available<10%
MAX_IMAGES = 50
# The words between a kubelet with --cloud-provider=external and a cloud-controller-manager.
PROVIDED_IP = "alpha.kubernetes.io/provided-node-ip"
# What the embedded runtime does not keep apart, for whoever relies on the node.
NOT_ISOLATED = "hardway.dev/not-isolated"
UNINITIALIZED = {
    "key": "node.cloudprovider.kubernetes.io/uninitialized",
    "value": "true",
    "effect": "NoSchedule",
}

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """How this node presents itself."""

    name: str
    ips: tuple[str, ...]
    port: int
    max_pods: int
    kubelet_version: str
    reserved: Sequence[Mapping[str, str]] = ()
    taints: Sequence[Mapping[str, Any]] = ()
    external_cloud: bool = False  # a cloud-controller-manager says what the cloud knows of this node
    provider_id: str = ""
    not_isolated: Sequence[str] = ()


def node_object(spec: NodeSpec, machine: Machine) -> Object:
    """The Node as it is registered, without status."""
    labels = {
        "kubernetes.io/hostname": spec.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": machine.architecture,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": machine.architecture,
    }
    annotations = {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}
    if spec.not_isolated:
        annotations[NOT_ISOLATED] = "; ".join(spec.not_isolated)
    taints = [dict(taint) for taint in spec.taints]
    if spec.external_cloud:
        annotations[PROVIDED_IP] = ",".join(spec.ips)
        taints.append(dict(UNINITIALIZED))
    body: Object = {"taints": taints} if taints else {}
    if spec.provider_id:
        body["providerID"] = spec.provider_id
    metadata = {"name": spec.name, "labels": labels, "annotations": annotations}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": body}


def capacity(spec: NodeSpec, machine: Machine) -> dict[str, str]:
    """All there is."""
    return {
        "cpu": str(machine.cpus),
        "memory": f"{machine.memory // 1024}Ki",
        "ephemeral-storage": f"{machine.disk // 1024}Ki",
        "pods": str(spec.max_pods),
        "hugepages-2Mi": "0",
    }


def allocatable(spec: NodeSpec, machine: Machine) -> dict[str, str]:
    """What pods may have: capacity less what is reserved, and less the eviction threshold."""
    out = capacity(spec, machine)

    def reserved(name: str, read: Any) -> int:
        return sum(read(held[name]) for held in spec.reserved if name in held)

    cpu = machine.cpus * 1000 - reserved("cpu", milli)
    out["cpu"] = str(quantity.parse(f"{max(0, cpu)}m"))
    memory = machine.memory - reserved("memory", whole) - MEMORY_FLOOR
    out["memory"] = f"{max(0, memory) // 1024}Ki"
    disk = int(machine.disk * (1 - DISK_FLOOR)) - reserved("ephemeral-storage", whole)
    out["ephemeral-storage"] = str(max(0, disk))
    return out


def runtime_problems(status: pb.RuntimeStatus | None, relisting: bool) -> list[str]:
    """Why the node is not ready, in the words of Kubernetes; empty when it is."""
    if status is None:
        return ["container runtime is down"]
    problems = [] if relisting else ["PLEG is not healthy: pleg has yet to be successful"]
    held = {condition.type: condition for condition in status.conditions}
    for kind, what in (("RuntimeReady", "container runtime"), ("NetworkReady", "container runtime network")):
        condition = held.get(kind)
        if condition is None or not condition.status:
            reason = condition.reason if condition else ""
            message = condition.message if condition else ""
            problems.append(f"{what} not ready: {kind}=false reason:{reason} message:{message}")
    return problems


def conditions(
    pressures: Collection[str], problems: Sequence[str], old: Sequence[Mapping[str, Any]], now: float
) -> list[Object]:
    """The node's own conditions; a transition time moves only when the status does."""
    made = [
        _pressure("MemoryPressure", "MemoryPressure" in pressures, "Memory", "memory available"),
        _pressure("DiskPressure", "DiskPressure" in pressures, "Disk", "no disk pressure"),
        _pressure("PIDPressure", "PIDPressure" in pressures, "PID", "PID available"),
    ]
    if problems:
        text = f"[{', '.join(problems)}]" if len(problems) > 1 else problems[0]
        made.append({"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": text})
    else:
        text = "kubelet is posting ready status"
        made.append({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": text})
    before = {condition["type"]: condition for condition in old}
    for condition in made:
        was = before.get(condition["type"], {})
        same = was.get("status") == condition["status"]
        condition["lastHeartbeatTime"] = stamp(now)
        condition["lastTransitionTime"] = was.get("lastTransitionTime") if same else stamp(now)
    return made


_CHANGES = {
    ("MemoryPressure", "True"): "NodeHasInsufficientMemory",
    ("MemoryPressure", "False"): "NodeHasSufficientMemory",
    ("DiskPressure", "True"): "NodeHasDiskPressure",
    ("DiskPressure", "False"): "NodeHasNoDiskPressure",
    ("PIDPressure", "True"): "NodeHasInsufficientPID",
    ("PIDPressure", "False"): "NodeHasSufficientPID",
    ("Ready", "True"): "NodeReady",
    ("Ready", "False"): "NodeNotReady",
}


def changes(old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[str]:
    """The reasons of the events that tell which conditions are no longer what they were."""
    before = {condition["type"]: condition["status"] for condition in old}
    return [
        _CHANGES[condition["type"], condition["status"]]
        for condition in new
        if before.get(condition["type"]) != condition["status"]
    ]


def _pressure(kind: str, low: bool, what: str, fine: str) -> Object:
    if low:
        reason, message = (
            f"KubeletHasInsufficient{what}",
            f"kubelet has insufficient {what.lower()} available",
        )
        if what == "Disk":
            reason, message = "KubeletHasDiskPressure", "kubelet has disk pressure"
        return {"type": kind, "status": "True", "reason": reason, "message": message}
    reason = "KubeletHasNoDiskPressure" if what == "Disk" else f"KubeletHasSufficient{what}"
    return {"type": kind, "status": "False", "reason": reason, "message": f"kubelet has {_fine(what, fine)}"}


def _fine(what: str, fine: str) -> str:
    return fine if what == "Disk" else f"sufficient {fine}"


def image_list(images: Sequence[pb.Image]) -> list[Object]:
    """The largest images, with their names."""
    largest = sorted(images, key=lambda image: -image.size)[:MAX_IMAGES]
    named = ([*image.repo_digests, *image.repo_tags] for image in largest)
    pairs = zip(named, largest, strict=True)
    return [{"names": names, "sizeBytes": int(image.size)} for names, image in pairs if names]


def node_status(
    spec: NodeSpec,
    machine: Machine,
    *,
    version: pb.VersionResponse | None,
    images: Sequence[pb.Image],
    made: list[Object],
) -> Object:
    """The whole status."""
    runtime = f"{version.runtime_name}://{version.runtime_version}" if version else ""
    addresses = [{"type": "InternalIP", "address": ip} for ip in spec.ips]
    return {
        "capacity": capacity(spec, machine),
        "allocatable": allocatable(spec, machine),
        "addresses": [*addresses, {"type": "Hostname", "address": spec.name}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": spec.port}},
        "nodeInfo": {
            "machineID": machine.machine_id,
            "systemUUID": machine.machine_id,
            "bootID": machine.boot_id,
            "kernelVersion": machine.kernel,
            "osImage": machine.os_image,
            "containerRuntimeVersion": runtime,
            "kubeletVersion": spec.kubelet_version,
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": machine.architecture,
        },
        "images": image_list(images),
        "conditions": made,
    }


def essence(status: Mapping[str, Any]) -> Object:
    """The status without heartbeat times: what must be reported at once when it changes."""
    out = dict(status)
    out["conditions"] = [
        {k: v for k, v in condition.items() if k not in ("lastHeartbeatTime", "lastTransitionTime")}
        for condition in status.get("conditions", [])
    ]
    return out
