"""CRI v1 over gRPC: the runtime is another process behind a Unix socket.

Every call has a deadline, and gRPC's status codes become the port's exceptions. The channel is opened by
the first call, so that importing this module or building a client starts nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio

from kubelet.cri.pb import api_pb2 as pb
from kubelet.cri.pb import api_pb2_grpc as stubs
from kubelet.cri.port import ExecResult, NotFound, RuntimeFailure, TimedOut, Unavailable

Response = TypeVar("Response")

CALL_TIMEOUT = 120.0  # seconds; the kubelet's --runtime-request-timeout default is two minutes
PULL_TIMEOUT = 600.0
MAX_MESSAGE = 16 << 20


class CriRuntime:
    """A `Runtime` over the CRI endpoint `unix:///path`."""

    def __init__(self, endpoint: str) -> None:
        if not endpoint.startswith("unix://"):
            raise ValueError(f"container runtime endpoint {endpoint!r}: only unix:// is supported")
        self.endpoint = endpoint
        self._channel: grpc.aio.Channel | None = None
        self._stubs: tuple[Any, Any] | None = None

    def _connect(self) -> tuple[Any, Any]:
        if self._stubs is None:
            options = [
                ("grpc.max_receive_message_length", MAX_MESSAGE),
                ("grpc.max_reconnect_backoff_ms", 3000),
                ("grpc.default_authority", "localhost"),
                ("grpc.enable_http_proxy", 0),
            ]
            self._channel = grpc.aio.insecure_channel(self.endpoint, options=options)
            generated: Any = stubs  # protoc writes its stubs without types
            self._stubs = (
                generated.RuntimeServiceStub(self._channel),
                generated.ImageServiceStub(self._channel),
            )
        return self._stubs

    async def _call(
        self,
        pick: Callable[[Any, Any], Callable[..., Awaitable[Response]]],
        request: object,
        timeout: float = CALL_TIMEOUT,
    ) -> Response:
        method = pick(*self._connect())
        try:
            return await method(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            details = error.details() or error.code().name
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise NotFound(details) from error
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimedOut(details) from error
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise Unavailable(details) from error
            raise RuntimeFailure(details) from error

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()
            self._channel, self._stubs = None, None

    async def version(self) -> pb.VersionResponse:
        return await self._call(lambda runtime, _: runtime.Version, pb.VersionRequest(version="v1"), 10)

    async def status(self) -> pb.RuntimeStatus:
        response: pb.StatusResponse = await self._call(
            lambda runtime, _: runtime.Status, pb.StatusRequest(), 10
        )
        return response.status

    async def list_sandboxes(self) -> list[pb.PodSandbox]:
        response: pb.ListPodSandboxResponse = await self._call(
            lambda runtime, _: runtime.ListPodSandbox, pb.ListPodSandboxRequest()
        )
        return list(response.items)

    async def list_containers(self) -> list[pb.Container]:
        response: pb.ListContainersResponse = await self._call(
            lambda runtime, _: runtime.ListContainers, pb.ListContainersRequest()
        )
        return list(response.containers)

    async def sandbox_status(self, sandbox_id: str, *, verbose: bool = False) -> pb.PodSandboxStatusResponse:
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=verbose)
        return await self._call(lambda runtime, _: runtime.PodSandboxStatus, request)

    async def container_status(self, container_id: str) -> pb.ContainerStatus:
        response: pb.ContainerStatusResponse = await self._call(
            lambda runtime, _: runtime.ContainerStatus, pb.ContainerStatusRequest(container_id=container_id)
        )
        return response.status

    async def run_sandbox(self, config: pb.PodSandboxConfig, handler: str = "") -> str:
        request = pb.RunPodSandboxRequest(config=config, runtime_handler=handler)
        response: pb.RunPodSandboxResponse = await self._call(
            lambda runtime, _: runtime.RunPodSandbox, request, 2 * CALL_TIMEOUT
        )
        return response.pod_sandbox_id

    async def stop_sandbox(self, sandbox_id: str) -> None:
        await self._gone_is_fine(
            lambda runtime, _: runtime.StopPodSandbox, pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        )

    async def remove_sandbox(self, sandbox_id: str) -> None:
        await self._gone_is_fine(
            lambda runtime, _: runtime.RemovePodSandbox, pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        )

    async def create_container(
        self, sandbox_id: str, config: pb.ContainerConfig, sandbox_config: pb.PodSandboxConfig
    ) -> str:
        request = pb.CreateContainerRequest(
            pod_sandbox_id=sandbox_id, config=config, sandbox_config=sandbox_config
        )
        response: pb.CreateContainerResponse = await self._call(
            lambda runtime, _: runtime.CreateContainer, request
        )
        return response.container_id

    async def start_container(self, container_id: str) -> None:
        await self._call(
            lambda runtime, _: runtime.StartContainer, pb.StartContainerRequest(container_id=container_id)
        )

    async def stop_container(self, container_id: str, grace: float) -> None:
        request = pb.StopContainerRequest(container_id=container_id, timeout=max(0, round(grace)))
        await self._gone_is_fine(lambda runtime, _: runtime.StopContainer, request, CALL_TIMEOUT + grace)

    async def remove_container(self, container_id: str) -> None:
        await self._gone_is_fine(
            lambda runtime, _: runtime.RemoveContainer, pb.RemoveContainerRequest(container_id=container_id)
        )

    async def update_container(self, container_id: str, resources: pb.LinuxContainerResources) -> None:
        request = pb.UpdateContainerResourcesRequest(container_id=container_id, linux=resources)
        await self._call(lambda runtime, _: runtime.UpdateContainerResources, request)

    async def _gone_is_fine(
        self,
        pick: Callable[[Any, Any], Callable[..., Awaitable[object]]],
        request: object,
        timeout: float = CALL_TIMEOUT,
    ) -> None:
        try:
            await self._call(pick, request, timeout)
        except NotFound:
            return

    async def exec_sync(self, container_id: str, command: list[str], timeout: float) -> ExecResult:
        request = pb.ExecSyncRequest(container_id=container_id, cmd=command, timeout=max(1, round(timeout)))
        response: pb.ExecSyncResponse = await self._call(
            lambda runtime, _: runtime.ExecSync, request, timeout + 10
        )
        return ExecResult(response.stdout, response.stderr, response.exit_code)

    async def exec_url(self, request: pb.ExecRequest) -> str:
        response: pb.ExecResponse = await self._call(lambda runtime, _: runtime.Exec, request)
        return response.url

    async def attach_url(self, request: pb.AttachRequest) -> str:
        response: pb.AttachResponse = await self._call(lambda runtime, _: runtime.Attach, request)
        return response.url

    async def reopen_log(self, container_id: str) -> None:
        await self._call(
            lambda runtime, _: runtime.ReopenContainerLog,
            pb.ReopenContainerLogRequest(container_id=container_id),
        )

    async def container_stats(self) -> list[pb.ContainerStats]:
        response: pb.ListContainerStatsResponse = await self._call(
            lambda runtime, _: runtime.ListContainerStats, pb.ListContainerStatsRequest()
        )
        return list(response.stats)

    async def list_images(self) -> list[pb.Image]:
        response: pb.ListImagesResponse = await self._call(
            lambda _, images: images.ListImages, pb.ListImagesRequest()
        )
        return list(response.images)

    async def image_filesystem(self) -> str:
        response: pb.ImageFsInfoResponse = await self._call(
            lambda _, images: images.ImageFsInfo, pb.ImageFsInfoRequest()
        )
        named = [usage.fs_id.mountpoint for usage in response.image_filesystems]
        return named[0] if named else ""

    async def image_status(self, reference: str) -> pb.Image | None:
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=reference))
        response: pb.ImageStatusResponse = await self._call(lambda _, images: images.ImageStatus, request)
        return response.image if response.HasField("image") else None

    async def pull_image(
        self, reference: str, auth: pb.AuthConfig | None, sandbox: pb.PodSandboxConfig
    ) -> str:
        request = pb.PullImageRequest(image=pb.ImageSpec(image=reference), auth=auth, sandbox_config=sandbox)
        response: pb.PullImageResponse = await self._call(
            lambda _, images: images.PullImage, request, PULL_TIMEOUT
        )
        return response.image_ref

    async def remove_image(self, reference: str) -> None:
        request = pb.RemoveImageRequest(image=pb.ImageSpec(image=reference))
        await self._gone_is_fine(lambda _, images: images.RemoveImage, request)
