"""Carries out a pod plan over the runtime: sandboxes, containers, hooks. Decides nothing but the order
within a step.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import orjson

from componentbase.clock import Clock
from kubelet.cri.pb import api_pb2 as pb
from kubelet.cri.port import Runtime, RuntimeFailure
from kubelet.hooks import act
from kubelet.images import ImageError, ImagePuller, auth_for
from kubelet.objects import Objects
from kubelet.pods import observed, resources
from kubelet.pods.config import MESSAGE_PATH, NodeFacts, container_config, hosts_file, sandbox_config
from kubelet.pods.environment import ConfigError, Sources, environment, references
from kubelet.pods.observed import ContainerView, PodView
from kubelet.pods.plan import restartable
from kubelet.pods.resize import Resize
from kubelet.pods.spec import about_container, find_container, known_containers
from kubelet.pods.status import Waiting, pod_ips
from kubelet.turns import Rank, Turns
from kubelet.volumes.claims import read_only
from kubelet.volumes.mounts import mounts

log = logging.getLogger(__name__)

Pod = Mapping[str, Any]
MINIMUM_GRACE = 2.0  # seconds that a container has after its preStop hook, however long that took


class Recorder(Protocol):
    """Where events go."""

    def event(self, obj: Any, type: str, reason: str, message: str) -> None: ...


class StartFailure(Exception):
    """A container did not start: the state it waits in, and the seconds after which to try again."""

    def __init__(self, waiting: Waiting, retry: float) -> None:
        super().__init__(waiting.message)
        self.waiting = waiting
        self.retry = retry


@dataclass(frozen=True, slots=True)
class Place:
    """Where on disk the pieces of a pod are."""

    pod_dir: Path

    def message_file(self, container: str, attempt: int) -> Path:
        return self.pod_dir / "containers" / container / str(attempt)

    def resources_file(self, container_id: str) -> Path:
        return self.pod_dir / "resources" / container_id

    @property
    def hosts(self) -> Path:
        return self.pod_dir / "etc-hosts"


class Executor:
    """The hands of the kubelet."""

    def __init__(
        self,
        runtime: Runtime,
        images: ImagePuller,
        objects: Objects,
        recorder: Recorder,
        clock: Clock,
        node: NodeFacts,
        place: Callable[[str], Path],
        sources: Callable[[Pod], Sources],
        turns: Turns,
    ) -> None:
        self._runtime = runtime
        self._images = images
        self._objects = objects
        self._events = recorder
        self._clock = clock
        self._node = node
        self._place = place
        self._sources = sources
        self._given: dict[str, dict[str, Mapping[str, Any]]] = {}
        self._turns = turns

    def place(self, uid: str) -> Place:
        return Place(self._place(uid))

    async def create_sandbox(self, pod: Pod, attempt: int) -> str:
        """Make the pod's sandbox; raises `RuntimeFailure` after an event that says why."""
        config = sandbox_config(pod, self._node, attempt)
        try:
            handler = await self._objects.runtime_handler(pod["spec"].get("runtimeClassName") or "")
            await self._make_log_directory(Path(config.log_directory))
            async with self._turns.turn(Rank.SANDBOX):
                return await self._runtime.run_sandbox(config, handler)
        except (RuntimeFailure, ConfigError) as error:
            text = f"Failed to create pod sandbox: {error}"
            self._events.event(pod, "Warning", "FailedCreatePodSandBox", text)
            raise RuntimeFailure(str(error)) from error

    async def start_container(
        self, pod: Pod, name: str, attempt: int, view: PodView, volumes: Mapping[str, Path]
    ) -> str:
        """Pull, create, start and run the postStart hook; returns the id. Raises `StartFailure`."""
        sandbox = view.sandbox
        if sandbox is None:
            raise StartFailure(Waiting("ContainerCreating"), 0.5)
        container = find_container(pod["spec"], name)
        about = about_container(pod, name)
        config = sandbox_config(pod, self._node, sandbox.attempt)
        image = await self._image(pod, container, config)
        container_id = await self._create(pod, container, attempt, view, volumes, image, config)
        try:
            async with self._turns.turn(Rank.CONTAINER):
                await self._runtime.start_container(container_id)
        except RuntimeFailure as error:
            self._events.event(about, "Warning", "Failed", f"Error: {error}")
            raise StartFailure(Waiting("RunContainerError", str(error)), 1.0) from error
        self._events.event(about, "Normal", "Started", f"Started container {name}")
        await self._post_start(pod, container, container_id, view)
        return container_id

    async def _image(self, pod: Pod, container: Mapping[str, Any], config: pb.PodSandboxConfig) -> pb.Image:
        namespace, secrets = pod["metadata"].get("namespace", "default"), []
        about = about_container(pod, container["name"])
        try:
            for reference in pod["spec"].get("imagePullSecrets", []):
                found = await self._objects.secret(namespace, reference["name"])
                if found is not None:
                    secrets.append(found)
            image, sentence = await self._images.ensure(
                pod["metadata"]["uid"], container, auth_for(container["image"], secrets), config
            )
        except ImageError as error:
            reason, text = error.event
            kind = "Normal" if reason == "BackOff" else "Warning"
            self._events.event(about, kind, reason, text)
            self._events.event(about, "Warning", "Failed", f"Error: {error.waiting.reason}")
            raise StartFailure(error.waiting, error.retry) from error
        except ConfigError as error:
            raise StartFailure(Waiting("ImagePullBackOff", str(error)), 2.0) from error
        self._events.event(about, "Normal", "Pulled", sentence)
        return image

    async def _create(
        self,
        pod: Pod,
        container: Mapping[str, Any],
        attempt: int,
        view: PodView,
        volumes: Mapping[str, Path],
        image: pb.Image,
        config: pb.PodSandboxConfig,
    ) -> str:
        about = about_container(pod, container["name"])
        try:
            env = environment(pod, container, await self._env_sources(pod, view))
            places = mounts(container, volumes, env, read_only(pod["spec"]))
            places += await self._managed_files(pod, container, attempt, view, places)
            wanted = container_config(
                pod,
                container,
                attempt=attempt,
                env=env,
                mounts=places,
                image=image,
                node=self._node,
                target=_target(container, view),
            )
        except (ConfigError, OSError) as error:
            self._events.event(about, "Warning", "Failed", f"Error: {error}")
            raise StartFailure(Waiting("CreateContainerConfigError", str(error)), 2.0) from error
        sandbox = view.sandbox
        assert sandbox is not None
        try:
            async with self._turns.turn(Rank.CONTAINER):
                container_id = await self._runtime.create_container(sandbox.id, wanted, config)
        except RuntimeFailure as error:
            self._events.event(about, "Warning", "Failed", f"Error: {error}")
            raise StartFailure(Waiting("CreateContainerError", str(error)), 1.0) from error
        self._events.event(about, "Normal", "Created", f"Created container: {container['name']}")
        return container_id

    async def _env_sources(self, pod: Pod, view: PodView) -> Sources:
        namespace = pod["metadata"].get("namespace", "default")
        configmaps, secrets = references(pod["spec"])
        facts = self._sources(pod)
        return Sources(
            configmaps={name: await self._objects.configmap(namespace, name) for name in configmaps},
            secrets={name: await self._objects.secret(namespace, name) for name in secrets},
            services=facts.services,
            pod_ips=pod_ips(pod["spec"], view, facts.host_ips),
            host_ips=facts.host_ips,
            allocatable=facts.allocatable,
        )

    async def _make_log_directory(self, place: Path) -> None:
        await asyncio.to_thread(place.mkdir, mode=0o755, parents=True, exist_ok=True)

    async def _managed_files(
        self, pod: Pod, container: Mapping[str, Any], attempt: int, view: PodView, taken: Sequence[pb.Mount]
    ) -> list[pb.Mount]:
        return await asyncio.to_thread(self._own_files, pod, container, attempt, view, taken)

    def _own_files(
        self, pod: Pod, container: Mapping[str, Any], attempt: int, view: PodView, taken: Sequence[pb.Mount]
    ) -> list[pb.Mount]:
        """The managed /etc/hosts and the termination message file (blocking)."""
        place = self.place(pod["metadata"]["uid"])
        targets = {mount.container_path.rstrip("/") for mount in taken}
        out = []
        if "/etc/hosts" not in targets:
            host_file = Path("/etc/hosts").read_text() if pod["spec"].get("hostNetwork") else ""
            ips = pod_ips(pod["spec"], view, self._node.ips)
            place.pod_dir.mkdir(parents=True, exist_ok=True)
            place.hosts.write_text(hosts_file(pod, self._node, ips, host_file))
            place.hosts.chmod(0o644)
            out.append(pb.Mount(container_path="/etc/hosts", host_path=str(place.hosts)))
        message = place.message_file(container["name"], attempt)
        message.parent.mkdir(parents=True, exist_ok=True)
        message.touch()
        message.chmod(0o666)
        path = container.get("terminationMessagePath") or MESSAGE_PATH
        out.append(pb.Mount(container_path=path, host_path=str(message)))
        return out

    async def _post_start(
        self, pod: Pod, container: Mapping[str, Any], container_id: str, view: PodView
    ) -> None:
        hook = (container.get("lifecycle") or {}).get("postStart")
        if not hook:
            return
        ips = pod_ips(pod["spec"], view, self._node.ips)
        outcome = await act(self._runtime, container, container_id, ips[0] if ips else "", hook, 120.0)
        if not outcome.ok:
            text = f"PostStartHook failed: {outcome.detail}"
            about = about_container(pod, container["name"])
            self._events.event(about, "Warning", "FailedPostStartHook", text)
            current = ContainerView(container_id, container["name"], "", 0, observed.RUNNING)
            await self.kill_container(pod, current, 30.0, "FailedPostStartHook", ips[0] if ips else "")
            raise StartFailure(Waiting("PostStartHookError", text), 1.0)

    def given(self, uid: str, view: PodView) -> dict[str, Mapping[str, Any]]:
        """The resources that each running container of the pod holds, by container id."""
        known, out = self._given.get(uid, {}), {}
        for container in view.containers:
            said = container.annotations.get(observed.RESOURCES)
            if container.state == observed.RUNNING and said is not None:
                file = self.place(uid).resources_file(container.id)
                out[container.id] = known.get(container.id) or _read_given(file, said)
        self._given[uid] = out
        return out

    def forget_pod(self, uid: str) -> None:
        self._given.pop(uid, None)

    async def resize_container(self, pod: Pod, resize: Resize) -> None:
        """Change the cgroup of a running container, then remember it. Raises `RuntimeFailure`, OSError."""
        container = find_container(pod["spec"], resize.name)
        figures = resources.linux_resources(pod["spec"], container, self._node.memory_capacity)
        await self._runtime.update_container(resize.id, figures)
        file = self.place(pod["metadata"]["uid"]).resources_file(resize.id)
        await asyncio.to_thread(_write_whole, file, orjson.dumps(resize.resources))
        self._given.setdefault(pod["metadata"]["uid"], {})[resize.id] = resize.resources

    async def kill_container(
        self, pod: Pod, container: ContainerView, grace: float, message: str, pod_ip: str = ""
    ) -> None:
        """Run the preStop hook, then stop; both within `grace` seconds. Raises `RuntimeFailure`."""
        about = about_container(pod, container.name)
        self._events.event(about, "Normal", "Killing", message)
        began = self._clock.monotonic()
        hook = container.annotations.get(observed.PRE_STOP)
        if hook and grace > 0:
            declared = known_containers(pod["spec"])
            spec = next((c for c in declared if c["name"] == container.name), {"name": container.name})
            outcome = await act(self._runtime, spec, container.id, pod_ip, orjson.loads(hook), grace)
            if not outcome.ok:
                text = f"PreStopHook failed: {outcome.detail}"
                self._events.event(about, "Warning", "FailedPreStopHook", text)
            grace = max(MINIMUM_GRACE, grace - (self._clock.monotonic() - began))
        await self._runtime.stop_container(container.id, grace)

    async def kill_pod(self, pod: Pod, view: PodView, grace: float) -> None:
        """Stop every container, sidecars after the others, then every sandbox. Raises `RuntimeFailure`."""
        began = self._clock.monotonic()
        ip = view.sandbox.ips[0] if view.sandbox and view.sandbox.ips else ""
        sidecars = [c["name"] for c in pod["spec"].get("initContainers", []) if restartable(c)]
        alive = [c for c in view.containers if c.alive or c.state == observed.CREATED]

        def kill(container: ContainerView) -> Awaitable[None]:
            left = max(0.0, grace - (self._clock.monotonic() - began)) if grace else 0.0
            text = f"Stopping container {container.name}"
            return self.kill_container(pod, container, left, text, ip)

        await _all_of(kill(container) for container in alive if container.name not in sidecars)
        for name in reversed(sidecars):
            await _all_of(kill(container) for container in alive if container.name == name)
        await _all_of(self._runtime.stop_sandbox(sandbox.id) for sandbox in view.sandboxes)

    async def remove_pod(self, view: PodView) -> None:
        """Take containers and sandboxes out of the runtime; idempotent. Raises `RuntimeFailure`."""
        await _all_of(self._runtime.remove_container(container.id) for container in view.containers)
        await _all_of(self._runtime.remove_sandbox(sandbox.id) for sandbox in view.sandboxes)

    async def remove_logs(self, namespace: str, name: str, uid: str) -> None:
        where = Path(self._node.log_root) / f"{namespace}_{name}_{uid}"
        await asyncio.to_thread(shutil.rmtree, where, ignore_errors=True)

    async def prune(self, view: PodView) -> None:
        """Keep one ended container of each name beside its successor, and no sandbox without containers."""
        seen: dict[str, int] = {}
        surplus: list[ContainerView] = []
        for container in view.containers:
            seen[container.name] = seen.get(container.name, 0) + 1
            if seen[container.name] > 2 and not container.alive:
                surplus.append(container)
        for container in surplus:
            await self._runtime.remove_container(container.id)
            if container.log_path:
                await asyncio.to_thread(Path(container.log_path).unlink, missing_ok=True)
        gone = {container.id for container in surplus}
        held = {container.sandbox_id for container in view.containers if container.id not in gone}
        for sandbox in view.sandboxes[1:]:
            if not sandbox.ready and sandbox.id not in held:
                await self._runtime.remove_sandbox(sandbox.id)


def _target(container: Mapping[str, Any], view: PodView) -> str:
    """The id of the running container whose processes an ephemeral one asks to see. Raises `ConfigError`."""
    name = container.get("targetContainerName")
    if not name:
        return ""
    found = view.latest(name)
    if found is None or found.state != observed.RUNNING:
        raise ConfigError(f'unable to find target container "{name}"')
    return found.id


def _read_given(file: Path, said: str) -> Mapping[str, Any]:
    """What a container holds: as last updated, or as it was created."""
    content = file.read_bytes() if file.exists() else said.encode()
    held: Mapping[str, Any] = orjson.loads(content)
    return held


def _write_whole(file: Path, content: bytes) -> None:
    """The old content or the new, whatever happens meanwhile."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}")
    fresh.write_bytes(content)
    fresh.replace(file)


async def _all_of(work: Any) -> None:
    """Do all, then fail with the first failure: one stuck container must not keep the others alive."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
