"""A unit started with something changed: for one life, and what the supervisor starts after it."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from deploy.supervisor import Supervisor, changed_unit
from deploy.units import Unit

UNIT = Unit(name="store", package="etcdlite", flags={"name": "a", "initial-cluster-state": "new"})


def test_flags_and_variables_are_merged_over_its_own() -> None:
    changed = changed_unit(
        UNIT,
        {"flags": {"initial-cluster-state": "existing"}, "environment": {"A": "b"}, "wrap": ["nice", "-n5"]},
    )
    assert changed.argv == ("--name=a", "--initial-cluster-state=existing")
    assert changed.environment == {"A": "b"}
    assert changed.wrap == ("nice", "-n5")
    assert changed_unit(UNIT, {}) == UNIT
    assert Unit.from_json(changed.to_json()) == changed


@pytest.mark.parametrize(
    ("request_", "fresh"),
    [
        ({}, False),
        ({"flags": {"name": "b"}}, False),
        ({"fresh": True}, True),
        ({"environment": {"LD_PRELOAD": "x"}}, True),
        ({"wrap": ["nice"]}, True),
    ],
)
def test_what_only_a_new_program_can_take_up_makes_one(
    request_: dict[str, Any], fresh: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[str] = []
    monkeypatch.setattr(Supervisor, "start", lambda self, name: started.append(name))
    with socket.socket() as listener:
        supervisor = Supervisor("host", [UNIT], listener)
        supervisor.command({"command": "start", "unit": "store", **request_})
    assert started == ["store"]
    assert ("store" in supervisor.fresh) is fresh
    assert supervisor.changed["store"] == changed_unit(UNIT, request_)


def test_the_next_start_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervisor, "start", lambda self, name: None)
    with socket.socket() as listener:
        supervisor = Supervisor("host", [UNIT], listener)
        supervisor.command({"command": "start", "unit": "store", "flags": {"name": "b"}, "wrap": ["nice"]})
        supervisor.command({"command": "start", "unit": "store"})
    assert supervisor.changed["store"] == UNIT
    assert "store" not in supervisor.fresh
