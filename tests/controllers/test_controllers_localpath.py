"""The provisioner of local volumes: its steps by tables, then at work beside the binder."""

from __future__ import annotations

from typing import Any

import pytest

from controllers import objects as o
from controllers.localpath import plan as p
from controllers.localpath.controller import LocalPathController
from controllers.localpath.plan import Settings, Step
from controllers.runtime import Context
from controllers.volumeprotection import VolumeProtectionController
from controllers.volumes import VolumeBinderController
from controllers.volumes import model as m
from kubeclient import resources as r
from tests.controllers import make
from tests.controllers.conftest import run
from tests.controllers.memoryapi import MemoryApi, Object
from tests.controllers.test_controllers_volumes import bound, claim, storage_class
from tests.controllers.world import World

SETTINGS = Settings()
CLASS = storage_class("local", SETTINGS.provisioner, "WaitForFirstConsumer")
CALLED = {m.STORAGE_PROVISIONER: SETTINGS.provisioner, m.SELECTED_NODE: "n1"}


def called(**spec: Any) -> Object:
    notes = CALLED | spec.pop("annotations", {})
    return claim(**{"storageClassName": "local", "annotations": notes, **spec})


def made(phase: str = "Bound", **extra: Any) -> Object:
    volume = p.new_volume(called(), CLASS, "n1", SETTINGS)
    volume["spec"] |= extra.pop("spec", {})
    volume["metadata"] |= extra
    return {**volume, "status": {"phase": phase}}


def helper(task: str, phase: str = "", **meta: Any) -> Object:
    pod = p.helper(task, "pvc-x", "n1", SETTINGS)
    pod["metadata"] |= meta
    return {**pod, "status": {"phase": phase} if phase else {}}


MAKING = {p.MAKE: helper(p.MAKE, "Running")}
MADE = {p.MAKE: helper(p.MAKE, "Succeeded")}
REMOVING = {p.REMOVE: helper(p.REMOVE, "Running")}
REMOVED = {p.REMOVE: helper(p.REMOVE, "Succeeded")}
GOING = {"deletionTimestamp": make.START}
KEEP = {"persistentVolumeReclaimPolicy": "Retain"}


@pytest.mark.parametrize(
    ("of", "volume", "helpers", "step"),
    [
        (None, None, {}, Step.NOTHING),
        (claim(), None, {}, Step.NOTHING),  # nobody called
        (called(), None, {}, Step.START_MAKE),
        (called(), None, MAKING, Step.WAIT),
        (called(), None, MADE, Step.CREATE_VOLUME),
        (called(), None, {p.MAKE: helper(p.MAKE, "Failed")}, Step.RETRY),
        (called(), None, {p.MAKE: helper(p.MAKE, "Failed", **GOING)}, Step.WAIT),
        (called(), None, REMOVED, Step.CLEAN),
        (called(volumeName="other"), None, MADE, Step.START_REMOVE),
        (None, None, MAKING, Step.WAIT),  # the claim went away: never beside each other
        (None, None, MADE, Step.START_REMOVE),
        (None, None, {**MADE, **REMOVING}, Step.WAIT),
        (None, None, {**MADE, **REMOVED}, Step.CLEAN),
        (called(volumeName="pvc-x"), made(), MADE, Step.CLEAN),
        (called(volumeName="pvc-x"), made(), {}, Step.NOTHING),
        (None, made("Released"), {}, Step.START_REMOVE),
        (None, made("Released"), MADE, Step.START_REMOVE),
        (None, made("Released"), REMOVING, Step.WAIT),
        (None, made("Released"), REMOVED, Step.DROP_VOLUME),
        (None, made("Released", **GOING), REMOVED, Step.DROP_VOLUME),
        (None, made("Released", **GOING, finalizers=[]), REMOVED, Step.CLEAN),
        (None, made("Released", spec=KEEP), {}, Step.NOTHING),
        (None, made("Released", spec=KEEP, **GOING), {}, Step.DROP_VOLUME),
        (called(), made("Bound", **GOING), {}, Step.NOTHING),  # until it is no longer bound
    ],
)
def test_one_step_at_a_time(
    of: Object | None, volume: Object | None, helpers: dict[str, Object], step: Step
) -> None:
    assert p.next_step(p.View(of, CLASS, volume, helpers), SETTINGS) is step


def test_a_node_that_is_gone_took_the_directory_with_it() -> None:
    gone = p.View(None, None, made("Released"), {}, node_exists=False)
    assert p.next_step(gone, SETTINGS) is Step.DROP_VOLUME
    half = p.View(None, None, None, MADE, node_exists=False)
    assert p.next_step(half, SETTINGS) is Step.CLEAN


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"volumeMode": "Block"}, "volumeMode Block is not supported"),
        ({"accessModes": ["ReadWriteMany"]}, "access mode ReadWriteMany is not supported"),
        ({"selector": {"matchLabels": {"a": "b"}}}, "selector is not supported"),
        ({"dataSource": {"kind": "VolumeSnapshot"}}, "dataSource is not supported"),
        ({"annotations": {m.SELECTED_NODE: ""}}, "volumeBindingMode must be WaitForFirstConsumer"),
    ],
)
def test_what_these_volumes_are_not_is_refused_by_name(change: dict[str, Any], why: str) -> None:
    assert p.check(called(), CLASS) == "n1"
    with pytest.raises(p.Unprovisionable, match=why):
        p.check(called(**change), CLASS)


def test_a_storage_class_that_asks_for_more_is_refused() -> None:
    for extra, why in (({"parameters": {"fs": "xfs"}}, "'fs'"), ({"mountOptions": ["ro"]}, "mountOptions")):
        with pytest.raises(p.Unprovisionable, match=why):
            p.check(called(), {**CLASS, **extra})


def test_growing_is_up_to_the_class_and_ends() -> None:
    mine = called(size="8Gi", phase="Bound", volumeName="v")
    mine["status"]["capacity"] = {"storage": "5Gi"}
    volume = p.new_volume(mine, CLASS, "n1", SETTINGS)
    assert p.grown(mine, volume, CLASS) == ""
    assert p.grown(mine, volume, {**CLASS, "allowVolumeExpansion": True}) == "8Gi"
    mine["status"]["capacity"] = {"storage": "8Gi"}
    assert p.grown(mine, volume, {**CLASS, "allowVolumeExpansion": True}) == ""


# -- at work -------------------------------------------------------------------------------------------------


def provisioner(ctx: Context) -> LocalPathController:
    return LocalPathController(ctx, SETTINGS)


EVERYONE = (VolumeBinderController, VolumeProtectionController, provisioner)


class Disks:
    """The nodes' directories, as helper pods change them; `broken` ones end with an error."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.there: set[tuple[str, str]] = set()
        self.broken = False

    def __call__(self) -> None:
        """A hollow kubelet for helper pods."""
        for pod in self.world.api.all(r.PODS, SETTINGS.namespace):
            name, task, where = o.name(pod), o.labels(pod)[p.TASK_LABEL], o.spec(pod)["nodeName"]
            if o.is_terminating(pod):
                self.world.api.drop(r.PODS, name, SETTINGS.namespace)
            elif o.status(pod).get("phase") not in ("Succeeded", "Failed"):
                directory = (where, o.labels(pod)[p.VOLUME_LABEL])
                if not self.broken:
                    (self.there.add if task == p.MAKE else self.there.discard)(directory)
                phase = "Failed" if self.broken else "Succeeded"
                self.world.api.put(r.PODS, {**pod, "status": {"phase": phase}})


def prepared() -> tuple[World, Disks]:
    world = World()
    world.api.put(r.STORAGECLASSES, {**CLASS, "reclaimPolicy": "Delete", "allowVolumeExpansion": True})
    world.api.put(r.NODES, make.node("n1", labels={p.HOSTNAME: "n1"}))
    return world, Disks(world)


def only_volume(api: MemoryApi) -> Object:
    return (api.all(r.PERSISTENTVOLUMES) or [{}])[0]


def test_a_volume_comes_grows_and_goes_with_its_claim() -> None:
    async def scenario() -> None:
        world, disks = prepared()
        api = world.api
        mine = api.put(r.PERSISTENTVOLUMECLAIMS, called())
        name = p.volume_name(mine)
        async with world.running(*EVERYONE):
            await world.until(lambda: bound(api) == name and not api.all(r.PODS), each=disks)
            assert disks.there == {("n1", name)}
            assert o.spec(only_volume(api))["local"] == {"path": f"/var/lib/local-path/{name}"}
            found = api.get(r.PERSISTENTVOLUMECLAIMS, "data", "default") or {}
            found["spec"]["resources"]["requests"]["storage"] = "8Gi"
            api.put(r.PERSISTENTVOLUMECLAIMS, found)
            await world.until(lambda: "VolumeResizeSuccessful" in world.events.reasons, each=disks)
            assert m.capacity(only_volume(api)) == m.size("8Gi")
            api.drop(r.PERSISTENTVOLUMECLAIMS, "data", "default")
            await world.until(lambda: not api.all(r.PERSISTENTVOLUMES) and not api.all(r.PODS), each=disks)
            assert disks.there == set()

    run(scenario())


def test_a_claim_that_goes_while_its_directory_is_made_leaves_nothing() -> None:
    async def scenario() -> None:
        world, disks = prepared()
        world.api.put(r.PERSISTENTVOLUMECLAIMS, called())
        async with world.running(*EVERYONE):
            await world.until(lambda: world.api.all(r.PODS))
            world.api.drop(r.PERSISTENTVOLUMECLAIMS, "data", "default")
            await world.until(lambda: not world.api.all(r.PODS), each=disks)
            assert disks.there == set() and not world.api.all(r.PERSISTENTVOLUMES)

    run(scenario())


def test_a_helper_that_fails_is_replaced_and_the_claim_is_told() -> None:
    async def scenario() -> None:
        world, disks = prepared()
        disks.broken = True
        world.api.put(r.PERSISTENTVOLUMECLAIMS, called())
        async with world.running(*EVERYONE):
            await world.until(lambda: "ProvisioningFailed" in world.events.reasons, each=disks)
            disks.broken = False
            await world.until(lambda: bound(world.api), each=disks)

    run(scenario())


def test_a_node_that_vanished_is_taken_out_of_the_claim() -> None:
    async def scenario() -> None:
        world, disks = prepared()
        world.api.put(r.PERSISTENTVOLUMECLAIMS, called(annotations={m.SELECTED_NODE: "n9"}))
        async with world.running(*EVERYONE):
            await world.until(lambda: "ProvisioningFailed" in world.events.reasons, each=disks)
            found = world.api.get(r.PERSISTENTVOLUMECLAIMS, "data", "default") or {}
            assert m.SELECTED_NODE not in o.annotations_of(found)

    run(scenario())


def test_a_volume_that_is_not_ours_is_left_alone() -> None:
    async def scenario() -> None:
        world, _ = prepared()
        theirs = made("Released", annotations={m.PROVISIONED_BY: "somebody.else/x"})
        world.api.put(r.PERSISTENTVOLUMES, theirs)
        async with world.running(provisioner):
            await world.pass_time(10)
            assert world.api.writes == []

    run(scenario())
