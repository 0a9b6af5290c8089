"""InterPodAffinity: be near, or away from, the nodes where certain pods run.

Three hard rules: the domain must hold no pod that repels this one; every affinity term must find a matching
pod in the domain (unless no pod anywhere matches and the pod matches its own terms: the first of a group); no
anti-affinity term may find one. Preferences weigh the matching pods of a domain, both ways.
"""

from __future__ import annotations

import numpy as np

from scheduler.columns import Columns, Rows
from scheduler.framework import MAX_SCORE, ClusterEvent, Scores, Verdict
from scheduler.podinfo import PodInfo
from scheduler.tallies import ABSENT, Mask

_REPELLED = ("node(s) didn't satisfy existing pods anti-affinity rules",)
_NEAR = ("node(s) didn't match pod affinity rules",)
_APART = ("node(s) didn't match pod anti-affinity rules",)
_REASONS = (_REPELLED, _APART, _NEAR)


class InterPodAffinity:
    name = "InterPodAffinity"
    events = (
        ClusterEvent.NODE_ADDED
        | ClusterEvent.NODE_LABELS
        | ClusterEvent.POD_PLACED
        | ClusterEvent.POD_REMOVED
        | ClusterEvent.NAMESPACE_LABELS
    )
    local_filter = False
    local_score = False

    def __init__(self, hard_weight: int = 1, *, ignore_preferred: bool = False) -> None:
        self._hard_weight = hard_weight  # what a placed pod's required affinity adds to a score
        self._ignore_preferred = (
            ignore_preferred  # what placed pods want, when the pod itself prefers nothing
        )

    def filter(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Verdict | None:
        repelling = nodes.repelling.selecting(pod, nodes.selects)
        if not repelling and not pod.affinity and not pod.anti_affinity:
            return None
        far = ~self._near(pod, nodes, rows) if pod.affinity else None
        close: Mask | None = None
        for term in pod.anti_affinity:
            tally = nodes.tally(term, key=term.topology_key)
            close = _either(close, nodes.in_domain(tally, rows) > 0)
        pushed: Mask | None = None
        for _, _, tally in repelling:
            pushed = _either(pushed, nodes.in_domain(tally, rows) > 0)
        bad: Mask | None = None
        for mask in (far, close, pushed):
            bad = bad if mask is None else _either(bad, mask)
        assert bad is not None

        def kind(position: int) -> int:
            if far is not None and far[position]:
                return 2
            return 1 if close is not None and close[position] else 0

        return Verdict(
            ~bad,
            lambda at: _REASONS[kind(at)],
            final=lambda at: kind(at) == 2,
            kinds=lambda fallen: np.array([kind(at) for at in fallen.tolist()], dtype=np.int64),
        )

    def _near(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Mask:
        """Pods near must match all terms at once; each term's domain must then hold one."""
        tallies = [nodes.tally(*pod.affinity, key=term.topology_key) for term in pod.affinity]
        alone = not any(tally.sums(nodes.shape).any() for tally in tallies)
        if alone and all(nodes.selects(term, pod) for term in pod.affinity):
            labelled: Mask = np.ones_like(nodes.live[rows])
            for tally in tallies:
                labelled &= tally.column.ids[rows] != ABSENT
            return labelled
        out: Mask = np.ones_like(nodes.live[rows])
        for tally in tallies:
            out &= nodes.in_domain(tally, rows) > 0
        return out

    def score(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Scores | float | None:
        parts = [
            (sign * weight, nodes.tally(term, key=term.topology_key))
            for sign, terms in ((1, pod.preferred_affinity), (-1, pod.preferred_anti_affinity))
            for weight, term in terms
        ]
        if not parts and self._ignore_preferred:
            return None
        found = nodes.preferring.selecting(pod, nodes.selects)
        parts += [(weight, tally) for weight, _, tally in found]
        if self._hard_weight:
            found = nodes.attracting.selecting(pod, nodes.selects)
            parts += [(self._hard_weight, tally) for _, _, tally in found]
        if not parts:
            return None
        raw = np.zeros(nodes.live[rows].size)
        for weight, tally in parts:
            raw += weight * nodes.in_domain(tally, rows)
        least, most = raw.min(), raw.max()
        if most == least:
            return 0.0
        out: Scores = np.floor(MAX_SCORE * ((raw - least) / (most - least)))
        return out


def _either(one: Mask | None, other: Mask) -> Mask:
    return other if one is None else one | other
