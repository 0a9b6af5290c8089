"""The lab's network as text for `ip -batch`: nothing in it may name the machine's own namespace."""

from __future__ import annotations

from deploy import network
from deploy.topology import TOPOLOGIES, load

LAB = load(TOPOLOGIES / "lab.yaml")


def test_the_bridge_is_the_gateway() -> None:
    assert network.router_plan(LAB.network) == [
        "link set lo up",
        "link add lab0 type bridge",
        "address add 10.240.0.1/24 dev lab0",
        "link set lab0 up",
    ]


def test_a_cable_has_both_ends_inside_the_lab() -> None:
    plan = network.cable_plan(LAB.host("worker-1"), 4711)
    assert plan[0] == "link add worker-1 type veth peer name eth0 netns 4711"
    assert plan[1:] == ["link set worker-1 master lab0", "link set worker-1 up"]


def test_a_host_has_its_address_and_one_way_out() -> None:
    assert network.host_plan(LAB.host("worker-1"), LAB.network) == [
        "link set lo up",
        "address add 10.240.0.21/24 dev eth0",
        "link set eth0 up",
        "route add default via 10.240.0.1",
    ]
