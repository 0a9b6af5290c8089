"""Scenario files: what ships can be run, and what cannot be is refused with the field's path."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from deploy.chaos import schema
from deploy.chaos.catalogue import CatalogueError, entry
from deploy.chaos.schema import ALWAYS, ASKED, ScenarioError, Step

GOOD: dict[str, Any] = {
    "name": "good",
    "title": "Good",
    "length": "20s",
    "faults": [
        {"at": "1s", "fault": "kill", "target": "leader/etcdlite", "every": "4s", "times": 3},
        {"at": "2s", "fault": "delay", "target": "follower", "for": "1m", "with": {"ms": 50}},
    ],
    "expect": ["writes-continue"],
}


def test_a_good_one() -> None:
    made = schema.parse(GOOD)
    assert made.length == 20.0
    assert made.steps[0] == Step(1.0, "kill", "leader/etcdlite", None, {}, 4.0, 3)
    assert made.steps[1].values == {"ms": 50.0, "jitter": 0.0}
    assert made.steps[1].ends == 62.0
    assert made.checks == (*ALWAYS, "writes-continue")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("name",), "Not A Label", "name: 'Not A Label' must be"),
        (("title",), None, "title: required"),
        (("length",), "soon", "length: 'soon' is not a duration"),
        (("length",), "-1s", "length: must not be negative"),
        (("colour",), "red", "colour: unknown field"),
        (("faults",), [], "faults: at least one"),
        (("faults",), "kill", "faults: must be a list"),
        (("faults", 0), "kill", r"faults\[0\]: must be a mapping"),
        (("faults", 0, "fault"), "tickle", r"faults\[0\].fault: no fault is called 'tickle'"),
        (("faults", 0, "fault"), None, r"faults\[0\].fault: required"),
        (("faults", 0, "target"), "leader/nginx", r"faults\[0\].target: no unit is called 'nginx'"),
        (("faults", 0, "colour"), "red", r"faults\[0\].colour: unknown field"),
        (("faults", 0, "every"), None, r"faults\[0\].every: required with"),
        (("faults", 0, "times"), None, r"faults\[0\].times: required with"),
        (("faults", 0, "times"), True, r"faults\[0\].times: must be a whole number"),
        (("faults", 0, "at"), "15s", r"faults\[0\].at: begins after `length`"),
        (("faults", 0, "for"), "0s", r"faults\[0\].for: must be longer"),
        (("faults", 1, "for"), None, r"faults\[1\].for: required, since delay lasts"),
        (("faults", 1, "with"), {"pace": 1}, r"faults\[1\].with: delay: no parameter 'pace'"),
        (("faults", 1, "with"), {"ms": "fast"}, r"faults\[1\].with: ms: 'fast' is not a number"),
        (("faults", 1, "with"), {"ms": 0}, r"faults\[1\].with: ms: 0 is not between 1 and 10000"),
        (("faults", 1, "until"), "bored", r"faults\[1\].until: 'bored' is not one of"),
        (("faults", 0, "until"), "pods-moved", r"faults\[0\].until: needs `for`"),
        (("expect",), ["luck"], r"expect\[0\]: 'luck' is not one of"),
        (("expect",), ["linearizable"], r"expect\[0\]: linearizable holds in every scenario"),
        (("expect",), ["pods-stay", "pods-stay"], r"expect\[1\]: pods-stay appears twice"),
        (("workload",), {"replicas": 0}, "workload.replicas: must be a whole number from 1 to 50"),
        (("workload",), {"cats": 1}, "workload.cats: unknown field"),
        (("prepare",), [{"fault": "kill"}], r"prepare\[0\].target: required"),
        (("prepare",), [{"fault": "kill", "target": "all", "at": "1s"}], r"prepare\[0\].at: unknown"),
        (("seed",), -1, "seed: must be a whole number"),
    ],
)
def test_refused_by_path(path: tuple[str | int, ...], value: object, words: str) -> None:
    document: Any = copy.deepcopy(GOOD)
    place = document
    for part in path[:-1]:
        place = place[part]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(ScenarioError, match=f"^{words}"):
        schema.parse(document)


def test_not_even_a_mapping() -> None:
    with pytest.raises(ScenarioError, match="the scenario: must be a mapping"):
        schema.parse([1])


def test_a_file_says_which_it_is(tmp_path: Path) -> None:
    file = tmp_path / "07-other.yaml"
    file.write_text("name: good")
    with pytest.raises(ScenarioError, match=r"07-other.yaml: title: required"):
        schema.load(file)
    file.write_text("a: [")
    with pytest.raises(ScenarioError, match=r"07-other.yaml: not YAML"):
        schema.load(file)
    file.write_text("{name: good, title: t, length: 2s, faults: [{at: 0s, fault: kill, target: all}]}")
    with pytest.raises(ScenarioError, match="'good' is not the file's"):
        schema.load(file)


def test_what_ships() -> None:
    names = [scenario.name for scenario in schema.shipped()]
    assert len(set(names)) == len(names)
    assert {"members-killed", "leader-killed", "disk-full-on-leader", "power-loss", "worker-lost"} <= set(
        names
    )
    assert all(scenario.why for scenario in schema.shipped())
    assert schema.find("power-loss").steps[0].target == "all"
    with pytest.raises(ScenarioError, match="no scenario is called 'sunshine'"):
        schema.find("sunshine")


def test_every_check_that_may_be_asked_for_is_asked_for() -> None:
    """What no shipped scenario uses would never be seen to work."""
    assert {check for scenario in schema.shipped() for check in scenario.expect} == set(ASKED)


def test_parameters() -> None:
    assert entry("partition").values({})["direction"] == "both"
    with pytest.raises(CatalogueError, match="direction: 'up' is not one of both, in, out"):
        entry("partition").values({"direction": "up"})
    with pytest.raises(CatalogueError, match="no fault is called 'rain'"):
        entry("rain")
