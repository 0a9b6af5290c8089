"""The kubelet: everything wired together, top to bottom."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apimachinery.errors import StatusError
from componentbase import version
from componentbase.backoff import Backoff
from componentbase.clock import Clock
from componentbase.tasks import Background, forever
from kubeclient.events import EventRecorder
from kubeclient.informer import Informer
from kubeclient.resources import PODS, SERVICES
from kubeclient.rest import RestClient
from kubelet import cgroups, logs
from kubelet.cache import RuntimeCache
from kubelet.config import KubeletConfig
from kubelet.cri.port import Runtime
from kubelet.executor import Executor, Place
from kubelet.images import ImagePuller
from kubelet.node.agent import NodeAgent
from kubelet.node.machine import inspect, resolver
from kubelet.node.status import NodeSpec, allocatable
from kubelet.objects import Objects
from kubelet.pods.config import NodeFacts
from kubelet.pods.environment import Sources
from kubelet.pods.observed import RUNNING
from kubelet.pods.resources import insufficient, whole
from kubelet.probes import Probes
from kubelet.statuses import StatusManager
from kubelet.volumes.manager import VolumeManager
from kubelet.workers import PodWorkers

log = logging.getLogger(__name__)

RELIST = 1.0
ROTATION = 10.0
HOUSEKEEPING = 2.0
Pod = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line decides."""

    config: KubeletConfig
    node_name: str
    node_ips: tuple[str, ...]
    root: Path
    log_root: str = "/var/log/pods"


class Kubelet:
    """One node's agent over a client and a runtime."""

    def __init__(
        self, settings: Settings, client: RestClient, runtime: Runtime, clock: Clock, tasks: Background
    ) -> None:
        self.settings, self.client, self.runtime, self.clock = settings, client, runtime, clock
        self._tasks = tasks
        config = settings.config
        self.machine = inspect(settings.root)
        self.spec = NodeSpec(
            settings.node_name,
            settings.node_ips,
            config.port,
            config.max_pods,
            version.GIT_VERSION,
            (config.system_reserved, config.kube_reserved),
            config.taints,
        )
        self.allocatable = allocatable(self.spec, self.machine)
        self.node_facts = self._facts()
        self.recorder = EventRecorder(client, "kubelet", settings.node_name)
        self.objects = Objects(client, clock)
        self.volumes = VolumeManager(settings.root, self.objects, self.sources)
        self.cache = RuntimeCache(runtime, clock, self._changed, self._message_file)
        self.statuses = StatusManager(client, clock)
        self.probes = Probes(runtime, clock, tasks, self._changed, self._unhealthy)
        self.images = ImagePuller(runtime, clock)
        self.node = self._node_agent()
        self.executor = self._executor()
        self.workers = self._pod_workers()
        self.pod_informer = Informer(client, PODS, field_selector=f"spec.nodeName={settings.node_name}")
        self.service_informer = Informer(client, SERVICES)

    def _node_agent(self) -> NodeAgent:
        config = self.settings.config
        return NodeAgent(
            self.client,
            self.runtime,
            self.cache,
            self.clock,
            self.spec,
            self.machine,
            self.settings.root,
            update_every=config.node_status_update,
            report_every=config.node_status_report,
            lease_seconds=config.node_lease_seconds,
        )

    def _executor(self) -> Executor:
        return Executor(
            self.runtime,
            self.images,
            self.objects,
            self.recorder,
            self.clock,
            self.node_facts,
            self.volumes.pod_dir,
            self.sources,
        )

    def _pod_workers(self) -> PodWorkers:
        return PodWorkers(
            cache=self.cache,
            executor=self.executor,
            volumes=self.volumes,
            statuses=self.statuses,
            probes=self.probes,
            recorder=self.recorder,
            lifecycle=self,
            clock=self.clock,
            tasks=self._tasks,
            host_ips=self.settings.node_ips,
        )

    def _facts(self) -> NodeFacts:
        config = self.settings.config
        return NodeFacts(
            name=self.settings.node_name,
            ips=self.settings.node_ips,
            cluster_dns=config.cluster_dns,
            cluster_domain=config.cluster_domain,
            host_dns=resolver(config.resolv_conf),
            cgroup_root=config.cgroup_root,
            log_root=self.settings.log_root,
            memory_capacity=self.machine.memory,
        )

    def sources(self, pod: Pod) -> Sources:
        """What environments and downward-API volumes may refer to, but for objects."""
        status = self.statuses.latest(pod)
        return Sources(
            services=self.service_informer.store.list(),
            pod_ips=tuple(entry["ip"] for entry in status.get("podIPs") or []),
            host_ips=self.settings.node_ips,
            allocatable=self.allocatable,
        )

    def _message_file(self, uid: str, container: str, attempt: int) -> Path:
        return Place(self.volumes.pod_dir(uid)).message_file(container, attempt)

    def _changed(self, uid: str) -> None:
        self.workers.wake(uid)

    def _unhealthy(self, pod: Pod, container: str, message: str) -> None:
        self.recorder.event(dict(pod), "Warning", "Unhealthy", message)

    async def finished(self, pod: Pod) -> None:
        """Let the API object go, unless it is another pod by now."""
        metadata = pod["metadata"]
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        try:
            await self.client.delete(PODS, metadata["name"], metadata["namespace"], options=options)
        except StatusError as error:
            if error.code == 404 or error.code == 409:
                self._vanished(pod)
            else:
                raise OSError(f"pod {metadata['name']} could not be deleted: {error}") from error

    def _vanished(self, pod: Pod) -> None:
        """The API knows no such pod though no event said so: the informer will agree, or has already."""
        metadata = pod["metadata"]
        held = self.pod_informer.store.get(f"{metadata['namespace']}/{metadata['name']}")
        if held is None or held["metadata"]["uid"] != metadata["uid"]:
            self.workers.remove(pod)

    async def released(self, pod: Pod) -> None:
        uid = pod["metadata"]["uid"]
        self.objects.forget_pod(uid)
        self.images.forget_pod(uid)
        await asyncio.to_thread(cgroups.sweep, self.node_facts.cgroup_root, self.workers.uids() - {uid})

    def refusal(self, pod: Pod) -> tuple[str, str] | None:
        """Admission: the resources must be there, and the pod's node selector must name this node."""
        others = [other for other in self.workers.pods() if other is not pod]
        missing = insufficient(pod, others, self.allocatable)
        if missing:
            text = f"Node didn't have enough resource: {missing}"
            return f"OutOf{missing}", f"Pod was rejected: {text}"
        labels = (self.node.object.get("metadata") or {}).get("labels") or {}
        selector = pod["spec"].get("nodeSelector") or {}
        if labels and any(labels.get(key) != value for key, value in selector.items()):
            return "NodeAffinity", "Pod was rejected: Predicate NodeAffinity failed"
        return None

    def _pod_changed(self, pod: dict[str, Any]) -> None:
        if pod["metadata"]["uid"] not in self.workers.uids():
            self.objects.forget_namespace(pod["metadata"]["namespace"])
        self.workers.update({"apiVersion": "v1", "kind": "Pod", **pod})

    async def _housekeeping(self) -> None:
        """Whatever is on this node without being wanted: runtime leftovers, directories, cgroups."""
        if not self.pod_informer.synced or self.cache.relisted_at is None:
            return
        known = self.workers.uids()
        for uid in self.cache.uids() - known:
            view = self.cache.view(uid)
            log.info("orphaned pod found", extra={"uid": uid, "pod": f"{view.namespace}/{view.name}"})
            metadata = {"uid": uid, "name": view.name, "namespace": view.namespace}
            self.workers.remove(
                {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}}
            )
        for uid in await asyncio.to_thread(self.volumes.uids) - self.workers.uids() - self.cache.uids():
            await self.volumes.remove(uid)
        keep = self.workers.uids() | self.cache.uids()
        await asyncio.to_thread(cgroups.sweep, self.node_facts.cgroup_root, keep)

    async def _rotate_logs(self) -> None:
        """Set aside what has grown too large, and have the runtime open the file anew."""
        config = self.settings.config
        limit = whole(config.log_max_size)
        for uid in self.cache.uids():
            for container in self.cache.view(uid).containers:
                path = Path(container.log_path)
                if container.state != RUNNING or not container.log_path:
                    continue
                if await asyncio.to_thread(logs.oversized, path, limit):
                    await asyncio.to_thread(logs.rotate, path, config.log_max_files)
                    await self.runtime.reopen_log(container.id)

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.recorder.run(), name="events")
            group.create_task(self.service_informer.run(), name="services")
            group.create_task(
                forever("relist", self.cache.relist, RELIST, backoff=Backoff(0.2, 3.0)), name="relist"
            )
            group.create_task(self.node.run(), name="node")
            group.create_task(self.statuses.run(), name="statuses")
            group.create_task(forever("log rotation", self._rotate_logs, ROTATION), name="log-rotation")
            group.create_task(self._serve_pods(group), name="pods")

    async def _serve_pods(self, group: asyncio.TaskGroup) -> None:
        """Pods start only when what runs already and the services they may refer to are known."""
        while self.cache.relisted_at is None or not self.service_informer.synced:
            await self.clock.sleep(0.02)
        self.pod_informer.add_handler(
            self._pod_changed, lambda _, new: self._pod_changed(new), self.workers.remove
        )
        group.create_task(self.pod_informer.run(), name="pod-informer")
        group.create_task(forever("housekeeping", self._housekeeping, HOUSEKEEPING), name="housekeeping")
