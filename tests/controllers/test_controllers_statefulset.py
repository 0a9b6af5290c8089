"""StatefulSet: the plan by tables, the loop against the memory API."""

from __future__ import annotations

from typing import Any

import pytest

from controllers import objects as o
from controllers.history import HASH_LABEL
from controllers.statefulset import StatefulSetController, identity
from controllers.statefulset import claims as pvc
from controllers.statefulset.plan import View, compute_plan, compute_status
from kubeclient.resources import CONTROLLERREVISIONS, PERSISTENTVOLUMECLAIMS, PODS, STATEFULSETS
from tests.controllers import make
from tests.controllers.conftest import run
from tests.controllers.memoryapi import MemoryApi, Object
from tests.controllers.world import World

CLAIM: Object = {"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}}


def statefulset(size: int = 3, **spec: Any) -> Object:
    return {
        "metadata": make.meta("db", generation=1),
        "spec": {
            "replicas": size,
            "serviceName": "db",
            "selector": {"matchLabels": {"app": "web"}},
            "template": make.TEMPLATE,
            "podManagementPolicy": "OrderedReady",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "revisionHistoryLimit": 10,
            **spec,
        },
        "status": {},
    }


def member(sts: Object, ordinal: int, revision: str = "new", **extra: Any) -> Object:
    labels = {"app": "web", HASH_LABEL: revision, **identity.identity_labels(sts, ordinal)}
    return make.pod(f"db-{ordinal}", owner=sts, kind="StatefulSet", labels=labels, **extra)


def view(sts: Object, *mine: Object, claims: tuple[Object, ...] = ()) -> View:
    return View(sts, mine, "old", "new", {o.name(c): c for c in claims}, o.parse_time(make.START) + 100)


def rolling(**values: Any) -> Object:
    return {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, **values}}


# (spec, pods as (ordinal, revision, ready), create, delete)
PLANS: list[tuple[str, Object, list[tuple[int, str, bool]], list[int], list[int]]] = [
    ("the first is made first", {}, [], [0], []),
    ("the next one waits", {}, [(0, "new", False)], [], []),
    ("the next one follows", {}, [(0, "new", True)], [1], []),
    ("a gap is filled before anything", {}, [(0, "new", True), (2, "new", True)], [1], []),
    ("parallel makes all", {"podManagementPolicy": "Parallel"}, [(1, "new", False)], [0, 2], []),
    ("ordinals start where told", {"ordinals": {"start": 5}}, [(5, "new", True)], [6], []),
    ("the highest goes first", {"replicas": 1}, [(n, "new", True) for n in range(3)], [], [2]),
    ("none goes under a sick one", {"replicas": 1}, [(0, "new", True), (1, "new", False), (2, "new", True)],
     [], [2]),
    ("a sick condemned one waits for one below", {"replicas": 1},
     [(0, "new", True), (1, "new", False), (2, "new", False)], [], []),
    ("no deletion while a replica is sick", {"replicas": 1}, [(0, "new", False), (1, "new", True)], [], []),
    ("parallel drops all", {"replicas": 1, "podManagementPolicy": "Parallel"},
     [(n, "new", True) for n in range(3)], [], [2, 1]),
    ("an update goes down", {}, [(n, "old", True) for n in range(3)], [], [2]),
    ("and one by one", {}, [(0, "old", True), (1, "old", True), (2, "new", True)], [], [1]),
    ("stopping at the sick", {"podManagementPolicy": "Parallel"},
     [(0, "old", True), (1, "old", True), (2, "new", False)], [], []),
    ("and at the partition", {"updateStrategy": rolling(partition=2)},
     [(0, "old", True), (1, "old", True), (2, "new", True)], [], []),
    ("partition counts from the start", {"ordinals": {"start": 5}, "updateStrategy": rolling(partition=1)},
     [(5, "old", True), (6, "old", True), (7, "new", True)], [], [6]),
    ("two at once", {"updateStrategy": rolling(maxUnavailable=2)}, [(n, "old", True) for n in range(3)],
     [], [2, 1]),
    ("a percentage is rounded up", {"updateStrategy": rolling(maxUnavailable="34%")},
     [(n, "old", True) for n in range(3)], [], [2, 1]),
    ("less what is down", {"podManagementPolicy": "Parallel", "updateStrategy": rolling(maxUnavailable=2)},
     [(0, "old", True), (1, "old", True), (2, "new", False)], [], [1]),
    ("on delete leaves them", {"updateStrategy": {"type": "OnDelete"}}, [(n, "old", True) for n in range(3)],
     [], []),
    ("min ready seconds hold up", {"minReadySeconds": 200}, [(0, "new", True)], [], []),
]  # fmt: skip


@pytest.mark.parametrize(("why", "spec", "pods", "create", "delete"), PLANS, ids=[p[0] for p in PLANS])
def test_plan(
    why: str, spec: Object, pods: list[tuple[int, str, bool]], create: list[int], delete: list[int]
) -> None:
    sts = statefulset(**spec) if "replicas" not in spec else statefulset(spec["replicas"], **spec)
    plan = compute_plan(view(sts, *(member(sts, n, revision, ready=ready) for n, revision, ready in pods)))
    assert list(plan.create) == create
    assert [identity.ordinal_of(pod) for pod in plan.delete] == delete


def test_ended_pods_are_made_again_and_a_set_that_goes_does_nothing() -> None:
    sts = statefulset(1)
    failed = member(sts, 0, phase="Failed")
    assert compute_plan(view(sts, failed)).restart == (failed,)
    assert (
        compute_plan(view(sts, member(sts, 0, phase="Succeeded", deletionTimestamp=make.START))).restart == ()
    )
    sts["metadata"]["deletionTimestamp"] = make.START
    assert compute_plan(view(sts)) == compute_plan(view(sts, failed))


def test_new_pods_below_the_partition_come_from_the_old_revision() -> None:
    from controllers.statefulset.plan import revision_for

    sts = statefulset(3, updateStrategy=rolling(partition=2))
    assert [revision_for(view(sts), n) for n in range(3)] == ["old", "old", "new"]


def test_a_pod_has_its_identity() -> None:
    sts = statefulset(1, volumeClaimTemplates=[CLAIM])
    template = {**make.TEMPLATE, "spec": {"volumes": [{"name": "data"}, {"name": "tmp"}]}}
    pod = identity.build_pod(sts, template, "db-1a", 4)
    assert pod["metadata"]["name"] == pod["spec"]["hostname"] == "db-4"
    assert pod["spec"]["subdomain"] == "db"
    assert pod["metadata"]["labels"] == {
        "app": "web",
        HASH_LABEL: "db-1a",
        "statefulset.kubernetes.io/pod-name": "db-4",
        "apps.kubernetes.io/pod-index": "4",
    }
    claim = {"name": "data", "persistentVolumeClaim": {"claimName": "data-db-4"}}
    assert pod["spec"]["volumes"] == [claim, {"name": "tmp"}]
    assert identity.repaired(sts, pod) is None
    del pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"]
    assert identity.repaired(sts, pod) is not None


@pytest.mark.parametrize(
    ("deleted", "scaled", "ordinal", "kinds"),
    [
        ("Retain", "Retain", 0, []),
        ("Retain", "Retain", 5, []),
        ("Delete", "Retain", 0, ["StatefulSet"]),
        ("Delete", "Retain", 5, ["StatefulSet"]),
        ("Retain", "Delete", 0, []),
        ("Retain", "Delete", 5, ["Pod"]),
        ("Delete", "Delete", 0, ["StatefulSet"]),
        ("Delete", "Delete", 5, ["Pod"]),
    ],
)
def test_owners_of_claims(deleted: str, scaled: str, ordinal: int, kinds: list[str]) -> None:
    policy = {"whenDeleted": deleted, "whenScaled": scaled}
    sts = statefulset(1, volumeClaimTemplates=[CLAIM], persistentVolumeClaimRetentionPolicy=policy)
    pod = member(sts, ordinal)
    assert [ref["kind"] for ref in pvc.owners(sts, pod, ordinal)] == kinds
    claim = {"metadata": make.meta(f"data-db-{ordinal}")}
    changed = pvc.reowned(sts, pod, {o.name(claim): claim})
    assert [ref["kind"] for c in changed for ref in o.owner_references(c)] == kinds
    for done in changed:
        assert pvc.reowned(sts, pod, {o.name(done): done}) == []


def test_a_claim_of_an_earlier_pod_holds_up_its_successor_and_a_foreign_one_is_left_alone() -> None:
    sts = statefulset(1, volumeClaimTemplates=[CLAIM])
    earlier = [{"kind": "Pod", "name": "db-0", "uid": "gone", "controller": True}]
    claim = {"metadata": make.meta("data-db-0", ownerReferences=earlier)}
    assert compute_plan(view(sts, claims=(claim,))).create == ()
    foreign = [{"kind": "Other", "name": "x", "uid": "y", "controller": True}]
    claim = {"metadata": make.meta("data-db-0", ownerReferences=foreign)}
    assert pvc.reowned(sts, member(sts, 0), {"data-db-0": claim}) == []


def test_status_ends_the_update_when_all_are_new_and_ready() -> None:
    sts = statefulset(2)
    half = compute_status(view(sts, member(sts, 0, "old"), member(sts, 1)), None)
    assert (half["currentRevision"], half["currentReplicas"], half["updatedReplicas"]) == ("old", 1, 1)
    full = compute_status(view(sts, member(sts, 0), member(sts, 1)), None)
    assert (full["currentRevision"], full["currentReplicas"], full["readyReplicas"]) == ("new", 2, 2)


# -- loops ---------------------------------------------------------------------------------------------------


def image(api: MemoryApi, name: str = "web:2") -> None:
    found = api.get(STATEFULSETS, "db", "default")
    assert found is not None
    found["spec"]["template"]["spec"]["containers"][0]["image"] = name
    api.put(STATEFULSETS, found)


def scale(api: MemoryApi, size: int) -> None:
    found = api.get(STATEFULSETS, "db", "default")
    assert found is not None
    found["spec"]["replicas"] = size
    api.put(STATEFULSETS, found)


def done(api: MemoryApi, name: str, size: int) -> bool:
    found = api.get(STATEFULSETS, "db", "default")
    assert found is not None
    status, pods = o.status(found), api.all(PODS)
    counts = {status.get(part, 0) for part in ("replicas", "updatedReplicas", "availableReplicas")}
    images = {pod["spec"]["containers"][0]["image"] for pod in pods}
    return (
        counts == {size}
        and len(pods) == size
        and images <= {name}
        and status["currentRevision"] == status["updateRevision"]
        and status["observedGeneration"] == o.generation(found)
    )


def test_a_set_rises_in_order_rolls_downwards_and_keeps_its_claims() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(STATEFULSETS, statefulset(3, volumeClaimTemplates=[CLAIM]))
        async with world.running(StatefulSetController):
            await world.until(lambda: done(world.api, "web:1", 3), each=world.kubelets)
            creations = [m for _, reason, m in world.events.seen if reason == "SuccessfulCreate"]
            assert creations == [
                text
                for n in range(3)
                for text in (
                    f"create Claim data-db-{n} Pod db-{n} in StatefulSet db success",
                    f"create Pod db-{n} in StatefulSet db successful",
                )
            ]
            world.events.seen.clear()
            image(world.api)
            await world.until(lambda: done(world.api, "web:2", 3), each=world.kubelets)
            deletions = [m.split()[2] for _, reason, m in world.events.seen if reason == "SuccessfulDelete"]
            assert deletions == ["db-2", "db-1", "db-0"]
            assert len(world.api.all(CONTROLLERREVISIONS)) == 2
            scale(world.api, 1)
            await world.until(lambda: done(world.api, "web:2", 1), each=world.kubelets)
            assert len(world.api.all(PERSISTENTVOLUMECLAIMS)) == 3
            image(world.api, "web:1")
            await world.until(lambda: done(world.api, "web:1", 1), each=world.kubelets)
            assert len(world.api.all(CONTROLLERREVISIONS)) == 2

    run(scenario())


def test_a_failed_pod_is_made_again_and_a_parallel_set_stands_at_once() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(STATEFULSETS, statefulset(4, podManagementPolicy="Parallel"))
        async with world.running(StatefulSetController):
            await world.settle()
            assert len(world.api.all(PODS)) == 4
            await world.until(lambda: done(world.api, "web:1", 4), each=world.kubelets)
            pod = world.api.get(PODS, "db-2", "default")
            assert pod is not None
            world.api.put(PODS, {**pod, "status": {"phase": "Failed"}})
            await world.until(lambda: "RecreatingFailedPod" in world.events.reasons)
            await world.until(lambda: done(world.api, "web:1", 4), each=world.kubelets)
            again = world.api.get(PODS, "db-2", "default")
            assert again is not None and o.uid(again) != o.uid(pod)

    run(scenario())


def test_claims_of_condemned_pods_are_handed_to_them() -> None:
    async def scenario() -> None:
        world = World()
        policy = {"whenDeleted": "Retain", "whenScaled": "Delete"}
        sts = statefulset(2, volumeClaimTemplates=[CLAIM], persistentVolumeClaimRetentionPolicy=policy)
        world.api.put(STATEFULSETS, sts)
        async with world.running(StatefulSetController):
            await world.until(lambda: done(world.api, "web:1", 2), each=world.kubelets)
            pod = world.api.get(PODS, "db-1", "default")
            assert pod is not None
            scale(world.api, 1)
            await world.until(lambda: done(world.api, "web:1", 1), each=world.kubelets)
            claim = world.api.get(PERSISTENTVOLUMECLAIMS, "data-db-1", "default")
            assert claim is not None and o.is_controlled_by(claim, pod)
            scale(world.api, 2)  # the garbage collector does not run here: the claim is stale, the pod waits
            await world.pass_time(3)
            assert world.api.get(PODS, "db-1", "default") is None
            world.api.drop(PERSISTENTVOLUMECLAIMS, "data-db-1", "default")
            await world.until(lambda: done(world.api, "web:1", 2), each=world.kubelets)

    run(scenario())
