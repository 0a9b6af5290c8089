"""What the kubelet needs of a container runtime.

The messages are CRI v1's own (`kubelet.cri.pb`), so that a runtime behind a socket, an embedded one and the
fake are interchangeable. Every call may raise `RuntimeFailure`; ids that are gone raise `NotFound`.
`stop_*` and `remove_*` are idempotent: what is gone already is no failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from kubelet.cri.pb import api_pb2 as pb


class RuntimeFailure(Exception):
    """The runtime refused or failed a call; the message is the runtime's own."""


class NotFound(RuntimeFailure):
    """The runtime knows no such sandbox, container or image."""


class Unavailable(RuntimeFailure):
    """The runtime could not be reached, or did not answer in time: nothing is known about the outcome."""


class TimedOut(Unavailable):
    """The call, or the command it was to run, took longer than it may."""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """Output and exit code of a command that ran inside a container."""

    stdout: bytes
    stderr: bytes
    exit_code: int


class Runtime(Protocol):
    """Containers and images of one machine."""

    async def version(self) -> pb.VersionResponse: ...

    async def status(self) -> pb.RuntimeStatus: ...

    async def list_sandboxes(self) -> list[pb.PodSandbox]: ...

    async def list_containers(self) -> list[pb.Container]: ...

    async def sandbox_status(
        self, sandbox_id: str, *, verbose: bool = False
    ) -> pb.PodSandboxStatusResponse: ...

    async def container_status(self, container_id: str) -> pb.ContainerStatus: ...

    async def run_sandbox(self, config: pb.PodSandboxConfig, handler: str = "") -> str: ...

    async def stop_sandbox(self, sandbox_id: str) -> None: ...

    async def remove_sandbox(self, sandbox_id: str) -> None: ...

    async def create_container(
        self, sandbox_id: str, config: pb.ContainerConfig, sandbox_config: pb.PodSandboxConfig
    ) -> str: ...

    async def start_container(self, container_id: str) -> None: ...

    async def stop_container(self, container_id: str, grace: float) -> None: ...

    async def remove_container(self, container_id: str) -> None: ...

    async def update_container(self, container_id: str, resources: pb.LinuxContainerResources) -> None: ...

    async def exec_sync(self, container_id: str, command: list[str], timeout: float) -> ExecResult: ...

    async def exec_url(self, request: pb.ExecRequest) -> str: ...

    async def attach_url(self, request: pb.AttachRequest) -> str: ...

    async def reopen_log(self, container_id: str) -> None: ...

    async def container_stats(self) -> list[pb.ContainerStats]: ...

    async def list_images(self) -> list[pb.Image]: ...

    async def image_filesystem(self) -> str:
        """Where the images are, empty when the runtime does not say."""
        ...

    async def image_status(self, reference: str) -> pb.Image | None: ...

    async def pull_image(
        self, reference: str, auth: pb.AuthConfig | None, sandbox: pb.PodSandboxConfig
    ) -> str: ...

    async def remove_image(self, reference: str) -> None: ...

    async def close(self) -> None: ...
