"""A runtime in memory that passes the same suite as the real ones.

Containers run until `exit_container` is called; a command of the form `exit N` ends at once with that code,
and a missing image fails like a registry that does not know it. The clock is handed in, so that histories
are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableSequence
from dataclasses import dataclass, field

from kubelet.cri.pb import api_pb2 as pb
from kubelet.cri.port import ExecResult, NotFound, RuntimeFailure

ExecHandler = Callable[[str, list[str]], ExecResult]


def _default_exec(container_id: str, command: list[str]) -> ExecResult:
    if command[:1] == ["echo"]:
        return ExecResult((" ".join(command[1:]) + "\n").encode(), b"", 0)
    return ExecResult(b"", b"", 1 if command[:1] == ["false"] else 0)


@dataclass
class FakeRuntime:
    """Sandboxes, containers and images as dictionaries; `calls` records what was asked, in order."""

    now: Callable[[], float]
    images: dict[str, pb.Image] = field(default_factory=dict)
    pullable: set[str] = field(default_factory=set)
    exec_handler: ExecHandler = _default_exec
    network_ready: bool = True
    subnet: str = "10.200.0"
    memory: dict[str, int] = field(default_factory=dict)
    calls: MutableSequence[tuple[str, str]] = field(default_factory=list)
    _sandboxes: dict[str, pb.PodSandboxStatus] = field(default_factory=dict)
    _containers: dict[str, pb.ContainerStatus] = field(default_factory=dict)
    _parents: dict[str, str] = field(default_factory=dict)
    _configs: dict[str, pb.ContainerConfig] = field(default_factory=dict)
    _next: int = 0

    def __post_init__(self) -> None:
        for reference in list(self.pullable):
            self.pullable.add(normalize(reference))

    def add_images(self, references: Iterable[str]) -> None:
        for reference in references:
            name = normalize(reference)
            self.images[name] = pb.Image(id=f"sha256:{_hex(name)}", repo_tags=[name], size=1 << 20)

    def exit_container(self, container_id: str, code: int = 0, reason: str = "") -> None:
        """End a running container, as its process would."""
        status = self._container(container_id)
        if status.state == pb.CONTAINER_EXITED:
            return
        status.state = pb.CONTAINER_EXITED
        status.finished_at = self._nanos()
        status.exit_code = code
        status.reason = reason or ("Completed" if code == 0 else "Error")

    def power_off(self) -> None:
        """What a power cut leaves of a real runtime: metadata without processes."""
        for sandbox in self._sandboxes.values():
            sandbox.state = pb.SANDBOX_NOTREADY
        for container_id in self._containers:
            self.exit_container(container_id, 255, "Unknown")

    def config_of(self, container_id: str) -> pb.ContainerConfig:
        return self._configs[container_id]

    def _id(self) -> str:
        self._next += 1
        return f"{self._next:064x}"

    def _nanos(self) -> int:
        return max(1, int(self.now() * 1e9))

    def _container(self, container_id: str) -> pb.ContainerStatus:
        if container_id not in self._containers:
            raise NotFound(f'container "{container_id}": not found')
        return self._containers[container_id]

    async def version(self) -> pb.VersionResponse:
        return pb.VersionResponse(
            version="0.1.0", runtime_name="fake", runtime_version="1.0.0", runtime_api_version="v1"
        )

    async def status(self) -> pb.RuntimeStatus:
        network = pb.RuntimeCondition(type="NetworkReady", status=self.network_ready)
        if not self.network_ready:
            network.reason, network.message = "NetworkPluginNotReady", "cni plugin not initialized"
        return pb.RuntimeStatus(conditions=[pb.RuntimeCondition(type="RuntimeReady", status=True), network])

    async def list_sandboxes(self) -> list[pb.PodSandbox]:
        return [
            pb.PodSandbox(
                id=status.id,
                metadata=status.metadata,
                state=status.state,
                created_at=status.created_at,
                labels=status.labels,
                annotations=status.annotations,
            )
            for status in self._sandboxes.values()
        ]

    async def list_containers(self) -> list[pb.Container]:
        return [
            pb.Container(
                id=status.id,
                pod_sandbox_id=self._parents[status.id],
                metadata=status.metadata,
                image=status.image,
                image_ref=status.image_ref,
                state=status.state,
                created_at=status.created_at,
                labels=status.labels,
                annotations=status.annotations,
            )
            for status in self._containers.values()
        ]

    async def sandbox_status(self, sandbox_id: str, *, verbose: bool = False) -> pb.PodSandboxStatusResponse:
        if sandbox_id not in self._sandboxes:
            raise NotFound(f'sandbox "{sandbox_id}": not found')
        copy = pb.PodSandboxStatus()
        copy.CopyFrom(self._sandboxes[sandbox_id])
        return pb.PodSandboxStatusResponse(status=copy, info={"info": '{"pid": 0}'} if verbose else {})

    async def container_status(self, container_id: str) -> pb.ContainerStatus:
        copy = pb.ContainerStatus()
        copy.CopyFrom(self._container(container_id))
        return copy

    async def run_sandbox(self, config: pb.PodSandboxConfig, handler: str = "") -> str:
        self.calls.append(("run_sandbox", config.metadata.name))
        if not self.network_ready:
            raise RuntimeFailure("cni plugin not initialized")
        for existing in self._sandboxes.values():
            if existing.metadata == config.metadata:
                raise RuntimeFailure(f"name is reserved for {existing.id}")
        sandbox_id = self._id()
        self._sandboxes[sandbox_id] = pb.PodSandboxStatus(
            id=sandbox_id,
            metadata=config.metadata,
            state=pb.SANDBOX_READY,
            created_at=self._nanos(),
            network=pb.PodSandboxNetworkStatus(ip=f"{self.subnet}.{self._next % 250 + 2}"),
            labels=config.labels,
            annotations=config.annotations,
            runtime_handler=handler,
        )
        return sandbox_id

    async def stop_sandbox(self, sandbox_id: str) -> None:
        self.calls.append(("stop_sandbox", sandbox_id))
        if sandbox_id not in self._sandboxes:
            return
        self._sandboxes[sandbox_id].state = pb.SANDBOX_NOTREADY
        for container_id, parent in self._parents.items():
            if parent == sandbox_id:
                self.exit_container(container_id, 137)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        self.calls.append(("remove_sandbox", sandbox_id))
        await self.stop_sandbox(sandbox_id)
        for container_id in [child for child, parent in self._parents.items() if parent == sandbox_id]:
            await self.remove_container(container_id)
        self._sandboxes.pop(sandbox_id, None)

    async def create_container(
        self, sandbox_id: str, config: pb.ContainerConfig, sandbox_config: pb.PodSandboxConfig
    ) -> str:
        self.calls.append(("create_container", config.metadata.name))
        if sandbox_id not in self._sandboxes:
            raise NotFound(f'sandbox "{sandbox_id}": not found')
        image = await self.image_status(config.image.image)
        if image is None:
            raise NotFound(f'image "{config.image.image}": not found')
        container_id = self._id()
        self._parents[container_id] = sandbox_id
        self._configs[container_id] = config
        self._containers[container_id] = pb.ContainerStatus(
            id=container_id,
            metadata=config.metadata,
            state=pb.CONTAINER_CREATED,
            created_at=self._nanos(),
            image=config.image,
            image_ref=image.id,
            labels=config.labels,
            annotations=config.annotations,
            log_path=f"{sandbox_config.log_directory}/{config.log_path}",
        )
        return container_id

    async def start_container(self, container_id: str) -> None:
        self.calls.append(("start_container", self._container(container_id).metadata.name))
        status = self._container(container_id)
        if status.state != pb.CONTAINER_CREATED:
            raise RuntimeFailure(f"container is in {pb.ContainerState.Name(status.state)} state")
        status.state = pb.CONTAINER_RUNNING
        status.started_at = self._nanos()
        command = " ".join([*self._configs[container_id].command, *self._configs[container_id].args]).split()
        if "exit" in command:
            self.exit_container(container_id, int(command[command.index("exit") + 1]))

    async def stop_container(self, container_id: str, grace: float) -> None:
        self.calls.append(("stop_container", container_id))
        if container_id in self._containers:
            self.exit_container(container_id, 137 if grace == 0 else 143)

    async def remove_container(self, container_id: str) -> None:
        self.calls.append(("remove_container", container_id))
        for table in (self._containers, self._parents, self._configs):
            table.pop(container_id, None)

    async def update_container(self, container_id: str, resources: pb.LinuxContainerResources) -> None:
        self.calls.append(("update_container", self._container(container_id).metadata.name))
        if self._container(container_id).state not in (pb.CONTAINER_CREATED, pb.CONTAINER_RUNNING):
            raise RuntimeFailure("cannot update a container that has ended")
        self._configs[container_id].linux.resources.CopyFrom(resources)

    async def exec_sync(self, container_id: str, command: list[str], timeout: float) -> ExecResult:
        if self._container(container_id).state != pb.CONTAINER_RUNNING:
            raise RuntimeFailure("container is not running")
        return self.exec_handler(container_id, command)

    async def exec_url(self, request: pb.ExecRequest) -> str:
        raise RuntimeFailure("the fake runtime has no streaming server")

    async def attach_url(self, request: pb.AttachRequest) -> str:
        raise RuntimeFailure("the fake runtime has no streaming server")

    async def reopen_log(self, container_id: str) -> None:
        self._container(container_id)

    async def container_stats(self) -> list[pb.ContainerStats]:
        """A nanosecond of CPU for each nanosecond of life, and as many bytes as `memory` says, or 1 MiB."""
        out = []
        for status in self._containers.values():
            if status.state != pb.CONTAINER_RUNNING:
                continue
            made = pb.ContainerStats()
            made.attributes.id = status.id
            made.attributes.metadata.CopyFrom(status.metadata)
            made.attributes.labels.update(status.labels)
            made.cpu.timestamp = made.memory.timestamp = self._nanos()
            made.cpu.usage_core_nano_seconds.value = self._nanos() - status.started_at
            made.memory.working_set_bytes.value = self.memory.get(status.metadata.name, 1 << 20)
            out.append(made)
        return out

    async def list_images(self) -> list[pb.Image]:
        return list(self.images.values())

    async def image_filesystem(self) -> str:
        return ""

    async def image_status(self, reference: str) -> pb.Image | None:
        by_id = {image.id: image for image in self.images.values()}
        return by_id.get(reference) or self.images.get(normalize(reference))

    async def pull_image(
        self, reference: str, auth: pb.AuthConfig | None, sandbox: pb.PodSandboxConfig
    ) -> str:
        self.calls.append(("pull_image", reference))
        if normalize(reference) not in self.pullable:
            raise NotFound(f'failed to pull and unpack image "{reference}": not found')
        self.add_images([reference])
        return self.images[normalize(reference)].id

    async def remove_image(self, reference: str) -> None:
        image = await self.image_status(reference)
        if image is not None:
            for name in [name for name, held in self.images.items() if held.id == image.id]:
                del self.images[name]

    async def close(self) -> None:
        return


def normalize(reference: str) -> str:
    """The full name of an image: registry, `library/` and tag filled in as container tools do."""
    name = reference
    first, _, rest = name.partition("/")
    if not rest:
        name = f"docker.io/library/{name}"
    elif "." not in first and ":" not in first and first != "localhost":
        name = f"docker.io/{name}"
    if "@" not in name and ":" not in name.rpartition("/")[2]:
        name += ":latest"
    return name


def _hex(name: str) -> str:
    return name.encode().hex().ljust(64, "0")[:64]
