"""`/stats/summary`: what node and containers use, for the metrics API."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kubelet.cri.pb import api_pb2 as pb
from kubelet.cri.port import RuntimeFailure
from kubelet.node.machine import free
from kubelet.pods import observed
from kubelet.pods.status import stamp

if TYPE_CHECKING:
    from kubelet.agent import Kubelet

Object = dict[str, Any]
_CPU = "Cumulative cpu time consumed by the {} in core-seconds"
_MEMORY = "Current working set of the {} in bytes"
RESOURCE_METRICS = {
    "node_cpu_usage_seconds_total": ("counter", _CPU.format("node")),
    "node_memory_working_set_bytes": ("gauge", _MEMORY.format("node")),
    "container_cpu_usage_seconds_total": ("counter", _CPU.format("container")),
    "container_memory_working_set_bytes": ("gauge", _MEMORY.format("container")),
    "pod_cpu_usage_seconds_total": ("counter", _CPU.format("pod")),
    "pod_memory_working_set_bytes": ("gauge", _MEMORY.format("pod")),
    "container_start_time_seconds": ("gauge", "Start time of the container since unix epoch in seconds"),
    "resource_scrape_error": (
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    ),
}


async def summary(kubelet: Kubelet) -> Object:
    """The Summary object (stats v1alpha1), CPU and memory filled in. Raises `RuntimeFailure`."""
    now = kubelet.clock.now()
    pods: dict[str, list[pb.ContainerStats]] = defaultdict(list)
    for uid, stats in living(await kubelet.runtime.container_stats()):
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


def living(found: Iterable[pb.ContainerStats]) -> Iterator[tuple[str, pb.ContainerStats]]:
    """Containers of pods that have figures, with their pod's uid: of several by one name, of which all but
    one have ended, the latest. One that has ended has a sample of no time.
    """
    latest: dict[tuple[str, str], pb.ContainerStats] = {}
    for stats in sorted(found, key=lambda each: int(each.cpu.timestamp)):
        uid = stats.attributes.labels.get(observed.POD_UID)
        if uid and stats.cpu.timestamp:
            latest[uid, stats.attributes.labels.get(observed.CONTAINER_NAME, "")] = stats
    return ((uid, stats) for (uid, _), stats in latest.items())


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


async def resource_metrics(kubelet: Kubelet) -> str:
    """`/metrics/resource`: the same figures in the Prometheus text form that metrics-server reads."""
    try:
        found = await summary(kubelet)
    except RuntimeFailure:
        return exposition({"node": None, "pods": []}, {})
    started = {
        (uid, container.name): container.started_at
        for uid in kubelet.cache.uids()
        for container in reversed(kubelet.cache.view(uid).containers)
        if container.state == observed.RUNNING
    }
    return exposition(found, started)


def exposition(found: Object, started: Mapping[tuple[str, str], float]) -> str:
    """A Summary as metrics; `started` gives the start of each container by pod uid and name. Pure."""
    samples: dict[str, list[str]] = {name: [] for name in RESOURCE_METRICS}

    def add(kind: str, labels: str, usage: Object) -> None:
        cpu, memory = usage["cpu"], usage["memory"]
        seconds = cpu["usageCoreNanoSeconds"] / 1e9
        samples[f"{kind}_cpu_usage_seconds_total"].append(f"{labels} {seconds} {_millis(cpu['time'])}")
        value = f"{labels} {memory['workingSetBytes']} {_millis(memory['time'])}"
        samples[f"{kind}_memory_working_set_bytes"].append(value)

    if found["node"] is not None:
        add("node", "", found["node"])
    for pod in found["pods"]:
        reference = pod["podRef"]
        of_pod = f'namespace="{reference["namespace"]}",pod="{reference["name"]}"'
        add("pod", f"{{{of_pod}}}", pod)
        for container in pod["containers"]:
            labels = f'{{container="{container["name"]}",{of_pod}}}'
            add("container", labels, container)
            since = started.get((reference["uid"], container["name"]))
            if since is not None:
                samples["container_start_time_seconds"].append(f"{labels} {since}")
    samples["resource_scrape_error"].append(f" {int(found['node'] is None)}")
    lines: list[str] = []
    for name, (kind, text) in RESOURCE_METRICS.items():
        if samples[name]:
            lines += [f"# HELP {name} [STABLE] {text}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{sample}" for sample in samples[name]]
    return "\n".join(lines) + "\n"


def _millis(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp() * 1000)


def _busy_nanoseconds() -> int:
    """CPU time that was not idle since boot, from the first line of /proc/stat (hundredths of a second)."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) * 10_000_000
