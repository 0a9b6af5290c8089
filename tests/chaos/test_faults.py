"""What each fault is made of, as far as it can be told without a cluster."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from deploy import topology
from deploy.chaos import certificates, disks, links, machines
from deploy.chaos.catalogue import ENTRIES, FAULTS
from deploy.chaos.lab import Lab
from deploy.chaos.targets import Target
from deploy.faults.fault import FaultError
from deploy.state import State
from deploy.topology import TOPOLOGIES, TopologyError
from pki import layout
from pki.certs import chain_flaw, time_flaw

FILE = TOPOLOGIES / "lab.yaml"
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """No host of it is up."""
    return Lab(topology.load(FILE), State("lab", tmp_path), FILE)


@pytest.mark.parametrize(
    ("side", "wanted", "far"),
    [
        (["controller-0"], "controllers", ["controller-1", "controller-2"]),
        (["controller-0", "controller-2"], "controllers", ["controller-1"]),
        (["worker-0"], "controllers,balancer", ["controller-0", "controller-1", "controller-2", "balancer"]),
        (["worker-0"], "worker-1, worker-0", ["worker-1"]),
    ],
)
def test_the_far_side(lab: Lab, side: list[str], wanted: str, far: list[str]) -> None:
    assert list(links.others(lab, side, wanted)) == far


def test_everyone_includes_the_router_and_not_oneself(lab: Lab) -> None:
    far = links.others(lab, ["controller-0"], "everyone")
    assert len(far) == 6
    found = links.addresses(lab, far, router=True)
    assert "10.240.0.1" in found
    assert "10.240.0.10" not in found


def test_a_partition_from_nobody_is_refused(lab: Lab) -> None:
    with pytest.raises(FaultError, match="nobody is left"):
        links.others(lab, ["controller-0", "controller-1", "controller-2"], "controllers")
    with pytest.raises(TopologyError, match="no host 'moon'"):
        links.others(lab, ["controller-0"], "moon")


@pytest.mark.parametrize("entry", [entry for entry in ENTRIES if entry.lasting], ids=lambda entry: entry.name)
def test_undoing_on_a_host_that_is_down_does_nothing(
    entry: object, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host may lose power while a fault is in force: what the fault left went with it."""
    monkeypatch.setattr(machines, "power_on", lambda lab, hosts: None)
    layout.generate(lab.state.root, lab.topology.cluster_names())
    chosen = FAULTS[getattr(entry, "name", "")]
    unit = chosen.unit or ("apiserver" if chosen.target == "unit" else None)
    fault = chosen.build(lab, (Target("controller-0", unit),), chosen.values({}), "key")
    fault.adopt()
    fault.undo()


def test_the_offset_touches_the_wall_clock_alone() -> None:
    environment = machines.faketime_environment("/lib/x.so", -3600)
    assert environment["FAKETIME"] == "-3600.000s"
    assert environment["FAKETIME_DONT_FAKE_MONOTONIC"] == "1"
    assert environment["LD_PRELOAD"] == "/lib/x.so"


def test_a_clock_needs_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "LIBRARIES", ("/nowhere/*.so",))
    with pytest.raises(FaultError, match="libfaketime is not installed"):
        machines.faketime_library()


def _expired(leaf: x509.Certificate, authority: x509.Certificate) -> None:
    assert chain_flaw(leaf, authority) is None
    assert "expired" in (time_flaw(leaf, NOW, datetime.timedelta()) or "")


def _another_ca(leaf: x509.Certificate, authority: x509.Certificate) -> None:
    assert chain_flaw(leaf, authority) is not None
    assert leaf.issuer == authority.subject  # only the signature tells
    assert time_flaw(leaf, NOW, datetime.timedelta()) is None


@pytest.mark.parametrize(("flaw", "check"), [("expired", _expired), ("another-ca", _another_ca)])
def test_a_forged_certificate_has_one_flaw(
    lab: Lab, flaw: str, check: Callable[[x509.Certificate, x509.Certificate], None]
) -> None:
    layout.generate(lab.state.root, lab.topology.cluster_names(), now=NOW)
    pki = lab.state.root / "pki"
    leaves = {leaf.stem: leaf for leaf in layout.leaves(lab.topology.cluster_names())}
    made = x509.load_pem_x509_certificate(certificates.forge(pki, leaves["apiserver"], flaw, NOW))
    true = x509.load_pem_x509_certificate((pki / "apiserver.pem").read_bytes())
    assert made.public_key() == true.public_key()
    check(made, x509.load_pem_x509_certificate((pki / "ca.pem").read_bytes()))


def test_every_certificate_named_is_one_of_the_cluster(lab: Lab) -> None:
    stems = {leaf.stem for leaf in layout.leaves(lab.topology.cluster_names())}
    for host, unit in (("controller-1", "etcdlite"), ("controller-1", "apiserver"), ("worker-1", "kubelet")):
        assert set(certificates.stems(host, unit).values()) <= stems
    with pytest.raises(FaultError, match="scheduler has no serving certificate"):
        certificates.stems("controller-0", "scheduler")


def test_the_log_that_was_written_last(tmp_path: Path) -> None:
    wal = tmp_path / "member" / "wal"
    wal.mkdir(parents=True)
    with pytest.raises(FaultError, match="has no log"):
        disks.last_segment(tmp_path)
    for name in ("0001.wal", "0002.wal", "0003.wal.tmp"):
        (wal / name).touch()
    assert disks.last_segment(tmp_path).name == "0002.wal"
