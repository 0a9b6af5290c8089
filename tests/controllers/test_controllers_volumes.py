"""Claims and volumes: what is decided, by tables; the binder, the expander and ephemeral claims at work."""

from __future__ import annotations

from typing import Any

import pytest

from controllers import objects as o
from controllers.latest import Latest
from controllers.volumes import EphemeralVolumeController, VolumeBinderController, VolumeExpanderController
from controllers.volumes import model as m
from controllers.volumes import plan as p
from controllers.volumes.expander import RESIZER
from controllers.volumes.matching import find, mismatch
from kubeclient import resources as r
from tests.controllers import make
from tests.controllers.conftest import run
from tests.controllers.memoryapi import MemoryApi, Object
from tests.controllers.world import World

RWO, RWX = "ReadWriteOnce", "ReadWriteMany"


def volume(name: str, size: str = "10Gi", *, phase: str = "Available", **spec: Any) -> Object:
    notes = spec.pop("annotations", {})
    labels = spec.pop("labels", {})
    full = {"capacity": {"storage": size}, "accessModes": [RWO], "local": {"path": "/x"}, **spec}
    metadata = make.meta(name, "", annotations=notes, labels=labels)
    return {"metadata": metadata, "spec": full, "status": {"phase": phase} if phase else {}}


def claim(name: str = "data", size: str = "5Gi", *, phase: str = "Pending", **spec: Any) -> Object:
    notes = spec.pop("annotations", {})
    full = {
        "resources": {"requests": {"storage": size}},
        "accessModes": [RWO],
        "storageClassName": "",
        **spec,
    }
    metadata = make.meta(name, annotations=notes)
    return {"metadata": metadata, "spec": full, "status": {"phase": phase}}


def ref(to: Object, **extra: Any) -> Object:
    return {"namespace": "default", "name": o.name(to), "uid": o.uid(to), **extra}


def storage_class(name: str, provisioner: str = "x.dev/y", mode: str = "Immediate", **extra: Any) -> Object:
    metadata = make.meta(name, "", **extra)
    return {"metadata": metadata, "provisioner": provisioner, "volumeBindingMode": mode}


def names(*objects: Object) -> dict[str, Object]:
    return {o.name(each): each for each in objects}


# -- matching ------------------------------------------------------------------------------------------------


def test_the_smallest_that_does_is_chosen() -> None:
    volumes = [volume("big", "20Gi"), volume("b", "6Gi"), volume("a", "6Gi"), volume("small", "4Gi")]
    found = find(claim(), volumes)
    assert found is not None and o.name(found) == "a"


@pytest.mark.parametrize(
    ("change", "wants"),
    [
        ({"accessModes": [RWX]}, {}),
        ({"volumeMode": "Block"}, {}),
        ({"storageClassName": "fast"}, {}),
        ({"phase": "Released"}, {}),
        ({"size": "1Gi"}, {}),
        ({"claimRef": {"namespace": "default", "name": "other"}}, {}),
        ({"labels": {"disk": "hdd"}}, {"selector": {"matchLabels": {"disk": "ssd"}}}),
    ],
)
def test_what_does_not_fit_is_not_taken(change: dict[str, Any], wants: dict[str, Any]) -> None:
    assert find(claim(**wants), [volume("v", **change)]) is None
    assert find(claim(**wants), [volume("v", labels={"disk": "ssd"})]) is not None


def test_a_promised_volume_comes_first_and_alone_when_the_scheduler_chooses() -> None:
    mine = claim()
    promised = volume("promised", "50Gi", claimRef={"namespace": "default", "name": "data"})
    free = volume("free", "5Gi")
    assert find(mine, [free, promised]) is promised
    assert find(mine, [free, promised], only_promised=True) is promised
    assert find(mine, [free], only_promised=True) is None
    elder = volume("elder", claimRef={"namespace": "default", "name": "data", "uid": "another"})
    assert find(mine, [elder]) is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"size": "1Gi"}, "requested PV is too small"),
        ({"storageClassName": "fast"}, "storageClassName does not match"),
        ({"volumeMode": "Block"}, "incompatible volumeMode"),
        ({"accessModes": [RWX]}, "incompatible accessMode"),
    ],
)
def test_why_a_named_volume_cannot_serve(change: dict[str, Any], why: str) -> None:
    assert mismatch(volume("v", **change), claim()) == why


# -- plans ---------------------------------------------------------------------------------------------------

OTHER = {"namespace": "default", "name": "other", "uid": "u-other"}
DONE = {m.BIND_COMPLETED: "yes"}


@pytest.mark.parametrize(
    ("spec", "volumes", "phase", "reason"),
    [
        ({}, [], "Pending", "FailedBinding"),
        ({"volumeName": "v"}, [], "Pending", ""),
        ({"volumeName": "v"}, [volume("v", claimRef=OTHER)], "Pending", "FailedBinding"),
        ({"volumeName": "v"}, [volume("v", "1Gi")], "Pending", "VolumeMismatch"),
        ({"volumeName": "v", "annotations": DONE}, [], "Lost", "ClaimLost"),
        ({"annotations": DONE}, [volume("v")], "Lost", "ClaimLost"),
        ({"volumeName": "v", "annotations": DONE}, [volume("v", claimRef=OTHER)], "Lost", "ClaimMisbound"),
        ({"storageClassName": "none"}, [], "Pending", "ProvisioningFailed"),
        ({"storageClassName": "in-tree"}, [], "Pending", "ProvisioningFailed"),
        ({"storageClassName": "now"}, [], "Pending", "ExternalProvisioning"),
        ({"storageClassName": "later"}, [], "Pending", "WaitForFirstConsumer"),
        (
            {"storageClassName": "later", "annotations": {m.SELECTED_NODE: "n1"}},
            [],
            "Pending",
            "ExternalProvisioning",
        ),
    ],
)
def test_a_claim_that_is_not_bound_now(
    spec: dict[str, Any], volumes: list[Object], phase: str, reason: str
) -> None:
    classes = names(
        storage_class("now"),
        storage_class("later", mode="WaitForFirstConsumer"),
        storage_class("in-tree", "kubernetes.io/no-provisioner"),
    )
    decided = p.plan_claim(claim(**spec), names(*volumes), classes)
    assert decided.bind is None and decided.phase == phase
    assert (decided.note.reason if decided.note else "") == reason
    assert bool(decided.provisioner) == (reason == "ExternalProvisioning")


def test_pods_that_wait_are_named() -> None:
    later = storage_class("later", mode="WaitForFirstConsumer")
    decided = p.plan_claim(claim(storageClassName="later"), {}, names(later), ("a", "b"))
    text = "waiting for pods a,b to be scheduled"
    assert decided.note == ("Normal", "WaitForPodScheduled", text)


def test_a_claim_without_class_gets_the_newest_default() -> None:
    marked: dict[str, Any] = {"annotations": {m.DEFAULT_CLASS: "true"}}
    old = storage_class("old", **marked)
    new = storage_class("new", **marked, creationTimestamp="2027-01-01T00:00:00Z")
    wants = claim()
    del wants["spec"]["storageClassName"]
    assert p.plan_claim(wants, {}, names(old, new, storage_class("plain"))).assign_class == "new"
    assert p.plan_claim(claim(), {}, names(old, new)).assign_class == ""  # "" asks for none
    assert p.plan_claim(wants, names(volume("v")), names(new)).bind is not None  # a volume is at hand


def test_what_a_volume_becomes() -> None:
    mine = claim()
    bound = claim(volumeName="v")
    elsewhere = claim(volumeName="w")
    provisioned = {m.PROVISIONED_BY: "x.dev/y"}
    delete = {"persistentVolumeReclaimPolicy": "Delete"}
    assert p.plan_volume(volume("v"), None) == p.VolumePlan("Available")
    assert p.plan_volume(volume("v", claimRef=ref(mine, uid="")), None) == p.VolumePlan(
        "Available", ask_claim=True
    )
    assert p.plan_volume(volume("v", claimRef=ref(bound)), bound) == p.VolumePlan("Bound")
    assert p.plan_volume(volume("v", claimRef=ref(mine)), mine) == p.VolumePlan(ask_claim=True)
    assert p.plan_volume(volume("v", claimRef=ref(elsewhere)), elsewhere) == p.VolumePlan(unbind=True)
    spare = volume("v", claimRef=ref(elsewhere), annotations=provisioned, **delete)
    assert p.plan_volume(spare, elsewhere) == p.VolumePlan("Released")
    assert p.plan_volume(volume("v", claimRef=OTHER), None) == p.VolumePlan("Released")
    assert (
        p.plan_volume(volume("v", claimRef=OTHER, annotations=provisioned, **delete), None).phase
        == "Released"
    )
    failed = p.plan_volume(volume("v", claimRef=OTHER, **delete), None)
    assert failed.phase == "Failed" and failed.note is not None and failed.note.reason == "VolumeFailedDelete"
    recycled = p.plan_volume(volume("v", claimRef=OTHER, persistentVolumeReclaimPolicy="Recycle"), None)
    assert recycled.note is not None and recycled.note.reason == "VolumeFailedRecycle"
    again = volume("v", phase="Failed", claimRef=OTHER, **delete)
    assert p.plan_volume(again, None) == p.VolumePlan()


def test_unbinding_takes_back_only_what_the_controller_gave() -> None:
    mine = claim()
    by_us = volume("v", claimRef=ref(mine), annotations={m.BOUND_BY_CONTROLLER: "yes"})
    assert "claimRef" not in p.unbound(by_us)["spec"]
    by_hand = p.unbound(volume("v", claimRef=ref(mine)))
    assert by_hand["spec"]["claimRef"] == {"namespace": "default", "name": "data"}


def test_the_writes_of_a_binding_come_to_an_end() -> None:
    mine, free = claim(), volume("v")
    promised = p.promised(free, mine)
    assert promised is not None and o.annotations_of(promised)[m.BOUND_BY_CONTROLLER] == "yes"
    assert p.promised(promised, mine) is None
    by_hand = p.promised(volume("v", claimRef={"namespace": "default", "name": "data"}), mine)
    assert by_hand is not None and m.BOUND_BY_CONTROLLER not in o.annotations_of(by_hand)
    named = p.named(mine, promised)
    assert named is not None and named["spec"]["volumeName"] == "v"
    assert set(o.annotations_of(named)) == {m.BIND_COMPLETED, m.BOUND_BY_CONTROLLER}
    assert p.named(named, promised) is None
    status = p.claim_status(named, "Bound", promised)
    assert status == {"phase": "Bound", "accessModes": [RWO], "capacity": {"storage": "10Gi"}}
    assert p.claim_status({**named, "status": status}, "Bound", promised) is None


# -- the loops -----------------------------------------------------------------------------------------------


def bound(api: MemoryApi, name: str = "data") -> str:
    """The volume of a bound claim, both sides agreeing; "" otherwise."""
    found = api.get(r.PERSISTENTVOLUMECLAIMS, name, "default") or {}
    where = str(o.spec(found).get("volumeName") or "")
    held = api.get(r.PERSISTENTVOLUMES, where) or {}
    agree = o.status(found).get("phase") == "Bound" == o.status(held).get("phase")
    return where if agree and m.refers_to(held, found) else ""


def test_claims_share_the_volumes_out_and_the_last_one_waits() -> None:
    async def scenario() -> None:
        world = World()
        for number in range(3):
            world.api.put(r.PERSISTENTVOLUMES, volume(f"v{number}", f"{6 + number}Gi", phase=""))
        for number in range(4):
            world.api.put(r.PERSISTENTVOLUMECLAIMS, claim(f"c{number}"))
        async with world.running(VolumeBinderController):
            await world.until(lambda: len({bound(world.api, f"c{n}") for n in range(4)} - {""}) == 3)
            waiting = next(n for n in range(4) if not bound(world.api, f"c{n}"))
            assert "FailedBinding" in world.events.reasons
            world.api.put(r.PERSISTENTVOLUMES, volume("late", phase=""))
            await world.until(lambda: bound(world.api, f"c{waiting}") == "late")

    run(scenario())


def test_a_volume_outlives_its_claim_and_is_free_when_an_administrator_says_so() -> None:
    async def scenario() -> None:
        world, api = World(), MemoryApi()
        world.api = api
        api.put(r.PERSISTENTVOLUMES, volume("v", phase=""))
        api.put(r.PERSISTENTVOLUMECLAIMS, claim())
        async with world.running(VolumeBinderController):
            await world.until(lambda: bound(api) == "v")
            api.drop(r.PERSISTENTVOLUMECLAIMS, "data", "default")

            def phase() -> Any:
                return o.status(api.get(r.PERSISTENTVOLUMES, "v") or {}).get("phase")

            await world.until(lambda: phase() == "Released")
            api.put(r.PERSISTENTVOLUMECLAIMS, claim())  # of the same name: not the one it was bound to
            await world.pass_time(20)
            assert phase() == "Released" and not bound(api)
            old = api.get(r.PERSISTENTVOLUMES, "v")
            assert old is not None
            del old["spec"]["claimRef"]
            api.put(r.PERSISTENTVOLUMES, old)
            await world.until(lambda: bound(api) == "v")

    run(scenario())


def test_a_claim_whose_volume_vanishes_is_lost() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(r.PERSISTENTVOLUMES, volume("v", phase=""))
        world.api.put(r.PERSISTENTVOLUMECLAIMS, claim())
        async with world.running(VolumeBinderController):
            await world.until(lambda: bound(world.api) == "v")
            world.api.drop(r.PERSISTENTVOLUMES, "v")
            await world.until(lambda: "ClaimLost" in world.events.reasons)
            found = world.api.get(r.PERSISTENTVOLUMECLAIMS, "data", "default") or {}
            assert o.status(found)["phase"] == "Lost" and "capacity" not in o.status(found)

    run(scenario())


def test_a_provisioner_is_called_and_its_volume_is_bound() -> None:
    async def scenario() -> None:
        world, api = World(), MemoryApi()
        world.api = api
        api.put(r.STORAGECLASSES, storage_class("later", mode="WaitForFirstConsumer"))
        mine = api.put(r.PERSISTENTVOLUMECLAIMS, claim(storageClassName="later"))
        async with world.running(VolumeBinderController):
            await world.until(lambda: "WaitForFirstConsumer" in world.events.reasons)
            api.put(r.PERSISTENTVOLUMECLAIMS, m.annotated(mine, **{m.SELECTED_NODE: "n1"}))

            def called() -> bool:
                found = api.get(r.PERSISTENTVOLUMECLAIMS, "data", "default") or {}
                return o.annotations_of(found).get(m.STORAGE_PROVISIONER) == "x.dev/y"

            await world.until(called)
            notes = {m.PROVISIONED_BY: "x.dev/y"}
            made = volume("pvc-1", phase="", claimRef=ref(mine), storageClassName="later", annotations=notes)
            api.put(r.PERSISTENTVOLUMES, made)
            await world.until(lambda: bound(api) == "pvc-1")

    run(scenario())


def test_an_ephemeral_volume_gets_a_claim_of_its_own() -> None:
    async def scenario() -> None:
        world = World()
        template = {"metadata": {"labels": {"a": "b"}}, "spec": claim()["spec"]}
        pod = make.pod("web", phase="Pending", node="")
        pod["spec"]["volumes"] = [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]
        world.api.put(r.PODS, pod)
        theirs = make.pod("thief", phase="Pending", node="")
        theirs["spec"]["volumes"] = [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]
        world.api.put(r.PERSISTENTVOLUMECLAIMS, claim("thief-scratch"))
        world.api.put(r.PODS, theirs)

        def made() -> Object | None:
            return world.api.get(r.PERSISTENTVOLUMECLAIMS, "web-scratch", "default")

        async with world.running(EphemeralVolumeController):
            await world.until(made)
            found = made() or {}
            assert o.is_controlled_by(found, world.api.get(r.PODS, "web", "default") or {})
            assert o.labels(found) == {"a": "b"} and found["spec"] == template["spec"]
            world.api.drop(r.PERSISTENTVOLUMECLAIMS, "web-scratch", "default")
            await world.until(made)
            await world.until(lambda: "FailedBinding" in world.events.reasons)
            text = "PVC default/thief-scratch was not created for pod default/thief"
            assert any(text in message for _, _, message in world.events.seen)

    run(scenario())


def test_the_expander_calls_whoever_made_the_volume() -> None:
    async def scenario() -> None:
        world = World()
        mine = claim(size="8Gi", volumeName="v", phase="Bound")
        mine["status"]["capacity"] = {"storage": "5Gi"}
        stored = world.api.put(r.PERSISTENTVOLUMECLAIMS, mine)
        notes = {m.PROVISIONED_BY: "x.dev/y"}
        world.api.put(r.PERSISTENTVOLUMES, volume("v", claimRef=ref(stored), annotations=notes))
        async with world.running(VolumeExpanderController):
            await world.until(lambda: "ExternalExpanding" in world.events.reasons)
            found = world.api.get(r.PERSISTENTVOLUMECLAIMS, "data", "default") or {}
            assert o.annotations_of(found)[RESIZER] == "x.dev/y"

    run(scenario())


def test_what_was_written_stands_in_until_the_store_has_it() -> None:
    class Source:
        def __init__(self) -> None:
            self.store: dict[str, Object] = {}
            self.resource_version = "1"

    source = Source()
    old = {"metadata": {"name": "a", "uid": "1", "resourceVersion": "5"}}
    new = {"metadata": {"name": "a", "uid": "1", "resourceVersion": "7"}}
    newer = {"metadata": {"name": "a", "uid": "1", "resourceVersion": "9"}}
    reborn = {"metadata": {"name": "a", "uid": "2", "resourceVersion": "6"}}
    latest = Latest(source)
    source.store["a"] = old
    latest.wrote(new)
    assert latest.get("a") is new and dict(latest.pending()) == {"a": new}
    source.store["a"] = newer
    assert latest.get("a") is newer and not dict(latest.pending())
    latest.wrote(new)
    source.store["a"] = reborn
    assert latest.get("a") is reborn
