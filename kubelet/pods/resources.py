"""What a pod may use: quality of service, cgroup figures, and the node's share.

The numbers follow Kubernetes: 1024 CPU shares a core (2 at least), a CFS period of 100 ms (quota 1 ms at
least), and the OOM scores of KEP "node-allocatable" (-997 guaranteed, 1000 best effort, in between by
memory request).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any

from apimachinery import quantity
from kubelet.cri.pb import api_pb2 as pb

CPU_PERIOD = 100_000  # microseconds

GUARANTEED, BURSTABLE, BEST_EFFORT = "Guaranteed", "Burstable", "BestEffort"


def milli(amount: object) -> int:
    """Thousandths of a unit, rounded up: the way CPU is counted."""
    return quantity.parse(str(amount)).milli()


def whole(amount: object) -> int:
    """Whole units (bytes, pods), rounded up."""
    return quantity.parse(str(amount)).value()


def binary(amount: int) -> str:
    """Bytes as Kubernetes prints them: in the largest binary unit that holds them without a fraction."""
    return str(quantity.Quantity(Decimal(amount), quantity.BINARY))


def every_container(spec: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Init containers, then the others."""
    return [*spec.get("initContainers", []), *spec.get("containers", [])]


def qos_class(spec: Mapping[str, Any]) -> str:
    """Guaranteed when every container's requests equal its limits for cpu and memory; BestEffort when none
    has any.
    """
    any_set, all_equal = False, True
    for container in every_container(spec):
        resources = container.get("resources") or {}
        limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
        for name in ("cpu", "memory"):
            limit, request = limits.get(name), requests.get(name, limits.get(name))
            any_set = any_set or limit is not None or request is not None
            if limit is None or request is None or milli(limit) != milli(request):
                all_equal = False
    if not any_set:
        return BEST_EFFORT
    return GUARANTEED if all_equal else BURSTABLE


def oom_score(spec: Mapping[str, Any], container: Mapping[str, Any], memory_capacity: int) -> int:
    """How readily the kernel kills this container when memory runs out."""
    if spec.get("priorityClassName") in ("system-node-critical",):
        return -997
    qos = qos_class(spec)
    if qos == GUARANTEED:
        return -997
    if qos == BEST_EFFORT:
        return 1000
    resources = container.get("resources") or {}
    request = (resources.get("requests") or {}).get(
        "memory", (resources.get("limits") or {}).get("memory", 0)
    )
    score = 1000 - (1000 * whole(request)) // max(1, memory_capacity)
    return min(max(score, 3), 999)


def linux_resources(
    spec: Mapping[str, Any], container: Mapping[str, Any], memory_capacity: int
) -> pb.LinuxContainerResources:
    """The cgroup figures of one container."""
    resources = container.get("resources") or {}
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    cpu_request = requests.get("cpu", limits.get("cpu"))
    out = pb.LinuxContainerResources(
        cpu_shares=cpu_shares(milli(cpu_request) if cpu_request is not None else 0),
        oom_score_adj=oom_score(spec, container, memory_capacity),
    )
    if "cpu" in limits:
        out.cpu_period = CPU_PERIOD
        out.cpu_quota = max(1000, milli(limits["cpu"]) * CPU_PERIOD // 1000)
    if "memory" in limits:
        out.memory_limit_in_bytes = whole(limits["memory"])
    return out


def cpu_shares(milli_cpu: int) -> int:
    """The weight of a CPU request in cgroup v1 terms."""
    return min(262_144, max(2, milli_cpu * 1024 // 1000))


def pod_request(spec: Mapping[str, Any], resource: str) -> int:
    """What a pod asks for, in thousandths."""

    def asked(container: Mapping[str, Any]) -> int:
        resources = container.get("resources") or {}
        request = (resources.get("requests") or {}).get(
            resource, (resources.get("limits") or {}).get(resource)
        )
        return milli(request) if request is not None else 0

    return _together(spec, resource, asked)


def pod_limit(spec: Mapping[str, Any], resource: str) -> int | None:
    """What a pod may use at most, in thousandths; None when one of its containers has no limit."""
    limits = [
        ((container.get("resources") or {}).get("limits") or {}).get(resource)
        for container in every_container(spec)
    ]
    if not limits or any(limit is None for limit in limits):
        return None
    return _together(spec, resource, lambda container: milli(container["resources"]["limits"][resource]))


def _together(spec: Mapping[str, Any], resource: str, asked: Callable[[Mapping[str, Any]], int]) -> int:
    """The larger of the containers together and the greediest init container, and the overhead.

    A sidecar counts with the containers, and with every init container after it (KEP-753).
    """
    sidecars = peak = 0
    for container in spec.get("initContainers", []):
        if container.get("restartPolicy") == "Always":
            sidecars += asked(container)
            peak = max(peak, sidecars)
        else:
            peak = max(peak, sidecars + asked(container))
    running = sidecars + sum(asked(container) for container in spec.get("containers", []))
    overhead = (spec.get("overhead") or {}).get(resource)
    return max(peak, running) + (milli(overhead) if overhead is not None else 0)


def cgroup_parent(root: str, uid: str, qos: str) -> str:
    """The cgroupfs path below which the pod's containers live."""
    tier = {GUARANTEED: "", BURSTABLE: "/burstable", BEST_EFFORT: "/besteffort"}[qos]
    return f"{root.rstrip('/')}/kubepods{tier}/pod{uid}"


def insufficient(
    pod: Mapping[str, Any], others: Iterable[Mapping[str, Any]], allocatable: Mapping[str, str]
) -> str:
    """The name of the first resource this pod would overdraw on the node; empty when it fits."""
    held = list(others)
    if len(held) + 1 > whole(allocatable.get("pods", "110")):
        return "pods"
    for name in ("cpu", "memory"):
        wanted = pod_request(pod["spec"], name)
        used = sum(pod_request(other["spec"], name) for other in held)
        if wanted and wanted + used > milli(allocatable.get(name, "0")):
            return name
    return ""
