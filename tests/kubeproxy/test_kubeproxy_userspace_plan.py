"""Mode userspace: what is listened on and where it leads, by tables."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from kubeproxy.compiler import Settings
from kubeproxy.model import Endpoint, service_ports
from kubeproxy.userspace.addresses import LABEL, batch, parse
from kubeproxy.userspace.balance import Balancer
from kubeproxy.userspace.compiler import (
    NODE,
    Front,
    Plan,
    Route,
    assemble,
    compile_port,
    difference,
    eligible,
    foreign,
    listeners,
)
from tests.kubeproxy.objects import endpoint, service, slice_of

SETTINGS = Settings(cluster_cidrs=("10.200.0.0/16",))
HERE, THERE = Endpoint("10.200.0.5", 8080, True), Endpoint("10.200.1.6", 8080)
BOTH = (HERE, THERE)


def planned(*endpoints: Any, port: dict[str, Any] | None = None, **spec: Any) -> Plan:
    status = spec.pop("status", {})
    ports = [{"name": "http", "port": 80, "protocol": "TCP", **(port or {})}]
    svc = {**service(ports=ports, **spec), "status": status}
    found = service_ports(svc, [slice_of("web", *endpoints)], "node-a")
    return assemble([compile_port(each, SETTINGS) for each in found], SETTINGS)


ENDS = (endpoint("10.200.0.5"), endpoint("10.200.1.6", "node-b"))
CLUSTER_IP, NODE_PORT = Front("10.32.0.10", "tcp", 80), Front(NODE, "tcp", 30080)
OUTSIDE, BALANCED = Front("203.0.113.4", "tcp", 80), Front("198.51.100.50", "tcp", 80)
EXTERNAL: dict[str, Any] = {
    "type": "LoadBalancer",
    "port": {"nodePort": 30080},
    "externalIPs": ["203.0.113.4"],
    "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.50"}]}},
}


@pytest.mark.parametrize(
    ("ends", "spec", "routes"),
    [
        (ENDS, {}, {CLUSTER_IP: (BOTH, BOTH)}),
        ((), {}, {}),
        (ENDS, {"internalTrafficPolicy": "Local"}, {CLUSTER_IP: ((HERE,), (HERE,))}),
        (ENDS[1:], {"internalTrafficPolicy": "Local"}, {}),
        (ENDS, EXTERNAL, dict.fromkeys((CLUSTER_IP, NODE_PORT, OUTSIDE, BALANCED), (BOTH, BOTH))),
        (
            ENDS,
            {**EXTERNAL, "externalTrafficPolicy": "Local"},
            {CLUSTER_IP: (BOTH, BOTH)} | dict.fromkeys((NODE_PORT, OUTSIDE, BALANCED), (BOTH, (HERE,))),
        ),
        (
            ENDS[1:],
            {**EXTERNAL, "externalTrafficPolicy": "Local"},
            {CLUSTER_IP: ((THERE,), (THERE,))}
            | dict.fromkeys((NODE_PORT, OUTSIDE, BALANCED), ((THERE,), ())),
        ),
    ],
)
def test_who_may_use_which_endpoints(ends: Any, spec: Any, routes: Any) -> None:
    plan = planned(*ends, **spec)
    assert {front: (each.inside, each.outside) for front, each in plan.routes.items()} == routes
    external = {"203.0.113.4", "198.51.100.50"} if spec.get("externalIPs") else set()
    assert plan.addresses == {"10.32.0.10"} | external, "kept without endpoints: the kernel refuses there"


def test_source_ranges_hold_for_the_load_balancers_address_alone() -> None:
    plan = planned(*ENDS, **EXTERNAL, loadBalancerSourceRanges=["192.0.2.0/24"])
    limited = {front for front, route in plan.routes.items() if route.source_ranges == ("192.0.2.0/24",)}
    assert limited == {BALANCED}
    assert len(plan.routes) == 4


def test_other_protocols_are_named_not_served() -> None:
    ports = [{"name": "http", "port": 80, "protocol": "SCTP"}]
    found = service_ports(service(ports=ports), [slice_of("web", *ENDS, protocol="SCTP")], "node-a")
    plan = compile_port(found[0], SETTINGS)
    assert (plan.routes, plan.unserved) == ({}, ("default/web/sctp/http",))


def test_of_two_services_with_one_address_the_first_keeps_it_unless_it_leads_nowhere() -> None:
    first, second, empty = planned(ENDS[0]), planned(ENDS[1]), planned()
    assert assemble([first, second], SETTINGS).routes[CLUSTER_IP].inside == (HERE,)
    assert assemble([empty, second], SETTINGS).routes[CLUSTER_IP].inside == (THERE,)


@pytest.mark.parametrize(
    ("networks", "ips"),
    [
        ((), {"10.240.0.20", "10.200.0.1"}),
        (("10.240.0.0/24",), {"10.240.0.20"}),
        (("127.0.0.0/8",), set()),
    ],
)
def test_node_ports_are_listened_for_on_the_nodes_addresses(networks: Any, ips: set[str]) -> None:
    plan = planned(*ENDS, type="NodePort", port={"nodePort": 30080})
    own = ("127.0.0.1", "10.240.0.20", "10.200.0.1")
    found = listeners(plan, own, Settings(node_port_networks=networks))
    assert set(found) == {CLUSTER_IP} | {Front(ip, "tcp", 30080) for ip in ips}


@pytest.mark.parametrize(
    ("ip", "foreign_ip"),
    [("203.0.113.4", False), ("10.240.0.30", True), ("10.240.0.20", False), ("10.200.3.4", True)],
)
def test_addresses_of_other_machines_and_pods_are_not_taken(ip: str, foreign_ip: bool) -> None:
    plan = planned(*ENDS, externalIPs=[ip])
    found = foreign(plan, {"10.240.0.20"}, ("10.240.0.0/24", "127.0.0.0/8"), SETTINGS)
    assert found == ({ip} if foreign_ip else set())


def test_what_an_endpoint_listens_on_itself_is_left_to_it() -> None:
    hosted = endpoint("10.240.0.20")
    plan = planned(hosted, port={"port": 8080}, externalIPs=["10.240.0.20"])
    found = listeners(plan, ("10.240.0.20",), SETTINGS)
    assert found == {Front("10.32.0.10", "tcp", 8080): plan.routes[Front("10.32.0.10", "tcp", 8080)]}


def test_services_that_lead_to_each_other_make_no_circle() -> None:
    one, other = Front("10.32.0.1", "tcp", 80), Front("10.32.0.2", "tcp", 80)
    to_other, to_one = (Endpoint(each.ip, each.port) for each in (other, one))
    routes = {one: Route("a", (to_other, HERE), (to_other,)), other: Route("b", (to_one,), (to_one,))}
    assert listeners(Plan(routes), (), SETTINGS) == {one: Route("a", (HERE,), ()), other: Route("b", (), ())}
    itself = Plan({one: Route("a", (to_one,), (to_one,))})
    assert listeners(itself, (), SETTINGS) == {}


def test_the_difference_of_two_states() -> None:
    one, other = Route("a", (HERE,), (HERE,)), Route("a", BOTH, BOTH)
    stays, moves, goes, comes = (Front("10.32.0.1", "tcp", number) for number in (1, 2, 3, 4))
    found = difference({stays: one, moves: one, goes: one}, {stays: one, moves: other, comes: one})
    assert found == ({comes: one}, [goes], {moves: other})
    assert difference({stays: one}, {stays: one}) == ({}, [], {})


@pytest.mark.parametrize(
    ("client", "ranges", "expected"),
    [
        ("10.200.7.7", (), "inside"),
        ("10.240.0.20", (), "inside"),
        ("127.0.0.1", (), "inside"),
        ("192.0.2.1", (), "outside"),
        ("192.0.2.1", ("192.0.2.0/24",), "outside"),
        ("192.0.2.1", ("198.51.100.0/24",), "nobody"),
        ("10.200.7.7", ("198.51.100.0/24",), "nobody"),
    ],
)
def test_who_counts_as_inside(client: str, ranges: tuple[str, ...], expected: str) -> None:
    route = Route("a", (HERE,), (THERE,), source_ranges=ranges)
    found = eligible(route, client, {"10.240.0.20"}, SETTINGS)
    assert found == {"inside": (HERE,), "outside": (THERE,), "nobody": ()}[expected]


def test_a_client_with_affinity_comes_back_to_its_endpoint_until_that_times_out() -> None:
    many = tuple(Endpoint(f"10.200.0.{number}", 80) for number in range(1, 40))
    route = Route("a", many, many, affinity_seconds=60)
    balancer = Balancer(Random(3), limit=2)
    balancer.remember(route, "c", many[7], now=0)
    assert {balancer.order(route, many, "c", now=59)[0] for _ in range(20)} == {many[7]}
    assert len({balancer.order(route, many, "d", now=59)[0] for _ in range(20)}) > 1
    assert sorted(balancer.order(route, many, "c", now=59)) == sorted(many), "the others stand in"
    assert many[7] not in balancer.order(route, many[:5], "c", now=59)
    assert len({balancer.order(route, many, "c", now=61)[0] for _ in range(20)}) > 1
    balancer.remember(route, "d", many[1], now=0)
    balancer.remember(route, "e", many[2], now=0)
    assert len({balancer.order(route, many, "c", now=1)[0] for _ in range(20)}) > 1, "one too many"


def test_without_affinity_nobody_is_remembered() -> None:
    route = Route("a", BOTH, BOTH)
    balancer = Balancer(Random(1))
    balancer.remember(route, "c", HERE, now=0)
    assert {balancer.order(route, BOTH, "c", now=0)[0] for _ in range(40)} == set(BOTH)


def test_our_addresses_are_told_from_the_nodes_by_their_label() -> None:
    listing = b"""[{"ifname": "lo", "addr_info": [{"family": "inet", "local": "127.0.0.1", "label": "lo",
        "prefixlen": 8},
        {"family": "inet", "local": "10.32.0.1", "label": "lo:kubeproxy", "prefixlen": 32}]}, {},
        {"ifname": "eth0", "addr_info": [{"local": "10.240.0.20", "label": "eth0", "prefixlen": 24}]}]"""
    own, networks = frozenset({"127.0.0.1", "10.240.0.20"}), ("10.240.0.0/24", "127.0.0.0/8")
    assert parse(listing) == (frozenset({"10.32.0.1"}), own, networks)
    assert batch(["10.32.0.2"], ["10.32.0.1"]) == (
        f"address replace 10.32.0.2/32 dev lo label {LABEL} scope host\naddress delete 10.32.0.1/32 dev lo\n"
    )
    assert len(LABEL) < 16, "the kernel's IFNAMSIZ"
