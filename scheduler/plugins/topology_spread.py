"""PodTopologySpread: keep the number of matching pods even over the domains of a topology key (KEP-895).

Hard constraints filter by skew against the emptiest domain; soft ones score. Which nodes make up the domains
is decided by the constraint's node inclusion policies (KEP-3094) and, for hard constraints, by having every
hard key.
"""

from __future__ import annotations

import math

import numpy as np

from scheduler.columns import ABSENT, Columns, Ints, Mask
from scheduler.framework import MAX_SCORE, ClusterEvent, Rows, Scores, Verdict
from scheduler.plugins import matching
from scheduler.plugins.taint_toleration import untolerated
from scheduler.podinfo import PodInfo, PodTerm, Spread

_SKEW = ("node(s) didn't match pod topology spread constraints",)
_NO_LABEL = ("node(s) didn't match pod topology spread constraints (missing required label)",)


def _counts(pod: PodInfo, spread: Spread, nodes: Columns) -> Ints:
    return nodes.term_counts(PodTerm(spread.selector, "", frozenset((pod.namespace,))))


def _included(pod: PodInfo, spread: Spread, nodes: Columns) -> Mask:
    """Nodes that count for the constraint, by its inclusion policies."""
    out = nodes.live.copy()
    if spread.honor_affinity:
        wanted = matching.required(pod, nodes)
        if wanted is not None:
            out &= wanted
    if spread.honor_taints:
        allowed = [untolerated(pod, taints) is None for taints in nodes.taint_sets]
        out &= np.array(allowed, dtype=np.bool_)[nodes.taint_set]
    return out


def _has_labels(spreads: list[Spread], nodes: Columns) -> Mask:
    out = nodes.live.copy()
    for spread in spreads:
        out &= nodes.label_column(spread.topology_key).ids != ABSENT
    return out


class TopologySpread:
    name = "PodTopologySpread"
    events = ClusterEvent.NODE_CHANGED | ClusterEvent.POD_REMOVED | ClusterEvent.POD_PLACED

    def filter(self, pod: PodInfo, nodes: Columns) -> Verdict | None:
        hard = [spread for spread in pod.spreads if spread.hard]
        if not hard:
            return None
        labelled = _has_labels(hard, nodes)
        passes = labelled.copy()
        for spread in hard:
            passes &= self._within_skew(pod, spread, labelled, nodes)
        return Verdict(passes, lambda row: _SKEW if labelled[row] else _NO_LABEL)

    def _within_skew(self, pod: PodInfo, spread: Spread, labelled: Mask, nodes: Columns) -> Mask:
        eligible = labelled & _included(pod, spread, nodes)
        counted = np.where(eligible, _counts(pod, spread, nodes), 0)
        sums = nodes.by_domain(counted, spread.topology_key)
        ids = nodes.label_column(spread.topology_key).ids
        domains = np.unique(ids[eligible]).size
        least = int(sums[eligible].min()) if domains else 0
        if domains < spread.min_domains:
            least = 0
        itself = int(spread.selector.matches(pod.labels))
        out: Mask = sums + itself - least <= spread.max_skew
        return out

    def score(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Scores | None:
        soft = [spread for spread in pod.spreads if not spread.hard]
        if not soft:
            return None
        labelled = _has_labels(soft, nodes)
        raw = np.zeros(rows.size, dtype=np.float64)
        for spread in soft:
            eligible = labelled & _included(pod, spread, nodes)
            counted = np.where(eligible, _counts(pod, spread, nodes), 0)
            sums = nodes.by_domain(counted, spread.topology_key)
            ids = nodes.label_column(spread.topology_key).ids[rows]
            domains = np.unique(ids[ids != ABSENT]).size
            raw += sums[rows] * math.log(domains + 2) + (spread.max_skew - 1)
        return self._reversed(np.round(raw), labelled[rows])

    def _reversed(self, raw: Scores, rated: Mask) -> Scores:
        """The emptiest domain gets 100; nodes without the labels get 0."""
        out = np.zeros_like(raw)
        if not rated.any():
            return out
        least, most = raw[rated].min(), raw[rated].max()
        if most == 0:
            out[rated] = MAX_SCORE
        else:
            out[rated] = np.floor(MAX_SCORE * (most + least - raw[rated]) / most)
        return out
