"""Preemption: which less important pods would have to go, and from which node, so that a pod fits.

The rules are those of kube-scheduler's DefaultPreemption. Per candidate node all less important pods are
taken off; if the pod fits then, they are put back one by one (first those whose eviction would break a
disruption budget, the most important first), and those for which no room is left are the victims. Among the
candidates the least harmful one is chosen. The columns are changed while trying and are as before afterwards.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from scheduler.budgets import split_by_violation
from scheduler.columns import Columns
from scheduler.core import fits
from scheduler.framework import Failures, Nominated, Outcome, Profile, Rng, fit_error
from scheduler.podinfo import PodInfo

_NOT_HELPFUL = "Preemption is not helpful for scheduling"
_NO_VICTIMS = "No preemption victims found for incoming pod"
_HIGHEST = 2**31  # makes every priority positive, so that fewer victims give a smaller sum


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node and the pods that would have to leave it, the most important first."""

    node: str
    victims: tuple[PodInfo, ...]
    violations: int


def importance(pod: PodInfo) -> tuple[int, str]:
    """Sorts the most important first: higher priority, then longer running (not started counts as
    youngest).
    """
    return -pod.priority, pod.started or "9999"


def refuse(pod: PodInfo, nodes: Columns) -> str:
    """Why the pod may not preempt at all; "" when it may."""
    if not pod.preempts:
        return "not eligible due to preemptionPolicy=Never."
    row = nodes.row_of.get(pod.nominated_node, -1)
    if any(each.terminating and each.priority < pod.priority for each in nodes.pods_on.get(row, {}).values()):
        return "not eligible due to a terminating pod on the nominated node."
    return ""


def victims_on(
    profile: Profile, pod: PodInfo, nodes: Columns, row: int, nominated: Nominated
) -> Candidate | tuple[str, ...]:
    """The victims on one node, or the reasons why none help."""
    name = nodes.names[row]
    lower = [each for each in nodes.pods_on[row].values() if each.priority < pod.priority]
    if not lower:
        return (_NO_VICTIMS,)
    for each in lower:
        nodes.remove_pod(each.key)
    away = {each.key: each for each in lower}
    try:
        reasons = fits(profile, pod, nodes, row, nominated)
        if reasons:
            return reasons
        violating, harmless = split_by_violation(sorted(lower, key=importance), nodes.budgets.values())
        spared_none: list[PodInfo] = []
        violations = 0
        for each in (*violating, *harmless):
            nodes.add_pod(each, name)
            if fits(profile, pod, nodes, row, nominated):
                nodes.remove_pod(each.key)
                spared_none.append(each)
                violations += each in violating
            else:
                del away[each.key]
        return Candidate(name, tuple(sorted(spared_none, key=importance)), violations)
    finally:
        for each in away.values():
            nodes.add_pod(each, name)


def candidates(
    profile: Profile, pod: PodInfo, nodes: Columns, rows: list[int], nominated: Nominated, wanted: int
) -> tuple[list[Candidate], Counter[str]]:
    """Try rows in order until enough candidates are found (one of which breaks no budget); count why others
    fail.
    """
    found: list[Candidate] = []
    reasons: Counter[str] = Counter()
    for row in rows:
        answer = victims_on(profile, pod, nodes, row, nominated)
        if isinstance(answer, Candidate):
            found.append(answer)
            if len(found) >= wanted and any(not each.violations for each in found):
                break
        else:
            reasons.update(answer)
    return found, reasons


def harm(candidate: Candidate) -> tuple[int, int, int, int, str]:
    """Sorts the least harmful first (`pickOneNodeForPreemption`): fewest broken budgets, lowest highest
    priority, lowest sum of priorities, fewest victims; then the youngest of the important ones, which the
    caller takes by the largest last member.
    """
    victims = candidate.victims
    top = victims[0].priority
    earliest = min(each.started or "9999" for each in victims if each.priority == top)
    total = sum(each.priority + _HIGHEST for each in victims)
    return candidate.violations, top, total, len(victims), earliest


def least_harmful(found: list[Candidate]) -> Candidate:
    ranked = [(harm(each), each) for each in found]
    least = min(rank[:4] for rank, _ in ranked)
    equals = [(rank[4], each) for rank, each in ranked if rank[:4] == least]
    latest = max(start for start, _ in equals)
    return next(each for start, each in equals if start == latest)


@dataclass(frozen=True, slots=True)
class DefaultPreemption:
    """The PostFilter plugin; the arguments are DefaultPreemptionArgs'."""

    name: ClassVar[str] = "DefaultPreemption"
    percentage: int = 10  # minCandidateNodesPercentage
    absolute: int = 100  # minCandidateNodesAbsolute

    def post_filter(
        self,
        profile: Profile,
        pod: PodInfo,
        nodes: Columns,
        failures: Failures,
        nominated: Nominated,
        rng: Rng,
    ) -> Outcome:
        """A plan to make room, or the message that says why there is none."""
        refusal = refuse(pod, nodes)
        if refusal:
            return Outcome(f"preemption: {refusal}")
        total = nodes.node_count
        start = rng.randrange(len(failures.curable)) if failures.curable else 0
        rows = failures.curable[start:] + failures.curable[:start]
        wanted = min(max(total * self.percentage // 100, self.absolute), total)
        found, reasons = candidates(profile, pod, nodes, rows, nominated, wanted)
        if not found:
            unhelpful = total - len(rows)
            if unhelpful:
                reasons[_NOT_HELPFUL] += unhelpful
            return Outcome(f"preemption: {fit_error(total, reasons)}")
        best = least_harmful(found)
        lowered = tuple(
            other for other, node in nominated if node == best.node and other.priority < pod.priority
        )
        return Outcome("", best.node, best.victims, lowered)
