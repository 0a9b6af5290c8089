"""What a cloud makes of nodes: initialisation, routes, shutdown, deletion."""

from __future__ import annotations

import pytest

from cloudcontroller.cloud import Route
from cloudcontroller.nodes import plan
from cloudcontroller.nodes.controllers import NodeController, NodeLifecycleController
from cloudcontroller.routes.controller import RouteController
from cloudcontroller.routes.plan import compute_plan
from kubeclient.resources import NODES
from tests.cloudcontroller.world import UNINITIALIZED, Object, World, instance, node, run

OTHER = {"key": "dedicated", "value": "x", "effect": "NoSchedule"}
SHUT_DOWN = "node.cloudprovider.kubernetes.io/shutdown"


def fresh(name: str) -> Object:
    made = node(name, taints=[OTHER, UNINITIALIZED])
    del made["spec"]["providerID"]
    made["status"]["addresses"] = [{"type": "InternalIP", "address": "10.240.0.20"}]
    return made


def test_a_new_node_gets_id_labels_addresses_and_loses_its_taint() -> None:
    async def scenario() -> None:
        world = World()
        world.cloud.machines["w0"] = instance("w0")
        async with world.running(NodeController):
            world.api.put(NODES, fresh("w0"))
            await world.settle()
        made = world.node("w0")
        assert made["spec"] == {"providerID": "lab://t/w0", "taints": [OTHER]}
        assert made["metadata"]["labels"] == {
            "node.kubernetes.io/instance-type": "host",
            "beta.kubernetes.io/instance-type": "host",
            "topology.kubernetes.io/zone": "a",
            "failure-domain.beta.kubernetes.io/zone": "a",
        }
        assert [each["address"] for each in made["status"]["addresses"]] == ["10.240.0.20", "w0"]

    run(scenario())


def test_a_node_the_cloud_does_not_know_stays_tainted_until_it_does() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(NODES, fresh("w0"))
        async with world.running(NodeController):
            await world.settle()
            assert UNINITIALIZED in world.node("w0")["spec"]["taints"]
            world.cloud.machines["w0"] = instance("w0")
            await world.after(5)
            assert UNINITIALIZED not in world.node("w0")["spec"]["taints"]

    run(scenario())


def test_an_address_the_instance_does_not_have_is_refused() -> None:
    told = node("w0")
    told["metadata"]["annotations"] = {plan.PROVIDED_IP: "10.9.9.9"}
    with pytest.raises(plan.WrongAddress, match=r"10\.9\.9\.9"):
        plan.addresses(told, instance("w0"))
    told["metadata"]["annotations"] = {plan.PROVIDED_IP: "10.240.0.20"}
    assert plan.addresses(told, instance("w0")) is None


def test_a_silent_node_is_deleted_when_its_instance_is_gone_and_tainted_when_it_is_off() -> None:
    async def scenario() -> None:
        world = World()
        world.cloud.machines = {name: instance(name) for name in ("off", "up", "shy")}
        world.cloud.off = {"lab://t/off", "lab://t/up"}
        world.cloud.refuse = {"shy"}
        for name in ("gone", "off", "shy"):
            world.api.put(NODES, node(name, ready="Unknown"))
        world.api.put(NODES, node("up"))
        world.api.put(NODES, node("new", ready="False", taints=[UNINITIALIZED]))
        async with world.running(NodeLifecycleController):
            await world.settle()
            names = [each["metadata"]["name"] for each in world.api.all(NODES)]
            assert names == ["new", "off", "shy", "up"], "only what is silent, known and gone goes"
            assert [taint["key"] for taint in world.node("off")["spec"]["taints"]] == [SHUT_DOWN]
            assert not world.node("up")["spec"].get("taints"), "who says it is ready is not asked about"
            assert world.events.reasons == ["DeletingNode"]
            world.api.put(NODES, {**world.node("off"), "status": node("off")["status"]})
            await world.after(5)
            assert not world.node("off")["spec"].get("taints")

    run(scenario())


def test_routes_follow_nodes_and_say_when_they_cannot_be_made() -> None:
    async def scenario() -> None:
        world = World()
        world.cloud.routes = {
            "10.200.9.0/24": Route("10.200.9.0/24", "10.240.0.99"),
            "192.168.0.0/24": Route("192.168.0.0/24", "10.240.0.99"),
        }
        world.cloud.refuse = {"10.200.1.0/24"}
        for number in (0, 1):
            cidrs = [f"10.200.{number}.0/24"]
            world.api.put(NODES, node(f"n{number}", f"10.240.0.2{number}", podCIDRs=cidrs))
        async with world.running(RouteController):
            await world.settle()
            assert sorted(world.cloud.routes) == ["10.200.0.0/24", "192.168.0.0/24"]
            assert unavailable(world) == {"n0": "False", "n1": "True"}
            assert world.events.reasons == ["FailedToCreateRoute"]
            world.cloud.refuse.clear()
            world.api.put(NODES, node("n2", "10.240.0.22", podCIDRs=["10.200.2.0/24"]))
            await world.settle()
            assert world.cloud.routes["10.200.1.0/24"] == Route("10.200.1.0/24", "10.240.0.21")
            assert set(unavailable(world).values()) == {"False"}

    run(scenario())


def unavailable(world: World) -> dict[str, str]:
    return {
        each["metadata"]["name"]: condition["status"]
        for each in world.api.all(NODES)
        for condition in each["status"]["conditions"]
        if condition["type"] == "NetworkUnavailable"
    }


def test_routes_outside_the_cluster_are_not_ours() -> None:
    nodes = [node("n1", "10.240.0.21", podCIDRs=["10.200.0.0/24"]), node("n2", podCIDR="10.200.1.0/24")]
    nodes[1]["status"]["addresses"] = []
    have = [
        Route("10.200.0.0/24", "10.240.0.99"),
        Route("10.200.1.0/24", "10.240.0.22"),
        Route("10.200.7.0/24", "x"),
        Route("10.9.0.0/24", "y"),
    ]
    made = compute_plan(nodes, have, "10.200.0.0/16")
    assert made.create == (Route("10.200.0.0/24", "10.240.0.21"),)
    assert made.delete == (Route("10.200.7.0/24", "x"),)
