"""`make down` leaves the machine as it was; state survives it."""

from __future__ import annotations

import dataclasses

from tests.e2e.lab import OUTSIDE, Lab
from tests.e2e.machine import Machine


def test_down_leaves_nothing_and_up_finds_everything(lab: Lab, machine_before: Machine) -> None:
    lab.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    lab.hardway("down")
    after = Machine.look()
    for field in dataclasses.fields(Machine):
        if field.name == "listeners":
            continue  # other programs of the machine may listen meanwhile
        before, now = getattr(machine_before, field.name), getattr(after, field.name)
        if isinstance(now, frozenset):
            assert not now - before, f"{field.name}: left behind"
        else:
            assert now == before, field.name
    assert OUTSIDE not in after.listeners
    lab.hardway("up")
    assert lab.get("configmap", "kept")["data"] == {"a": "b"}
    lab.hardway("down")
