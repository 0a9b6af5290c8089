"""A kubelet between an apiserver and a runtime in memory, for whole-agent tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from componentbase.clock import RealClock
from componentbase.http.server import serve
from componentbase.tasks import Background
from kubeclient.rest import RestClient
from kubeclient.transport import Target
from kubelet.agent import Kubelet, Settings
from kubelet.config import KubeletConfig
from kubelet.cri.fake import FakeRuntime
from tests.kubelet.api import MemoryApi

NODE = "/api/v1/nodes/worker-0"


class World:
    """An apiserver, a runtime, and a kubelet that can be stopped and started between them."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path
        self.config = KubeletConfig(static_pod_path=str(tmp_path / "manifests"))
        self.api = MemoryApi()
        self.runtime = FakeRuntime(RealClock().now, pullable={"pullable:1"})
        self.runtime.add_images(["busybox:1.36"])
        self.kubelet: Kubelet | None = None
        self._group: asyncio.TaskGroup
        self._tasks: list[asyncio.Task[None]] = []
        self.port = 0

    async def start(self) -> None:
        """Start (or start again) the kubelet, as a new process would."""
        self._tasks.append(self._group.create_task(self._run()))

    async def _run(self) -> None:
        settings = Settings(self.config, "worker-0", ("10.240.0.20",), self.root, str(self.root / "logs"))
        target = Target(f"http://127.0.0.1:{self.port}")
        async with RestClient(target) as client, Background("kubelet") as tasks:
            self.kubelet = Kubelet(settings, client, self.runtime, RealClock(), tasks)
            await self.kubelet.run()

    async def kill(self) -> None:
        """End the kubelet without any goodbye."""
        task = self._tasks.pop()
        task.cancel()
        await asyncio.wait([task])

    async def play(self, scenario: Callable[[World], Awaitable[None]]) -> None:
        async with asyncio.timeout(30), asyncio.TaskGroup() as self._group:
            listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            server = self._group.create_task(
                serve(self.api, port=0, on_listening=listening.set_result, shutdown_grace=0.1)
            )
            self.port = await listening
            await self.start()
            await scenario(self)
            while self._tasks:
                await self.kill()
            server.cancel()

    async def pod(self, name: str, **spec: Any) -> dict[str, Any]:
        containers = [{"name": "c", "image": "busybox:1.36", "command": ["sleep", "1000"]}]
        body = {"nodeName": "worker-0", "containers": containers, **spec}
        return await self.api.add_pod({"metadata": {"name": name}, "spec": body})

    def status(self, name: str) -> dict[str, Any]:
        held = self.api.pod(name)
        return dict(held["status"]) if held else {}

    def container(self, name: str) -> dict[str, Any]:
        statuses = self.status(name).get("containerStatuses") or [{"state": {}}]
        return dict(statuses[0])

    def condition(self, path: str, kind: str) -> str:
        held = self.api.objects.get(path, {}).get("status", {}).get("conditions", [])
        return next((str(c["status"]) for c in held if c["type"] == kind), "")

    async def until_ready(self, name: str) -> None:
        path = f"/api/v1/namespaces/default/pods/{name}"
        await self.api.until(lambda: self.condition(path, "Ready") == "True")

    def living(self) -> list[str]:
        """Ids of the containers that run."""
        return [call for call, status in self.runtime._containers.items() if status.state == 1]
