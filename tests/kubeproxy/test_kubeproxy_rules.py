"""Where packets go: services and endpoints in, the traced fate of a packet out."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest

from kubeproxy import compiler, conntrack, iptables_compiler, nftables
from kubeproxy.compiler import Settings, chain_name, compile_rules
from kubeproxy.model import Endpoint, Place, ServicePort, health_checks, service_ports
from kubeproxy.rules import Action, Drop, Goto, Jump, Reject, Return, RuleSet, SetMark
from kubeproxy.trace import Outcome, Packet, Tracer
from tests.kubeproxy.objects import endpoint, service, slice_of

NODE = "node-a"
HOST = frozenset({"10.240.0.20", "10.200.0.1"})
SETTINGS = Settings(cluster_cidrs=("10.200.0.0/16",))
POD, OUTSIDE, HOST_IP = "10.200.0.9", "192.0.2.7", "10.240.0.20"
A, B = endpoint("10.200.0.5", "node-a"), endpoint("10.200.1.6", "node-b")
EXTERNAL = {"type": "LoadBalancer", "status": {}}


MODES: dict[str, Any] = {"nftables": compiler, "iptables": iptables_compiler}
# What kube-proxy's iptables mode leaves to the service that is not there: no rule, no refusal.
LEFT_ALONE = {"a port the service has not": "10.32.0.10:81", "UDP to a TCP port": "10.32.0.10:80"}


def ruleset(svc: Any, *slices: Any, settings: Settings = SETTINGS, mode: str = "nftables") -> RuleSet:
    chosen = MODES[mode]
    ports = service_ports(svc, slices, NODE)
    rules: RuleSet = chosen.assemble([chosen.compile_port(port, settings) for port in ports], settings)
    return rules


def send(
    rules: RuleSet, source: str, destination: str, port: int, *, pick: int = 0, protocol: str = "tcp"
) -> Outcome:
    packet = Packet(source, destination, port, protocol, from_host=source in HOST)
    return Tracer(rules, HOST, lambda n: pick % n).send(packet)


def fate(outcome: Outcome) -> str:
    """`10.200.0.5:8080`, with ` masq` when the source is replaced; `drop`, `reject`; `untouched`."""
    if outcome.verdict != "accept":
        return outcome.verdict
    ip, port = outcome.destination
    return f"{ip}:{port}" + (" masq" if outcome.masqueraded else "")


def node_port(**spec: Any) -> Any:
    return service(type="NodePort", ports=[{"name": "http", "port": 80, "nodePort": 30080}], **spec)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("title", "svc", "endpoints", "source", "target", "expected"),
    [
        ("pod to ClusterIP", service(), [A, B], POD, ("10.32.0.10", 80), "10.200.0.5:8080"),
        ("host to ClusterIP", service(), [A], HOST_IP, ("10.32.0.10", 80), "10.200.0.5:8080 masq"),
        ("outside to ClusterIP", service(), [A], OUTSIDE, ("10.32.0.10", 80), "10.200.0.5:8080 masq"),
        ("hairpin", service(), [A], "10.200.0.5", ("10.32.0.10", 80), "10.200.0.5:8080 masq"),
        ("a port the service has not", service(), [A], POD, ("10.32.0.10", 81), "reject"),
        ("no endpoints", service(), [], POD, ("10.32.0.10", 80), "reject"),
        ("not a service", service(), [A], POD, ("10.32.0.99", 80), "10.32.0.99:80"),
        ("NodePort from outside", node_port(), [B], OUTSIDE, (HOST_IP, 30080), "10.200.1.6:8080 masq"),
        (
            "NodePort on another host address",
            node_port(),
            [B],
            POD,
            ("10.200.0.1", 30080),
            "10.200.1.6:8080 masq",
        ),
        ("NodePort on loopback", node_port(), [B], HOST_IP, ("127.0.0.1", 30080), "127.0.0.1:30080"),
        ("NodePort without endpoints", node_port(), [], OUTSIDE, (HOST_IP, 30080), "reject"),
        (
            "NodePort on a foreign address",
            node_port(),
            [B],
            OUTSIDE,
            ("10.240.0.21", 30080),
            "10.240.0.21:30080",
        ),
        (
            "Local: from outside to this node's endpoint, source kept",
            node_port(externalTrafficPolicy="Local"),
            [A, B],
            OUTSIDE,
            (HOST_IP, 30080),
            "10.200.0.5:8080",
        ),
        (
            "Local: from outside with endpoints elsewhere only",
            node_port(externalTrafficPolicy="Local"),
            [B],
            OUTSIDE,
            (HOST_IP, 30080),
            "drop",
        ),
        (
            "Local: from a pod, any endpoint",
            node_port(externalTrafficPolicy="Local"),
            [B],
            POD,
            (HOST_IP, 30080),
            "10.200.1.6:8080",
        ),
        (
            "Local: from the host, any endpoint",
            node_port(externalTrafficPolicy="Local"),
            [B],
            HOST_IP,
            (HOST_IP, 30080),
            "10.200.1.6:8080 masq",
        ),
        (
            "Local: nobody serves at all",
            node_port(externalTrafficPolicy="Local"),
            [],
            OUTSIDE,
            (HOST_IP, 30080),
            "reject",
        ),
        (
            "internal Local: endpoint on this node",
            service(internalTrafficPolicy="Local"),
            [A, B],
            POD,
            ("10.32.0.10", 80),
            "10.200.0.5:8080",
        ),
        (
            "internal Local: endpoints elsewhere only",
            service(internalTrafficPolicy="Local"),
            [B],
            POD,
            ("10.32.0.10", 80),
            "drop",
        ),
        (
            "externalIP",
            service(externalIPs=["203.0.113.9"]),
            [A],
            OUTSIDE,
            ("203.0.113.9", 80),
            "10.200.0.5:8080 masq",
        ),
        ("UDP to a TCP port", service(), [A], POD, ("10.32.0.10", 80, "udp"), "reject"),
        (
            "terminating endpoints stand in",
            service(),
            [endpoint("10.200.0.5", ready=False, serving=True, terminating=True)],
            POD,
            ("10.32.0.10", 80),
            "10.200.0.5:8080",
        ),
        (
            "terminating endpoints give way to ready ones",
            service(),
            [endpoint("10.200.0.5", ready=False, serving=True, terminating=True), B],
            POD,
            ("10.32.0.10", 80),
            "10.200.1.6:8080",
        ),
        (
            "endpoints that are not ready do not count",
            service(),
            [endpoint("10.200.0.5", ready=False, serving=False)],
            POD,
            ("10.32.0.10", 80),
            "reject",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_fate(
    title: str, svc: Any, endpoints: Any, source: str, target: Any, expected: str, mode: str
) -> None:
    rules = ruleset(svc, slice_of("web", *endpoints), mode=mode)
    if mode == "iptables":
        expected = LEFT_ALONE.get(title, expected)
    destination, port, *protocol = target
    outcome = send(rules, source, destination, port, protocol=protocol[0] if protocol else "tcp")
    assert fate(outcome) == expected, f"{title}: {outcome.path}"


def load_balancer(**spec: Any) -> Any:
    svc = service(type="LoadBalancer", **spec)
    svc["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}}
    return svc


@pytest.mark.parametrize(
    ("source", "expected"), [("198.51.100.3", "10.200.0.5:8080 masq"), (OUTSIDE, "drop")]
)
@pytest.mark.parametrize("mode", MODES)
def test_load_balancer_source_ranges(source: str, expected: str, mode: str) -> None:
    svc = load_balancer(loadBalancerSourceRanges=["198.51.100.0/24"])
    assert fate(send(ruleset(svc, slice_of("web", A), mode=mode), source, "203.0.113.5", 80)) == expected


def test_every_endpoint_gets_its_share() -> None:
    rules = ruleset(service(), slice_of("web", *(endpoint(f"10.200.0.{n}") for n in range(2, 7))))
    reached = [send(rules, POD, "10.32.0.10", 80, pick=n).destination[0] for n in range(10)]
    assert reached == [f"10.200.0.{n}" for n in range(2, 7)] * 2


def test_session_affinity_sends_a_client_back() -> None:
    svc = service(sessionAffinity="ClientIP", sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}})
    rules = ruleset(svc, slice_of("web", A, B))
    picks = itertools.cycle([1, 0])
    tracer = Tracer(rules, HOST, lambda n: next(picks))
    first = tracer.send(Packet(POD, "10.32.0.10", 80)).destination
    assert first == ("10.200.1.6", 8080)
    assert {tracer.send(Packet(POD, "10.32.0.10", 80)).destination for _ in range(5)} == {first}
    assert tracer.send(Packet("10.200.0.8", "10.32.0.10", 80)).destination == ("10.200.0.5", 8080)
    assert {each.timeout for each in rules.sets.values() if each.timeout} == {60}


def test_node_ports_can_be_limited_to_networks() -> None:
    settings = Settings(SETTINGS.cluster_cidrs, node_port_networks=("10.240.0.0/24",))
    rules = ruleset(node_port(), slice_of("web", A), settings=settings)
    assert fate(send(rules, OUTSIDE, HOST_IP, 30080)) == "10.200.0.5:8080 masq"
    assert fate(send(rules, OUTSIDE, "10.200.0.1", 30080)) == "10.200.0.1:30080"


@pytest.mark.parametrize(
    "spec",
    [{"clusterIP": "None"}, {"clusterIP": ""}, {"type": "ExternalName"}],
)
def test_services_without_an_address_are_no_business_of_the_proxy(spec: dict[str, Any]) -> None:
    svc = service()
    svc["spec"].update(spec)
    assert service_ports(svc, [slice_of("web", A)], NODE) == []


def test_tcp_and_udp_on_one_port_are_told_apart() -> None:
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]
    svc = service(ports=ports)
    udp = slice_of("web", A, port=53, port_name="dns", protocol="UDP")
    tcp = slice_of("web", B, port=53, port_name="dns-tcp")
    tcp["metadata"]["name"] = "web-2"
    rules = ruleset(svc, udp, tcp)
    assert send(rules, POD, "10.32.0.10", 53, protocol="udp").destination == ("10.200.0.5", 53)
    assert send(rules, POD, "10.32.0.10", 53).destination == ("10.200.1.6", 53)


def test_a_lookup_costs_the_same_with_many_services() -> None:
    def chains_walked(count: int) -> int:
        ports = []
        for n in range(count):
            svc = service(f"s{n}", ip=f"10.32.{n // 250}.{n % 250 + 1}")
            ports += service_ports(svc, [slice_of(f"s{n}", A)], NODE)
        rules = compile_rules(ports, SETTINGS)
        last = ports[-1].cluster_ip
        return len(send(rules, POD, last, 80).path)

    assert chains_walked(1) == chains_walked(600)


# -- rendering ----------------------------------------------------------------------------------------------


def test_actions_of_different_kinds_are_never_equal() -> None:
    different: list[tuple[Action, Action]] = [
        (Drop(), Reject()),
        (Jump("x"), Goto("x")),
        (Return(), SetMark()),
    ]
    assert all(one != other for one, other in different)


def test_an_unchanged_rule_set_needs_no_transaction() -> None:
    rules = ruleset(service(), slice_of("web", A, B))
    assert nftables.update(rules, ruleset(service(), slice_of("web", B, A))) == ""


def test_an_added_endpoint_touches_only_its_service() -> None:
    other = service("other", ip="10.32.0.11")
    ports = service_ports(other, [slice_of("other", A)], NODE)
    before = compile_rules([*service_ports(service(), [slice_of("web", A)], NODE), *ports], SETTINGS)
    after = compile_rules([*service_ports(service(), [slice_of("web", A, B)], NODE), *ports], SETTINGS)
    text = nftables.update(before, after)
    assert "other" not in text
    assert "10.32.0.11" not in text
    assert "add chain ip kube-proxy pick-tcp-2" in text
    assert (
        "add element ip kube-proxy service-endpoints-tcp { 10.32.0.10 . 80 . 1 : 10.200.1.6 . 8080 }" in text
    )


def test_a_removed_service_leaves_nothing_behind() -> None:
    empty = compile_rules([], SETTINGS)
    text = nftables.update(ruleset(service(), slice_of("web", A)), empty)
    assert "delete element ip kube-proxy service-ips { 10.32.0.10 . tcp . 80 }" in text
    assert text.count("delete chain") == 1
    assert text.index("delete element") < text.index("flush chain") < text.index("delete chain")


def test_names_fit_the_kernel_and_stay_unique() -> None:
    long = "n" * 63
    names = {
        chain_name("endpoint", ServicePort(long, long, f"p{n}", "tcp", 80), "__10.200.0.5/8080")
        for n in range(20)
    }
    assert len(names) == 20
    assert max(map(len, names)) <= 127


# -- conntrack ----------------------------------------------------------------------------------------------


def udp(*endpoints: Endpoint, **fields: Any) -> list[ServicePort]:
    return [ServicePort("d", "dns", "dns", "udp", 53, cluster_ip="10.32.0.10", cluster=endpoints, **fields)]


ONE, TWO = Endpoint("10.200.0.5", 53), Endpoint("10.200.0.6", 53)
FRONT = ("-D", "-p", "udp", "--orig-dst", "10.32.0.10", "--orig-port-dst", "53")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (udp(ONE), udp(ONE), []),
        (udp(ONE), udp(ONE, TWO), []),
        (udp(ONE, TWO), udp(TWO), [(*FRONT, "--dst-nat", "10.200.0.5")]),
        (udp(ONE), [], [(*FRONT, "--dst-nat", "10.200.0.5")]),
        (udp(), udp(ONE), [FRONT]),
        ([], udp(ONE), [FRONT]),
        (
            udp(ONE, node_port=30053),
            udp(node_port=30053),
            [
                (*FRONT, "--dst-nat", "10.200.0.5"),
                ("-D", "-p", "udp", "--orig-port-dst", "30053", "--dst-nat", "10.200.0.5"),
            ],
        ),
    ],
)
def test_stale_udp_flows(old: Any, new: Any, expected: Any) -> None:
    assert conntrack.stale(old, new) == expected


def test_tcp_flows_are_left_alone() -> None:
    port = ServicePort("d", "web", "http", "tcp", 80, cluster_ip="10.32.0.10", cluster=(ONE,))
    assert conntrack.stale([port], []) == []


# -- hints and health checks --------------------------------------------------------------------------------


def hinted(ip: str, node: str, *zones: str, nodes: tuple[str, ...] = ()) -> Any:
    hints = {"forZones": [{"name": each} for each in zones], "forNodes": [{"name": each} for each in nodes]}
    return {**endpoint(ip, node), "hints": hints}


NEAR, FAR = hinted("10.200.0.5", "node-b", "a"), hinted("10.200.1.6", "node-c", "b")


@pytest.mark.parametrize(
    ("title", "endpoints", "zone", "expected"),
    [
        ("the zone's own", [NEAR, FAR], "a", {"10.200.0.5"}),
        ("no zone known", [NEAR, FAR], "", {"10.200.0.5", "10.200.1.6"}),
        ("nothing for this zone", [NEAR, FAR], "c", {"10.200.0.5", "10.200.1.6"}),
        ("one without hints", [NEAR, A, FAR], "b", {"10.200.0.5", "10.200.1.6"}),
        (
            "this node before this zone",
            [
                hinted("10.200.0.7", NODE, "a", nodes=(NODE,)),
                hinted("10.200.0.8", "node-b", "a", nodes=("x",)),
            ],
            "a",
            {"10.200.0.7"},
        ),
        (
            "node hints for others only",
            [hinted("10.200.0.7", NODE, "a", nodes=("x",)), hinted("10.200.0.8", "b", "b", nodes=("y",))],
            "a",
            {"10.200.0.7"},
        ),
    ],
)
def test_hints(title: str, endpoints: Any, zone: str, expected: set[str]) -> None:
    (port,) = service_ports(service(), [slice_of("web", *endpoints)], Place(NODE, zone))
    assert {each.ip for each in port.cluster} == expected, title


def test_hints_never_take_the_local_endpoints_away() -> None:
    away = hinted("10.200.0.5", NODE, "b")
    (port,) = service_ports(
        service(internalTrafficPolicy="Local"), [slice_of("web", away, NEAR)], Place(NODE, "a")
    )
    assert [each.ip for each in port.internal_endpoints] == ["10.200.0.5"]


@pytest.mark.parametrize(
    ("policy", "endpoints", "expected"),
    [
        ("Local", [A, B], {32000: ("default", "web", 1)}),
        ("Local", [B], {32000: ("default", "web", 0)}),
        (
            "Local",
            [endpoint("10.200.0.5", NODE, ready=False, serving=True, terminating=True)],
            {32000: ("default", "web", 0)},
        ),
        ("Cluster", [A], {}),
    ],
)
def test_health_checks(policy: str, endpoints: Any, expected: Any) -> None:
    svc = load_balancer(externalTrafficPolicy=policy, healthCheckNodePort=32000)
    assert health_checks(service_ports(svc, [slice_of("web", *endpoints)], NODE)) == expected


# -- programming anew ---------------------------------------------------------------------------------------


def test_programming_anew_keeps_what_affinity_remembers() -> None:
    rules = ruleset(service(sessionAffinity="ClientIP"), slice_of("web", A))
    (memory,) = (name for name, each in rules.sets.items() if each.timeout)
    listing = {
        "nftables": [
            {"metainfo": {"version": "1"}},
            {"table": {"family": "ip", "name": "kube-proxy"}},
            {"set": {"name": memory, "type": "ipv4_addr", "timeout": 10800}},
            {"set": {"name": "affinity-of-another", "timeout": 60}},
            {"set": {"name": "cluster-ips", "type": "ipv4_addr"}},
            {"map": {"name": "service-ips"}},
            {"chain": {"name": "services"}},
        ]
    }
    present = nftables.inventory(orjson.dumps(listing))
    lines = nftables.full(rules, present).splitlines()
    assert "delete table ip kube-proxy" not in lines
    assert not any(memory in line and line.split()[0] != "add" for line in lines)
    assert not any(line.startswith(f"add set ip kube-proxy {memory}") for line in lines)
    for gone in (
        "set ip kube-proxy affinity-of-another",
        "set ip kube-proxy cluster-ips",
        "chain ip kube-proxy services",
    ):
        assert f"delete {gone}" in lines
    assert lines.index("flush map ip kube-proxy service-ips") < lines.index(
        "delete chain ip kube-proxy services"
    )


def test_another_timeout_is_another_memory() -> None:
    def memories(seconds: int) -> set[str]:
        config = {"clientIP": {"timeoutSeconds": seconds}}
        rules = ruleset(service(sessionAffinity="ClientIP", sessionAffinityConfig=config), slice_of("web", A))
        return {name for name, each in rules.sets.items() if each.timeout}

    assert not memories(60) & memories(61)
