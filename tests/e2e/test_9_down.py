"""`make down` leaves the machine as it was; state survives it."""

from __future__ import annotations

import dataclasses

from tests.e2e.lab import Lab
from tests.e2e.machine import Machine


def test_down_leaves_nothing_and_up_finds_everything(lab: Lab, machine_before: Machine) -> None:
    lab.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    lab.hardway("down")
    after = Machine.look()
    for field in dataclasses.fields(Machine):
        assert getattr(after, field.name) == getattr(machine_before, field.name), field.name
    lab.hardway("up")
    assert lab.get("configmap", "kept")["data"] == {"a": "b"}
    lab.hardway("down")
