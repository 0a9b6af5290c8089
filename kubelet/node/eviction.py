"""Which pods must go so that the node lives, and in which order. Pure.

Signals, default thresholds, ranking and sentences are Kubernetes' (node-pressure eviction): pods that use
more than they requested go first, then those of lower priority, then those that exceed their request most.
Critical pods (system priority, static) never go. A condition is held for a transition period after the last
time it was seen, so that it does not flap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubelet.node.machine import Free, Machine
from kubelet.pods.resources import pod_request, qos_class, whole

Pod = Mapping[str, Any]
MEMORY, DISK, PIDS = "MemoryPressure", "DiskPressure", "PIDPressure"
SIGNALS = {
    "memory.available": (MEMORY, "memory"),
    "nodefs.available": (DISK, "ephemeral-storage"),
    "nodefs.inodesFree": (DISK, "inodes"),
    "imagefs.available": (DISK, "ephemeral-storage"),
    "pid.available": (PIDS, "pids"),
}
DEFAULT_HARD: Mapping[str, str] = {
    "memory.available": "100Mi",
    "nodefs.available": "10%",
    "nodefs.inodesFree": "5%",
    "imagefs.available": "15%",
}
SYSTEM_PRIORITY = 2_000_000_000
STATIC = ("kubernetes.io/config.source", "kubernetes.io/config.mirror")


@dataclass(frozen=True, slots=True)
class Crossed:
    """A threshold that is not held: `available` is less than `quantity`, both in the signal's own unit."""

    signal: str
    quantity: str
    available: int

    @property
    def condition(self) -> str:
        return SIGNALS[self.signal][0]

    @property
    def resource(self) -> str:
        return SIGNALS[self.signal][1]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a pod uses, in bytes (`containers`: the working set of each)."""

    memory: int = 0
    disk: int = 0
    containers: Mapping[str, int] = field(default_factory=dict)


def amount(threshold: str, capacity: int) -> int:
    """A threshold as a number: a quantity, or a share of the capacity. Raises ValueError."""
    if threshold.endswith("%"):
        return int(capacity * float(threshold[:-1]) / 100)
    return whole(threshold)


def crossed(hard: Mapping[str, str], machine: Machine, free: Free) -> list[Crossed]:
    """The thresholds that are not held now, memory first."""
    figures = {
        "memory.available": (free.memory, machine.memory),
        "nodefs.available": (free.disk, machine.disk),
        "nodefs.inodesFree": (free.inodes, machine.inodes),
        "imagefs.available": (free.image_disk, free.image_capacity),
        "pid.available": (free.max_pids - free.pids, free.max_pids),
    }
    out = []
    for signal in SIGNALS:
        available, capacity = figures[signal]
        if signal in hard and capacity and available < amount(hard[signal], capacity):
            out.append(Crossed(signal, hard[signal], available))
    return out


@dataclass
class Pressures:
    """The node's pressure conditions over time."""

    hold: float
    """Seconds for which a condition outlives its last observation (evictionPressureTransitionPeriod)."""
    seen: dict[str, float] = field(default_factory=dict)

    def observe(self, found: Iterable[Crossed], now: float) -> frozenset[str]:
        """Take in what is crossed now; the conditions that are true."""
        for threshold in found:
            self.seen[threshold.condition] = now
        return frozenset(name for name, last in self.seen.items() if now - last < self.hold or last == now)


def critical(pod: Pod) -> bool:
    """Whether a pod is never evicted for pressure."""
    annotations = pod["metadata"].get("annotations") or {}
    static = annotations.get(STATIC[0], "api") != "api" or STATIC[1] in annotations
    return static or int(pod["spec"].get("priority") or 0) >= SYSTEM_PRIORITY


def rank(pods: Iterable[Pod], usage: Mapping[str, Usage], resource: str) -> list[Pod]:
    """Candidates, the first to go first; `usage` is by uid."""

    def over(pod: Pod) -> int:
        used = usage.get(pod["metadata"]["uid"], Usage())
        if resource == "memory":
            return used.memory - pod_request(pod["spec"], "memory") // 1000
        if resource == "pids":
            return 0
        return used.disk - pod_request(pod["spec"], "ephemeral-storage") // 1000

    def order(pod: Pod) -> tuple[bool, int, int]:
        return over(pod) <= 0, int(pod["spec"].get("priority") or 0), -over(pod)

    return sorted((pod for pod in pods if not critical(pod)), key=order)


def sentence(threshold: Crossed, pod: Pod, usage: Usage) -> str:
    """What the evicted pod's status says."""
    text = f"The node was low on resource: {threshold.resource}. "
    if threshold.resource == "memory":
        text += f"Threshold quantity: {threshold.quantity}, available: {threshold.available // 1024}Ki. "
        for container in pod["spec"].get("containers", []):
            used = usage.containers.get(container["name"], 0)
            request = ((container.get("resources") or {}).get("requests") or {}).get("memory", "0")
            if used > whole(request):
                text += f"Container {container['name']} was using {used // 1024}Ki, request is {request}, "
                text += "has larger consumption of memory. "
    return text


def admits(pod: Pod, pressures: frozenset[str]) -> bool:
    """Whether a node under pressure takes this pod: critical ones always, best effort not when memory is
    short.
    """
    if not pressures or critical(pod):
        return True
    return pressures == {MEMORY} and qos_class(pod["spec"]) != "BestEffort"


def storage_excess(
    pod: Pod,
    volumes: Mapping[str, int],
    containers: Mapping[str, int],
    limit_of: Callable[[str], int] = whole,
) -> str:
    """Why a pod must go for what it has written on the node, empty when it may stay.

    `volumes` are bytes of its emptyDirs by name, `containers` bytes of writable layer and logs by name.
    """
    spec = pod["spec"]
    for volume in spec.get("volumes", []):
        limit = (volume.get("emptyDir") or {}).get("sizeLimit")
        if limit is not None and limit_of(limit) > 0 and volumes.get(volume["name"], 0) > limit_of(limit):
            return f'Usage of EmptyDir volume "{volume["name"]}" exceeds the limit "{limit}". '
    total = 0
    for container in spec.get("containers", []):
        limit = ((container.get("resources") or {}).get("limits") or {}).get("ephemeral-storage")
        if limit is None:
            continue
        total += limit_of(limit)
        if containers.get(container["name"], 0) > limit_of(limit):
            return f'Container {container["name"]} exceeded its local ephemeral storage limit "{limit}". '
    if total and sum(volumes.values()) + sum(containers.values()) > total:
        return f"Pod ephemeral local storage usage exceeds the total limit of containers {total}. "
    return ""
