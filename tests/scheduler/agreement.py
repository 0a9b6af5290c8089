"""Random clusters on which the scheduler and the one-node-at-a-time reference must agree: on every node's
verdict and reasons, on every plugin's score of every feasible node, and on the choice.

    python -m tests.scheduler.agreement --clusters 10000
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from typing import Any

from scheduler.columns import Columns
from scheduler.config import default_profile
from scheduler.core import decide, explain
from scheduler.framework import Profile
from scheduler.podinfo import compile_pod
from scheduler.sheets import Sheets
from tests.scheduler import reference
from tests.scheduler.generator import build, random_pod

Object = dict[str, Any]
PODS = 3


class Disagreement(AssertionError):
    """Names the seed, which replays it."""


def check(seed: int, profile: Profile) -> None:
    """One cluster and a few pods, each placed before the next comes. Raises Disagreement."""
    rng = random.Random(seed)
    columns, world = build(rng)
    sheets = Sheets()
    for attempt in range(PODS):
        wanted = random_pod(rng, f"new{attempt}")
        _compare(seed, profile, wanted, columns, world, sheets)
        decision = decide(profile, compile_pod(wanted), columns, rng, sheets=sheets)
        if decision.node is not None:
            columns.add_pod(compile_pod(wanted), decision.node)
            world.on[decision.node].append(wanted)


def _compare(
    seed: int, profile: Profile, wanted: Object, columns: Columns, world: reference.World, sheets: Sheets
) -> None:
    info = compile_pod(wanted)
    _, explanation = explain(profile, info, columns, random.Random(seed))
    verdicts = {
        each["metadata"]["name"]: sorted(reference.filter_node(wanted, each, world)) for each in world.nodes
    }
    ours = {name: sorted(explanation.reasons.get(row, ())) for row, name in explanation.node_names.items()}
    _same(seed, "verdicts", ours, verdicts)
    feasible = [each for each in world.nodes if not verdicts[each["metadata"]["name"]]]
    decision = decide(profile, info, columns, random.Random(seed), sheets=sheets)
    if not feasible:
        _same(seed, "decision", decision.node, None)
        return
    rated = reference.scores(wanted, feasible, world)
    totals = dict.fromkeys((each["metadata"]["name"] for each in feasible), 0.0)
    for plugin, by_name in rated.items():
        weight = reference.WEIGHTS[plugin]
        mine = {
            explanation.node_names[row]: score / weight
            for row, score in explanation.scores.get(plugin, {}).items()
        }
        _same(seed, plugin, mine or dict.fromkeys(totals, 0.0), by_name or dict.fromkeys(totals, 0.0))
        for name, score in by_name.items():
            totals[name] += weight * score
    best = {name for name, total in totals.items() if total == max(totals.values())}
    if decision.node not in best:
        raise Disagreement(f"seed {seed}: chose {decision.node}, the best are {sorted(best)}")


def _same(seed: int, what: str, ours: Any, theirs: Any) -> None:
    if ours != theirs:
        raise Disagreement(f"seed {seed}: {what}: ours {ours}, reference {theirs}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clusters", type=int, default=10000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    profile, started = default_profile(), time.monotonic()
    for seed in range(options.first, options.first + options.clusters):
        check(seed, profile)
    took = time.monotonic() - started
    print(f"{options.clusters} clusters, {PODS * options.clusters} pods: agreed on every node ({took:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
