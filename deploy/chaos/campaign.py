"""Scenarios one after another, a table at the end, a report as a file."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.chaos import active, report
from deploy.chaos.lab import Lab
from deploy.chaos.record import Run
from deploy.chaos.runner import run_scenario
from deploy.chaos.schema import Scenario
from deploy.chaos.verdict import Finding, Verdict, decide
from deploy.judge.history import to_json
from deploy.status import table

SHOWN = 8


@dataclass(frozen=True)
class Result:
    """One scenario, judged. `seconds` is how long it took, all in all."""

    run: Run
    verdict: Verdict
    seconds: float


def run(lab: Lab, scenarios: Sequence[Scenario], *, seed: int | None, report: Path | None) -> bool:
    """Run them all on a running cluster; whether everything held."""
    started = time.monotonic()
    results = [_one(lab, each, each.seed if seed is None else seed) for each in scenarios]
    print()
    print(summary(results))
    file = report or lab.folder / "reports" / time.strftime("%Y%m%d-%H%M%S.html")
    _write(file, lab, results)
    for result in results:
        if result.verdict.violations:
            kept = _keep(file, result)
            print(f"what clients of the store did and saw in {result.run.scenario.name}: {kept}")
    held = not any(result.verdict.violations for result in results)
    print(f"\n{'0' if held else sum(r.verdict.violations for r in results)} violations", end=" ")
    print(f"in {len(results)} scenarios, {time.monotonic() - started:.0f} s. Report: {file}")
    return held


def _one(lab: Lab, scenario: Scenario, seed: int) -> Result:
    """One scenario; whatever keeps it from running is a violation, and the next one is tried all the same."""
    print(f"\n{scenario.name} (seed {seed}): {scenario.title}", flush=True)
    started = time.monotonic()
    try:
        done = run_scenario(lab, scenario, seed, lambda line: print(f"  {line}", flush=True))
    except Exception as error:
        done = Run(scenario, seed, broken=f"{type(error).__name__}: {error}")
    finally:
        active.sweep(lab)
    verdict = decide(done)
    for finding in verdict.findings:
        _say(finding)
    if verdict.violations:
        print(f"  replay: hardway chaos run {scenario.name} --seed {seed}")
    return Result(done, verdict, time.monotonic() - started)


def _say(finding: Finding) -> None:
    if finding.holds:
        return
    print(f"  VIOLATED  {finding.check}: {finding.meaning}")
    for violation in finding.violations[:SHOWN]:
        print("    " + violation.replace("\n", "\n    "))
    if len(finding.violations) > SHOWN:
        print(f"    and {len(finding.violations) - SHOWN} more")


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f} s"


def summary(results: Sequence[Result]) -> str:
    """One row a scenario."""
    head = ("SCENARIO", "FAULTS", "STORE", "API", "UNKNOWN", "NO WRITE FOR", "BACK AFTER", "VIOLATIONS")
    rows = []
    for result in results:
        run, verdict = result.run, result.verdict
        unknown = sum(call.unknown for call in run.store.calls)
        unknown += sum(len(each.unknown) for each in run.counters.keys.values())
        acknowledged = (len(run.store_writes()), len(run.counters.writes))
        times = (_seconds(verdict.gap), _seconds(verdict.back.all))
        rows.append((run.scenario.name, len(run.strikes), *acknowledged, unknown, *times, verdict.violations))
    return table(head, rows)


def _keep(report: Path, result: Result) -> Path:
    """The history that was judged, beside the report: the same faults may not hit the same moment again."""
    file = report.with_suffix(f".{result.run.scenario.name}.json")
    file.write_text(json.dumps(to_json(result.run.store)))
    return file


def _write(file: Path, lab: Lab, results: Sequence[Result]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    pairs = [(result.run, result.verdict) for result in results]
    file.write_text(report.page(f"{lab.topology.name}, {when}", pairs))
