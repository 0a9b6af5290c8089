"""Services of type LoadBalancer: addresses given, announced, moved and taken back."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

import pytest

from cloudcontroller.cloud import Balancer, Listener
from cloudcontroller.services import plan
from cloudcontroller.services.controller import ServiceController
from kubeclient.resources import NODES, SERVICES
from tests.cloudcontroller.world import World, node, run, service

POOL = tuple(IPv4Network("10.240.1.0/30").hosts())


def world_of_two() -> World:
    world = World()
    for number in (0, 1):
        world.api.put(NODES, node(f"w{number}", f"10.240.0.2{number}"))
    return world


def ingress(world: World, name: str = "web") -> list[dict[str, Any]]:
    status = world.service(name).get("status") or {}
    held: list[dict[str, Any]] = (status.get("loadBalancer") or {}).get("ingress", [])
    return held


def test_a_service_gets_an_address_and_gives_it_back() -> None:
    async def scenario() -> None:
        world = world_of_two()
        async with world.running(ServiceController):
            world.api.put(SERVICES, service())
            await world.settle()
            assert ingress(world) == [{"ip": "10.240.1.1", "ipMode": "VIP"}]
            assert world.service()["metadata"]["finalizers"] == [plan.FINALIZER]
            assert world.cloud.balancers == {
                "10.240.1.1": Balancer(
                    "10.240.1.1",
                    (Listener("TCP", 80),),
                    ("10.240.0.20", "10.240.0.21"),
                    10256,
                    "/healthz",
                )
            }
            assert world.events.reasons == ["EnsuringLoadBalancer", "EnsuredLoadBalancer"]
            going = world.service()
            going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
            world.api.put(SERVICES, going)
            await world.settle()
            assert world.cloud.balancers == {}
            assert world.events.reasons[2:] == ["DeletingLoadBalancer", "DeletedLoadBalancer"]
            left = world.api.get(SERVICES, "web", "default")
            assert left is None or not left["metadata"].get("finalizers")

    run(scenario())


def test_local_policy_asks_the_health_check_node_port_and_follows_the_nodes() -> None:
    async def scenario() -> None:
        world = world_of_two()
        async with world.running(ServiceController):
            world.api.put(SERVICES, service(externalTrafficPolicy="Local", healthCheckNodePort=31234))
            await world.settle()
            made = world.cloud.balancers["10.240.1.1"]
            assert (made.health_port, made.health_path) == (31234, "/healthz")
            excluded = world.node("w1")
            excluded["metadata"]["labels"] = {plan.EXCLUDED: ""}
            world.api.put(NODES, excluded)
            await world.settle()
            assert world.cloud.balancers["10.240.1.1"].targets == ("10.240.0.20",)
            world.api.put(NODES, node("w2", "10.240.0.22", ready="False"))
            await world.settle()
            assert "10.240.0.22" in world.cloud.balancers["10.240.1.1"].targets, (
                "health is the cloud's to ask"
            )

    run(scenario())


def test_another_class_is_left_alone_and_another_type_lets_go() -> None:
    async def scenario() -> None:
        world = world_of_two()
        async with world.running(ServiceController):
            world.api.put(SERVICES, service("other", loadBalancerClass="example.com/lb"))
            world.api.put(SERVICES, service())
            await world.settle()
            assert ingress(world, "other") == [] and not world.service("other")["metadata"].get("finalizers")
            changed = world.service()
            changed["spec"]["type"] = "ClusterIP"
            world.api.put(SERVICES, changed)
            await world.settle()
            assert world.cloud.balancers == {} and ingress(world) == []
            assert not world.service()["metadata"].get("finalizers")

    run(scenario())


def test_a_cloud_that_refuses_is_named_in_an_event_and_asked_again() -> None:
    async def scenario() -> None:
        world = world_of_two()
        world.cloud.refuse = {"10.240.1.1"}
        async with world.running(ServiceController):
            world.api.put(SERVICES, service())
            await world.settle()
            _, reason, text = world.events.seen[-1]
            assert reason == "SyncLoadBalancerFailed"
            assert text == (
                "Error syncing load balancer: failed to ensure load balancer: balancer 10.240.1.1: refused"
            )
            assert ingress(world) == []
            world.cloud.refuse.clear()
            await world.after(5)
            assert ingress(world) == [{"ip": "10.240.1.1", "ipMode": "VIP"}]

    run(scenario())


def test_a_new_manager_keeps_addresses_and_withdraws_those_of_nobody() -> None:
    async def scenario() -> None:
        world = world_of_two()
        held = service("held")
        held["status"] = {"loadBalancer": {"ingress": [{"ip": "10.240.1.2"}]}}
        held["metadata"]["finalizers"] = [plan.FINALIZER]
        world.api.put(SERVICES, held)
        for address in ("10.240.1.2", "10.240.1.5"):
            world.cloud.balancers[address] = Balancer(address, (), (), 1, "/")
        async with world.running(ServiceController):
            for name in ("a", "b"):
                world.api.put(SERVICES, service(name))
            await world.settle()
        assert {name: ingress(world, name)[0]["ip"] for name in ("held", "a", "b")} == {
            "held": "10.240.1.2",
            "a": "10.240.1.1",
            "b": "10.240.1.3",
        }
        assert sorted(world.cloud.balancers) == ["10.240.1.1", "10.240.1.2", "10.240.1.3"]

    run(scenario())


def test_addresses_are_chosen_by_what_is_held_asked_for_and_free() -> None:
    assert plan.choose_address(service(), POOL, {"10.240.1.1"}) == "10.240.1.2"
    assert plan.choose_address(service(), POOL, set(), ["10.240.1.2"]) == "10.240.1.2"
    assert plan.choose_address(service(loadBalancerIP="10.240.1.2"), POOL, set()) == "10.240.1.2"
    with pytest.raises(plan.AddressUnavailable, match="not in the pool"):
        plan.choose_address(service(loadBalancerIP="10.9.0.1"), POOL, set())
    with pytest.raises(plan.AddressUnavailable, match="held by another"):
        plan.choose_address(service(loadBalancerIP="10.240.1.2"), POOL, {"10.240.1.2"})
    with pytest.raises(plan.AddressUnavailable, match="all 2 addresses"):
        plan.choose_address(service(), POOL, {"10.240.1.1", "10.240.1.2"})


def test_nodes_that_are_leaving_or_nobodys_stand_behind_nothing() -> None:
    leaving = node("a", "10.240.0.1", taints=[{"key": plan.TO_BE_DELETED, "effect": "NoSchedule"}])
    nobodys = node("b", "10.240.0.2", providerID="")
    assert plan.targets([leaving, nobodys, node("c", "10.240.0.3")]) == ("10.240.0.3",)
