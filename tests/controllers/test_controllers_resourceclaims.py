"""Claims for devices: made from templates, and given back when their pods have ended. Tables, then the
loop.
"""

from __future__ import annotations

from typing import Any

import pytest

from controllers import objects as o
from controllers.resourceclaims import ResourceClaimController
from controllers.resourceclaims import plan as rc
from kubeclient import resources as r
from tests.controllers import make
from tests.controllers.conftest import run
from tests.controllers.memoryapi import Killed, Object
from tests.controllers.world import World

TEMPLATE: Object = {
    "metadata": make.meta("gpu"),
    "spec": {
        "metadata": {"labels": {"team": "a"}, "annotations": {"note": "x"}},
        "spec": {"devices": {"requests": [{"name": "g", "exactly": {"deviceClassName": "gpu"}}]}},
    },
}
ALLOCATION: Object = {"devices": {"results": [{"request": "g", "driver": "d", "pool": "p", "device": "0"}]}}


def wanting(name: str = "p", *, node: str = "", phase: str = "Pending", **status: Any) -> Object:
    pod = make.pod(name, node=node, phase=phase, ready=False)
    pod["spec"]["resourceClaims"] = [
        {"name": "gpu", "resourceClaimTemplateName": "gpu"},
        {"name": "shared", "resourceClaimName": "shared"},
    ]
    pod["status"] |= status
    return pod


def claim(name: str, *pods: Object, owner: Object | None = None, **extra: Any) -> Object:
    users = [{"resource": "pods", "name": o.name(pod), "uid": o.uid(pod)} for pod in pods]
    references = [o.owner_reference(owner, "v1", "Pod")] if owner is not None else []
    status: Object = {"allocation": ALLOCATION, "reservedFor": users} if users else {}
    annotations = {rc.POD_CLAIM: "gpu"} if owner is not None else {}
    metadata = make.meta(name, ownerReferences=references, annotations=annotations, **extra)
    return {"metadata": metadata, "spec": TEMPLATE["spec"]["spec"], "status": status}


def test_a_pod_gets_what_its_templates_say_and_no_more() -> None:
    pod = wanting()
    plan = rc.compute_pod(pod, ())
    assert [entry["name"] for entry in plan.make] == ["gpu"] and plan.found is None
    made = rc.build_claim(pod, plan.make[0], TEMPLATE)
    assert made["metadata"]["generateName"] == "p-gpu-" and made["metadata"]["labels"] == {"team": "a"}
    assert made["metadata"]["annotations"] == {"note": "x", rc.POD_CLAIM: "gpu"}
    assert made["metadata"]["ownerReferences"][0]["controller"] and made["spec"] == TEMPLATE["spec"]["spec"]


def test_a_claim_made_before_a_crash_is_found_again() -> None:
    pod = wanting()
    assert rc.compute_pod(pod, [claim("p-gpu-x", owner=pod)]) == rc.PodPlan((), {"gpu": "p-gpu-x"})
    pod["status"]["resourceClaimStatuses"] = [{"name": "gpu", "resourceClaimName": "p-gpu-x"}]
    assert rc.compute_pod(pod, [claim("p-gpu-x", owner=pod)]) == rc.PodPlan()
    assert rc.compute_pod(pod, ()).make  # deleted under the pod: made again
    pod["status"]["resourceClaimStatuses"] = [{"name": "gpu"}]  # somebody says that none is needed
    assert rc.compute_pod(pod, ()) == rc.PodPlan()
    assert rc.compute_pod(wanting(phase="Succeeded"), ()) == rc.PodPlan()


@pytest.mark.parametrize(
    ("pods", "deleted", "left", "allocated", "let_go"),
    [
        (["runs"], False, ["runs"], True, False),
        (["runs", "ended"], False, ["runs"], True, False),
        (["ended"], False, [], False, True),
        (["gone"], False, [], False, True),
        (["runs"], True, ["runs"], True, False),
        (["ended"], True, [], False, True),
        ([], True, [], False, True),
        ([], False, [], False, False),  # the scheduler has set the finalizer and is about to allocate
    ],
)
def test_what_becomes_of_a_claim(
    pods: list[str], deleted: bool, left: list[str], allocated: bool, let_go: bool
) -> None:
    cast = {
        "runs": wanting("runs", node="n1", phase="Running"),
        "ended": wanting("ended", node="n1", phase="Failed"),
        "gone": wanting("gone", node="n1"),
    }
    living = {o.uid(pod): pod for name, pod in cast.items() if name != "gone"}
    extra = {"deletionTimestamp": make.START} if deleted else {}
    found = claim("shared", *(cast[name] for name in pods), finalizers=[rc.FINALIZER], **extra)
    plan = rc.compute_claim(found, living)
    status = found["status"] if plan.status is None else plan.status
    assert [user["name"] for user in status.get("reservedFor") or ()] == left
    assert ("allocation" in status, plan.let_go, plan.delete) == (allocated, let_go, False)


def test_users_that_are_no_pods_stay_and_a_claim_of_an_ended_pod_goes() -> None:
    other = {"apiGroup": "example.org", "resource": "jobs", "name": "j", "uid": "u"}
    found = claim("shared", finalizers=[rc.FINALIZER])
    found["status"] = {"allocation": ALLOCATION, "reservedFor": [other]}
    assert rc.compute_claim(found, {}) == rc.ClaimPlan()
    pod = wanting(phase="Succeeded", node="n1")
    assert rc.compute_claim(claim("p-gpu-x", owner=pod), {o.uid(pod): pod}).delete
    assert not rc.compute_claim(claim("p-gpu-x", owner=pod), {}).delete  # the garbage collector's


def test_the_loop_from_template_to_release() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(r.RESOURCECLAIMTEMPLATES, TEMPLATE)
        pod = world.api.put(r.PODS, wanting())
        async with world.running(ResourceClaimController):
            await world.settle()
            (made,) = world.api.all(r.RESOURCECLAIMS)
            pod = world.api.get(r.PODS, "p", "default") or {}
            assert rc.recorded(pod) == {"gpu": o.name(made)}
            allocated = o.with_status(made, {"allocation": ALLOCATION})
            allocated["metadata"]["finalizers"] = [rc.FINALIZER]
            world.api.put(r.RESOURCECLAIMS, allocated)
            pod["spec"]["nodeName"] = "n1"  # placed by somebody who reserves nothing
            world.api.put(r.PODS, pod)
            await world.settle()
            (made,) = world.api.all(r.RESOURCECLAIMS)
            assert [user["uid"] for user in rc.users(made)] == [o.uid(pod)]
            world.api.put(r.PODS, o.with_status(pod, {**o.status(pod), "phase": "Succeeded"}))
            await world.settle()
            assert world.api.all(r.RESOURCECLAIMS) == []

    run(scenario())


def test_killed_after_any_write_it_makes_no_claim_twice() -> None:
    async def scenario() -> None:
        for last in (1, 2):
            world = World()
            world.api.put(r.RESOURCECLAIMTEMPLATES, TEMPLATE)
            world.api.put(r.PODS, wanting())

            def kill(method: str, path: str, world: World = world, last: int = last) -> None:
                if len(world.api.writes) == last:
                    raise Killed

            world.api.after = kill
            async with world.running(ResourceClaimController):
                await world.settle()
            assert world.api.dead and len(world.api.writes) == last
            async with world.running(ResourceClaimController):
                await world.settle()
                (made,) = world.api.all(r.RESOURCECLAIMS)
                assert rc.recorded(world.api.get(r.PODS, "p", "default") or {}) == {"gpu": o.name(made)}

    run(scenario())
