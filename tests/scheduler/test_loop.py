"""The loop against an API that answers as told: bindings, refusals, and what is written for those who
look.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import orjson

from kubeclient.events import EventRecorder
from kubeclient.http1.message import Answer, Request
from kubeclient.rest import RestClient
from kubeclient.transport import Target
from scheduler.cluster import Cluster
from scheduler.columns import Columns
from scheduler.config import default_profile
from scheduler.framework import ClusterEvent, Decision, Failures
from scheduler.loop import SchedulingLoop, wakes_on
from scheduler.queue import Place, SchedulingQueue
from tests.kubeclient.scripted import Scripted, json
from tests.scheduler.objects import node, pod

Bind = Callable[[Request], Answer]


class Api:
    """Remembers requests; answers bindings as told and everything else with an empty object."""

    def __init__(self, bind: Bind) -> None:
        self.bind = bind
        self.bound: list[dict[str, Any]] = []
        self.patched: list[dict[str, Any]] = []
        self.methods: list[str] = []
        self.changed = asyncio.Event()

    def __call__(self, request: Request) -> Answer:
        body = orjson.loads(request.body) if request.body else {}
        self.changed.set()
        self.methods.append(request.method)
        path = request.path
        if path.endswith("/binding"):
            self.bound.append(body)
            return self.bind(request)
        if request.method == "PATCH":
            self.patched.append(body)
        return json(200, {})


def created(_: Request) -> Answer:
    return json(201, {"kind": "Status", "status": "Success"})


def conflict(_: Request) -> Answer:
    status = {"kind": "Status", "status": "Failure", "reason": "Conflict", "code": 409, "message": "moved"}
    return json(409, status)


def gone(_: Request) -> Answer:
    status = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "no pod"}
    return json(404, status)


async def drive(api: Api, cluster: Cluster, until: Callable[[], bool]) -> None:
    """Run the loop until the condition holds."""
    target = Target("http://api")
    async with RestClient(target, transport=Scripted(api)) as client:
        recorder = EventRecorder(client, "default-scheduler", "here")
        profile = default_profile()
        loop = SchedulingLoop(client, cluster, {profile.scheduler_name: profile}, recorder, random.Random(1))
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            running = group.create_task(loop.run())
            while not until():  # noqa: ASYNC110 - the condition is made of plain state that signals nothing
                await asyncio.sleep(0)
            running.cancel()


def cluster(*names: str) -> Cluster:
    made = Cluster(Columns(), SchedulingQueue(lambda: 0.0), {"default-scheduler"})
    for name in names:
        made.node_added(node(name, cpu="2"))
    return made


def test_a_pod_is_bound_with_its_uid() -> None:
    api, made = Api(created), cluster("n1")
    made.pod_added(pod("p", cpu="1"))
    asyncio.run(drive(api, made, lambda: len(made.queue) == 0))
    assert api.bound == [
        {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": "p", "namespace": "default", "uid": "uid-p"},
            "target": {"kind": "Node", "name": "n1"},
        }
    ]
    assert "default/p" in made.columns.pods


def test_decisions_see_the_pods_whose_binding_is_on_its_way() -> None:
    api, made = Api(created), cluster("n1", "n2")
    for name in "abcd":
        made.pod_added(pod(name, cpu="1"))
    asyncio.run(drive(api, made, lambda: len(api.bound) == 4))
    assert sorted(each["target"]["name"] for each in api.bound) == ["n1", "n1", "n2", "n2"]


def test_a_refused_binding_backs_off_and_frees_the_node() -> None:
    api, made = Api(conflict), cluster("n1")
    made.pod_added(pod("p", cpu="1"))
    queued = made.queue.get("default/p")
    assert queued is not None
    asyncio.run(drive(api, made, lambda: queued.place is Place.BACKOFF))
    assert not made.columns.pods


def test_a_binding_that_fails_as_nobody_foresaw_backs_off_like_any_other() -> None:
    def nonsense(_: Request) -> Answer:
        return Answer(200, content=b"<html>no JSON</html>")

    api, made = Api(nonsense), cluster("n1")
    made.pod_added(pod("p", cpu="1"))
    queued = made.queue.get("default/p")
    assert queued is not None
    asyncio.run(drive(api, made, lambda: queued.place is Place.BACKOFF))
    assert not made.columns.pods


def test_a_vanished_pod_is_dropped() -> None:
    api, made = Api(gone), cluster("n1")
    made.pod_added(pod("p", cpu="1"))
    asyncio.run(drive(api, made, lambda: len(made.queue) == 0))
    assert not made.columns.pods


def test_an_unschedulable_pod_is_parked_and_its_condition_says_why() -> None:
    api, made = Api(created), cluster("n1")
    made.pod_added(pod("p", cpu="8"))
    asyncio.run(drive(api, made, lambda: bool(api.patched)))
    queued = made.queue.get("default/p")
    assert queued is not None
    assert queued.place is Place.UNSCHEDULABLE
    condition = api.patched[0]["status"]["conditions"][0]
    assert condition["type"] == "PodScheduled"
    assert condition["reason"] == "Unschedulable"
    assert condition["message"] == (
        "0/1 nodes are available: 1 Insufficient cpu. "
        "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    )
    assert not api.bound


def test_a_pod_that_asks_for_devices_is_refused_by_name() -> None:
    api, made = Api(created), cluster("n1")
    made.pod_added(pod("p", resourceClaims=[{"name": "gpu", "resourceClaimTemplateName": "gpu"}]))
    asyncio.run(drive(api, made, lambda: bool(api.patched)))
    message = api.patched[0]["status"]["conditions"][0]["message"]
    assert message.startswith("0/1 nodes are available: this scheduler allocates no devices")
    assert "spec.resourceClaims: gpu" in message and not api.bound


def test_a_refusal_wakes_on_the_events_of_the_plugins_that_refused() -> None:
    profile = default_profile()
    by_taint = wakes_on(profile, Decision(None, 0, 1, Failures(rejected_by={"TaintToleration"})))
    assert by_taint & ClusterEvent.NODE_TAINTS
    assert not by_taint & ClusterEvent.POD_REMOVED
    assert wakes_on(profile, Decision(None, 0, 0, Failures())) == ClusterEvent.NODE_ADDED
