"""A manager whose lease has run out writes nothing, whatever it was in the middle of."""

from __future__ import annotations

import pytest

from componentbase.clock import FakeClock
from controllers.fence import Fence, FencedTransport, NotingTransport
from kubeclient.resources import CONFIGMAPS, LEASES
from kubeclient.rest import ConnectionFailed, RestClient
from kubeclient.transport import Target
from tests.controllers.conftest import run
from tests.controllers.memoryapi import MemoryApi, Object

LEASE: Object = {"metadata": {"name": "manager", "namespace": "kube-system"}, "spec": {}}


def test_writes_pass_while_the_lease_is_fresh() -> None:
    async def scenario() -> None:
        api, clock = MemoryApi(), FakeClock()
        fence = Fence(LEASES.path("kube-system", "manager"), 15.0, clock.monotonic)
        target = Target("http://api")
        async with (
            RestClient(target, transport=NotingTransport(api, fence), clock=clock) as keeper,
            RestClient(target, transport=FencedTransport(api, fence), clock=clock) as hand,
        ):

            async def write(name: str) -> None:
                await hand.create(CONFIGMAPS, {"metadata": {"name": name, "namespace": "default"}})

            with pytest.raises(ConnectionFailed, match="another manager may be leading"):
                await write("before")
            lease = await keeper.create(LEASES, LEASE)
            await write("a")
            clock.advance(14)
            await write("b")
            clock.advance(2)
            with pytest.raises(ConnectionFailed, match="another manager may be leading"):
                await write("late")
            assert len((await hand.list(CONFIGMAPS, "default"))["items"]) == 2  # reads pass
            await keeper.create(CONFIGMAPS, {"metadata": {"name": "x", "namespace": "default"}})
            with pytest.raises(ConnectionFailed):
                await write("late")  # another write of the keeper is no renewal
            await keeper.update(LEASES, {**lease, "spec": {"holderIdentity": "me"}})
            await write("c")

    run(scenario())
