"""`hardway trace`: objects in, hops out, by interpreting the rules that the proxy compiles from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.state import State
from deploy.topology import TOPOLOGIES, parse
from deploy.trace import PROXY_CONFIG, Snapshot, TraceError, follow, parse_end, proxy_modes

TOPOLOGY = parse(yaml.safe_load((TOPOLOGIES / "lab.yaml").read_text()))
NODE_0, NODE_1 = "worker-0", "worker-1"
ADDRESS = {host.name: host.address for host in TOPOLOGY.hosts}


def node(name: str, number: int) -> Any:
    return {"metadata": {"name": name}, "spec": {"podCIDR": f"10.200.{number}.0/24"}}


def pod(name: str, ip: str, where: str, *, namespace: str = "default", **spec: Any) -> Any:
    containers = [{"name": "c", "ports": [{"containerPort": 8080, "name": "http"}]}]
    return {
        "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
        "spec": {"nodeName": where, "containers": containers, **spec},
        "status": {"podIP": ip, "phase": "Running"},
    }


def service(name: str, ip: str, **spec: Any) -> Any:
    ports = [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": spec.pop("node_port", 0)}]
    return {
        "metadata": {"namespace": "default", "name": name, "uid": name, "resourceVersion": "1"},
        "spec": {"clusterIP": ip, "ports": ports, **spec},
    }


def endpoints(name: str, *ends: tuple[str, str]) -> Any:
    labels = {"kubernetes.io/service-name": name}
    return {
        "metadata": {"namespace": "default", "name": f"{name}-1", "labels": labels},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [ip], "nodeName": where, "conditions": {}} for ip, where in ends],
    }


CLIENT, NEAR, FAR = (
    pod("client", "10.200.0.2", NODE_0),
    pod("near", "10.200.0.3", NODE_0),
    pod("far", "10.200.1.4", NODE_1),
)


def world(policies: tuple[Any, ...] = (), *, pods: tuple[Any, ...] = (CLIENT, NEAR, FAR)) -> Snapshot:
    return Snapshot(
        nodes=[node(NODE_0, 0), node(NODE_1, 1)],
        pods=list(pods),
        namespaces=[{"metadata": {"name": "default"}}],
        services=[
            service("near", "10.32.0.20"),
            service("far", "10.32.0.21", node_port=30080, type="NodePort"),
            service("empty", "10.32.0.22"),
            service("names", "None"),
            service("out", "", type="ExternalName", externalName="example.org"),
        ],
        endpoint_slices=[
            endpoints("near", ("10.200.0.3", NODE_0)),
            endpoints("far", ("10.200.1.4", NODE_1)),
            endpoints("names", ("10.200.1.4", NODE_1)),
        ],
        policies=list(policies),
    )


def deny(name: str, *, ingress: Any = ()) -> Any:
    spec = {"podSelector": {"matchLabels": {"app": name}}, "ingress": list(ingress)}
    return {"metadata": {"namespace": "default", "name": f"for-{name}"}, "spec": spec}


def steps(source: str, target: str, objects: Snapshot | None = None) -> tuple[list[str], bool]:
    found = follow(world() if objects is None else objects, TOPOLOGY, source, target)
    return [f"{hop.where} {hop.step}" for hop in found.hops], found.arrived


@pytest.mark.parametrize(
    ("target", "expected", "arrived"),
    [
        (
            "svc/near",
            [
                "source pod DNS",
                "pod default/client send",
                "worker-0 rules",
                "worker-0 bridge",
                "pod default/near arrive",
            ],
            True,
        ),
        (
            "far",
            [
                "source pod DNS",
                "pod default/client send",
                "worker-0 rules",
                "worker-0 route",
                "router route",
                "worker-1 bridge",
                "pod default/far arrive",
            ],
            True,
        ),
        (
            "pod/far",
            [
                "pod default/client send",
                "worker-0 route",
                "router route",
                "worker-1 bridge",
                "pod default/far arrive",
            ],
            True,
        ),
        ("svc/empty", ["source pod DNS", "pod default/client send", "worker-0 rules"], False),
        (
            "names",
            [
                "source pod DNS",
                "pod default/client send",
                "worker-0 route",
                "router route",
                "worker-1 bridge",
                "pod default/far arrive",
            ],
            True,
        ),
        ("svc/out", ["source pod DNS", "source pod stop"], False),
        (
            "host/worker-1",
            ["source pod name", "pod default/client send", "worker-0 route", "worker-1 arrive"],
            True,
        ),
        ("192.0.2.1", ["pod default/client send", "worker-0 route", "router route"], False),
        ("10.200.0.77", ["pod default/client send", "worker-0 bridge"], False),
        ("10.200.9.9", ["pod default/client send", "worker-0 route", "router route"], False),
        (
            "controller-0",
            ["source pod name", "pod default/client send", "worker-0 route", "controller-0 arrive"],
            True,
        ),
    ],
)
def test_the_way(target: str, expected: list[str], arrived: bool) -> None:
    assert steps("client", target) == (expected, arrived)


def test_a_node_port_of_another_node_is_translated_there() -> None:
    found = follow(world(), TOPOLOGY, "client", "host/worker-1:30080")
    assert found.arrived
    (rules,) = (hop for hop in found.hops if hop.step == "rules")
    assert rules.where == NODE_1
    assert f"{ADDRESS[NODE_1]}:30080 becomes 10.200.1.4:8080" in rules.detail
    assert "external-" in rules.detail


def test_what_each_hop_says() -> None:
    text = str(follow(world(), TOPOLOGY, "client", "far"))
    for part in (
        f"far.default.svc.cluster.local at {TOPOLOGY.network.cluster_dns}: 10.32.0.21",
        "10.32.0.21:80 becomes 10.200.1.4:8080 (services > pick-tcp-1)",
        f"10.200.1.0/24 via {ADDRESS[NODE_1]} (worker-1)",
        "10.200.1.4:8080 from 10.200.0.2",
    ):
        assert part in text
    assert text.endswith("\narrives")


def test_a_policy_of_the_target_drops_on_its_node() -> None:
    found = follow(world((deny("far"),)), TOPOLOGY, "client", "far")
    assert not found.arrived
    assert (found.hops[-1].where, found.hops[-1].step) == (NODE_1, "policy")


def test_a_policy_that_allows_is_named() -> None:
    allowing = deny("near", ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}])
    found = follow(world((allowing,)), TOPOLOGY, "client", "near")
    assert found.arrived
    assert any(hop.step == "policy" and "default/for-near" in hop.detail for hop in found.hops)


def test_a_pod_behind_a_service_can_be_the_source() -> None:
    ways, arrived = steps("svc/far", "pod/near")
    assert ways[0] == "pod default/far send"
    assert arrived


@pytest.mark.parametrize(
    ("source", "target", "named"),
    [
        ("nobody", "near", "default/nobody"),
        ("client", "pod/nobody", "no pod default/nobody"),
        ("client", "nowhere", "nowhere"),
        ("client", "svc/a/b/c", "is not"),
        ("client", "host/worker-1:http", "'http'"),
    ],
)
def test_ends_that_do_not_exist_are_named(source: str, target: str, named: str) -> None:
    with pytest.raises(TraceError, match=named):
        follow(world(), TOPOLOGY, source, target)


def test_a_pod_without_an_address_cannot_send() -> None:
    waiting = pod("waiting", "", NODE_0)
    with pytest.raises(TraceError, match="no address yet"):
        follow(world(pods=(waiting,)), TOPOLOGY, "waiting", "near")


def test_ends_as_they_are_written() -> None:
    assert parse_end("pod/shop/web:http") == ("pod", "shop", "web", "http")
    assert parse_end("shop/web") == ("", "shop", "web", "")
    assert parse_end("host/worker-0:22") == ("host", "default", "worker-0", "22")


RELAYED = replace(TOPOLOGY, network=replace(TOPOLOGY.network, proxy_mode="userspace"))


@pytest.mark.parametrize("target", ["svc/near", "svc/empty", "host/worker-0:30080"])
def test_a_node_that_relays_has_no_rules_to_follow_and_says_so(target: str) -> None:
    with pytest.raises(TraceError, match=r"worker-0 relays .* \(its proxy's mode: userspace\)"):
        follow(world(), RELAYED, "client", target)


def test_a_pod_is_reached_past_the_relays_and_past_policies() -> None:
    found = follow(world((deny("far"),)), RELAYED, "client", "pod/far")
    assert found.arrived
    said = [hop.detail for hop in found.hops if hop.step == "policy"]
    assert said == ["not enforced: no packet filter (its proxy's mode: userspace)"]
    assert follow(world(), RELAYED, "client", "host/worker-0:22").arrived


def test_a_node_is_judged_by_the_mode_of_its_own_proxy() -> None:
    only_far = {NODE_1: "userspace"}
    assert follow(world(), TOPOLOGY, "client", "svc/near", only_far).arrived
    with pytest.raises(TraceError, match="worker-1 relays"):
        follow(world(pods=(pod("client", "10.200.1.2", NODE_1), NEAR)), TOPOLOGY, "client", "near", only_far)
    assert follow(world(), RELAYED, "client", "svc/near", {NODE_0: "nftables"}).arrived
    ruled = follow(world(), RELAYED, "client", "svc/far", {NODE_0: "iptables", NODE_1: "iptables"})
    assert ruled.arrived
    [changed] = [hop.detail for hop in ruled.hops if hop.step == "rules"]
    assert changed.startswith("10.32.0.21:80 becomes 10.200.1.4:8080 (nat/KUBE-SVC-")


def test_modes_are_read_from_the_hosts(tmp_path: Path) -> None:
    state = State("lab", tmp_path)
    for name, text in ((NODE_0, "mode: userspace"), (NODE_1, "mode: [")):
        file = state.host(name) / PROXY_CONFIG
        file.parent.mkdir(parents=True)
        file.write_text(text)
    assert proxy_modes(state, TOPOLOGY) == {NODE_0: "userspace"}
