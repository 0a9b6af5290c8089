"""Hollow nodes: the same agent over a runtime in memory, many in one process, for tests of scale.

Workers, plans, statuses, leases and events are the real ones. What would touch the machine is left out:
containers, volumes, cgroups, files. All nodes of a process share one client and one watch of all pods and
services, so a node costs its own object, its lease and its pods.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from componentbase.backoff import Backoff
from componentbase.clock import Clock
from componentbase.tasks import Background, forever
from kubeclient.informer import Informer, Store
from kubeclient.resources import PODS, SERVICES
from kubeclient.rest import RestClient
from kubelet.agent import Kubelet, Settings, Source
from kubelet.config import KubeletConfig
from kubelet.cri.fake import FakeRuntime
from kubelet.cri.pb import api_pb2 as pb
from kubelet.cri.port import Runtime
from kubelet.executor import Executor
from kubelet.hooks import Outcome
from kubelet.node.machine import Machine
from kubelet.pods.observed import PodView
from kubelet.probes import Probes
from kubelet.statuses import StatusManager
from kubelet.turns import Turns, starts_at_once
from kubelet.volumes.manager import VolumeManager

RELIST = 30.0  # the runtime changes only by our own hand, and every action is followed by a look
BETWEEN_STARTS = 0.01  # seconds: a thousand nodes must not register in one instant
MACHINE = Machine(
    cpus=8,
    memory=32 << 30,
    disk=100 << 30,
    inodes=1 << 20,
    machine_id="hollow",
    boot_id="hollow",
    kernel="hollow",
    os_image="Hollow",
    architecture="amd64",
)
Pod = Mapping[str, Any]
Object = dict[str, Any]


class HollowRuntime(FakeRuntime):
    """A runtime that has every image and forgets what it was asked."""

    async def pull_image(
        self, reference: str, auth: pb.AuthConfig | None, sandbox: pb.PodSandboxConfig
    ) -> str:
        self.add_images([reference])
        image = await self.image_status(reference)
        assert image is not None
        return image.id


class HollowVolumes(VolumeManager):
    """Volumes without a disk: every one is there at once, wherever it may be."""

    def uids(self) -> set[str]:
        return set()

    async def ensure(self, pod: Pod) -> dict[str, Path]:
        place = self.pod_dir(pod["metadata"]["uid"]) / "volumes"
        return {volume["name"]: place / volume["name"] for volume in pod["spec"].get("volumes", [])}

    async def tear_down(self, uid: str) -> None:
        return

    async def remove(self, uid: str) -> None:
        return


class HollowExecutor(Executor):
    """An executor that leaves no files."""

    async def _make_log_directory(self, place: Path) -> None:
        return

    async def _managed_files(
        self, pod: Pod, container: Mapping[str, Any], attempt: int, view: PodView, taken: Sequence[pb.Mount]
    ) -> list[pb.Mount]:
        return []

    async def remove_logs(self, namespace: str, name: str, uid: str) -> None:
        return


class Slice:
    """What one node sees of an informer that is shared; `deliver` is called by the one that reads."""

    def __init__(self, shared: Informer) -> None:
        self._shared = shared
        self._handlers: list[tuple[Callable[[Object], None], Callable[[Object], None]]] = []
        self._held: dict[str, Object] = {}

    @property
    def synced(self) -> bool:
        return self._shared.synced

    @property
    def store(self) -> Store:
        return self._shared.store

    def add_handler(
        self,
        on_add: Callable[[Object], None],
        on_update: Callable[[Object, Object], None],
        on_delete: Callable[[Object], None],
    ) -> None:
        def changed(obj: Object) -> None:
            on_update(obj, obj)

        self._handlers.append((changed, on_delete))
        for obj in self._held.values():
            on_add(obj)

    def deliver(self, obj: Object, *, gone: bool) -> None:
        if gone:
            self._held.pop(obj["metadata"]["uid"], None)
        else:
            self._held[obj["metadata"]["uid"]] = obj
        for changed, deleted in self._handlers:
            (deleted if gone else changed)(obj)

    async def run(self) -> None:
        return


class Shared:
    """What all hollow nodes of a process have in common."""

    def __init__(self, client: RestClient, clock: Clock) -> None:
        self.pods, self.services = Informer(client, PODS), Informer(client, SERVICES)
        self.statuses = StatusManager(client, clock)
        self._slices: dict[str, Slice] = {}
        self.pods.add_index("node", lambda pod: [pod["spec"].get("nodeName", "")])
        self.pods.add_handler(self._seen, lambda _, new: self._seen(new), self._gone)

    def slice_of(self, node: str) -> Slice:
        """The pods of one node, those known already included."""
        made = self._slices[node] = Slice(self.pods)
        for pod in self.pods.store.by_index("node", node):
            made.deliver(pod, gone=False)
        return made

    def _seen(self, pod: Object) -> None:
        if (node := pod["spec"].get("nodeName")) in self._slices:
            self._slices[node].deliver(pod, gone=False)

    def _gone(self, pod: Object) -> None:
        if (node := pod["spec"].get("nodeName")) in self._slices:
            self._slices[node].deliver(pod, gone=True)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pods.run(), name="pods")
            group.create_task(self.services.run(), name="services")
            group.create_task(self.statuses.run(), name="statuses")


async def _healthy(*_: object) -> Outcome:
    return Outcome(True)


class HollowKubelet(Kubelet):
    """One hollow node."""

    def __init__(
        self,
        settings: Settings,
        client: RestClient,
        runtime: Runtime,
        clock: Clock,
        tasks: Background,
        shared: Shared,
    ) -> None:
        self._shared = shared
        super().__init__(settings, client, runtime, clock, tasks)

    def _inspect(self) -> Machine:
        return MACHINE

    def _volumes(self) -> VolumeManager:
        return HollowVolumes(self.settings.root, self.objects, self.sources)

    def _statuses(self) -> StatusManager:
        return self._shared.statuses

    def _probes(self) -> Probes:
        return Probes(self.runtime, self.clock, self._tasks, self._changed, self._unhealthy, _healthy)

    def _informers(self) -> tuple[Source, Source]:
        return self._shared.slice_of(self.settings.node_name), self._shared.services

    def _executor(self) -> Executor:
        made = (self.runtime, self.images, self.objects, self.recorder, self.clock, self.node_facts)
        return HollowExecutor(
            *made, self.volumes.pod_dir, self.sources, Turns(starts_at_once(self.machine.cpus))
        )

    async def prepare(self, pod: Pod, before: Pod | None = None) -> None:
        return

    async def _sweep_groups(self, keep: set[str]) -> None:
        return

    async def run(self) -> None:
        """Run until cancelled; `Shared.run` must run beside it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.recorder.run(), name="events")
            group.create_task(
                forever("relist", self.cache.relist, RELIST, jitter=0.2, backoff=Backoff(0.2, 3.0)),
                name="relist",
            )
            group.create_task(self.node.run(), name="node")
            while self.cache.relisted_at is None or not self.service_informer.synced:
                await self.clock.sleep(0.1)
            self.pod_informer.add_handler(
                self._pod_changed, lambda _, new: self._pod_changed(new), self._pod_gone
            )


@dataclass(frozen=True, slots=True)
class Herd:
    """How many hollow nodes, and what they are called: `<prefix><number>`."""

    nodes: int
    prefix: str
    config: KubeletConfig

    def settings(self, number: int) -> Settings:
        address = f"10.{128 + number // 65536}.{number // 256 % 256}.{number % 256}"
        config = replace(self.config, change_detection="Cache", static_pod_path="", eviction_hard={})
        return Settings(config, f"{self.prefix}{number}", (address,), Path("/nowhere"), "/nowhere")


async def run_herd(herd: Herd, client: RestClient, clock: Clock) -> None:
    """Run all hollow nodes until cancelled."""
    shared = Shared(client, clock)
    async with Background("hollow") as tasks, asyncio.TaskGroup() as group:
        group.create_task(shared.run(), name="shared")
        for number in range(herd.nodes):
            settings = herd.settings(number)
            runtime = HollowRuntime(
                clock.now, calls=deque(maxlen=0), subnet=f"10.{64 + number // 256 % 64}.{number % 256}"
            )
            kubelet = HollowKubelet(settings, client, runtime, clock, tasks, shared)
            group.create_task(kubelet.run(), name=settings.node_name)
            await clock.sleep(BETWEEN_STARTS)
