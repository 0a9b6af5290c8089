"""`/stats/summary`: what node and containers use, for the metrics API."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubelet.cri.pb import api_pb2 as pb
from kubelet.node.machine import free
from kubelet.pods import observed
from kubelet.pods.status import stamp

if TYPE_CHECKING:
    from kubelet.agent import Kubelet

Object = dict[str, Any]


async def summary(kubelet: Kubelet) -> Object:
    """The Summary object (stats v1alpha1), CPU and memory filled in. Raises `RuntimeFailure`."""
    now = kubelet.clock.now()
    pods: dict[str, list[pb.ContainerStats]] = defaultdict(list)
    for stats in await kubelet.runtime.container_stats():
        uid = stats.attributes.labels.get(observed.POD_UID)
        if uid:
            pods[uid].append(stats)
    left = free(kubelet.settings.root)
    used = kubelet.machine.memory - left.memory
    node = {
        "nodeName": kubelet.settings.node_name,
        "cpu": {"time": stamp(now), "usageCoreNanoSeconds": _busy_nanoseconds()},
        "memory": {"time": stamp(now), "availableBytes": left.memory, "workingSetBytes": used},
        "fs": {"time": stamp(now), "availableBytes": left.disk, "capacityBytes": kubelet.machine.disk},
    }
    return {"node": node, "pods": [_pod(uid, found) for uid, found in pods.items()]}


def _pod(uid: str, found: list[pb.ContainerStats]) -> Object:
    labels = found[0].attributes.labels
    reference = {
        "name": labels.get(observed.POD_NAME, ""),
        "namespace": labels.get(observed.POD_NAMESPACE, ""),
        "uid": uid,
    }
    containers = [_container(stats) for stats in found]
    cpu = sum(c["cpu"]["usageCoreNanoSeconds"] for c in containers)
    memory = sum(c["memory"]["workingSetBytes"] for c in containers)
    latest = max(c["cpu"]["time"] for c in containers)
    return {
        "podRef": reference,
        "containers": containers,
        "cpu": {"time": latest, "usageCoreNanoSeconds": cpu},
        "memory": {"time": latest, "workingSetBytes": memory},
    }


def _container(stats: pb.ContainerStats) -> Object:
    return {
        "name": stats.attributes.labels.get(observed.CONTAINER_NAME, stats.attributes.metadata.name),
        "cpu": {
            "time": stamp(stats.cpu.timestamp / 1e9),
            "usageCoreNanoSeconds": int(stats.cpu.usage_core_nano_seconds.value),
        },
        "memory": {
            "time": stamp(stats.memory.timestamp / 1e9),
            "workingSetBytes": int(stats.memory.working_set_bytes.value),
        },
    }


def _busy_nanoseconds() -> int:
    """CPU time that was not idle since boot, from the first line of /proc/stat (hundredths of a second)."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) * 10_000_000
