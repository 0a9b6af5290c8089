"""Ranges of cluster IPs: Ready, and held while an address lies in no other. Tables, then the loop."""

from __future__ import annotations

import pytest

from apimachinery import errors
from controllers import objects as o
from controllers.servicecidrs import (
    ALLOCATOR,
    FINALIZER,
    GRACE,
    MANAGED_BY,
    Plan,
    ServiceCIDRController,
    blocking,
    compute_plan,
)
from kubeclient import resources as r
from tests.controllers import make
from tests.controllers.conftest import run
from tests.controllers.memoryapi import Object
from tests.controllers.world import World

NOW = o.parse_time(make.START)


def cidr(name: str, *ranges: str, **extra: object) -> Object:
    return {"metadata": make.meta(name, "", **extra), "spec": {"cidrs": list(ranges)}}


def address(ip: str, manager: str = ALLOCATOR) -> Object:
    return {"metadata": make.meta(ip, "", labels={MANAGED_BY: manager})}


@pytest.mark.parametrize(
    ("others", "addresses", "held"),
    [
        ((), (), []),
        ((), ("10.0.0.7",), ["10.0.0.7"]),
        ((), ("10.0.1.7", "fd00::7"), ["fd00::7"]),
        (("10.0.0.0/16",), ("10.0.0.7",), []),  # a larger range has it
        (("10.0.0.0/25",), ("10.0.0.7", "10.0.0.200"), ["10.0.0.200"]),  # a smaller one has some
        (("10.9.0.0/24", "fd00::/64"), ("10.0.0.7", "fd00::7"), ["10.0.0.7"]),
    ],
)
def test_which_addresses_hold_a_range(
    others: tuple[str, ...], addresses: tuple[str, ...], held: list[str]
) -> None:
    mine = cidr("mine", "10.0.0.0/24", "fd00::/108")
    rest = [cidr(f"c{number}", each) for number, each in enumerate(others)]
    assert blocking(mine, rest, map(address, addresses)) == held
    assert blocking(mine, rest, [address(each, "somebody.else") for each in addresses]) == []


def test_a_new_range_becomes_ready_and_is_held() -> None:
    plan = compute_plan(cidr("new", "10.0.0.0/24"), (), (), NOW)
    assert plan.condition is not None and plan.condition["status"] == "True"
    assert plan.finalizers == [FINALIZER] and plan.again is None
    ready = cidr("new", "10.0.0.0/24", finalizers=[FINALIZER]) | {"status": {"conditions": [plan.condition]}}
    assert compute_plan(ready, (), (), NOW) == Plan()


def test_a_range_goes_when_its_addresses_and_its_grace_are_gone() -> None:
    going = cidr("old", "10.0.0.0/24", finalizers=["x", FINALIZER], deletionTimestamp=make.START)
    used = [address("10.0.0.1")]
    held = compute_plan(going, [going], used, NOW + 60)
    assert held.condition is not None and held.finalizers is None
    assert (held.condition["status"], held.condition["reason"]) == ("False", "Terminating")
    assert compute_plan(going, [going], (), NOW + 1) == Plan(again=GRACE - 1)
    assert compute_plan(going, [going], (), NOW + GRACE).finalizers == ["x"]
    wide = cidr("wide", "10.0.0.0/16")
    assert compute_plan(going, [going, wide], used, NOW + GRACE).finalizers == ["x"]
    also_going = cidr("wide", "10.0.0.0/16", deletionTimestamp=make.START)
    assert compute_plan(going, [going, also_going], used, NOW + GRACE).finalizers is None


def test_a_server_that_lets_nobody_write_ranges_is_left_alone() -> None:
    async def scenario() -> None:
        def refuse(method: str, path: str) -> None:
            world.api.writes.append((method, path))
            raise errors.method_not_supported("networking.k8s.io", "servicecidrs", method)

        world = World()
        world.api.before = refuse
        world.api.put(r.SERVICECIDRS, cidr("kubernetes", "10.32.0.0/24"))
        async with world.running(ServiceCIDRController):
            await world.pass_time(30)
            assert len(world.api.writes) == 1

    run(scenario())


def test_the_loop() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(r.SERVICECIDRS, cidr("kubernetes", "10.32.0.0/24"))
        world.api.put(r.IPADDRESSES, address("10.32.0.1"))
        async with world.running(ServiceCIDRController):
            await world.settle()
            found = world.api.get(r.SERVICECIDRS, "kubernetes")
            assert found is not None and o.condition_status(found, "Ready") == "True"
            assert o.finalizers(found) == [FINALIZER]
            world.api._delete(r.SERVICECIDRS, "", "kubernetes", {})
            await world.pass_time(2 * GRACE)
            found = world.api.get(r.SERVICECIDRS, "kubernetes")
            assert found is not None and o.condition_status(found, "Ready") == "False"
            assert "KubernetesServiceCIDRError" in world.events.reasons
            world.api.drop(r.IPADDRESSES, "10.32.0.1")
            await world.settle()
            assert world.api.get(r.SERVICECIDRS, "kubernetes") is None

    run(scenario())
