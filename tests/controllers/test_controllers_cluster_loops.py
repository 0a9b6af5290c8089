"""Loops of the cluster's own objects: daemons, endpoints, namespaces, nodes, routes, garbage."""

from __future__ import annotations

from typing import Any

import pytest

from controllers import objects as o
from controllers import taints as tt
from controllers.daemonset import DaemonSetController
from controllers.endpoints import EndpointsController
from controllers.endpointslices import EndpointSliceController
from controllers.garbage import GarbageCollector
from controllers.namespace import NamespaceController
from controllers.nodeipam import NodeIPAMController, pod_cidrs
from controllers.nodelifecycle import NodeLifecycleController, TaintEvictionController
from controllers.nodelifecycle.health import ZONE_LABEL
from controllers.options import Options
from controllers.podgc import PodGarbageCollector
from controllers.serviceaccount import RootCAPublisher, ServiceAccountController
from kubeclient import resources as r
from kubeclient.http1.message import Answer, Request
from tests.controllers import make
from tests.controllers.conftest import run
from tests.controllers.memoryapi import MemoryApi, Object
from tests.controllers.world import World, running_status


def daemonset(**spec: Any) -> Object:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": make.TEMPLATE["spec"]}
    return {
        "metadata": make.meta("ds", generation=1),
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template, **spec},
        "status": {},
    }


def fresh(api: MemoryApi, gvr: r.GVR, name: str, namespace: str = "") -> Object:
    found = api.get(gvr, name, namespace)
    assert found is not None
    return found


def ds_done(api: MemoryApi, image: str, nodes: int) -> bool:
    status = o.status(fresh(api, r.DAEMONSETS, "ds", "default"))
    images = {p["spec"]["containers"][0]["image"] for p in api.all(r.PODS)}
    names = ("updatedNumberScheduled", "numberAvailable", "desiredNumberScheduled", "currentNumberScheduled")
    return (
        all(status.get(name) == nodes for name in names)
        and images == {image}
        and len(api.all(r.PODS)) == nodes
    )


@pytest.mark.parametrize("strategy", [{}, {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}])
def test_daemonset_stands_on_every_node_and_rolls(strategy: Object) -> None:
    async def scenario() -> None:
        world = World()
        for name in ("n1", "n2", "n3"):
            world.api.put(r.NODES, make.node(name))
        world.api.put(r.NODES, make.node("n4", taints=[{"key": "other", "effect": "NoSchedule"}]))
        world.api.put(r.DAEMONSETS, daemonset(updateStrategy={"type": "RollingUpdate", **strategy}))
        async with world.running(DaemonSetController):
            await world.until(lambda: ds_done(world.api, "web:1", 3), each=world.kubelets)
            assert {p["spec"]["nodeName"] for p in world.api.all(r.PODS)} == {"n1", "n2", "n3"}
            world.api.put(r.NODES, make.node("n5"))
            await world.until(lambda: ds_done(world.api, "web:1", 4), each=world.kubelets)
            ds = fresh(world.api, r.DAEMONSETS, "ds", "default")
            ds["spec"]["template"]["spec"]["containers"][0]["image"] = "web:2"
            world.api.put(r.DAEMONSETS, ds)
            lowest = [4]

            def watch_bounds() -> None:
                world.kubelets()
                alive = [p for p in world.api.all(r.PODS) if not o.is_terminating(p)]
                lowest[0] = min(lowest[0], sum(o.condition_status(p, "Ready") == "True" for p in alive))

            await world.until(lambda: ds_done(world.api, "web:2", 4), each=watch_bounds)
            assert lowest[0] >= (4 if strategy else 3)
            assert sorted(h["revision"] for h in world.api.all(r.CONTROLLERREVISIONS)) == [1, 2]

    run(scenario())


def test_daemonset_replaces_a_failed_pod_after_a_backoff() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(r.NODES, make.node("n1"))
        world.api.put(r.DAEMONSETS, daemonset())
        async with world.running(DaemonSetController):
            await world.until(lambda: ds_done(world.api, "web:1", 1), each=world.kubelets)
            first = world.api.all(r.PODS)[0]
            world.api.put(r.PODS, {**first, "status": {"phase": "Failed"}})
            await world.until(
                lambda: world.api.get(r.PODS, first["metadata"]["name"], "default") is None,
                each=world.kubelets,
            )
            await world.until(lambda: ds_done(world.api, "web:1", 1), each=world.kubelets)
            assert "FailedDaemonPod" in world.events.reasons

    run(scenario())


def slices_of(api: MemoryApi) -> list[tuple[str, bool, bool, bool]]:
    out = []
    for found in api.all(r.ENDPOINTSLICES):
        for endpoint in found["endpoints"]:
            flags = endpoint["conditions"]
            out.append(
                (endpoint["targetRef"]["name"], flags["ready"], flags["serving"], flags["terminating"])
            )
    return sorted(out)


def test_endpoints_follow_the_zone_of_their_node() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(r.NODES, make.node("n1"))
        world.api.put(r.SERVICES, make.service(trafficDistribution="PreferClose"))
        pod = make.pod("p", labels={"app": "web"})
        world.api.put(r.PODS, {**pod, "status": running_status(make.START)})
        async with world.running(EndpointSliceController):
            for zone in ("a", "b"):
                world.api.put(r.NODES, make.node("n1", labels={ZONE_LABEL: zone}))
                await world.settle()
                (endpoint,) = world.api.all(r.ENDPOINTSLICES)[0]["endpoints"]
                assert (endpoint["zone"], endpoint["hints"]) == (zone, {"forZones": [{"name": zone}]})

    run(scenario())


def test_endpoints_and_slices_follow_readiness_and_termination() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(r.SERVICES, make.service())
        for number in (1, 2):
            pod = make.pod(f"p{number}", labels={"app": "web"})
            world.api.put(r.PODS, {**pod, "status": running_status(make.START, number=number)})
        async with world.running(EndpointsController, EndpointSliceController):
            await world.settle()
            assert slices_of(world.api) == [("p1", True, True, False), ("p2", True, True, False)]
            endpoints = fresh(world.api, r.ENDPOINTS, "web", "default")
            assert [a["ip"] for a in endpoints["subsets"][0]["addresses"]] == ["10.200.0.2", "10.200.0.3"]
            assert endpoints["subsets"][0]["ports"] == [{"port": 8080, "protocol": "TCP", "name": "http"}]
            p1, p2 = fresh(world.api, r.PODS, "p1", "default"), fresh(world.api, r.PODS, "p2", "default")
            world.api.put(r.PODS, {**p1, "status": running_status(make.START, ready=False, number=1)})
            p2["metadata"]["deletionTimestamp"] = make.START
            world.api.put(r.PODS, p2)
            await world.settle()
            assert slices_of(world.api) == [("p1", False, False, False), ("p2", False, True, True)]
            endpoints = fresh(world.api, r.ENDPOINTS, "web", "default")
            assert "addresses" not in endpoints["subsets"][0]
            assert [a["ip"] for a in endpoints["subsets"][0]["notReadyAddresses"]] == ["10.200.0.2"]
            writes = len(world.api.writes)
            world.api.put(r.PODS, fresh(world.api, r.PODS, "p1", "default"))  # nothing an endpoint shows
            await world.settle()
            assert len(world.api.writes) == writes
            world.api.drop(r.SERVICES, "web", "default")
            await world.settle()
            assert world.api.get(r.ENDPOINTS, "web", "default") is None

    run(scenario())


def test_a_terminating_namespace_is_emptied_before_it_goes() -> None:
    async def scenario() -> None:
        world = World()
        for name in ("doomed", "kept"):
            world.api.put(
                r.NAMESPACES, {"metadata": make.meta(name, ""), "spec": {"finalizers": ["kubernetes"]}}
            )
            world.api.put(r.CONFIGMAPS, {"metadata": make.meta("c", name)})
        pod = make.pod("p")
        pod["metadata"]["namespace"] = "doomed"
        world.api.put(r.PODS, pod)
        doomed = fresh(world.api, r.NAMESPACES, "doomed")
        doomed["metadata"]["deletionTimestamp"] = make.START
        world.api.put(r.NAMESPACES, doomed)
        async with world.running(NamespaceController):
            await world.settle(2000)
            assert world.api.get(r.CONFIGMAPS, "c", "doomed") is None
            conditions = o.status(fresh(world.api, r.NAMESPACES, "doomed"))["conditions"]
            remaining = o.find_condition(conditions, "NamespaceContentRemaining")
            assert remaining is not None
            assert remaining["message"] == "Some resources are remaining: pods. has 1 resource instances"
            await world.until(lambda: world.api.get(r.NAMESPACES, "doomed") is None, each=world.kubelets)
            assert world.api.get(r.CONFIGMAPS, "c", "kept") is not None

    run(scenario())


def test_the_last_pod_takes_its_namespace_along_at_once() -> None:
    async def scenario() -> None:
        world = World()
        doomed = {"metadata": make.meta("doomed", ""), "spec": {"finalizers": ["kubernetes"]}}
        doomed["metadata"]["deletionTimestamp"] = make.START
        world.api.put(r.NAMESPACES, doomed)
        for name in ("p", "q"):
            pod = make.pod(name)
            pod["metadata"].update(namespace="doomed", deletionTimestamp=make.START)
            world.api.put(r.PODS, pod)
        async with world.running(NamespaceController):
            await world.settle(2000)
            world.api.drop(r.PODS, "p", "doomed")
            await world.settle(2000)
            assert world.api.get(r.NAMESPACES, "doomed") is not None
            world.api.drop(r.PODS, "q", "doomed")
            await world.settle(2000)  # and not a second has passed
            assert world.api.get(r.NAMESPACES, "doomed") is None

    run(scenario())


def test_every_namespace_gets_its_account_and_its_root_ca() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(r.NAMESPACES, {"metadata": make.meta("a", ""), "status": {"phase": "Active"}})
        options = Options(root_ca_pem="PEM")
        async with world.running(ServiceAccountController, RootCAPublisher, options=options):
            await world.settle()
            world.api.put(r.NAMESPACES, {"metadata": make.meta("b", ""), "status": {"phase": "Active"}})
            await world.settle()
            for namespace in ("a", "b"):
                assert fresh(world.api, r.SERVICEACCOUNTS, "default", namespace)
                assert fresh(world.api, r.CONFIGMAPS, "kube-root-ca.crt", namespace)["data"] == {
                    "ca.crt": "PEM"
                }
            world.api.drop(r.SERVICEACCOUNTS, "default", "a")
            spoiled = fresh(world.api, r.CONFIGMAPS, "kube-root-ca.crt", "b")
            world.api.put(r.CONFIGMAPS, {**spoiled, "data": {"ca.crt": "other"}})
            await world.settle()
            assert fresh(world.api, r.SERVICEACCOUNTS, "default", "a")
            assert fresh(world.api, r.CONFIGMAPS, "kube-root-ca.crt", "b")["data"] == {"ca.crt": "PEM"}

    run(scenario())


def test_pod_cidrs_are_kept_by_a_new_manager_and_free_after_deletion() -> None:
    async def scenario() -> None:
        world = World()
        options = Options(allocate_node_cidrs=True, cluster_cidr="10.200.0.0/16")
        world.api.put(r.NODES, make.node("n2", podCIDR="10.200.1.0/24", podCIDRs=["10.200.1.0/24"]))
        world.api.put(r.NODES, make.node("n1"))
        async with world.running(NodeIPAMController, options=options):
            await world.settle()
            world.api.put(r.NODES, make.node("n3"))
            await world.settle()
        cidrs = {o.name(n): list(pod_cidrs(n)) for n in world.api.all(r.NODES)}
        assert cidrs == {"n1": ["10.200.0.0/24"], "n2": ["10.200.1.0/24"], "n3": ["10.200.2.0/24"]}
        async with world.running(NodeIPAMController, options=options):
            await world.settle()
            world.api.drop(r.NODES, "n1")
            await world.settle()
            world.api.put(r.NODES, make.node("n4"))
            await world.settle()
        assert pod_cidrs(fresh(world.api, r.NODES, "n4")) == ["10.200.0.0/24"]
        assert pod_cidrs(fresh(world.api, r.NODES, "n2")) == ["10.200.1.0/24"]

    run(scenario())


def heartbeat(world: World, name: str) -> None:
    found = fresh(world.api, r.NODES, name)
    stamp = world.now()
    condition = {"type": "Ready", "status": "True", "lastHeartbeatTime": stamp, "lastTransitionTime": stamp}
    world.api.put(r.NODES, {**found, "status": {**found["status"], "conditions": [condition]}})


def test_a_silent_node_is_tainted_and_its_pods_leave_after_their_toleration() -> None:
    async def scenario() -> None:
        world = World()
        for name in ("n1", "n2", "n3"):
            world.api.put(r.NODES, make.node(name))
        patient = make.pod("patient", node="n3")
        patient["spec"]["tolerations"] = [
            {"key": tt.UNREACHABLE, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 30}
        ]
        steady = make.pod("steady", node="n3")
        steady["spec"]["tolerations"] = [{"operator": "Exists"}]
        for pod in (patient, steady, make.pod("impatient", node="n3"), make.pod("elsewhere", node="n1")):
            world.api.put(r.PODS, pod)
        async with world.running(NodeLifecycleController, TaintEvictionController):
            for _ in range(9):
                await world.pass_time(5)
                heartbeat(world, "n1")
                heartbeat(world, "n2")
            await world.pass_time(3)
            lost = fresh(world.api, r.NODES, "n3")
            assert {c["type"]: c["status"] for c in lost["status"]["conditions"]}["Ready"] == "Unknown"
            assert {(t["key"], t["effect"]) for t in tt.taints(lost)} == {
                (tt.UNREACHABLE, "NoSchedule"),
                (tt.UNREACHABLE, "NoExecute"),
            }
            assert "NodeNotReady" in world.events.reasons
            assert o.condition_status(fresh(world.api, r.PODS, "steady", "default"), "Ready") == "False"
            assert o.is_terminating(fresh(world.api, r.PODS, "impatient", "default"))
            assert not o.is_terminating(fresh(world.api, r.PODS, "patient", "default"))
            for _ in range(7):
                await world.pass_time(5)
                heartbeat(world, "n1")
                heartbeat(world, "n2")
            assert o.is_terminating(fresh(world.api, r.PODS, "patient", "default"))
            assert not o.is_terminating(fresh(world.api, r.PODS, "steady", "default"))
            assert not o.is_terminating(fresh(world.api, r.PODS, "elsewhere", "default"))
            heartbeat(world, "n3")
            await world.pass_time(6)
            assert not tt.taints(fresh(world.api, r.NODES, "n3"))

    run(scenario())


class SlowApi(MemoryApi):
    """Every write takes a second of the world's clock."""

    world: World

    async def send(self, request: Request) -> Answer:
        if request.method != "GET":
            await self.world.clock.sleep(1.0)
        return await super().send(request)


def test_a_zone_is_declared_lost_at_once_however_many_pods_it_takes_along() -> None:
    async def scenario() -> None:
        api = SlowApi()
        api.world = world = World(api)
        lost = [f"n{number}" for number in range(1, 17)]
        for name in ("n0", *lost):
            world.api.put(r.NODES, make.node(name, labels={ZONE_LABEL: "here" if name == "n0" else "gone"}))
            for number in range(5):
                world.api.put(r.PODS, make.pod(f"{name}-{number}", node=name))
        async with world.running(NodeLifecycleController):
            for _ in range(9):
                await world.pass_time(5)
                heartbeat(world, "n0")
            # Silence is seen at 45 s. 16 nodes by two writes each, and 80 pods: 112 seconds one by one.
            await world.pass_time(6)
            states = {name: o.condition_status(fresh(world.api, r.NODES, name), "Ready") for name in lost}
            assert set(states.values()) == {"Unknown"}, states
            await world.pass_time(10)
            ready = {o.name(p) for p in world.api.all(r.PODS) if o.condition_status(p, "Ready") == "True"}
            assert ready == {f"n0-{number}" for number in range(5)}

    run(scenario())


def test_taints_follow_conditions_and_cordons_without_waiting_for_the_monitor() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(r.NODES, make.node("n1", taints=[{"key": tt.NOT_READY, "effect": "NoSchedule"}]))
        async with world.running(NodeLifecycleController):
            await world.settle()
            assert not tt.taints(fresh(world.api, r.NODES, "n1"))
            world.api.put(r.NODES, make.node("n1", unschedulable=True))
            await world.settle()
            assert [t["key"] for t in tt.taints(fresh(world.api, r.NODES, "n1"))] == [tt.UNSCHEDULABLE]

    run(scenario())


def test_a_node_that_changes_faster_than_the_cache_is_written_all_the_same() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(r.NODES, make.node("n1", taints=[{"key": tt.NOT_READY, "effect": "NoSchedule"}]))
        first = True

        def interfere(method: str, path: str) -> None:
            nonlocal first
            if first and path.endswith("/nodes/n1"):
                first = False
                heartbeat(world, "n1")

        world.api.before = interfere
        async with world.running(NodeLifecycleController):
            await world.pass_time(1)
            assert not first and not tt.taints(fresh(world.api, r.NODES, "n1"))

    run(scenario())


def test_a_pod_that_says_it_is_ready_on_a_lost_node_is_not_believed() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(r.NODES, make.node("n1", ready="Unknown"))
        async with world.running(NodeLifecycleController):
            world.api.put(r.PODS, make.pod("late", node="n1"))
            await world.settle()
            assert o.condition_status(fresh(world.api, r.PODS, "late", "default"), "Ready") == "False"

    run(scenario())


def test_when_every_node_is_silent_nobody_is_evicted() -> None:
    async def scenario() -> None:
        world = World()
        for name in ("n1", "n2"):
            world.api.put(r.NODES, make.node(name))
            world.api.put(r.PODS, make.pod(f"on-{name}", node=name))
        async with world.running(NodeLifecycleController, TaintEvictionController):
            await world.pass_time(90, step=2.5)
            assert {o.condition_status(n, "Ready") for n in world.api.all(r.NODES)} == {"Unknown"}
            assert not any(t["effect"] == "NoExecute" for n in world.api.all(r.NODES) for t in tt.taints(n))
            assert not any(o.is_terminating(p) for p in world.api.all(r.PODS))

    run(scenario())


def test_when_the_last_zone_falls_silent_those_lost_before_are_spared_too() -> None:
    async def scenario() -> None:
        world = World()
        for name, zone in (("n1", "a"), ("n2", "b")):
            world.api.put(r.NODES, make.node(name, labels={ZONE_LABEL: zone}))
        async with world.running(NodeLifecycleController):
            for _ in range(10):
                await world.pass_time(5)
                heartbeat(world, "n2")
            effects = {t["effect"] for t in tt.taints(fresh(world.api, r.NODES, "n1"))}
            assert effects == {"NoSchedule", "NoExecute"}
            await world.pass_time(60, step=2.5)
            for name in ("n1", "n2"):
                assert [t["effect"] for t in tt.taints(fresh(world.api, r.NODES, name))] == ["NoSchedule"]

    run(scenario())


def test_pods_of_a_vanished_node_are_collected_after_quarantine() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(r.NODES, make.node("n1"))
        world.api.put(r.PODS, make.pod("here", node="n1"))
        world.api.put(r.PODS, make.pod("lost", node="n9"))
        stuck = make.pod("stuck", node="")
        stuck["metadata"]["deletionTimestamp"] = make.START
        world.api.put(r.PODS, stuck)
        async with world.running(PodGarbageCollector):
            await world.pass_time(25, step=5)
            assert world.api.get(r.PODS, "stuck", "default") is None
            assert world.api.get(r.PODS, "lost", "default") is not None
            await world.pass_time(45, step=5)
            assert world.api.get(r.PODS, "lost", "default") is None
            assert world.api.get(r.PODS, "here", "default") is not None

    run(scenario())


# -- garbage -------------------------------------------------------------------------------------------------


def owned(gvr: r.GVR, name: str, *owners: Object, block: bool = True, namespace: str = "default") -> Object:
    references = [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "blockOwnerDeletion": block,
        }
        for owner in owners
    ]
    return {"metadata": make.meta(name, namespace, ownerReferences=references), "spec": {}}


def gone(api: MemoryApi, gvr: r.GVR, name: str) -> bool:
    return api.get(gvr, name, "default") is None


async def delete(world: World, gvr: r.GVR, name: str, policy: str) -> None:
    world.api._delete(gvr, "default", name, {"propagationPolicy": policy})
    await world.settle(600)


def test_background_deletion_reaches_the_grandchildren() -> None:
    async def scenario() -> None:
        world = World()
        d = world.api.put(r.DEPLOYMENTS, make.deployment("d"))
        rs = world.api.put(r.REPLICASETS, owned(r.REPLICASETS, "rs", d))
        world.api.put(r.PODS, owned(r.PODS, "p", rs))
        world.api.put(
            r.CONFIGMAPS, owned(r.CONFIGMAPS, "shared", d, world.api.put(r.CONFIGMAPS, make_owner("live")))
        )
        async with world.running(GarbageCollector):
            await world.settle(2000)
            assert not gone(world.api, r.PODS, "p")
            await delete(world, r.DEPLOYMENTS, "d", "Background")
            assert gone(world.api, r.REPLICASETS, "rs") and gone(world.api, r.PODS, "p")
            shared = fresh(world.api, r.CONFIGMAPS, "shared", "default")
            assert [ref["name"] for ref in o.owner_references(shared)] == ["live"]

    run(scenario())


def make_owner(name: str) -> Object:
    return {"metadata": make.meta(name)}


def test_what_is_being_deleted_is_not_asked_again_by_a_graph_that_is_late() -> None:
    async def scenario() -> None:
        world = World()
        pod = owned(r.PODS, "p", world.api.put(r.DEPLOYMENTS, make.deployment("gone")))
        world.api.drop(r.DEPLOYMENTS, "gone", "default")
        pod["spec"] = {"nodeName": "n1"}
        before = world.api.put(r.PODS, pod)
        async with world.running(GarbageCollector) as (collector,):
            assert isinstance(collector, GarbageCollector)
            await world.settle(2000)
            assert o.is_terminating(fresh(world.api, r.PODS, "p", "default"))
            asked = world.api.writes.count(("DELETE", "/api/v1/namespaces/default/pods/p"))
            assert asked == 1
            collector.graph.put(r.PODS, before)
            await collector.attempt_to_delete(o.uid(before))
            assert world.api.writes.count(("DELETE", "/api/v1/namespaces/default/pods/p")) == asked

    run(scenario())


def test_foreground_deletion_waits_for_blocking_dependents() -> None:
    async def scenario() -> None:
        world = World()
        d = world.api.put(r.DEPLOYMENTS, make.deployment("d"))
        rs = world.api.put(r.REPLICASETS, owned(r.REPLICASETS, "rs", d))
        pod = owned(r.PODS, "p", rs)
        pod["spec"] = {"nodeName": "n1"}  # its deletion is graceful: it stays until the kubelet is done
        world.api.put(r.PODS, pod)
        async with world.running(GarbageCollector):
            await world.settle(2000)
            await delete(world, r.DEPLOYMENTS, "d", "Foreground")
            await world.pass_time(3)
            assert o.is_terminating(fresh(world.api, r.PODS, "p", "default"))
            assert not gone(world.api, r.DEPLOYMENTS, "d") and not gone(world.api, r.REPLICASETS, "rs")
            world.api.drop(r.PODS, "p", "default")
            await world.pass_time(3)
            assert gone(world.api, r.REPLICASETS, "rs") and gone(world.api, r.DEPLOYMENTS, "d")

    run(scenario())


def test_orphaning_frees_the_dependents() -> None:
    async def scenario() -> None:
        world = World()
        d = world.api.put(r.DEPLOYMENTS, make.deployment("d"))
        world.api.put(r.REPLICASETS, owned(r.REPLICASETS, "rs", d))
        async with world.running(GarbageCollector):
            await world.settle(2000)
            await delete(world, r.DEPLOYMENTS, "d", "Orphan")
            await world.pass_time(3)
            assert gone(world.api, r.DEPLOYMENTS, "d")
            assert not o.owner_references(fresh(world.api, r.REPLICASETS, "rs", "default"))

    run(scenario())


def test_an_owner_that_never_existed_does_not_keep_and_a_namesake_does_not_count() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(r.CONFIGMAPS, make_owner("owner"))  # same name, another UID
        ghost = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "owner", "uid": "long-gone"}}
        world.api.put(r.CONFIGMAPS, owned(r.CONFIGMAPS, "child", ghost))
        foreign = {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t", "uid": "t-1"}}
        world.api.put(r.CONFIGMAPS, owned(r.CONFIGMAPS, "of-unknown-kind", foreign))
        async with world.running(GarbageCollector):
            await world.settle(2000)
            await world.pass_time(5)
            assert gone(world.api, r.CONFIGMAPS, "child")
            assert not gone(world.api, r.CONFIGMAPS, "owner")
            assert not gone(world.api, r.CONFIGMAPS, "of-unknown-kind")

    run(scenario())
