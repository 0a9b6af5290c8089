"""kill -9 at every write: the manager dies before or after its n-th write, for every n there is; its
successor must end in the state of the undisturbed run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from controllers import objects as o
from controllers.deployment import DeploymentController
from controllers.job import JobController, indexes
from controllers.replicaset import ReplicaSetController
from controllers.runtime import Context, Runnable
from controllers.statefulset import StatefulSetController
from kubeclient import resources as r
from tests.controllers import make
from tests.controllers import test_controllers_job as jobs
from tests.controllers import test_controllers_statefulset as sets
from tests.controllers.conftest import run
from tests.controllers.memoryapi import Killed, MemoryApi, Object
from tests.controllers.world import World


def replicasets(ctx: Context) -> ReplicaSetController:
    return ReplicaSetController(ctx, workers=2)


@dataclass(frozen=True)
class Phase:
    """Somebody changes the desired state; then it is `reached`."""

    change: Callable[[MemoryApi], Any]
    reached: Callable[[MemoryApi], bool]


@dataclass(frozen=True)
class Story:
    """A workload's life, and who acts in it."""

    builders: Sequence[Callable[[Context], Runnable]]
    phases: Sequence[Phase]
    play: Callable[[World], Callable[[], None]] = lambda world: world.kubelets


def edit(gvr: r.GVR, name: str, **spec: Any) -> Callable[[MemoryApi], None]:
    def change(api: MemoryApi) -> None:
        found = api.get(gvr, name, "default")
        assert found is not None
        api.put(gvr, {**found, "spec": {**found["spec"], **spec}})

    return change


def has(gvr: r.GVR, name: str, size: int) -> Callable[[MemoryApi], bool]:
    """So many pods, all available, and the status says so about the newest spec."""

    def reached(api: MemoryApi) -> bool:
        found = api.get(gvr, name, "default") or {}
        status = o.status(found)
        counts = {status.get("replicas", 0), status.get("availableReplicas", 0), len(api.all(r.PODS))}
        return counts == {size} and status.get("observedGeneration") == o.generation(found)

    return reached


def deployed(image: str, size: int) -> Callable[[MemoryApi], bool]:
    def reached(api: MemoryApi) -> bool:
        images = [pod["spec"]["containers"][0]["image"] for pod in api.all(r.PODS)]
        found = api.get(r.DEPLOYMENTS, "web", "default") or {}
        updated = o.status(found).get("updatedReplicas", 0)
        return has(r.DEPLOYMENTS, "web", size)(api) and updated == size and images == [image] * size

    return reached


def template(image: str) -> Object:
    return {**make.TEMPLATE, "spec": {"containers": [{"name": "c", "image": image}]}}


def job_over(api: MemoryApi) -> bool:
    return jobs.has(api, "Complete") or jobs.has(api, "Failed")


def per_index(pod: Object, _: int) -> str:
    return "Failed" if o.annotations_of(pod)[indexes.INDEX] == "1" else "Succeeded"


STORIES = {
    "replicaset": Story(
        [replicasets],
        [
            Phase(lambda api: api.put(r.REPLICASETS, make.replicaset(size=3)), has(r.REPLICASETS, "rs", 3)),
            Phase(edit(r.REPLICASETS, "rs", replicas=5), has(r.REPLICASETS, "rs", 5)),
            Phase(edit(r.REPLICASETS, "rs", replicas=2), has(r.REPLICASETS, "rs", 2)),
        ],
    ),
    "deployment": Story(
        [DeploymentController, replicasets],
        [
            Phase(lambda api: api.put(r.DEPLOYMENTS, make.deployment(size=2)), deployed("web:1", 2)),
            Phase(edit(r.DEPLOYMENTS, "web", template=template("web:2")), deployed("web:2", 2)),
            Phase(edit(r.DEPLOYMENTS, "web", replicas=3, template=template("web:1")), deployed("web:1", 3)),
        ],
    ),
    "statefulset": Story(
        [StatefulSetController],
        [
            Phase(
                lambda api: api.put(
                    r.STATEFULSETS,
                    sets.statefulset(
                        2,
                        volumeClaimTemplates=[sets.CLAIM],
                        persistentVolumeClaimRetentionPolicy={
                            "whenDeleted": "Delete",
                            "whenScaled": "Delete",
                        },
                    ),
                ),
                lambda api: sets.done(api, "web:1", 2),
            ),
            Phase(
                edit(r.STATEFULSETS, "db", template=template("web:2")),
                lambda api: sets.done(api, "web:2", 2),
            ),
            Phase(edit(r.STATEFULSETS, "db", replicas=1), lambda api: sets.done(api, "web:2", 1)),
        ],
    ),
    "job": Story(
        [JobController],
        [Phase(lambda api: api.put(r.JOBS, jobs.new(completions=4, parallelism=2)), job_over)],
        play=jobs.work,
    ),
    "indexed job": Story(
        [JobController],
        [
            Phase(
                lambda api: api.put(
                    r.JOBS, {**jobs.indexed(3, backoffLimitPerIndex=1, backoffLimit=99), "status": {}}
                ),
                job_over,
            )
        ],
        play=lambda world: jobs.work(world, per_index),
    ),
}


class Kill:
    """Ends the process at its n-th write."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, method: str, path: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed


async def tell(story: Story, world: World) -> None:
    """Every phase in turn; a manager that was killed has a successor."""
    play = story.play(world)
    for phase in story.phases:
        phase.change(world.api)
        for _ in range(4):
            async with world.running(*story.builders):
                for _ in range(100):
                    play()
                    await world.settle(40)
                    if world.api.dead or phase.reached(world.api):
                        break
                    world.clock.advance(0.5)
                if not world.api.dead:
                    await world.pass_time(2, step=1)
            if not world.api.dead and phase.reached(world.api):
                break
        assert phase.reached(world.api), f"not reached; writes: {world.api.writes[-12:]}"


def outcome(api: MemoryApi) -> dict[str, list[Any]]:
    """The end state without names, times and versions: what a user can tell apart."""
    skip = {"lastTransitionTime", "lastUpdateTime", "lastProbeTime", "startTime", "completionTime", "message"}

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if k not in skip}
        return [plain(v) for v in value] if isinstance(value, list) else value

    owners = (r.REPLICASETS, r.DEPLOYMENTS, r.STATEFULSETS, r.JOBS)
    out: dict[str, list[Any]] = {
        gvr.resource: [(o.replicas(obj), plain(o.status(obj))) for obj in api.all(gvr)] for gvr in owners
    }
    pods = api.all(r.PODS)
    out["pods"] = sorted(
        (pod["spec"]["containers"][0]["image"], pod["status"]["phase"], len(o.finalizers(pod)))
        for pod in pods
    )
    out["claims"] = [o.name(claim) for claim in api.all(r.PERSISTENTVOLUMECLAIMS)]
    out["history"] = [revision["revision"] for revision in api.all(r.CONTROLLERREVISIONS)]
    return out


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", list(STORIES))
def test_a_killed_manager_leaves_nothing_its_successor_cannot_finish(name: str, when: str) -> None:
    """At every write, until a run has no more writes than the kill waits for."""

    async def once(number: int) -> tuple[World, Kill]:
        world, kill = World(), Kill(number)
        setattr(world.api, when, kill)
        await tell(STORIES[name], world)
        return world, kill

    async def scenario() -> None:
        undisturbed, _ = await once(0)
        expected = outcome(undisturbed.api)
        for number in range(1, 1000):
            world, kill = await once(number)
            assert outcome(world.api) == expected, f"killed {when} write {number}"
            if kill.left > 0:
                assert number > len(STORIES[name].phases) * 3
                return
        pytest.fail("the story does not end")

    run(scenario())
