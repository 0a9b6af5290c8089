"""A campaign ends with a table, a report, and an answer; whatever happens in a scenario."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from deploy import topology
from deploy.chaos import active, campaign
from deploy.chaos.lab import Lab
from deploy.chaos.record import Run
from deploy.chaos.runner import Say
from deploy.chaos.schema import Scenario
from deploy.judge.history import from_json
from deploy.state import State
from deploy.topology import TOPOLOGIES
from tests.chaos import runs

FILE = TOPOLOGIES / "lab.yaml"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(topology.load(FILE), State("lab", tmp_path), FILE)


def outcomes(monkeypatch: pytest.MonkeyPatch, *found: Run | Exception) -> list[int]:
    """What the scenarios end with, in order; the seeds they were run with."""
    seeds: list[int] = []
    left = list(found)

    def run_scenario(lab: Lab, scenario: Scenario, seed: int, say: Say) -> Run:
        seeds.append(seed)
        one = left.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    monkeypatch.setattr(campaign, "run_scenario", run_scenario)
    monkeypatch.setattr(active, "sweep", lambda lab: [])
    return seeds


def test_all_held(lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    good = runs.good()
    seeds = outcomes(monkeypatch, good, good)
    file = lab.folder / "r.html"
    assert campaign.run(lab, [good.scenario, good.scenario], seed=None, report=file)
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines() if line.startswith("good  ")]
    assert lines == [["good", "1", "30", "30", "0", "1.00", "s", "0.20", "s", "0"]] * 2
    assert "0 violations in 2 scenarios" in said
    assert seeds == [1, 1]
    assert file.read_text().count("<svg") == 2
    assert [path.name for path in lab.folder.iterdir()] == ["r.html"]


def test_a_scenario_that_breaks_does_not_end_the_others(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = runs.good()
    bad.bindings.append((104, "p1", "w0"))
    seeds = outcomes(monkeypatch, RuntimeError("nobody expected this"), bad, runs.good())
    file = lab.folder / "r.html"
    assert not campaign.run(lab, [bad.scenario] * 3, seed=5, report=file)
    said = capsys.readouterr().out
    assert "RuntimeError: nobody expected this" in said
    assert "VIOLATED  bound-once" in said
    assert "replay: hardway chaos run good --seed 5" in said
    assert "violations in 3 scenarios" in said
    assert seeds == [5, 5, 5]
    kept = lab.folder / "r.good.json"
    assert from_json(json.loads(kept.read_text())) is not None
