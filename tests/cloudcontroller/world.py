"""The manager's loops against the API in memory, a cloud in memory and a clock that stands still."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from ipaddress import IPv4Network
from typing import Any

from cloudcontroller.cloud import FakeCloud, Instance
from cloudcontroller.loops import Context, Loop, Options
from componentbase.clock import FakeClock
from kubeclient.informer import InformerFactory
from kubeclient.resources import NODES, SERVICES
from kubeclient.rest import RestClient
from kubeclient.transport import Target
from tests.controllers.memoryapi import MemoryApi
from tests.controllers.world import Events

Object = dict[str, Any]
UNINITIALIZED = {
    "key": "node.cloudprovider.kubernetes.io/uninitialized",
    "value": "true",
    "effect": "NoSchedule",
}


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run one asynchronous test within a minute."""
    asyncio.run(asyncio.wait_for(work, 60))


def node(name: str, address: str = "10.240.0.20", *, ready: str = "True", **spec: Any) -> Object:
    """A node that has been initialized, unless told otherwise."""
    conditions = [{"type": "Ready", "status": ready}]
    addresses = [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]
    return {
        "metadata": {"name": name},
        "spec": {"providerID": f"lab://t/{name}", **spec},
        "status": {"conditions": conditions, "addresses": addresses},
    }


def instance(name: str, address: str = "10.240.0.20") -> Instance:
    addresses = (("InternalIP", address), ("Hostname", name))
    return Instance(f"lab://t/{name}", addresses, "host", "a")


def service(name: str = "web", **spec: Any) -> Object:
    ports = [{"port": 80, "protocol": "TCP", "nodePort": 30080}]
    return {
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.32.0.7", "ports": ports, **spec},
        "status": {},
    }


class World:
    """One API, one cloud, one clock, one manager at a time."""

    def __init__(self) -> None:
        self.api, self.clock, self.events = MemoryApi(), FakeClock(), Events()
        self.cloud = FakeCloud(pool=tuple(IPv4Network("10.240.1.0/29").hosts()))

    def node(self, name: str) -> Object:
        found = self.api.get(NODES, name)
        assert found is not None
        return found

    def service(self, name: str = "web") -> Object:
        found = self.api.get(SERVICES, name, "default")
        assert found is not None
        return found

    @contextlib.asynccontextmanager
    async def running(
        self, *builders: Callable[[Context], Loop], options: Options | None = None
    ) -> AsyncIterator[None]:
        """Run loops; leaving the block kills them."""
        self.api.dead = False
        async with RestClient(Target("http://api"), transport=self.api, clock=self.clock) as client:
            informers = InformerFactory(client)
            chosen = options or Options(cluster_cidr="10.200.0.0/16")
            ctx = Context(client, informers, self.clock, self.cloud, chosen, lambda _: self.events)
            loops = [build(ctx) for build in builders]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(informers.run())]
                await informers.wait_synced(10)
                tasks += [group.create_task(loop.run()) for loop in loops]
                try:
                    yield
                finally:
                    for task in tasks:
                        task.cancel()

    async def settle(self) -> None:
        """Let everything happen that happens without time passing."""
        await self.clock.settle(300)

    async def after(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.advance(seconds)
        await self.settle()
