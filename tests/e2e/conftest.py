"""One cluster for the whole session, raised by the command that users type, and the machine as it was
before.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from deploy.topology import TOPOLOGIES
from tests.e2e.lab import OUTSIDE, CommandFailed, Lab
from tests.e2e.machine import Machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs the cluster; one test may take minutes."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def machine_before() -> Machine:
    if os.geteuid() != 0:
        pytest.fail("end-to-end tests need root: they make network namespaces")
    return Machine.look()


@pytest.fixture(scope="session")
def lab(machine_before: Machine) -> Iterator[Lab]:
    """Three controllers, three workers; its own name, state and outside port, so that it disturbs no other
    cluster.
    """
    with tempfile.TemporaryDirectory(prefix="hardway-e2e-") as folder:
        document = yaml.safe_load((TOPOLOGIES / "lab.yaml").read_text())
        document["name"], document["outside"] = "e2e", OUTSIDE
        topology = Path(folder) / "e2e.yaml"
        topology.write_text(yaml.safe_dump(document))
        made = Lab(topology, Path(folder) / "state")
        try:
            print(made.hardway("up", timeout=300))
            yield made
        finally:
            try:
                made.hardway("clean", timeout=120)
            except CommandFailed as error:
                print(f"the cluster could not be removed: {error}")
