"""The list of steps holds everything that the bring-up does, each thing once."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy import addons, configs, steps
from deploy.configs import CNI_CONF, Machine
from deploy.goals import Reporter
from deploy.labs import text
from deploy.state import State
from deploy.steps import STEPS, StepError
from deploy.topology import TOPOLOGIES, Host, load
from deploy.units import TABLE
from deploy.up import Raise
from pki.layout import Part, generate

LAB = load(TOPOLOGIES / "lab.yaml")
MACHINE = Machine(restrict_oom=False)


@pytest.mark.parametrize("host", LAB.hosts, ids=lambda host: host.name)
def test_every_file_and_unit_belongs_to_one_step(host: Host, tmp_path: Path) -> None:
    inventory = generate(tmp_path, LAB.cluster_names())
    rendered = configs.files_for(LAB, host, MACHINE)
    for path in (*rendered, *inventory.host_files(host.name), CNI_CONF):
        assert steps.of_file(path) in STEPS


def test_every_add_on_and_part_of_the_pki_belongs_to_one_step() -> None:
    assert sorted(name for step in STEPS for name in step.addons) == addons.names()
    assert [step.makes for step in STEPS if step.makes is not None] == list(Part)


def test_what_belongs_to_no_step_is_refused() -> None:
    with pytest.raises(StepError, match=r"/etc/new\.conf belongs to 0 steps"):
        steps.of_file("/etc/new.conf")
    with pytest.raises(StepError, match="unit newd"):
        steps.of_unit("newd")


def test_steps_come_in_the_order_of_their_labs() -> None:
    numbers = [step.lab for step in STEPS]
    assert numbers == sorted(set(numbers))
    titles = {lab.number: lab.title.lower() for lab in text.load()}
    for step in STEPS:
        if step.lab in titles:
            assert step.name.split()[0].lower().rstrip("s") in titles[step.lab]


def test_a_part_of_the_steps_plans_a_part_of_the_files(tmp_path: Path) -> None:
    state = State("lab", tmp_path)
    inventory = generate(tmp_path, LAB.cluster_names())
    host = LAB.host("controller-0")

    def planned(upto: int) -> set[str]:
        run = Raise(LAB, state, Reporter(), steps=steps.before(upto))
        return {*run.files(host, inventory, MACHINE), *(unit.name for unit in run.units(host))}

    everything = planned(99)
    units = TABLE[host.role]
    assert everything == {*Raise(LAB, state, Reporter()).files(host, inventory, MACHINE), *units}
    assert planned(2) == set()
    assert planned(3) == {"/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/hardway/host.env"}
    assert "etcdlite" not in planned(6) and "etcdlite" in planned(7)
    assert planned(7) < planned(8) <= everything


def test_a_part_of_the_pki_is_made_alone(tmp_path: Path) -> None:
    names = LAB.cluster_names()
    generate(tmp_path, names, parts=(Part.CERTIFICATES,))
    assert not list((tmp_path / "pki").glob("*.kubeconfig"))
    assert not (tmp_path / "pki" / "encryption-config.yaml").exists()
    rest = generate(tmp_path, names)
    assert rest.changed and all("kubeconfig" in line or "encryption" in line for line in rest.changed)
