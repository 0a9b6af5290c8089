"""The decision: filter all nodes, score what is left, choose. Pure but for the generator handed in.

Ties are broken at random, as kube-scheduler does (`selectHost`), so that equal nodes share the load. `decide`
takes the short way (what is known of pods of this kind, `scheduler.sheets`); `explain` and every refusal take
the long way, which asks every plugin about every node and accounts for each. Both find the same nodes and the
same totals.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from scheduler.columns import Columns, Rows
from scheduler.framework import (
    Decision,
    Explanation,
    Failures,
    Filter,
    Nominated,
    Profile,
    Rng,
    Score,
    Scores,
    Verdict,
)
from scheduler.podinfo import PodInfo
from scheduler.sheets import UNFIT, Sheets
from scheduler.tallies import Mask


def decide(
    profile: Profile,
    pod: PodInfo,
    nodes: Columns,
    rng: Rng,
    *,
    sheets: Sheets | None = None,
    nominated: Nominated = (),
) -> Decision:
    """Choose a node for the pod. `sheets` are kept from decision to decision; without them nothing is
    reused.
    """
    refused = _pre_filter(profile, pod, nodes)
    if refused is not None:
        return refused
    ranked = (sheets or Sheets()).of(profile, pod).refresh(profile, pod, nodes)
    passing = ranked != UNFIT
    for plugin in profile.wide_filters:
        verdict = plugin.filter(pod, nodes, nodes.every)
        if verdict is not None:
            passing &= verdict.passes
    _keep_promises(profile, pod, nodes, nominated, passing)
    promised = nodes.row_of.get(pod.nominated_node) if pod.nominated_node else None
    if promised is not None and passing[promised]:
        return Decision(nodes.names[promised], 1, nodes.node_count, Failures())
    feasible = int(np.count_nonzero(passing))
    if not feasible:
        return _refuse(profile, pod, nodes, nominated)
    rows: Rows = nodes.every if feasible == nodes.top else np.flatnonzero(passing)
    totals = ranked[rows]
    if feasible > 1:
        for _, scores, weight in _rated(profile, pod, nodes, rows, profile.wide_scores):
            if isinstance(scores, np.ndarray):  # a number shifts all rows alike
                totals = totals + weight * scores
    return Decision(nodes.names[_choose(rows, totals, rng)], feasible, nodes.node_count, Failures())


def _rated(
    profile: Profile, pod: PodInfo, nodes: Columns, rows: Rows, scores: tuple[tuple[Score, int], ...]
) -> Iterator[tuple[str, Scores | float, int]]:
    idle = {plugin.name for plugin in profile.pre_scores if not plugin.pre_score(pod, nodes)}
    for plugin, weight in scores:
        rated = None if plugin.name in idle else plugin.score(pod, nodes, rows)
        if rated is not None:
            yield plugin.name, rated, weight


def _choose(rows: Rows, totals: Scores, rng: Rng) -> int:
    best = np.flatnonzero(totals == totals.max())
    chosen = int(best[rng.randrange(best.size) if best.size > 1 else 0])
    return chosen if isinstance(rows, slice) else int(rows[chosen])


def _pre_filter(profile: Profile, pod: PodInfo, nodes: Columns) -> Decision | None:
    for plugin in profile.pre_filters:
        refusal = plugin.pre_filter(pod, nodes)
        if refusal is not None:
            curable = [] if refusal.final else nodes.live_rows().tolist()
            failures = Failures({}, {refusal.plugin}, curable, refusal.reason)
            return Decision(None, 0, nodes.node_count, failures)
    return None


# -- promises ----------------------------------------------------------------------------------------------


def _promised(pod: PodInfo, nodes: Columns, nominated: Nominated) -> Mapping[int, list[PodInfo]]:
    """Pods that are at least as important and are to come to a row, by row."""
    out: dict[int, list[PodInfo]] = defaultdict(list)
    for other, node in nominated:
        row = nodes.row_of.get(node)
        if row is None or other.priority < pod.priority or other.key == pod.key:
            continue
        if other.key not in nodes.pods:
            out[row].append(other)
    return out


def _keep_promises(
    profile: Profile, pod: PodInfo, nodes: Columns, nominated: Nominated, passing: Mask
) -> dict[int, tuple[Filter, Verdict]]:
    """A row must also pass with the pods that were promised a place on it; those that do not are struck
    out.
    """
    broken: dict[int, tuple[Filter, Verdict]] = {}
    for row, coming in _promised(pod, nodes, nominated).items():
        if not passing[row]:
            continue
        for other in coming:
            nodes.add_pod(other, nodes.names[row])
        failed = first_failure(profile, pod, nodes, row)
        for other in coming:
            nodes.remove_pod(other.key)
        if failed is not None:
            passing[row] = False
            broken[row] = failed
    return broken


def first_failure(profile: Profile, pod: PodInfo, nodes: Columns, row: int) -> tuple[Filter, Verdict] | None:
    """The first filter that turns this one row down, with its verdict; None when all let it pass."""
    rows = np.array([row], dtype=np.intp)
    for plugin in profile.filters:
        verdict = plugin.filter(pod, nodes, rows)
        if verdict is not None and not verdict.passes[0]:
            return plugin, verdict
    return None


def fits(
    profile: Profile, pod: PodInfo, nodes: Columns, row: int, nominated: Nominated = ()
) -> tuple[str, ...]:
    """Why one row cannot take the pod, by the first filter that says no; () when it can."""
    failed = first_failure(profile, pod, nodes, row)
    if failed is None:
        failed = _keep_promises(profile, pod, nodes, nominated, _only(row, nodes)).get(row)
    return () if failed is None else tuple(failed[1].reasons(0))


def _only(row: int, nodes: Columns) -> Mask:
    mask = np.zeros(nodes.top, dtype=np.bool_)
    mask[row] = True
    return mask


# -- the long way ------------------------------------------------------------------------------------------


def _filter_all(
    profile: Profile, pod: PodInfo, nodes: Columns, nominated: Nominated, explanation: Explanation | None
) -> tuple[Mask, Failures]:
    """Every filter about every node; each node falls by the first that turns it down."""
    passing, failures = nodes.live[nodes.every].copy(), Failures()
    counts: Counter[str] = Counter()
    for plugin in profile.filters:
        verdict = plugin.filter(pod, nodes, nodes.every)
        if verdict is None:
            continue
        fallen = np.flatnonzero(passing & ~verdict.passes)
        for group in _alike(verdict, fallen):
            first = int(group[0])
            reasons = tuple(verdict.reasons(first))
            counts.update(dict.fromkeys(reasons, group.size))
            failures.rejected_by.add(plugin.name)
            if explanation is not None:
                explanation.failed_by.update(dict.fromkeys(group.tolist(), plugin.name))
                explanation.reasons.update(dict.fromkeys(group.tolist(), reasons))
            if not verdict.is_final(first):
                failures.curable += group.tolist()
        passing &= verdict.passes
    for row, (plugin, verdict) in _keep_promises(profile, pod, nodes, nominated, passing).items():
        reasons = tuple(verdict.reasons(0))
        counts.update(reasons)
        failures.rejected_by.add(plugin.name)
        if not verdict.is_final(0):
            failures.curable.append(row)
        if explanation is not None:
            explanation.failed_by[row], explanation.reasons[row] = plugin.name, reasons
    failures.counts = dict(counts)
    failures.curable.sort()
    return passing, failures


def _alike(verdict: Verdict, fallen: np.ndarray) -> list[np.ndarray]:
    """The fallen rows in groups that share reasons and finality."""
    if not fallen.size:
        return []
    if verdict.kinds is None:
        return [fallen]
    kinds = verdict.kinds(fallen)
    return [fallen[kinds == kind] for kind in np.unique(kinds)]


def _refuse(profile: Profile, pod: PodInfo, nodes: Columns, nominated: Nominated) -> Decision:
    _, failures = _filter_all(profile, pod, nodes, nominated, None)
    return Decision(None, 0, nodes.node_count, failures)


def explain(
    profile: Profile, pod: PodInfo, nodes: Columns, rng: Rng, *, nominated: Nominated = ()
) -> tuple[Decision, Explanation]:
    """Decide, accounting for every node."""
    explanation = Explanation({row: name for name, row in nodes.row_of.items()})
    refused = _pre_filter(profile, pod, nodes)
    if refused is not None:
        reason = (refused.failures.refusal,)
        by = next(iter(refused.failures.rejected_by))
        explanation.reasons = dict.fromkeys(explanation.node_names, reason)
        explanation.failed_by = dict.fromkeys(explanation.node_names, by)
        return refused, explanation
    passing, failures = _filter_all(profile, pod, nodes, nominated, explanation)
    rows = np.flatnonzero(passing)
    if not rows.size:
        return Decision(None, 0, nodes.node_count, failures), explanation
    totals = np.zeros(rows.size)
    for name, scores, weight in _rated(profile, pod, nodes, rows, profile.scores):
        weighted = np.broadcast_to(weight * np.asarray(scores), rows.shape)
        totals += weighted
        explanation.scores[name] = dict(zip(rows.tolist(), weighted.tolist(), strict=True))
    explanation.totals = dict(zip(rows.tolist(), totals.tolist(), strict=True))
    promised = nodes.row_of.get(pod.nominated_node, -1)
    row = promised if promised >= 0 and passing[promised] else _choose(rows, totals, rng)
    return Decision(nodes.names[row], int(rows.size), nodes.node_count, failures), explanation
