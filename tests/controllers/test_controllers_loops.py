"""Loops against the memory API: the final state, with and without faults."""

from __future__ import annotations

import pytest

from apimachinery import errors
from controllers import objects as o
from controllers.deployment import DeploymentController, revisions
from controllers.replicaset import ReplicaSetController, status_lag
from controllers.runtime import Context
from kubeclient.resources import DEPLOYMENTS, PODS, REPLICASETS
from tests.controllers import make
from tests.controllers.conftest import run
from tests.controllers.memoryapi import MemoryApi, Object
from tests.controllers.world import World, running_status


def replicasets(ctx: Context) -> ReplicaSetController:
    return ReplicaSetController(ctx, workers=2)


def sizes(api: MemoryApi) -> dict[str, int]:
    """Image -> pods that are not going away."""
    out: dict[str, int] = {}
    for pod in api.all(PODS):
        if not o.is_terminating(pod):
            image = pod["spec"]["containers"][0]["image"]
            out[image] = out.get(image, 0) + 1
    return out


def status_of(api: MemoryApi, name: str = "web") -> Object:
    found = api.get(DEPLOYMENTS, name, "default")
    assert found is not None
    return o.status(found)


def set_image(api: MemoryApi, image: str) -> None:
    found = api.get(DEPLOYMENTS, "web", "default")
    assert found is not None
    found["spec"]["template"]["spec"]["containers"][0]["image"] = image
    api.put(DEPLOYMENTS, found)


def complete(api: MemoryApi, image: str, size: int) -> bool:
    found = api.get(DEPLOYMENTS, "web", "default")
    assert found is not None
    counts = {
        name: o.status(found).get(name) for name in ("replicas", "updatedReplicas", "availableReplicas")
    }
    observed = o.status(found).get("observedGeneration") == o.generation(found)
    return observed and set(counts.values()) == {size} and sizes(api) == {image: size}


def test_replicaset_makes_pods_and_reports_them() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(REPLICASETS, make.replicaset(size=5))
        async with world.running(replicasets):
            await world.until(
                lambda: (
                    (world.api.get(REPLICASETS, "rs", "default") or {})["status"].get("availableReplicas")
                    == 5
                ),
                each=world.kubelets,
            )
            assert len(world.api.all(PODS)) == 5
            assert world.events.reasons.count("SuccessfulCreate") == 5
            owner = o.controller_of(world.api.all(PODS)[0])
            assert owner is not None and owner["blockOwnerDeletion"] and owner["kind"] == "ReplicaSet"

    run(scenario())


@pytest.mark.parametrize(("size", "lag"), [(0, 0.0), (100, 0.0), (300, 0.25), (500, 0.5), (9000, 0.5)])
def test_a_large_set_counts_its_ready_pods_together(size: int, lag: float) -> None:
    assert status_lag(size) == pytest.approx(lag)


def test_pods_that_become_ready_one_by_one_cost_a_large_set_few_writes() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(REPLICASETS, make.replicaset(size=120))
        async with world.running(replicasets):
            await world.until(lambda: len(world.api.all(PODS)) == 120)
            await world.settle()
            before = len(world.api.writes)
            names = [o.name(pod) for pod in world.api.all(PODS)]
            for number, name in enumerate(names):
                pod = world.api.get(PODS, name, "default")
                assert pod is not None
                status = running_status(world.now(), number=number)
                world.api.put(PODS, {**pod, "status": status})
                await world.settle(30)
            assert len(world.api.writes) == before
            await world.pass_time(1)
            assert len(world.api.writes) == before + 1
            found = world.api.get(REPLICASETS, "rs", "default") or {}
            assert o.status(found)["readyReplicas"] == 120
            world.api.drop(PODS, names[0], "default")  # what changes their number is acted on at once
            await world.settle()
            assert len(world.api.all(PODS)) == 120

    run(scenario())


def test_replicaset_adopts_orphans_and_releases_strangers() -> None:
    async def scenario() -> None:
        world = World()
        rs = world.api.put(REPLICASETS, make.replicaset(size=2))
        world.api.put(PODS, {**make.pod("orphan", labels={"app": "web"})})
        ours = make.pod("lost", labels={"app": "other"}, owner=rs)
        world.api.put(PODS, ours)
        async with world.running(replicasets):
            await world.until(lambda: sizes_of_owned(world.api, rs) == 2, each=world.kubelets)
            orphan, lost = world.api.get(PODS, "orphan", "default"), world.api.get(PODS, "lost", "default")
            assert orphan is not None and o.is_controlled_by(orphan, rs)
            assert lost is not None and not o.owner_references(lost)

    run(scenario())


def sizes_of_owned(api: MemoryApi, rs: Object) -> int:
    return sum(o.is_controlled_by(pod, rs) for pod in api.all(PODS))


def test_replicaset_scales_down_and_creates_no_pod_twice() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(REPLICASETS, make.replicaset(size=8))
        async with world.running(replicasets):
            await world.until(lambda: sizes(world.api) == {"web:1": 8}, each=world.kubelets)
            rs = world.api.get(REPLICASETS, "rs", "default")
            assert rs is not None
            world.api.put(REPLICASETS, {**rs, "spec": {**rs["spec"], "replicas": 3}})
            await world.until(lambda: sizes(world.api) == {"web:1": 3}, each=world.kubelets)
            await world.pass_time(5)
            assert sizes(world.api) == {"web:1": 3}
            posts = [w for w in world.api.writes if w[0] == "POST" and w[1].endswith("/pods")]
            assert len(posts) == 8

    run(scenario())


def test_deployment_rolls_never_below_its_bounds_and_back_by_undo() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(DEPLOYMENTS, make.deployment(size=4))
        async with world.running(DeploymentController, replicasets):
            await world.until(lambda: complete(world.api, "web:1", 4), each=world.kubelets)
            set_image(world.api, "web:2")
            lows: list[int] = []
            highs: list[int] = []

            def watch_bounds() -> None:
                world.kubelets()
                alive = [p for p in world.api.all(PODS) if not o.is_terminating(p)]
                highs.append(len(alive))
                lows.append(sum(o.condition_status(p, "Ready") == "True" for p in alive))

            await world.until(lambda: complete(world.api, "web:2", 4), each=watch_bounds)
            assert min(lows) >= 3 and max(highs) <= 5
            found = world.api.get(DEPLOYMENTS, "web", "default")
            assert found is not None and revisions.revision(found) == 2
            set_image(world.api, "web:1")
            await world.until(lambda: complete(world.api, "web:1", 4), each=world.kubelets)
            await world.settle()
            by_revision = {revisions.revision(rs): rs for rs in world.api.all(REPLICASETS)}
            assert set(by_revision) == {2, 3}
            assert o.annotations_of(by_revision[3])[revisions.REVISION_HISTORY] == "1"
            progressing = o.find_condition(status_of(world.api)["conditions"], "Progressing")
            assert progressing is not None and progressing["reason"] == "NewReplicaSetAvailable"
            assert "ScalingReplicaSet" in world.events.reasons

    run(scenario())


def test_recreate_waits_until_every_old_pod_is_gone() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(DEPLOYMENTS, make.deployment(size=3, strategy={"type": "Recreate"}))
        async with world.running(DeploymentController, replicasets):
            await world.until(lambda: complete(world.api, "web:1", 3), each=world.kubelets)
            set_image(world.api, "web:2")

            def images() -> set[str]:
                return {p["spec"]["containers"][0]["image"] for p in world.api.all(PODS)}

            def never_both() -> None:
                assert len(images()) <= 1
                world.kubelets()

            await world.until(lambda: complete(world.api, "web:2", 3), each=never_both)

    run(scenario())


def test_paused_deployment_scales_but_does_not_roll() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(DEPLOYMENTS, make.deployment(size=2))
        async with world.running(DeploymentController, replicasets):
            await world.until(lambda: complete(world.api, "web:1", 2), each=world.kubelets)
            found = world.api.get(DEPLOYMENTS, "web", "default")
            assert found is not None
            found["spec"]["paused"] = True
            found["spec"]["template"]["spec"]["containers"][0]["image"] = "web:2"
            found["spec"]["replicas"] = 4
            world.api.put(DEPLOYMENTS, found)
            await world.until(lambda: sizes(world.api) == {"web:1": 4}, each=world.kubelets)
            progressing = o.find_condition(status_of(world.api)["conditions"], "Progressing")
            assert progressing is not None and progressing["reason"] == "DeploymentPaused"
            found = world.api.get(DEPLOYMENTS, "web", "default")
            assert found is not None
            world.api.put(DEPLOYMENTS, {**found, "spec": {**found["spec"], "paused": False}})
            await world.until(lambda: complete(world.api, "web:2", 4), each=world.kubelets)

    run(scenario())


def test_progress_deadline_is_reported() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(DEPLOYMENTS, make.deployment(size=1, progressDeadlineSeconds=20))
        async with world.running(DeploymentController, replicasets):

            def failed() -> bool:
                found = o.find_condition(status_of(world.api).get("conditions", []), "Progressing")
                return found is not None and found["reason"] == "ProgressDeadlineExceeded"

            await world.until(failed, seconds=60, each=lambda: world.kubelets(ready=False))

    run(scenario())


def test_history_limit_drops_the_oldest_empty_sets() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(DEPLOYMENTS, make.deployment(size=1, revisionHistoryLimit=1))
        async with world.running(DeploymentController, replicasets):
            for number in range(1, 5):
                set_image(world.api, f"web:{number}")
                await world.until(lambda n=number: complete(world.api, f"web:{n}", 1), each=world.kubelets)  # type: ignore[misc]
            await world.until(lambda: len(world.api.all(REPLICASETS)) == 2)
            assert {revisions.revision(rs) for rs in world.api.all(REPLICASETS)} == {3, 4}

    run(scenario())


def test_conflicts_are_tried_again() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(DEPLOYMENTS, make.deployment(size=3))
        count = [0]

        def every_third_conflicts(method: str, path: str) -> None:
            count[0] += 1
            if method == "PUT" and count[0] % 3 == 0:
                raise errors.conflict("apps", "x", "x", "injected")

        world.api.before = every_third_conflicts
        async with world.running(DeploymentController, replicasets):
            await world.until(lambda: complete(world.api, "web:1", 3), each=world.kubelets)
            set_image(world.api, "web:2")
            await world.until(lambda: complete(world.api, "web:2", 3), each=world.kubelets)

    run(scenario())
