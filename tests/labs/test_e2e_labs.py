"""A cluster by hand: the labs' own commands, up to workers that run pods, on a lab of its own; then mistakes
made on purpose, each of which `hardway lab check` must say in a sentence.

`make labs` executes all labs; this is the part that runs on every change.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deploy.topology import TOPOLOGIES
from tests.e2e.lab import CommandFailed, Lab
from tests.ports import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.fail("end-to-end tests need root: they make network namespaces")
    with tempfile.TemporaryDirectory(prefix="hardway-labs-") as folder:
        document = yaml.safe_load((TOPOLOGIES / "lab.yaml").read_text())
        document["outside"] = f"127.0.0.1:{free_port()}"
        topology = Path(folder) / "lab.yaml"
        topology.write_text(yaml.safe_dump(document, sort_keys=False))
        made = Lab(topology, Path(folder) / "state")
        try:
            yield made
        finally:
            try:
                made.hardway("clean", timeout=120)
            except CommandFailed as error:
                print(f"the lab could not be removed: {error}")


def test_labs_01_to_08_as_written(lab: Lab) -> None:
    """From nothing to Ready nodes that run a pod, with no difference."""
    table = lab.hardway("lab", "run", "01-08", timeout=1100)
    print(table)
    assert table.splitlines()[-1].split()[0] == "all"
    assert table.splitlines()[-1].split()[3] == "0"


@pytest.mark.parametrize(
    ("number", "host", "mistake", "sentence"),
    [
        ("02", "worker-0", "sed -i '/balancer/d' /etc/hosts", "worker-0: /etc/hosts ends before line 8"),
        (
            "03",
            "worker-1",
            "rm /etc/kubernetes/pki/kubelet.pem",
            "worker-1: /etc/kubernetes/pki/kubelet.pem is absent",
        ),
        ("06", "controller-1", "systemctl stop etcdlite", "controller-1: etcdlite.service does not run"),
        (
            "07",
            "controller-2",
            "sed -i s/--secure-port=10259/--secure-port=10260/ /etc/systemd/system/scheduler.service; "
            "systemctl daemon-reload; systemctl restart scheduler",
            "controller-2: scheduler runs with --secure-port=10260, must be --secure-port=10259",
        ),
        (
            "08",
            "worker-2",
            "sed -i s/10.200/10.201/ /etc/cni/net.d/10-bridge.conflist",
            "worker-2: /etc/cni/net.d/",
        ),
    ],
)
def test_a_mistake_is_said_in_a_sentence_and_mended(
    lab: Lab, number: str, host: str, mistake: str, sentence: str
) -> None:
    lab.on_host(host, "sh", "-c", mistake)
    said = lab.hardway("lab", "check", number, timeout=200, code=1)
    assert sentence in said.splitlines()[0]
    lab.hardway("lab", "09", timeout=400)  # what labs 01 to 08 leave behind, whatever is there
    assert "everything is as it must be" in lab.hardway("lab", "check", number, timeout=200)


def test_up_does_not_start_a_second_cluster_on_hosts_made_by_hand(lab: Lab) -> None:
    said = lab.hardway("up", code=1)
    assert "was raised for the labs" in said


def test_a_lab_is_prepared_from_nothing(lab: Lab) -> None:
    """The hosts of this lab are planned with certificates that do not exist yet."""
    lab.hardway("clean")
    assert "Ready for lab 07" in lab.hardway("lab", "07", timeout=400)
