"""The small controllers: mirrored Endpoints, protected claims and volumes, the nodes' TTL."""

from __future__ import annotations

from typing import Any

import pytest

from controllers import mirroring, ttl
from controllers import objects as o
from controllers import volumeprotection as vp
from controllers.mirroring import EndpointSliceMirroringController
from controllers.ttl import TTLController
from controllers.volumeprotection import (
    CLASS_FINALIZER,
    ClaimProtectionController,
    ClassProtectionController,
    VolumeProtectionController,
)
from kubeclient.resources import (
    ENDPOINTS,
    ENDPOINTSLICES,
    NODES,
    PERSISTENTVOLUMECLAIMS,
    PERSISTENTVOLUMES,
    PODS,
    SERVICES,
    VOLUMEATTRIBUTESCLASSES,
)
from tests.controllers import make
from tests.controllers.conftest import run
from tests.controllers.memoryapi import Object
from tests.controllers.world import World


def endpoints(*ips: str, bad: tuple[str, ...] = (), **extra: Any) -> Object:
    subset = {
        "addresses": [{"ip": ip} for ip in ips],
        "notReadyAddresses": [{"ip": ip} for ip in bad],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
    }
    return {"metadata": make.meta("web", **extra), "subsets": [subset]}


def test_addresses_are_grouped_by_family_and_the_limit_is_kept() -> None:
    plan = mirroring.compute_plan(endpoints("10.0.0.1", "fd00::1", "nonsense", bad=("10.0.0.2",)), [], 1000)
    found = {s["addressType"]: s["endpoints"] for s in plan.create}
    assert [e["addresses"][0] for e in found["IPv6"]] == ["fd00::1"]
    ready = [(e["addresses"][0], e["conditions"]["ready"]) for e in found["IPv4"]]
    assert ready == [("10.0.0.1", True), ("10.0.0.2", False)] and plan.skipped == 1
    plan = mirroring.compute_plan(endpoints(*(f"10.0.0.{n}" for n in range(9))), [], 5)
    assert len(plan.create[0]["endpoints"]) == 5 and plan.skipped == 4


def test_what_is_mirrored() -> None:
    bare = make.service(selector=None)
    assert mirroring.is_mirrored(endpoints("10.0.0.1"), bare)
    assert not mirroring.is_mirrored(endpoints("10.0.0.1"), make.service())
    assert not mirroring.is_mirrored(endpoints("10.0.0.1"), None)
    assert not mirroring.is_mirrored(endpoints(labels={mirroring.SKIP: "true"}), bare)
    assert not mirroring.is_mirrored(endpoints(annotations={mirroring.LEADER: "x"}), bare)


def test_endpoints_written_by_hand_become_slices() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(SERVICES, make.service(selector=None))
        world.api.put(ENDPOINTS, endpoints("10.0.0.1"))
        async with world.running(EndpointSliceMirroringController):
            await world.settle()
            (made,) = world.api.all(ENDPOINTSLICES)
            assert o.labels(made)["endpointslice.kubernetes.io/managed-by"] == mirroring.MANAGER
            world.api.put(ENDPOINTS, endpoints("10.0.0.1", "10.0.0.2"))
            await world.settle()
            (again,) = world.api.all(ENDPOINTSLICES)
            assert o.name(again) == o.name(made) and len(again["endpoints"]) == 2
            writes = len(world.api.writes)
            await world.pass_time(3)
            assert len(world.api.writes) == writes
            world.api.put(SERVICES, make.service())  # a selector: the other controller's business now
            await world.settle()
            assert world.api.all(ENDPOINTSLICES) == []

    run(scenario())


@pytest.mark.parametrize(
    ("terminating", "have", "in_use", "finalizers"),
    [
        (False, [], False, ["x"]),
        (False, ["x"], False, None),
        (True, ["x"], True, None),
        (True, ["x", "y"], False, ["y"]),
        (True, [], False, None),
    ],
)
def test_protection(terminating: bool, have: list[str], in_use: bool, finalizers: list[str] | None) -> None:
    metadata = make.meta("c", finalizers=have, **({"deletionTimestamp": make.START} if terminating else {}))
    assert vp.compute_finalizers({"metadata": metadata}, "x", in_use) == finalizers


def test_a_claim_stays_as_long_as_a_pod_uses_it() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(PERSISTENTVOLUMECLAIMS, {"metadata": make.meta("data"), "spec": {}})
        world.api.put(
            PERSISTENTVOLUMES, {"metadata": make.meta("pv", ""), "spec": {}, "status": {"phase": "Bound"}}
        )
        user = make.pod("user")
        user["spec"]["volumes"] = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
        world.api.put(PODS, user)
        async with world.running(ClaimProtectionController, VolumeProtectionController):
            await world.settle()
            for gvr, name, space in (
                (PERSISTENTVOLUMECLAIMS, "data", "default"),
                (PERSISTENTVOLUMES, "pv", ""),
            ):
                found = world.api.get(gvr, name, space)
                assert found is not None and o.finalizers(found)
                found["metadata"]["deletionTimestamp"] = world.now()
                world.api.put(gvr, found)
            await world.settle()
            assert world.api.get(PERSISTENTVOLUMECLAIMS, "data", "default") is not None
            assert world.api.get(PERSISTENTVOLUMES, "pv") is not None
            world.api.put(PODS, {**user, "status": {"phase": "Succeeded"}})
            volume = world.api.get(PERSISTENTVOLUMES, "pv")
            assert volume is not None
            world.api.put(PERSISTENTVOLUMES, {**volume, "status": {"phase": "Released"}})
            await world.settle()
            assert world.api.get(PERSISTENTVOLUMECLAIMS, "data", "default") is None
            assert world.api.get(PERSISTENTVOLUMES, "pv") is None

    run(scenario())


@pytest.mark.parametrize(
    "use",
    [
        {"spec": {"volumeAttributesClassName": "gold"}},
        {"spec": {}, "status": {"currentVolumeAttributesClassName": "gold"}},
        {"spec": {}, "status": {"modifyVolumeStatus": {"targetVolumeAttributesClassName": "gold"}}},
    ],
)
def test_a_class_of_attributes_is_held_while_a_claim_has_or_wants_it(use: Object) -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(VOLUMEATTRIBUTESCLASSES, {"metadata": make.meta("gold", "")})
        world.api.put(PERSISTENTVOLUMECLAIMS, {"metadata": make.meta("data"), **use})
        async with world.running(ClassProtectionController):
            await world.settle()
            found = world.api.get(VOLUMEATTRIBUTESCLASSES, "gold")
            assert found is not None and o.finalizers(found) == [CLASS_FINALIZER]
            world.api._delete(VOLUMEATTRIBUTESCLASSES, "", "gold", {})
            await world.pass_time(5)
            assert world.api.get(VOLUMEATTRIBUTESCLASSES, "gold") is not None
            world.api.put(PERSISTENTVOLUMECLAIMS, {"metadata": make.meta("data"), "spec": {}})
            await world.settle()
            assert world.api.get(VOLUMEATTRIBUTESCLASSES, "gold") is None

    run(scenario())


@pytest.mark.parametrize(
    ("step", "nodes", "expected"),
    [(0, 100, 0), (0, 101, 1), (1, 95, 1), (1, 89, 0), (0, 5000, 4), (4, 1, 0), (3, 1801, 3), (4, 1799, 3)],
)
def test_ttl_steps(step: int, nodes: int, expected: int) -> None:
    assert ttl.next_step(step, nodes) == expected


def test_nodes_carry_their_ttl() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(NODES, make.node("n1"))
        async with world.running(TTLController):
            await world.settle()
            assert o.annotations_of(world.api.all(NODES)[0])[ttl.ANNOTATION] == "0"

    run(scenario())
