"""The acting extension points in the loop: Reserve, Permit, PreBind, Bind, PostBind, and what is undone when
one of them says no; and the gate before the queue.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from kubeclient.events import EventRecorder
from kubeclient.rest import ConnectionFailed, RestClient
from kubeclient.transport import Target
from scheduler.cluster import Cluster
from scheduler.columns import Columns
from scheduler.config import default_profile
from scheduler.framework import Handle, Outcome, Permission, Profile
from scheduler.loop import SchedulingLoop
from scheduler.podinfo import PodInfo, compile_pod
from scheduler.queue import Place, SchedulingQueue
from tests.kubeclient.scripted import Scripted
from tests.scheduler.objects import node, pod
from tests.scheduler.test_loop import Api, created


class Recorder:
    """A plugin at every acting point that writes down what happens to it."""

    name = "Recorder"

    def __init__(self) -> None:
        self.said: list[str] = []
        self.permission = Permission()
        self.refusal: str | None = None
        self.fails = False
        self.takes = False

    def reserve(self, pod: PodInfo, node: str, nodes: Columns) -> str | None:
        self.said.append("reserve")
        return self.refusal

    def unreserve(self, pod: PodInfo, node: str, nodes: Columns) -> None:
        self.said.append("unreserve")

    def permit(self, pod: PodInfo, node: str) -> Permission:
        self.said.append("permit")
        return self.permission

    async def pre_bind(self, handle: Handle, pod: PodInfo, node: str) -> None:
        self.said.append("pre_bind")
        if self.fails:
            raise ConnectionFailed("no")

    async def bind(self, handle: Handle, pod: PodInfo, node: str) -> bool:
        self.said.append("bind")
        return self.takes

    def post_bind(self, pod: PodInfo, node: str) -> None:
        self.said.append("post_bind")


def with_plugin(plugin: Recorder) -> Profile:
    base = default_profile()
    return replace(
        base,
        reserves=(plugin,),
        permits=(plugin,),
        pre_binds=(plugin,),
        binds=(plugin, *base.binds),
        post_binds=(plugin,),
    )


def run(
    profile: Profile,
    until: Callable[[Api, Cluster], bool],
    meddle: Callable[[SchedulingLoop], None] = lambda _: None,
    *pods: dict[str, Any],
) -> tuple[Api, Cluster]:
    """One node and a pod of 1 cpu (or those given), until the condition holds; `meddle` is called at every
    step.
    """
    api, made = Api(created), Cluster(Columns(), SchedulingQueue(lambda: 0.0), {"default-scheduler"})
    made.node_added(node("n1", cpu="2"))
    for each in pods or (pod("p", cpu="1"),):
        made.pod_added(each)

    async def drive() -> None:
        async with RestClient(Target("http://api"), transport=Scripted(api)) as client:
            recorder = EventRecorder(client, "default-scheduler", "here")
            loop = SchedulingLoop(client, made, {profile.scheduler_name: profile}, recorder, random.Random(1))
            async with asyncio.timeout(10), asyncio.TaskGroup() as group:
                running = group.create_task(loop.run())
                while not until(api, made):
                    meddle(loop)
                    await asyncio.sleep(0)
                running.cancel()

    asyncio.run(drive())
    return api, made


def settled(_: Api, cluster: Cluster) -> bool:
    return len(cluster.queue) == 0


def place_of(cluster: Cluster) -> Place | None:
    queued = cluster.queue.get("default/p")
    return queued.place if queued else None


def test_all_points_in_their_order() -> None:
    plugin = Recorder()
    api, _ = run(with_plugin(plugin), settled)
    assert plugin.said == ["reserve", "permit", "pre_bind", "bind", "post_bind"]
    assert len(api.bound) == 1  # the plugin left the binding to the next one


def test_a_bind_plugin_may_take_the_pod() -> None:
    plugin = Recorder()
    plugin.takes = True
    api, _ = run(with_plugin(plugin), settled)
    assert not api.bound
    assert plugin.said[-1] == "post_bind"


def test_a_refused_reservation_frees_the_node_and_says_why() -> None:
    plugin = Recorder()
    plugin.refusal = "out of licences"
    api, made = run(with_plugin(plugin), lambda api, _: bool(api.patched))
    assert plugin.said == ["reserve", "unreserve"]
    assert not made.columns.pods
    assert api.patched[0]["status"]["conditions"][0]["message"] == "out of licences"


def test_a_failed_pre_bind_is_undone_and_tried_again_later() -> None:
    plugin = Recorder()
    plugin.fails = True
    _, made = run(with_plugin(plugin), lambda _, made: place_of(made) is Place.BACKOFF)
    assert plugin.said == ["reserve", "permit", "pre_bind", "unreserve"]
    assert not made.columns.pods


def test_a_pod_waits_at_permit_until_somebody_allows_it() -> None:
    plugin = Recorder()
    plugin.permission = Permission(wait=60)
    seen: list[str] = []

    def allow(loop: SchedulingLoop) -> None:
        for uid in loop.waiting.pods():
            seen.append(uid)
            loop.waiting.allow(uid)

    api, _ = run(with_plugin(plugin), settled, allow)
    assert set(seen) == {"uid-p"}
    assert len(api.bound) == 1


def test_a_pod_that_is_rejected_at_permit_gives_its_place_back() -> None:
    plugin = Recorder()
    plugin.permission = Permission(wait=60)

    def reject(loop: SchedulingLoop) -> None:
        for uid in loop.waiting.pods():
            loop.waiting.reject(uid, "the gang is not complete")

    api, made = run(with_plugin(plugin), lambda api, _: bool(api.patched), reject)
    assert plugin.said == ["reserve", "permit", "unreserve"]
    assert not made.columns.pods
    assert "the gang is not complete" in api.patched[0]["status"]["conditions"][0]["message"]


def test_a_permit_that_nobody_gives_times_out() -> None:
    plugin = Recorder()
    plugin.permission = Permission(wait=0.01)
    api, _ = run(with_plugin(plugin), lambda api, _: bool(api.patched))
    assert "timed out waiting at permit" in api.patched[0]["status"]["conditions"][0]["message"]


def test_preemption_nominates_before_it_evicts() -> None:
    low = pod("low", cpu="2", node_name="n1", priority=1)
    high = pod("p", cpu="2", priority=9)
    api, made = run(
        default_profile(),
        lambda api, _: any("DELETE" in each for each in api.methods),
        lambda _: None,
        low,
        high,
    )
    first, second = api.patched[0]["status"], api.patched[1]["status"]
    assert first["nominatedNodeName"] == "n1"
    assert first["conditions"][0]["reason"] == "Unschedulable"
    assert second["conditions"][0]["type"] == "DisruptionTarget"
    assert second["conditions"][0]["reason"] == "PreemptionByScheduler"
    assert [(info.name, where) for info, where in made.nominated] == [("p", "n1")]


class Planner:
    """A PostFilter that has nothing to offer."""

    name = "Planner"

    def post_filter(self, *_: Any) -> Outcome:
        return Outcome("planner: no idea")


def test_every_post_filter_has_its_say() -> None:
    base = default_profile()
    profile = replace(base, post_filters=(*base.post_filters, Planner()))
    api, _ = run(profile, lambda api, _: bool(api.patched), lambda _: None, pod("p", cpu="9"))
    message = api.patched[0]["status"]["conditions"][0]["message"]
    assert message.endswith("1 Preemption is not helpful for scheduling., planner: no idea")


def test_the_gates_of_the_profile_hold_a_pod_back() -> None:
    gated = compile_pod(pod("p", schedulingGates=[{"name": "example.com/wait"}]))
    assert default_profile().gate(gated) == "waiting for scheduling gates: ['example.com/wait']"
    assert default_profile().gate(replace(gated, gates=())) is None
