"""The kubelet: everything wired together, top to bottom."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from apimachinery.errors import StatusError
from componentbase import version
from componentbase.backoff import Backoff
from componentbase.clock import Clock
from componentbase.tasks import Background, forever
from kubeclient.events import EventRecorder
from kubeclient.informer import Informer, Store
from kubeclient.resources import PODS, SERVICES
from kubeclient.rest import RestClient
from kubelet import cgroups, logs
from kubelet.cache import RuntimeCache
from kubelet.config import KubeletConfig
from kubelet.cri.port import Runtime
from kubelet.executor import Executor, Place
from kubelet.images import ImagePuller
from kubelet.manifests import CHECK, Manifests
from kubelet.node.agent import NodeAgent
from kubelet.node.eviction import admits
from kubelet.node.imagegc import Policy
from kubelet.node.machine import Machine, inspect, resolver
from kubelet.node.shutdown import NOT_READY, REFUSED
from kubelet.node.status import NodeSpec, allocatable
from kubelet.objects import Objects
from kubelet.pods.config import NodeFacts
from kubelet.pods.environment import Sources
from kubelet.pods.hostports import conflict
from kubelet.pods.observed import RUNNING
from kubelet.pods.resources import cgroup_parent, insufficient, qos_class, whole
from kubelet.pods.spec import about_container
from kubelet.pods.static import is_mirror
from kubelet.pods.sysctls import forbidden_sysctl
from kubelet.probes import Probes
from kubelet.shutdown import ShutdownManager
from kubelet.statuses import StatusManager
from kubelet.turns import Turns, starts_at_once
from kubelet.upkeep import PERIOD, Upkeep
from kubelet.volumes.manager import VolumeManager
from kubelet.watched import Watched
from kubelet.workers import PodWorkers

log = logging.getLogger(__name__)

RELIST = 1.0
ROTATION = 10.0
UPKEEP = PERIOD
MANIFESTS = CHECK
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
    external_cloud: bool = False  # --cloud-provider=external
    provider_id: str = ""
    certificates: Path = Path("/var/lib/kubelet/pki")  # --cert-dir
    runtime_name: str = "containerd"
    not_isolated: tuple[str, ...] = ()  # what the runtime does not keep apart, a sentence each


class Source(Protocol):
    """What is used of an informer."""

    @property
    def synced(self) -> bool: ...

    @property
    def store(self) -> Store: ...

    def add_handler(
        self,
        on_add: Callable[[dict[str, Any]], None],
        on_update: Callable[[dict[str, Any], dict[str, Any]], None],
        on_delete: Callable[[dict[str, Any]], None],
    ) -> None: ...

    async def run(self) -> None: ...


class Kubelet:
    """One node's agent over a client and a runtime."""

    def __init__(
        self, settings: Settings, client: RestClient, runtime: Runtime, clock: Clock, tasks: Background
    ) -> None:
        self.settings, self.client, self.runtime, self.clock = settings, client, runtime, clock
        self._tasks = tasks
        config = settings.config
        self.machine = self._inspect()
        self.spec = self._node_spec()
        self.allocatable = allocatable(self.spec, self.machine)
        self.node_facts = self._facts()
        self.recorder = EventRecorder(client, "kubelet", settings.node_name)
        self.objects = Objects(client, clock, self._watched())
        self.volumes = self._volumes()
        self.cache = RuntimeCache(runtime, clock, self._changed, self._message_file)
        self.manifests = self._manifests()
        self.statuses = self._statuses()
        self.probes = self._probes()
        self.images = ImagePuller(runtime, clock)
        self.node = self._node_agent()
        self.executor = self._executor()
        self.workers = self._pod_workers()
        self.upkeep = self._upkeep()
        self.shutdown = ShutdownManager(
            config.shutdown_periods,
            self.workers,
            lambda uid: self.cache.view(uid).alive,
            self.node.report,
            clock,
        )
        self.pod_informer, self.service_informer = self._informers()

    # Each part is made by a method of its own: a hollow node (`kubelet.hollow`) has others.

    def _inspect(self) -> Machine:
        return inspect(self.settings.root)

    def _node_spec(self) -> NodeSpec:
        settings, config = self.settings, self.settings.config
        return NodeSpec(
            settings.node_name,
            settings.node_ips,
            config.port,
            config.max_pods,
            version.GIT_VERSION,
            (config.system_reserved, config.kube_reserved),
            config.taints,
            settings.external_cloud,
            settings.provider_id,
            settings.not_isolated,
        )

    def _volumes(self) -> VolumeManager:
        return VolumeManager(self.settings.root, self.objects, self.sources, self._labels)

    def _statuses(self) -> StatusManager:
        return StatusManager(self.client, self.clock, self.manifests.address)

    def _probes(self) -> Probes:
        return Probes(self.runtime, self.clock, self._tasks, self._changed, self._unhealthy)

    def _informers(self) -> tuple[Source, Source]:
        """The pods of this node, and all services."""
        mine = f"spec.nodeName={self.settings.node_name}"
        return Informer(self.client, PODS, field_selector=mine), Informer(self.client, SERVICES)

    def _watched(self) -> Watched | None:
        """The watches that pods' ConfigMaps and Secrets are followed by, if this is the strategy."""
        if self.settings.config.change_detection == "Cache":
            return None
        return Watched(self.client, self._tasks, lambda uid: self.workers.retry(uid))

    def _manifests(self) -> Manifests:
        def mirrored(uid: str) -> None:
            self.statuses.resume(uid)
            self.workers.wake(uid)

        return Manifests(
            self.settings.config.static_pod_path,
            self.settings.node_name,
            self.client,
            lambda: self.node.object,
            self._pod_changed,
            lambda pod: self.workers.remove(pod),
            mirrored,
        )

    def _node_agent(self) -> NodeAgent:
        config = self.settings.config
        return NodeAgent(
            self.client,
            self.runtime,
            self.cache,
            self.clock,
            self.spec,
            self.machine,
            lambda: self.upkeep.conditions,
            lambda: [NOT_READY] if self.shutdown.leaving else [],
            lambda reason, message: self.tell("Normal", reason, message),
            update_every=config.node_status_update,
            report_every=config.node_status_report,
            lease_seconds=config.node_lease_seconds,
        )

    def _upkeep(self) -> Upkeep:
        config = self.settings.config
        return Upkeep(
            self.runtime,
            self.cache,
            self.clock,
            self.machine,
            self.settings.root,
            self.workers,
            hard=config.eviction_hard,
            hold=config.eviction_hold,
            images=Policy(config.image_gc_high, config.image_gc_low, config.image_minimum_age),
            tell=lambda reason, message: self.tell("Warning", reason, message),
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
            Turns(starts_at_once(self.machine.cpus)),
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
            runtime_name=self.settings.runtime_name,
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

    def _labels(self) -> Mapping[str, str]:
        """The node's labels as last seen, empty before it is registered."""
        labels: Mapping[str, str] = (self.node.object.get("metadata") or {}).get("labels") or {}
        return labels

    def _message_file(self, uid: str, container: str, attempt: int) -> Path:
        return Place(self.volumes.pod_dir(uid)).message_file(container, attempt)

    def _changed(self, uid: str) -> None:
        self.workers.wake(uid)

    def tell(self, kind: str, reason: str, message: str) -> None:
        """An event of the node. As in Kubernetes its name stands for its uid, which is known only later."""
        name = self.settings.node_name
        self.recorder.event({"kind": "Node", "metadata": {"name": name, "uid": name}}, kind, reason, message)

    def _unhealthy(self, pod: Pod, container: str, message: str) -> None:
        self.recorder.event(about_container(pod, container), "Warning", "Unhealthy", message)

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
        await self._sweep_groups(self.workers.uids() - {uid})

    async def _sweep_groups(self, keep: set[str]) -> None:
        if self.settings.config.cgroups_per_qos:
            await asyncio.to_thread(cgroups.sweep, self.node_facts.cgroup_root, keep)

    def refusal(self, pod: Pod) -> tuple[str, str] | None:
        """Admission: the node stays, no pressure, only sysctls that are allowed, the resources must be there,
        the pod's node selector must name this node, and the ports of the node that it wants must be free.
        """
        if self.shutdown.leaving:
            return REFUSED
        if not admits(pod, self.upkeep.conditions):
            held = ", ".join(sorted(self.upkeep.conditions))
            return "Evicted", f"Pod was rejected: The node had condition: [{held}]. "
        if sysctl := forbidden_sysctl(pod["spec"], self.settings.config.allowed_sysctls):
            return "SysctlForbidden", f'Pod was rejected: forbidden sysctl: "{sysctl}" not allowlisted'
        others = [other for other in self.workers.pods() if other is not pod]
        missing = insufficient(pod, others, self.allocatable)
        if missing:
            text = f"Node didn't have enough resource: {missing}"
            return f"OutOf{missing}", f"Pod was rejected: {text}"
        labels = self._labels()
        selector = pod["spec"].get("nodeSelector") or {}
        if labels and any(labels.get(key) != value for key, value in selector.items()):
            return "NodeAffinity", "Pod was rejected: Predicate NodeAffinity failed"
        if conflict(pod, others) is not None:
            text = "node(s) didn't have free ports for the requested pod ports"
            return "NodePorts", f"Pod was rejected: Predicate NodePorts failed: {text}"
        return None

    def resize_refusal(self, pod: Pod) -> tuple[str, str] | None:
        """Infeasible: the node could never hold it. Deferred: not beside the others, for now."""
        if missing := insufficient(pod, [], self.allocatable):
            return "Infeasible", f"Node didn't have enough capacity: {missing}"
        uid = pod["metadata"]["uid"]
        others = [other for other in self.workers.pods() if other["metadata"]["uid"] != uid]
        if missing := insufficient(pod, others, self.allocatable):
            return "Deferred", f"Node didn't have enough resource: {missing}"
        return None

    async def prepare(self, pod: Pod, before: Pod | None = None) -> None:
        """The groups of all pods, of the tiers and of this pod, outermost first."""
        if not self.settings.config.cgroups_per_qos:
            return
        root = self.node_facts.cgroup_root.rstrip("/")
        groups = {
            f"{root}/kubepods/{tier}".rstrip("/"): figures
            for tier, figures in cgroups.of_tiers(self.workers.pods(), self.allocatable).items()
        }
        figures = cgroups.of_pod(pod["spec"])
        if before is not None:
            figures = cgroups.widest(figures, cgroups.of_pod(before["spec"]))
        groups[cgroup_parent(root, pod["metadata"]["uid"], qos_class(pod["spec"]))] = figures
        await asyncio.to_thread(_apply_all, groups)

    def _pod_changed(self, pod: Mapping[str, Any]) -> None:
        if is_mirror(pod):
            self.manifests.mirror_changed(pod)
            return
        self.objects.follow(pod, new=pod["metadata"]["uid"] not in self.workers.uids())
        self.workers.update({"apiVersion": "v1", "kind": "Pod", **pod})

    def _pod_gone(self, pod: Mapping[str, Any]) -> None:
        if is_mirror(pod):
            self.manifests.mirror_gone(pod)
        else:
            self.workers.remove(pod)

    async def _look_at_manifests(self) -> None:
        self.manifests.mirrors_known = self.pod_informer.synced
        await self.manifests.once()

    async def _housekeeping(self) -> None:
        """Whatever is on this node without being wanted: runtime leftovers, directories, cgroups."""
        if not self.pod_informer.synced or not self.manifests.scanned or self.cache.relisted_at is None:
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
        await self._sweep_groups(keep)

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
            group.create_task(self.shutdown.run(), name="shutdown")

    async def _serve_pods(self, group: asyncio.TaskGroup) -> None:
        """Pods start only when what runs already and the services they may refer to are known."""
        while self.cache.relisted_at is None:
            await self.clock.sleep(0.02)
        group.create_task(forever("upkeep", self.upkeep.once, UPKEEP, clock=self.clock), name="upkeep")
        group.create_task(forever("manifests", self._look_at_manifests, MANIFESTS), name="manifests")
        while not self.service_informer.synced:
            await self.clock.sleep(0.02)
        self.pod_informer.add_handler(
            self._pod_changed, lambda _, new: self._pod_changed(new), self._pod_gone
        )
        group.create_task(self.pod_informer.run(), name="pod-informer")
        group.create_task(forever("housekeeping", self._housekeeping, HOUSEKEEPING), name="housekeeping")


def _apply_all(groups: Mapping[str, cgroups.Figures]) -> None:
    for path, figures in groups.items():
        cgroups.apply(path, figures)
