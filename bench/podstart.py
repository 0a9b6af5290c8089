"""Pod start on one node of the lab: seconds from create to Ready, for one pod and for twenty at once, and the
CPU that a pod costs each daemon. The limit beside it: the same sandboxes and containers asked of the same
containerd over CRI, with no cluster in front.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.processes import cpu_seconds, descendants
from deploy.control import Control
from deploy.state import State
from deploy.topology import Topology
from kubeclient.resources import NAMESPACES, PODS, SERVICEACCOUNTS
from kubeclient.rest import RestClient
from kubelet.cri.client import CriRuntime
from kubelet.cri.pb import api_pb2 as pb

NODE = "worker-0"
SPACE = "bench-pods"
IMAGE = "docker.io/library/busybox:1.35"
COMMAND = ["sleep", "3600"]
SHIM = "containerd-shim"
LIMIT = 180.0  # seconds for any one wait
SINGLES, TWENTY, ROUNDS = 7, 20, 3

Object = dict[str, Any]
Costs = dict[str, float]


@dataclass(frozen=True)
class Figures:
    """Medians: seconds for one, seconds for twenty, CPU milliseconds of a pod among the twenty by process."""

    one: float
    twenty: float
    cpu: Costs


def pod(name: str) -> Object:
    """A pod of one container that waits, for the node that is measured."""
    container = {"name": "main", "image": IMAGE, "command": COMMAND}
    spec = {"nodeSelector": {"kubernetes.io/hostname": NODE}, "terminationGracePeriodSeconds": 0}
    metadata = {"name": name, "namespace": SPACE}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {**spec, "containers": [container]},
    }


def is_ready(found: Object) -> bool:
    """Whether the pod's Ready condition is True."""
    conditions = (found.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


async def until(client: RestClient, enough: Callable[[dict[str, Object]], bool], version: str) -> None:
    """Follow the pods of the namespace until `enough` of what is seen."""
    seen: dict[str, Object] = {}
    async with asyncio.timeout(LIMIT):
        async with contextlib.aclosing(client.watch(PODS, SPACE, resource_version=version)) as events:
            async for event in events:
                if event.type in ("ADDED", "MODIFIED"):
                    seen[event.object["metadata"]["name"]] = event.object
                if enough(seen):
                    return


async def started(client: RestClient, count: int) -> float:
    """Seconds until `count` new pods are Ready, as a watch shows it; they are gone again afterwards."""
    version = (await client.list(PODS, SPACE))["metadata"]["resourceVersion"]
    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        all_ready = group.create_task(
            until(client, lambda seen: sum(map(is_ready, seen.values())) == count, version)
        )
        for number in range(count):
            group.create_task(client.create(PODS, pod(f"p{number}")))
        await all_ready
        return time.perf_counter() - began


async def emptied(client: RestClient, shims: Callable[[], int], left: int) -> None:
    """Until the namespace has no pods, and the node no more than the shims that were `left` before: what ends
    in the next round would be counted there.
    """
    await client.delete_collection(PODS, SPACE, options={"gracePeriodSeconds": 0})
    async with asyncio.timeout(LIMIT):
        while (await client.list(PODS, SPACE))["items"] or shims() > left:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
    await asyncio.sleep(1.0)


@contextlib.asynccontextmanager
async def _namespace(client: RestClient) -> AsyncIterator[None]:
    await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}})
    try:
        async with asyncio.timeout(LIMIT):
            while not (await client.list(SERVICEACCOUNTS, SPACE))["items"]:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        yield
    finally:
        await client.delete(NAMESPACES, SPACE)


def processes(topology: Topology, state: State) -> Iterator[tuple[str, str, int]]:
    """Every process of the lab: its host, what it runs, its pid."""
    for host in topology.hosts:
        for pid in descendants(Control(host.name, state.socket(host.name)).pid()):
            with contextlib.suppress(OSError):
                yield host.name, Path(f"/proc/{pid}/comm").read_text().strip(), pid


def spent(topology: Topology, state: State) -> Costs:
    """CPU seconds so far of every process of the lab, by what it runs."""
    found: Costs = defaultdict(float)
    for _, name, pid in processes(topology, state):
        found[name] += cpu_seconds(pid)
    return found


def _more(after: Costs, before: Costs) -> Costs:
    return {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}


def _per_pod(rounds: list[Costs]) -> Costs:
    """Medians in milliseconds."""
    names: set[str] = set().union(*rounds)
    return {name: statistics.median(each.get(name, 0.0) for each in rounds) * 1000 / TWENTY for name in names}


async def through_the_cluster(topology: Topology, state: State, kubeconfig: Path) -> Figures:
    """Create to Ready, through API server, scheduler and kubelet."""
    async with RestClient.from_kubeconfig(kubeconfig) as client, _namespace(client):

        def shims() -> int:
            found = processes(topology, state)
            return sum((host, name) == (NODE, SHIM) for host, name, _ in found)

        left = shims()
        await started(client, 1)  # what the first pod of all pays is not what is asked
        await emptied(client, shims, left)
        ones, twenties, costs = list[float](), list[float](), list[Costs]()
        for _ in range(SINGLES):
            ones.append(await started(client, 1))
            await emptied(client, shims, left)
        for _ in range(ROUNDS):
            before = spent(topology, state)
            twenties.append(await started(client, TWENTY))
            costs.append(_more(spent(topology, state), before))
            await emptied(client, shims, left)
    return Figures(statistics.median(ones), statistics.median(twenties), _per_pod(costs))


@dataclass(frozen=True)
class Bare:
    """Sandboxes and containers asked of a runtime directly, below a cgroup of the host's."""

    runtime: CriRuntime
    parent: str

    async def start(self, name: str) -> str:
        """What a kubelet asks for a pod, and nothing else; the sandbox."""
        sandbox = pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(name=name, uid=name, namespace="bare"),
            hostname=name,
            linux=pb.LinuxPodSandboxConfig(cgroup_parent=self.parent),
        )
        container = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name="main"),
            image=pb.ImageSpec(image=IMAGE),
            command=COMMAND,
            linux=pb.LinuxContainerConfig(),
        )
        place = await self.runtime.run_sandbox(sandbox)
        await self.runtime.start_container(await self.runtime.create_container(place, container, sandbox))
        return place

    async def timed(self, count: int, then: Callable[[], None] = lambda: None) -> float:
        """Seconds until `count` of them run; they are gone again afterwards."""
        began = time.perf_counter()
        places = await asyncio.gather(*(self.start(f"bare-{number}") for number in range(count)))
        took = time.perf_counter() - began
        then()
        for place in places:
            await self.runtime.stop_sandbox(place)
            await self.runtime.remove_sandbox(place)
        return took


async def bare(topology: Topology, state: State) -> Figures:
    """The limit: the same node's containerd, no cluster in front."""
    pid = Control(NODE, state.socket(NODE)).pid()
    runtime = CriRuntime(f"unix:///proc/{pid}/root/run/containerd/containerd.sock")
    try:
        asked = Bare(runtime, f"{state.host_cgroup(NODE)}/bench")
        await asked.timed(1)
        ones = [await asked.timed(1) for _ in range(SINGLES)]
        twenties, after = list[float](), list[Costs]()
        before = []
        for _ in range(ROUNDS):
            before.append(spent(topology, state))
            twenties.append(await asked.timed(TWENTY, lambda: after.append(spent(topology, state))))
        cpu = _per_pod([_more(one, other) for one, other in zip(after, before, strict=True)])
        return Figures(statistics.median(ones), statistics.median(twenties), cpu)
    finally:
        await runtime.close()


def rows(figures: Figures, limit: Figures) -> Iterator[tuple[str, str, str, float, str]]:
    """Lines of the table: measure, value, bare CRI, ratio, target."""
    yield "pod start, one", f"{figures.one:.2f} s", f"{limit.one:.2f} s", figures.one / limit.one, "0.52 s"
    twenty = figures.twenty / limit.twenty
    yield "pod start, twenty", f"{figures.twenty:.2f} s", f"{limit.twenty:.2f} s", twenty, "3.9 s"
    ours, theirs = sum(figures.cpu.values()), sum(limit.cpu.values())
    yield "CPU of a pod of twenty", f"{ours:.0f} ms", f"{theirs:.0f} ms", ours / theirs, ""
