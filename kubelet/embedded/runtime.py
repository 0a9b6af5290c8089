"""The embedded runtime: the kubelet's port over plain processes.

A sandbox is a process that keeps namespaces (`holder`), a container is a process below a shim (`shim`), an
image is a directory. All of them outlive the kubelet.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from componentbase.tasks import Background
from kubelet.cri.pb import api_pb2 as pb
from kubelet.cri.port import ExecResult, NotFound, RuntimeFailure, TimedOut
from kubelet.embedded import detach, isolation, spec, views
from kubelet.embedded.images import ImageStore, LocalImage
from kubelet.embedded.network import CONFIGURATIONS, PodNetwork
from kubelet.embedded.programs import ShimGone, dial_shim, program, specification, start, tell_shim
from kubelet.embedded.records import LAYER, NETWORK, Container, Record, Records, Sandbox
from kubelet.embedded.streaming import StreamServer
from kubelet.embedded.usage import Group, Usage, by_processes

NAME = "embedded"
VERSION = "0.1.0"
BUSYBOX = Path("/bin/busybox")
# What keeps a pod's namespaces: one process that holds the lock and has no child to leave it to. As pid 1 of
# a pod that shares processes it must collect the dead, and all of its children end with it.
WAIT = ("sleep", "2147483647")
WAIT_AND_COLLECT = ("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 2147483647 & wait $!; done")
QUERY = {"images", "cni"}
OUTPUT_LIMIT = 16 << 20
KILL_TIMEOUT = 30.0


def parse_endpoint(endpoint: str) -> tuple[Path, Path, PodNetwork]:
    """`embedded:///state?images=/archives`: where it keeps things, and where its images are; `&cni=` says
    where the network's configuration is. Raises ValueError."""
    parts = urlsplit(endpoint)
    query = {name: Path(values[0]) for name, values in parse_qs(parts.query).items()}
    if (
        parts.scheme != NAME
        or parts.netloc
        or parts.path in ("", "/")
        or not {"images"} <= query.keys() <= QUERY
    ):
        raise ValueError(
            f"container runtime endpoint {endpoint!r}: must be embedded:///<directory>?images=<directory>"
        )
    return Path(parts.path), query["images"], PodNetwork(query.get("cni", CONFIGURATIONS))


class EmbeddedRuntime:
    """A `Runtime` without any other program than those of this folder, `ip` and the CNI plugins."""

    def __init__(self, root: Path, archives: Path, network: PodNetwork | None = None) -> None:
        self.root = root
        self.images = ImageStore(root / "images", archives)
        self.network = network or PodNetwork()
        self.abilities = isolation.examine()
        self.records = Records(root)
        self.records.load()
        self._tasks = Background(NAME)
        self._streams: StreamServer | None = None
        self._names: set[str] = set()
        self._making_pause = threading.Lock()  # pods are made by several threads

    # -- about itself

    async def version(self) -> pb.VersionResponse:
        return pb.VersionResponse(
            version="0.1.0", runtime_name=NAME, runtime_version=VERSION, runtime_api_version="v1"
        )

    async def status(self) -> pb.RuntimeStatus:
        network = pb.RuntimeCondition(type="NetworkReady", status=True)
        try:
            configured = self.network.configuration() is not None
        except (OSError, ValueError) as error:
            configured, network.message = False, str(error)
        if not configured:
            network.status, network.reason = False, "NetworkPluginNotReady"
            network.message = network.message or "cni plugin not initialized"
        return pb.RuntimeStatus(conditions=[pb.RuntimeCondition(type="RuntimeReady", status=True), network])

    def lacking(self) -> list[str]:
        """What is not isolated here, a sentence each."""
        return list(isolation.lacking(self.abilities))

    async def close(self) -> None:
        """End what belongs to this kubelet: streams. Pods run on."""
        if self._streams is not None:
            self._streams = None
            await self._tasks.__aexit__(None, None, None)

    # -- sandboxes

    async def list_sandboxes(self) -> list[pb.PodSandbox]:
        return [
            pb.PodSandbox(
                id=sandbox.id,
                metadata=sandbox.config.metadata,
                state=views.sandbox_state(sandbox),
                created_at=sandbox.created_at,
                labels=sandbox.config.labels,
                annotations=sandbox.config.annotations,
            )
            for sandbox in self.records.sandboxes.values()
        ]

    async def sandbox_status(self, sandbox_id: str, *, verbose: bool = False) -> pb.PodSandboxStatusResponse:
        sandbox = self._sandbox(sandbox_id)
        addresses = sandbox.read(NETWORK).get("addresses", [])
        status = pb.PodSandboxStatus(
            id=sandbox.id,
            metadata=sandbox.config.metadata,
            state=views.sandbox_state(sandbox),
            created_at=sandbox.created_at,
            labels=sandbox.config.labels,
            annotations=sandbox.config.annotations,
        )
        if addresses:
            status.network.ip = addresses[0]
            status.network.additional_ips.extend(pb.PodIP(ip=each) for each in addresses[1:])
        status.linux.namespaces.options.CopyFrom(sandbox.config.linux.security_context.namespace_options)
        return pb.PodSandboxStatusResponse(status=status, info=views.info(sandbox) if verbose else {})

    async def run_sandbox(self, config: pb.PodSandboxConfig, handler: str = "") -> str:
        if handler:
            raise RuntimeFailure(f'no runtime for "{handler}" is configured: the embedded runtime has none')
        about = config.metadata
        name = f"{about.name}_{about.namespace}_{about.uid}_{about.attempt}"
        taken = next((s for s in self.records.sandboxes.values() if s.config.metadata == about), None)
        if taken is not None or name in self._names:
            held = taken.id if taken else "another call"
            raise RuntimeFailure(f'failed to reserve sandbox name "{name}": name is reserved for "{held}"')
        self._names.add(name)
        try:
            return await self._run_sandbox(config)
        finally:
            self._names.discard(name)

    async def _run_sandbox(self, config: pb.PodSandboxConfig) -> str:
        pause = await asyncio.to_thread(self._pause_tree)
        made: dict[str, Any] = {"created_at": time.time_ns()}
        sandbox = self.records.add_sandbox(os.urandom(32).hex(), config, made)
        try:
            sandbox.write(detach.SPEC, self._holder_spec(sandbox, pause))
            await start("holder", sandbox.directory)
            addresses: list[str] = []
            held: dict[str, Any] = {}
            if not sandbox.host_network:
                held, addresses = await self.network.connect(views.link(sandbox))
            sandbox.write(NETWORK, {"addresses": addresses, "held": held})
        except BaseException:
            await asyncio.shield(self._abandon(sandbox))
            raise
        return sandbox.id

    async def _abandon(self, sandbox: Sandbox) -> None:
        with contextlib.suppress(RuntimeFailure):
            await self.remove_sandbox(sandbox.id)

    def _pause_tree(self) -> Path:
        """The almost empty tree of holders: busybox, which the lab's images are made of as well."""
        place = self.root / "pause"
        with self._making_pause:
            if not place.exists():
                if not BUSYBOX.exists():
                    raise RuntimeFailure(f"{BUSYBOX} is absent: install package busybox-static")
                unfinished = place.with_name("pause.part")
                (unfinished / "bin").mkdir(parents=True, exist_ok=True)
                shutil.copy(BUSYBOX, unfinished / "bin" / "busybox")
                unfinished.rename(place)
        return place

    def _holder_spec(self, sandbox: Sandbox, pause: Path) -> dict[str, Any]:
        context = sandbox.config.linux.security_context
        tree = spec.tree(pause, sandbox.directory / LAYER)
        tree["own_processes"] = context.namespace_options.pid == pb.POD
        about = self._confinement(spec.Identity(0, 0, (0,), "/"), [], no_new_privs=True)
        wait = WAIT_AND_COLLECT if tree["own_processes"] else WAIT
        path = {"argv": ["/bin/busybox", *wait], "env": ["PATH=/bin"], "cwd": "/"}
        return {
            "directory": str(sandbox.directory),
            "spaces": spec.sandbox_spaces(context.namespace_options),
            "hostname": sandbox.config.hostname,
            "sysctls": dict(sandbox.config.linux.sysctls),
            "cgroups": self._pod_group(sandbox),
            "root": tree,
            "process": {**about, **path, "watched": False, "oom_score_adj": -998},
        }

    def _pod_group(self, sandbox: Sandbox) -> list[str]:
        """Where the holder is counted: in a group of its own beside the containers'."""
        if not self.abilities.limits:
            return []
        return self._group(sandbox, sandbox.id).make(pb.LinuxContainerResources())

    def _group(self, sandbox: Sandbox, name: str) -> Group:
        parent = sandbox.config.linux.cgroup_parent or "/kubepods"
        return Group(f"{parent.rstrip('/')}/{name}")

    def _confinement(
        self, who: spec.Identity, capabilities: list[int] | None, *, no_new_privs: bool
    ) -> dict[str, Any]:
        """The part of a process that says who it is; without identities there is only one to be."""
        several = self.abilities.identities
        return {
            "uid": who.uid if several else None,
            "gid": who.gid if several else None,
            "groups": list(who.groups) if several else None,
            "capabilities": capabilities,
            "no_new_privs": no_new_privs,
        }

    async def stop_sandbox(self, sandbox_id: str) -> None:
        sandbox = self.records.sandboxes.get(sandbox_id)
        if sandbox is None:
            return
        for container in self.records.of_sandbox(sandbox_id):
            await self.stop_container(container.id, 0)
        held = sandbox.read(NETWORK)
        if held.get("held"):
            await self.network.disconnect(views.link(sandbox), held["held"])
            sandbox.write(NETWORK, {**held, "held": {}})
        sandbox.stop()
        await self._end_holder(sandbox)

    async def _end_holder(self, sandbox: Sandbox) -> None:
        if sandbox.alive and sandbox.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(sandbox.pid, signal.SIGKILL)
        if not await _gone(sandbox, KILL_TIMEOUT):
            raise RuntimeFailure(f"sandbox {sandbox.id}: its process survives SIGKILL")

    async def remove_sandbox(self, sandbox_id: str) -> None:
        sandbox = self.records.sandboxes.get(sandbox_id)
        if sandbox is None:
            return
        await self.stop_sandbox(sandbox_id)
        for container in self.records.of_sandbox(sandbox_id):
            await self.remove_container(container.id)
        if self.abilities.limits:
            self._group(sandbox, sandbox.id).remove()
        self.records.sandboxes.pop(sandbox_id, None)
        await asyncio.to_thread(sandbox.forget)

    def _sandbox(self, sandbox_id: str) -> Sandbox:
        if sandbox_id not in self.records.sandboxes:
            raise NotFound(f'sandbox "{sandbox_id}": not found')
        return self.records.sandboxes[sandbox_id]

    # -- containers

    async def list_containers(self) -> list[pb.Container]:
        return [
            pb.Container(
                id=container.id,
                pod_sandbox_id=container.sandbox,
                metadata=container.config.metadata,
                image=container.config.image,
                image_ref=container.about["image"],
                state=container.state,
                created_at=container.created_at,
                labels=container.config.labels,
                annotations=container.config.annotations,
            )
            for container in self.records.containers.values()
        ]

    async def container_status(self, container_id: str) -> pb.ContainerStatus:
        container = self._container(container_id)
        status = pb.ContainerStatus(
            id=container.id,
            metadata=container.config.metadata,
            state=container.state,
            created_at=container.created_at,
            started_at=container.started_at,
            image=container.config.image,
            image_ref=container.about["image"],
            labels=container.config.labels,
            annotations=container.config.annotations,
            mounts=container.config.mounts,
            log_path=container.log,
        )
        if (ended := container.ended) is not None:
            status.exit_code, status.finished_at = ended.code, ended.at
            status.reason, status.message = ended.reason, ended.message
        return status

    async def create_container(
        self, sandbox_id: str, config: pb.ContainerConfig, sandbox_config: pb.PodSandboxConfig
    ) -> str:
        sandbox = self._sandbox(sandbox_id)
        if not sandbox.ready:
            raise RuntimeFailure(f"sandbox container {sandbox_id} is not running")
        image = await asyncio.to_thread(self.images.find, config.image.image)
        if image is None:
            raise NotFound(f'image "{config.image.image}": not found')
        tree = await asyncio.to_thread(self.images.tree, image)
        log = f"{sandbox_config.log_directory}/{config.log_path}" if config.log_path else ""
        identifier = os.urandom(32).hex()
        about = {"sandbox": sandbox_id, "image": image.id, "log": log, "created_at": time.time_ns()}
        container = self.records.add_container(identifier, config, about)
        try:
            document = await asyncio.to_thread(self._container_spec, container, sandbox, image, tree)
            container.write(detach.SPEC, document)
        except (RuntimeFailure, OSError) as error:
            await self.remove_container(identifier)
            raise RuntimeFailure(str(error)) from error
        return identifier

    def _container_spec(
        self, container: Container, sandbox: Sandbox, image: LocalImage, tree: Path
    ) -> dict[str, Any]:
        config, settings = container.config, image.settings
        context = config.linux.security_context
        who = spec.identity(context, settings, spec.Accounts.of(tree))
        hostname = sandbox.config.hostname or os.uname().nodename
        root = spec.tree(tree, container.directory / LAYER, context)
        root["mounts"] = spec.mounts(config, _own_files(sandbox, hostname))
        for mount in config.mounts:
            if mount.host_path and not Path(mount.host_path).exists():
                Path(mount.host_path).mkdir(parents=True)
        group = self._group(sandbox, container.id)
        files = group.make(config.linux.resources) if self.abilities.limits else []
        target = self._container(context.namespace_options.target_id).pid if _targets(context) else 0
        about = self._confinement(who, spec.capabilities(context), no_new_privs=context.no_new_privs)
        about["oom_score_adj"] = config.linux.resources.oom_score_adj
        return {
            "directory": str(container.directory),
            "spaces": spec.spaces(context.namespace_options, sandbox.pid, target),
            "hostname": "",
            "sysctls": {},
            "cgroups": files,
            "memory_events": group.events() if files else "",
            "root": root,
            "tty": config.tty,
            "stdin": config.stdin,
            "stdin_once": config.stdin_once,
            "log": container.log,
            "process": {
                **about,
                "argv": spec.command(config, settings),
                "env": spec.environment(config, settings, hostname, who.home),
                "cwd": config.working_dir or settings.get("WorkingDir") or "/",
                "watched": True,
            },
        }

    async def start_container(self, container_id: str) -> None:
        container = self._container(container_id)
        if container.state != pb.CONTAINER_CREATED:
            raise RuntimeFailure(f"container is in {pb.ContainerState.Name(container.state)} state")
        try:
            await start("shim", container.directory)
        except RuntimeFailure as error:
            raise RuntimeFailure(f"failed to start container: {error}") from error

    async def stop_container(self, container_id: str, grace: float) -> None:
        container = self.records.containers.get(container_id)
        if container is None or container.state != pb.CONTAINER_RUNNING:
            return
        image = self.images.find(container.about["image"])
        asked = spec.stop_signal(image.settings if image else {})
        if grace > 0 and await self._signal(container, asked, grace):
            return
        if not await self._signal(container, signal.SIGKILL, KILL_TIMEOUT):
            raise RuntimeFailure(f"container {container_id}: its process survives SIGKILL")

    async def _signal(self, container: Container, number: int, wait: float) -> bool:
        """Send a signal by way of the shim, the only one who knows that the process is still the container;
        whether it has ended within `wait` seconds."""
        try:
            reader, writer = await dial_shim(container.directory, {"signal": number})
        except ShimGone:
            return container.ended is not None
        try:
            async with asyncio.timeout(wait):
                await reader.read()
                # The shim hung up while it ended; its lock is let go of a moment later.
                await _gone(container, wait)
        except (TimeoutError, ConnectionError):
            pass
        finally:
            writer.close()
        return container.ended is not None

    async def remove_container(self, container_id: str) -> None:
        container = self.records.containers.get(container_id)
        if container is None:
            return
        await self.stop_container(container_id, 0)
        sandbox = self.records.sandboxes.get(container.sandbox)
        if self.abilities.limits and sandbox is not None:
            self._group(sandbox, container.id).remove()
        self.records.containers.pop(container_id, None)
        await asyncio.to_thread(container.forget)

    async def update_container(self, container_id: str, resources: pb.LinuxContainerResources) -> None:
        container = self._container(container_id)
        if container.state == pb.CONTAINER_EXITED:
            raise RuntimeFailure("cannot update a container that has ended")
        if not self.abilities.limits:
            raise RuntimeFailure(isolation.NO_LIMITS)
        try:
            self._group(self._sandbox(container.sandbox), container.id).limit(resources)
        except OSError as error:
            raise RuntimeFailure(f"failed to update resources: {error}") from error

    async def reopen_log(self, container_id: str) -> None:
        with contextlib.suppress(ShimGone):
            await tell_shim(self._container(container_id).directory, {"reopen": True})

    def _container(self, container_id: str) -> Container:
        if container_id not in self.records.containers:
            raise NotFound(f'container "{container_id}": not found')
        return self.records.containers[container_id]

    async def container_stats(self) -> list[pb.ContainerStats]:
        running = [each for each in self.records.containers.values() if each.state == pb.CONTAINER_RUNNING]
        return await asyncio.to_thread(self._stats, running)

    def _stats(self, running: list[Container]) -> list[pb.ContainerStats]:
        counted = {} if self.abilities.limits else by_processes()
        out = []
        for container in running:
            usage = self._usage(container, counted)
            if usage is None:
                continue
            made = pb.ContainerStats()
            made.attributes.id = container.id
            made.attributes.metadata.CopyFrom(container.config.metadata)
            made.attributes.labels.update(container.config.labels)
            made.cpu.timestamp = made.memory.timestamp = time.time_ns()
            made.cpu.usage_core_nano_seconds.value = usage.cpu
            made.memory.working_set_bytes.value = usage.memory
            out.append(made)
        return out

    def _usage(self, container: Container, counted: Mapping[str, Usage]) -> Usage | None:
        try:
            if self.abilities.limits:
                return self._group(self._sandbox(container.sandbox), container.id).usage()
            return counted.get(str(Path(f"/proc/{container.pid}/ns/mnt").readlink()))
        except (OSError, NotFound):
            return None

    # -- commands and streams

    def command_spec(self, container_id: str, argv: list[str], *, tty: bool = False) -> dict[str, object]:
        """What `enter` needs to run a command in a running container. Raises `RuntimeFailure`."""
        container = self._container(container_id)
        if container.state != pb.CONTAINER_RUNNING:
            raise RuntimeFailure("container is not running")
        made = container.read(detach.SPEC)
        kinds = ("ipc", "uts", "net", "pid", "mnt")
        return {
            "enter": [f"/proc/{container.pid}/ns/{kind}" for kind in kinds],
            "cgroups": made["cgroups"],
            "terminal": None,
            "process": {
                **made["process"],
                "argv": argv,
                "env": [*made["process"]["env"], *(["TERM=xterm"] if tty else [])],
            },
        }

    async def exec_sync(self, container_id: str, command: list[str], timeout: float) -> ExecResult:
        descriptor = specification(self.command_spec(container_id, command))
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *program("enter", str(descriptor)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=pipe,
                stderr=pipe,
                pass_fds=(descriptor,),
            )
        finally:
            os.close(descriptor)
        try:
            async with asyncio.timeout(timeout):
                out, err = await process.communicate()
        except TimeoutError as error:
            raise TimedOut(f"command {command!r} timed out after {timeout:g}s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return ExecResult(out[:OUTPUT_LIMIT], err[:OUTPUT_LIMIT], process.returncode or 0)

    async def _stream_server(self) -> StreamServer:
        if self._streams is None:
            await self._tasks.__aenter__()
            self._streams = StreamServer()
            await self._streams.start(self._tasks)
        return self._streams

    async def exec_url(self, request: pb.ExecRequest) -> str:
        document = self.command_spec(request.container_id, list(request.cmd), tty=request.tty)
        return (await self._stream_server()).offer_command(request, document)

    async def attach_url(self, request: pb.AttachRequest) -> str:
        container = self._container(request.container_id)
        if container.state != pb.CONTAINER_RUNNING:
            raise RuntimeFailure("container is not running")
        return (await self._stream_server()).offer_attach(request, container.directory)

    # -- images

    async def list_images(self) -> list[pb.Image]:
        return [views.image(image) for image in await asyncio.to_thread(self.images.present)]

    async def image_filesystem(self) -> str:
        return str(self.images.root)

    async def image_status(self, reference: str) -> pb.Image | None:
        found = await asyncio.to_thread(self.images.find, reference)
        return views.image(found) if found else None

    async def pull_image(
        self, reference: str, auth: pb.AuthConfig | None, sandbox: pb.PodSandboxConfig
    ) -> str:
        return (await asyncio.to_thread(self.images.pull, reference)).id

    async def remove_image(self, reference: str) -> None:
        await asyncio.to_thread(self.images.remove, reference)


async def _gone(record: Record, wait: float) -> bool:
    """Whether its keeper has ended within `wait` seconds."""
    deadline = time.monotonic() + wait
    while record.alive and time.monotonic() < deadline:  # noqa: ASYNC110 - a lock has no event
        await asyncio.sleep(0.005)
    return not record.alive


def _own_files(sandbox: Sandbox, hostname: str) -> dict[str, Path]:
    """The runtime's own files of a pod, below its directory."""
    host = Path("/etc/resolv.conf")
    texts = {
        "resolv.conf": spec.resolver(sandbox.config.dns_config, host.read_text() if host.exists() else ""),
        "hostname": f"{hostname}\n",
    }
    for name, text in texts.items():
        (sandbox.directory / name).write_text(text)
        (sandbox.directory / name).chmod(0o644)
    return {f"/etc/{name}": sandbox.directory / name for name in texts}


def _targets(context: pb.LinuxContainerSecurityContext) -> bool:
    return bool(context.namespace_options.pid == pb.TARGET)
