"""`python -m tests.robustness`: rounds of load and faults for some minutes, and a table."""

from __future__ import annotations

import argparse
import gzip
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from deploy.judge import history as histories
from deploy.judge.verdict import explain, judge
from tests.robustness import lab
from tests.robustness.broken import STORES
from tests.robustness.campaign import Plan, Result, Round
from tests.robustness.members import ETCD, ETCDLITE
from tests.robustness.schedule import SCENARIOS

ROUND_SECONDS = 60.0


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line. `--store` also takes the names in broken.py, each of which must be caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.robustness", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="of rounds, in all")
    parser.add_argument("--store", default="both", help="etcdlite, etcd, both, or a name in broken.py")
    parser.add_argument("--seed", type=int, default=None, help="of the first round; the next adds one")
    parser.add_argument("--scenario", default="all", choices=sorted(SCENARIOS))
    parser.add_argument("--round-seconds", type=float, default=ROUND_SECONDS)
    parser.add_argument("--gap", type=float, default=2.5, help="mean seconds between faults")
    parser.add_argument("--pace", type=float, default=0.02, help="mean seconds between a client's requests")
    parser.add_argument("--folder", type=Path, default=None, help="for logs and failed histories")
    parser.add_argument("--keep", action="store_true", help="the logs of good rounds too")
    parser.add_argument("--quiet", action="store_true", help="the table only")
    parser.add_argument("--replay-history", type=Path, default=None, help="judge a saved history again")
    return parser.parse_args(argv)


def replay(path: Path) -> int:
    """Judge a history that a failed round has saved."""
    with gzip.open(path, "rt") as file:
        history = histories.from_json(json.load(file))
    violations = judge(history)
    print(explain(violations) or "no violation")
    return 1 if violations else 0


def kinds(store: str, rounds: int) -> list[str]:
    """Which store each round is about: `both` gives the real etcd one of six."""
    if store != "both":
        return [store] * rounds
    return [ETCD if number % 6 == 5 else ETCDLITE for number in range(rounds)]


def run(options: argparse.Namespace, folder: Path) -> list[Result]:
    """All rounds. A failed one leaves its history and logs in `folder`."""
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    rounds = max(1, round(options.minutes * 60 / options.round_seconds))
    results = []
    for number, kind in enumerate(kinds(options.store, rounds)):
        plan = Plan(
            kind=kind,
            seed=seed + number,
            seconds=min(options.round_seconds, options.minutes * 60),
            names=SCENARIOS[options.scenario],
            gap=options.gap,
            pace=options.pace,
        )
        print(f"round {number + 1} of {rounds}: {kind}, seed {plan.seed}", flush=True)
        place = folder / f"round-{number + 1}"
        result = Round(plan, place, (lambda _: None) if options.quiet else _say).run()
        results.append(result)
        if result.violations:
            _report_failure(options, result, place)
        elif not options.keep:
            shutil.rmtree(place, ignore_errors=True)
    return results


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _report_failure(options: argparse.Namespace, result: Result, place: Path) -> None:
    saved = place / "history.json.gz"
    with gzip.open(saved, "wt") as file:
        json.dump(histories.to_json(result.history), file)
    again = f"--store {result.plan.kind} --scenario {options.scenario} --seed {result.plan.seed}"
    minutes = f"--minutes {result.plan.seconds / 60:g} --round-seconds {result.plan.seconds:g}"
    print(explain(result.violations))
    print(f"the same faults again: python -m tests.robustness {again} {minutes}")
    print(f"the same history again: python -m tests.robustness --replay-history {saved}")
    print(f"logs: {place}", flush=True)


def table(results: Sequence[Result]) -> str:
    """One line a round, and a sum."""
    head = (
        "round",
        "store",
        "seed",
        "calls",
        "answered",
        "unknown",
        "watched",
        "faults",
        "leaders",
        "no write",
        "wrong",
    )
    rows = [head]
    for number, result in enumerate(results, 1):
        watched = sum(len(batch.events) for watch in result.history.watches for batch in watch.batches)
        rows.append(
            (
                str(number),
                result.plan.kind,
                str(result.plan.seed),
                str(len(result.history.calls)),
                str(result.acknowledged),
                str(result.unknown),
                str(watched),
                str(sum(result.faults.values())),
                str(result.leader_changes),
                f"{result.longest_gap:.1f} s",
                str(len(result.violations)),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    faults = sum((result.faults for result in results), start=type(results[0].faults)()) if results else {}
    said = ", ".join(f"{count} {name}" for name, count in sorted(faults.items())) or "none"
    wrong = sum(len(result.violations) for result in results)
    return "\n".join([*lines, f"faults: {said}", f"{wrong} violations in {len(results)} rounds"])


def main() -> int:
    """Exit status 1 if any promise was broken, 2 if nothing can be run here."""
    options = arguments()
    if options.replay_history is not None:
        return replay(options.replay_history)
    lacking = lab.check_tools()
    if options.store not in (ETCD, ETCDLITE, "both", *STORES):
        lacking = f"--store is etcdlite, etcd, both, or one of {', '.join(STORES)}"
    if lacking is not None:
        print(f"python -m tests.robustness: {lacking}", file=sys.stderr)
        return 2
    folder = options.folder or Path(tempfile.mkdtemp(prefix="robustness-"))
    folder.mkdir(parents=True, exist_ok=True)
    lab.enter()
    results = run(options, folder)
    print(table(results))
    if not any(result.violations for result in results) and not any(folder.iterdir()):
        folder.rmdir()
    return 1 if any(result.violations for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
