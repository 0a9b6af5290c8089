"""Faults in force are written down, and undone by whoever comes first: exactly once, in the right order."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deploy import topology
from deploy.chaos import active, catalogue, disks
from deploy.chaos.active import Record
from deploy.chaos.catalogue import CatalogueError, Entry, Values
from deploy.chaos.lab import Lab
from deploy.chaos.targets import Target
from deploy.faults.fault import Fault, FaultError
from deploy.state import State
from deploy.topology import TOPOLOGIES

FILE = TOPOLOGIES / "lab.yaml"
STORE = Target("controller-0", "etcdlite")
WORKER = Target("worker-0")


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What was applied and undone, instead of anything being done; no keeper is started."""
    said: list[str] = []

    def build(name: str) -> catalogue.Build:
        def make(lab: Lab, targets: tuple[Target, ...], values: Values, key: str) -> Fault:
            where = ", ".join(str(target) for target in targets)

            def apply() -> None:
                if values.get("ms") == 666:
                    raise FaultError("no such luck")
                said.append(f"+{name} {where}")

            return Fault(name, apply, lambda: said.append(f"-{name} {where}"))

        return make

    faked = {name: replace(entry, build=build(name)) for name, entry in catalogue.FAULTS.items()}
    monkeypatch.setattr(catalogue, "FAULTS", faked)
    monkeypatch.setattr(active, "ensure_keeper", lambda lab: None)
    monkeypatch.setattr(disks, "SATISFIED", dict.fromkeys(disks.SATISFIED, lambda lab, host: False))
    return said


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(topology.load(FILE), State("lab", tmp_path), FILE)


def test_in_force_until_undone(lab: Lab, done: list[str]) -> None:
    handle = active.inject(lab, "delay", WORKER, ms="50")
    assert [record.fault for record in active.active(lab)] == ["delay"]
    assert handle.record.values == {"ms": 50.0, "jitter": 0.0}
    assert handle.record.until is None
    handle.undo()
    handle.undo()
    assert done == ["+delay worker-0", "-delay worker-0"]
    assert active.active(lab) == []


def test_what_happens_once_leaves_nothing(lab: Lab, done: list[str]) -> None:
    active.inject(lab, "kill", STORE)
    assert done == ["+kill controller-0/etcdlite", "-kill controller-0/etcdlite"]
    assert active.active(lab) == []


def test_with_a_duration_it_stays_down(lab: Lab, done: list[str]) -> None:
    handle = active.inject(lab, "kill", STORE, 30.0)
    assert done == ["+kill controller-0/etcdlite"]
    assert handle.record.until is not None
    assert active.sweep(lab) == []
    later = replace(handle.record, until=handle.record.since - 1)
    assert active.due(later, handle.record.since)


def test_another_process_sees_and_undoes_it(lab: Lab, done: list[str]) -> None:
    active.inject(lab, "pause", STORE)
    [record] = active.active(Lab(lab.topology, lab.state, FILE))
    assert active.undo(lab, record)
    assert not active.undo(lab, record)
    assert done == ["+pause controller-0/etcdlite", "-pause controller-0/etcdlite"]


def test_what_a_fault_needs_is_in_force_around_it(lab: Lab, done: list[str]) -> None:
    handle = active.inject(lab, "disk-full", Target("controller-0"))
    handle.undo()
    where = "controller-0/etcdlite"
    assert done == [
        f"+small-disk {where}",
        f"+disk-full {where}",
        f"-disk-full {where}",
        f"-small-disk {where}",
    ]


def test_what_is_there_is_not_needed_again(
    lab: Lab, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disks, "SATISFIED", {"small-disk": lambda lab, host: True})
    active.inject(lab, "disk-full", Target("controller-0"))
    assert done == ["+disk-full controller-0/etcdlite"]


def test_a_fault_that_fails_is_not_in_force(lab: Lab, done: list[str]) -> None:
    with pytest.raises(FaultError, match="no such luck"):
        active.inject(lab, "disk-slow", STORE, ms=666)
    where = "controller-0/etcdlite"  # what failed half-way is undone as well
    assert done == [f"+watched-disk {where}", f"-disk-slow {where}", f"-watched-disk {where}"]
    assert active.active(lab) == []


def test_the_newest_is_undone_first(lab: Lab, done: list[str]) -> None:
    active.inject(lab, "pause", STORE)
    active.inject(lab, "delay", WORKER)
    active.sweep(lab, everything=True)
    assert done[2:] == ["-delay worker-0", "-pause controller-0/etcdlite"]


def test_a_fault_ends_with_its_owner(lab: Lab, done: list[str]) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    handle = active.inject(lab, "pause", STORE)
    record = replace(handle.record, owner=owner.pid, owner_started=active.started_at(owner.pid) or 0)
    assert not active.due(record, record.since)
    owner.communicate(b"\n")
    assert active.due(record, record.since)


def test_a_pid_that_is_used_again_is_not_the_owner(lab: Lab, done: list[str]) -> None:
    mine = active.inject(lab, "pause", STORE).record
    assert mine.owner == os.getpid()
    assert not active.orphaned(mine)
    assert active.orphaned(replace(mine, owner_started=mine.owner_started - 1))
    assert not active.orphaned(active.inject(lab, "delay", WORKER, detached=True).record)


def test_half_a_record_is_no_fault(lab: Lab, done: list[str]) -> None:
    active.inject(lab, "pause", STORE)
    (active.folder(lab) / "x.json").write_text('{"id": "x"')
    assert len(active.active(lab)) == 1


def test_before_down_everything_is_undone_but_power(
    lab: Lab, done: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    active.inject(lab, "pause", STORE)
    active.inject(lab, "power-off", WORKER)
    active.end_all(lab)
    assert done[2:] == ["-pause controller-0/etcdlite"]
    assert active.active(lab) == []


def test_a_keeper_undoes_what_is_due_and_ends(
    lab: Lab, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active, "KEEPER_INTERVAL", 0.0)
    monkeypatch.setattr(active, "KEEPER_IDLE", 1e9)  # the cluster is not up: it does not stay
    active.inject(lab, "pause", STORE, 1e-9)
    active.keep(lab)
    assert done == ["+pause controller-0/etcdlite", "-pause controller-0/etcdlite"]


def test_one_keeper_a_cluster(lab: Lab, done: list[str]) -> None:
    active.inject(lab, "pause", STORE, 1e-9)
    with active._locked(lab, "keeper.lock"):
        active.keep(lab)
    assert done == ["+pause controller-0/etcdlite"]


@pytest.mark.parametrize(
    ("fault", "targets", "params", "words"),
    [
        ("delay", [STORE], {}, "strikes a whole host, not the unit controller-0/etcdlite"),
        ("restart", [WORKER], {}, "strikes a unit: worker-0/containerd, worker-0/kubelet"),
        ("restart", [Target("worker-0", "etcdlite")], {}, "worker-0 runs no etcdlite"),
        ("disk-full", [WORKER], {}, "worker-0 is a worker, not a controller"),
        ("delay", [WORKER, Target("worker-1")], {}, "one target at a time, not 2"),
        ("delay", [WORKER], {"speed": 1}, "no parameter 'speed'"),
        ("drizzle", [WORKER], {}, "no fault is called 'drizzle'"),
    ],
)
def test_refused_before_anything_is_done(
    lab: Lab, done: list[str], fault: str, targets: list[Target], params: dict[str, object], words: str
) -> None:
    with pytest.raises(CatalogueError, match=words):
        active.inject(lab, fault, targets, **params)
    assert done == []


def test_a_record_says_itself() -> None:
    record = Record("ab12", "delay", ("worker-0",), {"ms": 100.0, "jitter": 0.0}, 50.0, 80.0, 1, 1)
    assert record.say(60.0) == "ab12  delay worker-0 ms=100 jitter=0 (for 20 s more)"
    assert replace(record, until=None, values={}).say(60.0) == "ab12  delay worker-0 (until undone)"


def test_the_catalogue_is_data_for_a_form() -> None:
    described = {each["name"]: each for each in catalogue.describe()}
    assert described["delay"]["parameters"][0] == {
        "name": "ms", "default": 100, "help": "milliseconds each way", "choices": [],
    }  # fmt: skip
    for entry in catalogue.ENTRIES:
        assert isinstance(entry, Entry)
        assert entry.values({}) == {each.name: each.parse(each.default) for each in entry.parameters}
        assert entry.needs is None or entry.needs in disks.SATISFIED
