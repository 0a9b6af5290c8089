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

from apimachinery import quantity
from kubelet.node.machine import Free, Machine
from kubelet.pods.resources import binary, every_container, pod_request, qos_class, whole

Pod = Mapping[str, Any]
MEMORY, DISK, PIDS = "MemoryPressure", "DiskPressure", "PIDPressure"
SIGNALS = {
    "memory.available": (MEMORY, "memory"),
    "nodefs.available": (DISK, "ephemeral-storage"),
    "nodefs.inodesFree": (DISK, "inodes"),
    "imagefs.available": (DISK, "ephemeral-storage"),
    "imagefs.inodesFree": (DISK, "inodes"),
    "pid.available": (PIDS, "pids"),
}
DEFAULT_HARD: Mapping[str, str] = {
    "memory.available": "100Mi",
    "nodefs.available": "10%",
    "nodefs.inodesFree": "5%",
    "imagefs.available": "15%",
    "imagefs.inodesFree": "5%",
}
MEASURED = ("memory", "ephemeral-storage")  # of these the containers' own use is known
SYSTEM_PRIORITY = 2_000_000_000
STATIC = ("kubernetes.io/config.source", "kubernetes.io/config.mirror")


@dataclass(frozen=True, slots=True)
class Crossed:
    """A threshold that is not held: `available` is less than `quantity`, both in the signal's own unit."""

    signal: str
    quantity: int
    available: int

    @property
    def condition(self) -> str:
        return SIGNALS[self.signal][0]

    @property
    def resource(self) -> str:
        return SIGNALS[self.signal][1]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a pod uses of the resource that is short, in bytes: as a whole, and what of it are containers'
    own.
    """

    total: int = 0
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
        "imagefs.inodesFree": (free.image_inodes, free.image_inode_capacity),
        "pid.available": (free.max_pids - free.pids, free.max_pids),
    }
    out = []
    for signal in SIGNALS:
        available, capacity = figures[signal]
        if signal in hard and capacity and available < (wanted := amount(hard[signal], capacity)):
            out.append(Crossed(signal, wanted, available))
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
        if resource == "pids":
            return 0
        asked = "memory" if resource == "memory" else "ephemeral-storage"
        used = usage.get(pod["metadata"]["uid"], Usage())
        return used.total - pod_request(pod["spec"], asked) // 1000

    def order(pod: Pod) -> tuple[bool, int, int]:
        return over(pod) <= 0, int(pod["spec"].get("priority") or 0), -over(pod)

    return sorted((pod for pod in pods if not critical(pod)), key=order)


def reclaims_images(threshold: Crossed, dedicated: bool) -> bool:
    """Whether removing images can help: not the node's file system when they are on one of their own."""
    return threshold.condition == DISK and (threshold.signal.startswith("imagefs") or not dedicated)


def disk_usage(
    threshold: Crossed,
    dedicated: bool,
    layers: Mapping[str, int],
    logs: Mapping[str, int],
    volumes: Mapping[str, int],
) -> Usage:
    """What is a pod's on the file system that is short: layers are on that of the images, logs and volumes on
    the node's. Bytes by name.
    """
    on_images, on_node = sum(layers.values()), sum(logs.values()) + sum(volumes.values())
    total = on_images + on_node
    if dedicated:
        total = on_images if threshold.signal.startswith("imagefs") else on_node
    return Usage(total, together(layers, logs))


def together(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """Sums by name."""
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}


def sentence(threshold: Crossed, pod: Pod, usage: Usage) -> str:
    """What the evicted pod's status says."""
    resource = threshold.resource
    text = f"The node was low on resource: {resource}. "
    text += f"Threshold quantity: {shown(resource, threshold.quantity)}, "
    text += f"available: {shown(resource, threshold.available)}. "
    for container in every_container(pod["spec"]) if resource in MEASURED else ():
        used = usage.containers.get(container["name"], 0)
        request = ((container.get("resources") or {}).get("requests") or {}).get(resource, "0")
        if used > whole(request):
            text += f"Container {container['name']} was using {binary(used)}, request is {request}, "
            text += f"has larger consumption of {resource}. "
    return text


def shown(resource: str, amount: int) -> str:
    """Bytes as binary quantities; numbers of inodes and processes as they are."""
    return binary(amount) if resource in MEASURED else quantity.canonical(amount)


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
        return f"Pod ephemeral local storage usage exceeds the total limit of containers {binary(total)}. "
    return ""
