"""Attaching CSI volumes: what a node needs, what it may lose. Tables, then the loop with an attacher."""

from __future__ import annotations

from typing import Any

import pytest

from controllers import attachdetach as ad
from controllers import objects as o
from controllers import taints as tt
from kubeclient import resources as r
from tests.controllers import make
from tests.controllers.conftest import run
from tests.controllers.memoryapi import Object
from tests.controllers.world import World

DRIVER = "csi.example.org"


def volume(name: str = "pv", mode: str = "ReadWriteOnce") -> Object:
    csi = {"driver": DRIVER, "volumeHandle": f"handle-{name}"}
    return {"metadata": make.meta(name, ""), "spec": {"csi": csi, "accessModes": [mode]}}


def node(name: str, *in_use: Object, **spec: Any) -> Object:
    made = make.node(name, **spec)
    made["metadata"]["annotations"] = {ad.MANAGED: "true"}
    made["status"]["volumesInUse"] = [ad.unique_name(each) for each in in_use]
    return made


def attachment(of: Object, on: str, *, attached: bool = True, **extra: Any) -> Object:
    metadata = make.meta(ad.attachment_name(of, on), "", **extra)
    spec = {"attacher": DRIVER, "nodeName": on, "source": {"persistentVolumeName": o.name(of)}}
    return {"metadata": metadata, "spec": spec, "status": {"attached": attached}}


def user(name: str = "p", on: str = "n1", **extra: Any) -> Object:
    pod = make.pod(name, node=on, **extra)
    pod["spec"]["volumes"] = [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]
    return pod


CLAIM: Object = {"metadata": make.meta("data"), "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}}
PV = volume()
ENTRY = {"name": f"kubernetes.io/csi/{DRIVER}^handle-pv", "devicePath": ""}
OUT = {"key": tt.OUT_OF_SERVICE, "effect": "NoExecute"}


def test_names_are_those_the_field_knows() -> None:
    assert ad.unique_name(PV) == ENTRY["name"]
    name = ad.attachment_name(PV, "n1")
    assert name.startswith("csi-") and len(name) == 4 + 64 and name != ad.attachment_name(PV, "n2")


@pytest.mark.parametrize(
    ("driver", "wanted"),
    [(None, True), ({}, True), ({"attachRequired": True}, True), ({"attachRequired": False}, False)],
)
def test_a_driver_says_whether_it_is_attached(driver: Object | None, wanted: bool) -> None:
    drivers = {} if driver is None else {DRIVER: {"spec": driver}}
    assert ad.attachable(PV, drivers) is wanted
    assert not ad.attachable({"spec": {"hostPath": {"path": "/x"}}}, drivers)


def test_what_the_pods_of_a_node_stand_on() -> None:
    claims, volumes = {"default/data": CLAIM}, {"pv": PV}
    assert ad.compute_wanted([user()], claims, volumes) == {"pv": PV}
    assert ad.compute_wanted([user(deletionTimestamp=make.START)], claims, volumes) == {"pv": PV}
    assert ad.compute_wanted([user(phase="Succeeded")], claims, volumes) == {}
    assert ad.compute_wanted([user()], {}, volumes) == {} == ad.compute_wanted([user()], claims, {})


@pytest.mark.parametrize(
    ("state", "wanted", "there", "attach", "detach", "blocked", "attached"),
    [
        (node("n1"), True, [], 1, 0, 0, []),
        (node("n1"), True, [attachment(PV, "n1", attached=False)], 0, 0, 0, []),
        (node("n1"), True, [attachment(PV, "n1")], 0, 0, 0, [ENTRY]),
        (node("n1"), False, [attachment(PV, "n1")], 0, 1, 0, []),
        (node("n1", PV), False, [attachment(PV, "n1")], 0, 0, 0, [ENTRY]),  # the kubelet still has it mounted
        (node("n1", PV, taints=[OUT]), False, [attachment(PV, "n1")], 0, 1, 0, []),
        (None, False, [attachment(PV, "n1")], 0, 1, 0, []),
        (node("n1"), True, [attachment(PV, "n2")], 0, 0, 1, []),
        (node("n1"), True, [attachment(PV, "n1", deletionTimestamp=make.START)], 0, 0, 0, []),
    ],
)
def test_plans(
    state: Object | None,
    wanted: bool,
    there: list[Object],
    attach: int,
    detach: int,
    blocked: int,
    attached: list[Object],
) -> None:
    plan = ad.compute_plan("n1", state, {"pv": PV} if wanted else {}, there, {"pv": PV})
    assert (len(plan.attach), len(plan.detach), len(plan.blocked)) == (attach, detach, blocked)
    assert list(plan.attached) == attached


def test_a_shared_volume_may_be_on_two_nodes() -> None:
    shared = volume("pv", "ReadWriteMany")
    plan = ad.compute_plan("n1", node("n1"), {"pv": shared}, [attachment(shared, "n2")], {"pv": shared})
    assert len(plan.attach) == 1 and not plan.blocked


def attacher(world: World) -> None:
    """The driver's: attaches what is asked."""
    for each in world.api.all(r.VOLUMEATTACHMENTS):
        if not o.status(each).get("attached"):
            world.api.put(r.VOLUMEATTACHMENTS, o.with_status(each, {"attached": True}))


def volumes_attached(world: World, name: str) -> list[Object]:
    return list(o.status(world.api.get(r.NODES, name) or {}).get("volumesAttached") or [])


def test_a_volume_follows_its_pod_from_node_to_node() -> None:
    async def scenario() -> None:
        world = World()
        for name in ("n1", "n2"):
            world.api.put(r.NODES, node(name))
        world.api.put(r.PERSISTENTVOLUMES, PV)
        world.api.put(r.PERSISTENTVOLUMECLAIMS, CLAIM)
        world.api.put(r.PODS, user("first", "n1"))
        async with world.running(ad.AttachDetachController):
            await world.until(lambda: volumes_attached(world, "n1") == [ENTRY], each=lambda: attacher(world))
            assert "SuccessfulAttachVolume" in world.events.reasons
            world.api.put(r.PODS, user("second", "n2"))
            await world.pass_time(5)
            assert "FailedAttachVolume" in world.events.reasons and not volumes_attached(world, "n2")
            world.api.drop(r.PODS, "first", "default")
            await world.until(lambda: volumes_attached(world, "n2") == [ENTRY], each=lambda: attacher(world))
            assert not volumes_attached(world, "n1")
            assert [o.spec(each)["nodeName"] for each in world.api.all(r.VOLUMEATTACHMENTS)] == ["n2"]

    run(scenario())


def test_a_node_whose_kubelet_attaches_by_itself_is_left_alone() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(r.NODES, make.node("n1"))
        world.api.put(r.PERSISTENTVOLUMES, PV)
        world.api.put(r.PERSISTENTVOLUMECLAIMS, CLAIM)
        world.api.put(r.PODS, user())
        async with world.running(ad.AttachDetachController):
            await world.pass_time(5)
            assert not world.api.writes

    run(scenario())
