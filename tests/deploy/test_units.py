"""Units: their command lines, and swapping one for a foreign program."""

from __future__ import annotations

import json

import pytest

from deploy.topology import TOPOLOGIES, Topology, TopologyError, UnitOverride, load
from deploy.units import Unit, packages_of, units_for

LAB = load(TOPOLOGIES / "lab.yaml")


def units(name: str, topology: Topology = LAB) -> dict[str, Unit]:
    found = units_for(topology, topology.host(name), cgroup_root="/hardway/lab/x")
    return {unit.name: unit for unit in found}


def overridden(**overrides: UnitOverride) -> Topology:
    from dataclasses import replace

    return replace(LAB, units=overrides)


@pytest.mark.parametrize(
    ("host", "names"),
    [
        (
            "controller-1",
            ["etcdlite", "apiserver", "controllers", "scheduler", "cloudcontroller", "metricsserver"],
        ),
        ("worker-2", ["containerd", "kubelet", "kubeproxy"]),
        ("balancer", ["haproxy"]),
    ],
)
def test_what_runs_where(host: str, names: list[str]) -> None:
    assert list(units(host)) == names


def test_etcd_knows_itself_and_its_peers() -> None:
    argv = units("controller-1")["etcdlite"].argv
    assert "--name=controller-1" in argv
    assert "--initial-advertise-peer-urls=https://10.240.0.11:2380" in argv
    assert "--listen-client-urls=https://10.240.0.11:2379,https://127.0.0.1:2379" in argv
    members = "controller-0=https://10.240.0.10:2380,controller-1=https://10.240.0.11:2380"
    assert f"--initial-cluster={members},controller-2=https://10.240.0.12:2380" in argv


def test_an_apiserver_prefers_its_own_member_and_knows_all() -> None:
    flags = units("controller-2")["apiserver"].flags
    assert (
        flags["etcd-servers"] == "https://10.240.0.12:2379,https://10.240.0.10:2379,https://10.240.0.11:2379"
    )
    assert flags["advertise-address"] == "10.240.0.12"


def test_members_differ_only_in_their_names_and_addresses() -> None:
    one, other = units("controller-0")["etcdlite"].flags, units("controller-1")["etcdlite"].flags
    assert {flag for flag in one if one[flag] != other[flag]} == {
        "name",
        "initial-advertise-peer-urls",
        "listen-peer-urls",
        "listen-client-urls",
        "advertise-client-urls",
    }


def test_the_kubelet_is_told_its_cgroup() -> None:
    assert units("worker-0")["kubelet"].flags["cgroup-root"] == "/hardway/lab/x"


def test_a_foreign_program_takes_the_place_with_the_same_flags() -> None:
    plain = units("controller-0")["etcdlite"]
    swapped = units("controller-0", overridden(etcdlite=UnitOverride("/usr/bin/etcd")))["etcdlite"]
    assert (swapped.package, swapped.program) == (None, "/usr/bin/etcd")
    assert swapped.argv == plain.argv


def test_flags_are_set_and_dropped() -> None:
    override = UnitOverride(flags={"heartbeat-interval": "50", "client-cert-auth": None})
    argv = units("controller-0", overridden(etcdlite=override))["etcdlite"].argv
    assert argv[-1] == "--heartbeat-interval=50"
    assert not any(argument.startswith("--client-cert-auth") for argument in argv)


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(
        TopologyError, match=r"units\.etcd: no such unit \(there are apiserver, cloudcontroller"
    ):
        units("controller-0", overridden(etcd=UnitOverride("/usr/bin/etcd")))


def test_a_unit_is_warm_or_foreign() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        Unit(name="x")
    with pytest.raises(ValueError, match="exactly one"):
        Unit(name="x", package="x", program="x")


def test_json_round_trip() -> None:
    unit = Unit(
        name="x", program="p", arguments=("-d",), flags={"a": "1"}, inherits=(7,), environment={"E": "1"}
    )
    assert Unit.from_json(json.loads(json.dumps(unit.to_json()))) == unit


def test_each_package_is_imported_once() -> None:
    everything = [unit for host in LAB.hosts for unit in units(host.name).values()]
    assert packages_of(everything) == (
        "etcdlite",
        "apiserver",
        "controllers",
        "scheduler",
        "cloudcontroller",
        "metricsserver",
        "kubelet",
        "kubeproxy",
    )
