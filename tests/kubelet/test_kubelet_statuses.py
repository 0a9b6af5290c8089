"""The queue in front of pod statuses: what a write that was overtaken settles."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from componentbase.clock import RealClock
from kubeclient.rest import RestClient
from kubelet.statuses import StatusManager


class Client:
    """Answers a patch when told to, and remembers whose object it went to."""

    def __init__(self) -> None:
        self.uids: list[str] = []
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def patch(self, *arguments: Any, **named: Any) -> dict[str, Any]:
        self.uids.append(arguments[2]["metadata"]["uid"])
        self.asked.set()
        await self.go_on.wait()
        return {"metadata": {"resourceVersion": "7"}}


def test_a_write_to_the_old_mirror_does_not_settle_the_new_ones_status() -> None:
    async def test() -> None:
        client, mirror = Client(), {"metadata": {"name": "p", "namespace": "default", "uid": "old"}}
        manager = StatusManager(cast(RestClient, client), RealClock(), lambda _: mirror)
        pod = {"metadata": {"name": "p", "namespace": "default", "uid": "static"}}
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            running = group.create_task(manager.run())
            manager.set(pod, {"phase": "Running"})
            await client.asked.wait()
            mirror["metadata"]["uid"] = "new"
            manager.resume("static")
            client.go_on.set()
            await manager.flushed("static")
            running.cancel()
        assert client.uids == ["old", "new"]

    asyncio.run(test())
