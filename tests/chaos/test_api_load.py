"""A write that was given up and carried out late must not look like a write that the cluster lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from apimachinery import errors
from deploy.chaos.counters import Counters, lost_writes, stale_reads, watch_violations
from deploy.chaos.load.api import Load
from kubeclient.rest import ConnectionFailed, RestClient, WatchEvent

GIVEN_UP, CARRIED_OUT, ENOUGH = 9, 21, 60  # patches, counted from the first


class LateNetwork:
    """An API of ConfigMaps that answers at once, behind a network that delivers one patch much later."""

    def __init__(self, *, before_successors: bool) -> None:
        self.before_successors = before_successors
        self.objects: dict[str, dict[str, Any]] = {}
        self.log: list[dict[str, Any]] = []
        self.patches = 0
        self.late: tuple[str, dict[str, Any]] | None = None
        self.enough = asyncio.Event()

    def store(self, name: str, data: dict[str, str]) -> dict[str, Any]:
        stored = {"metadata": {"name": name, "resourceVersion": str(len(self.log) + 1)}, "data": data}
        self.objects[name] = stored
        self.log.append(stored)
        return stored

    def carry_out(self, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        expected = patch.get("metadata", {}).get("resourceVersion")
        if expected not in (None, self.objects[name]["metadata"]["resourceVersion"]):
            raise errors.conflict("", "configmaps", name, "the object has been modified")
        return self.store(name, patch["data"])

    async def create(self, gvr: object, obj: dict[str, Any], namespace: str) -> dict[str, Any]:
        return self.store(obj["metadata"]["name"], obj["data"])

    async def get(self, gvr: object, name: str, namespace: str) -> dict[str, Any]:
        await asyncio.sleep(0)
        return self.objects[name]

    async def list(self, gvr: object, namespace: str) -> dict[str, Any]:
        return {"metadata": {"resourceVersion": str(len(self.log))}, "items": list(self.objects.values())}

    async def watch(self, gvr: object, namespace: str, resource_version: str) -> AsyncIterator[WatchEvent]:
        position = int(resource_version)
        while True:
            for stored in self.log[position:]:
                position += 1
                yield WatchEvent("MODIFIED", stored)
            await asyncio.sleep(0)

    async def patch(
        self, gvr: object, name: str, patch: dict[str, Any], namespace: str, content_type: str
    ) -> dict[str, Any]:
        await asyncio.sleep(0)
        self.patches += 1
        if self.patches == GIVEN_UP:
            self.late = (name, patch)
            if self.before_successors:
                self.deliver()
            raise ConnectionFailed("cut off")
        if self.patches == CARRIED_OUT:
            self.deliver()
        if self.patches == ENOUGH:
            self.enough.set()
        return self.carry_out(name, patch)

    def deliver(self) -> None:
        if self.late is not None:
            (name, patch), self.late = self.late, None
            try:
                self.carry_out(name, patch)
            except errors.StatusError as error:
                assert error.code == 409


async def worked(network: LateNetwork) -> tuple[Counters, dict[str, int]]:
    load = Load(cast(RestClient, network), "ns", writers=1, pause=0.0, seed=1)
    async with asyncio.timeout(60), load.running():
        await network.enough.wait()
    return load.counters, await load.stored()


@pytest.mark.parametrize("before_successors", [True, False])
def test_a_write_that_was_given_up_is_carried_out_late(before_successors: bool) -> None:
    async def body() -> None:
        network = LateNetwork(before_successors=before_successors)
        counters, stored = await worked(network)
        [given_up] = [done for done in counters.keys.values() if done.unknown]
        assert network.late is None and len(given_up.unknown) == 1
        assert given_up.acknowledged[-1] > given_up.unknown[0], "its writer went on"
        assert lost_writes(counters, stored) == []
        assert stale_reads(counters) == []
        assert watch_violations(counters, counters.watched) == []

    asyncio.run(body())
