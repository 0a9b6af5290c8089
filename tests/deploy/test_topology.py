"""The topology file: what it means, and that every mistake in it is refused with the field's name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.topology import TOPOLOGIES, TopologyError, load, parse

LAB: dict[str, Any] = yaml.safe_load((TOPOLOGIES / "lab.yaml").read_text())


def test_lab_is_the_cluster_of_the_hard_way() -> None:
    lab = load(TOPOLOGIES / "lab.yaml")
    assert [(host.name, host.address) for host in lab.by_role("controller")] == [
        (f"controller-{n}", f"10.240.0.1{n}") for n in range(3)
    ]
    assert [(host.name, host.address) for host in lab.by_role("worker")] == [
        (f"worker-{n}", f"10.240.0.2{n}") for n in range(3)
    ]
    assert (lab.server, lab.outside_server) == ("https://10.240.0.30:6443", "https://127.0.0.1:6443")
    assert (lab.network.service_ip, lab.network.cluster_dns) == ("10.32.0.1", "10.32.0.10")


def test_certificates_name_what_the_topology_names() -> None:
    names = load(TOPOLOGIES / "lab.yaml").cluster_names()
    assert {"10.32.0.1", "10.240.0.10", "10.240.0.30", "127.0.0.1"} <= set(names.apiserver_ips())
    assert set(names.workers) == {"worker-0", "worker-1", "worker-2"}


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    document = copy.deepcopy(LAB)
    change(document)
    return document


def host(index: int, **fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["hosts"][index].update(fields)


def network(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["network"].update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("name"), "name: required"),
        (lambda d: d.update(name="A lab"), "name: 'A lab' must be a lower-case label"),
        (lambda d: d.update(colour="red"), "colour: unknown field"),
        (lambda d: d.update(hosts=[]), "hosts: must be a non-empty list"),
        (lambda d: d.update(network=[]), r"network\.: must be a mapping"),
        (lambda d: d["hosts"].pop(), "hosts: exactly one balancer is needed"),
        (lambda d: d.update(hosts=d["hosts"][3:]), "hosts: at least one controller is needed"),
        (host(0, name="a-name-of-16-char"), r"hosts\[0\].name: .* at most 15 characters"),
        (host(1, role="master"), r"hosts\[1\].role: 'master' is not one of controller, worker, balancer"),
        (host(2, address="10.240.0.300"), r"hosts\[2\].address: '10.240.0.300' is not an IPv4 address"),
        (
            host(2, address="10.9.0.3"),
            r"hosts\[2\].address: 10.9.0.3 must be a free address of 10.240.0.0/24",
        ),
        (host(2, address="10.240.0.1"), r"hosts\[2\].address: 10.240.0.1 must be a free address"),
        (host(2, address="10.240.0.10"), "hosts: address 10.240.0.10 appears twice"),
        (host(2, name="controller-0"), "hosts: name controller-0 appears twice"),
        (host(3, podCIDR="10.9.0.0/24"), r"hosts\[3\].podCIDR: must be a /24 of network.pods"),
        (host(3, memory="1G"), r"hosts\[3\].memory: unknown field"),
        (
            network(services="10.200.4.0/24", clusterDNS="10.200.4.10"),
            "network.services: overlaps network.pods",
        ),
        (network(clusterDNS="10.33.0.10"), "network.clusterDNS: must lie in network.services"),
        (network(nodeMaskSize=16), "network.nodeMaskSize: must lie between 17 and 30"),
        (network(router="10.240.0.1/99"), "network.router: '10.240.0.1/99' is not an address with a prefix"),
        (network(pods="10.200.0.1/16"), "network.pods: '10.200.0.1/16' is not an IPv4 network"),
        (lambda d: d.update(outside="127.0.0.1"), "outside: '127.0.0.1' is not address:port"),
        (lambda d: d.update(outside="localhost:6443"), "outside: 'localhost' is not an IPv4 address"),
        (lambda d: d.update(units={"etcdlite": {"cmd": "x"}}), r"units.etcdlite.cmd: unknown field"),
        (lambda d: d.update(units={"etcdlite": {"flags": []}}), r"units.etcdlite.flags: must be a mapping"),
    ],
)
def test_refusals(change: Callable[[dict[str, Any]], object], message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        parse(changed(change))


def test_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("name: [")
    with pytest.raises(TopologyError, match=r"broken\.yaml: not YAML"):
        load(path)
    path.write_text("name: lab")
    with pytest.raises(TopologyError, match=r"broken\.yaml: network: required"):
        load(path)
