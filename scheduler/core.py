"""The decision: filter all nodes, score what is left, choose. Pure but for the generator handed in.

Ties are broken at random, as kube-scheduler does (`selectHost`), so that equal nodes share the load.
"""

from __future__ import annotations

import random
from collections import Counter

import numpy as np

from scheduler.columns import Columns
from scheduler.framework import Decision, Explanation, Profile, Rows, Scores
from scheduler.podinfo import PodInfo


def decide(
    profile: Profile,
    pod: PodInfo,
    nodes: Columns,
    rng: random.Random,
    explanation: Explanation | None = None,
) -> Decision:
    """Choose a node for the pod; with an `explanation`, write down every verdict and score."""
    passing = nodes.live.copy()
    counts: Counter[str] = Counter()
    rejected_by: set[str] = set()
    for plugin in profile.filters:
        verdict = plugin.filter(pod, nodes)
        if verdict is None:
            continue
        fallen = np.flatnonzero(passing & ~verdict.passes)
        if not fallen.size:
            continue
        rejected_by.add(plugin.name)
        for row in fallen.tolist():
            reasons = tuple(verdict.reasons(row))
            counts.update(reasons)
            if explanation is not None:
                explanation.failed_by[row], explanation.reasons[row] = plugin.name, reasons
        passing &= verdict.passes
    rows = np.flatnonzero(passing)
    node = None
    if rows.size:
        totals = _totals(profile, pod, nodes, rows, explanation)
        node = nodes.names[_choose(rows, totals, rng)]
    return Decision(node, int(rows.size), nodes.node_count, dict(counts), frozenset(rejected_by))


def _totals(
    profile: Profile, pod: PodInfo, nodes: Columns, rows: Rows, explanation: Explanation | None
) -> Scores:
    totals = np.zeros(rows.size, dtype=np.float64)
    if rows.size == 1 and explanation is None:
        return totals
    for plugin, weight in profile.scores:
        scores = plugin.score(pod, nodes, rows)
        if scores is None:
            continue
        totals += weight * scores
        if explanation is not None:
            explanation.scores[plugin.name] = dict(
                zip(rows.tolist(), (weight * scores).tolist(), strict=True)
            )
    if explanation is not None:
        explanation.totals = dict(zip(rows.tolist(), totals.tolist(), strict=True))
    return totals


def _choose(rows: Rows, totals: Scores, rng: random.Random) -> int:
    best = np.flatnonzero(totals == totals.max())
    return int(rows[best[rng.randrange(best.size)]])


def explain(
    profile: Profile, pod: PodInfo, nodes: Columns, rng: random.Random
) -> tuple[Decision, Explanation]:
    """Decide, accounting for every node."""
    explanation = Explanation({row: name for name, row in nodes.row_of.items()})
    return decide(profile, pod, nodes, rng, explanation), explanation
