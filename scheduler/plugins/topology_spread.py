"""PodTopologySpread: keep the number of matching pods even over the domains of a topology key (KEP-895).

Hard constraints filter by skew against the emptiest domain; soft ones score. Which nodes make up the domains
is decided by the constraint's node inclusion policies (KEP-3094) and by having every key. Pods without
constraints get the profile's default ones (PodTopologySpreadArgs), by the selector of their services and
owner.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from scheduler.columns import Columns, Rows
from scheduler.framework import MAX_SCORE, ClusterEvent, Scores, Verdict
from scheduler.plugins import matching
from scheduler.plugins.taint_toleration import admitted
from scheduler.podinfo import PodInfo, PodTerm, Selector, Spread
from scheduler.tallies import ABSENT, Mask, Tally

_SKEW = ("node(s) didn't match pod topology spread constraints",)
_NO_LABEL = ("node(s) didn't match pod topology spread constraints (missing required label)",)
_HOSTNAME = "kubernetes.io/hostname"
_ANY = Selector(())

# What kube-scheduler applies to pods without constraints, unless told otherwise (defaultingType: System).
SYSTEM_DEFAULTS = (
    Spread(3, _HOSTNAME, False, _ANY),
    Spread(5, "topology.kubernetes.io/zone", False, _ANY),
)


def _labelled(keys: tuple[str, ...], nodes: Columns, rows: Rows) -> Mask:
    out: Mask = nodes.live[rows].copy()
    for key in keys:
        out &= nodes.label_ids(key, rows) != ABSENT
    return out


def _term(pod: PodInfo, spread: Spread) -> PodTerm:
    return PodTerm(spread.selector, "", frozenset((pod.namespace,)), living=True)


def _tally(pod: PodInfo, spread: Spread, keys: tuple[str, ...], nodes: Columns) -> Tally:
    """Matching pods by domain, counting nodes that have all `keys` and that the inclusion policies admit."""

    def eligible() -> Mask:
        out = _labelled(keys, nodes, nodes.every)
        if spread.honor_affinity:
            wanted = matching.required(pod, nodes, nodes.every)
            if wanted is not None:
                out &= wanted
        if spread.honor_taints:
            out &= admitted(pod, nodes, nodes.every)
        return out

    affinity = (pod.node_selector, pod.node_terms) if spread.honor_affinity else None
    taints = pod.tolerations if spread.honor_taints else None
    return nodes.tally(
        _term(pod, spread), key=spread.topology_key, eligible=eligible, eligible_as=(keys, affinity, taints)
    )


class TopologySpread:
    name = "PodTopologySpread"
    events = ClusterEvent.NODE_CHANGED | ClusterEvent.POD_REMOVED | ClusterEvent.POD_PLACED
    local_filter = False
    local_score = False

    def __init__(self, defaults: tuple[Spread, ...] = SYSTEM_DEFAULTS, *, system: bool = True) -> None:
        self._defaults = defaults
        self._system = system

    def _constraints(self, pod: PodInfo, nodes: Columns, *, hard: bool) -> list[Spread]:
        if pod.spreads:
            return [spread for spread in pod.spreads if spread.hard is hard]
        wanted = [spread for spread in self._defaults if spread.hard is hard]
        selector = nodes.workloads.selector_of(pod) if wanted else None
        return [replace(spread, selector=selector) for spread in wanted] if selector is not None else []

    def filter(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Verdict | None:
        hard = self._constraints(pod, nodes, hard=True)
        if not hard:
            return None
        keys = tuple(sorted({spread.topology_key for spread in hard}))
        labelled = _labelled(keys, nodes, rows)
        passes = labelled.copy()
        for spread in hard:
            tally = _tally(pod, spread, keys, nodes)
            sums = tally.sums(nodes.shape)
            domains = tally.domains
            least = int(sums[domains].min()) if domains.size >= max(spread.min_domains, 1) else 0
            most = spread.max_skew + least - int(spread.selector.matches(pod.labels))
            passes &= (sums <= most).take(tally.column.ids[rows])
        return Verdict(
            passes,
            lambda at: _SKEW if labelled[at] else _NO_LABEL,
            final=lambda at: not labelled[at],
            kinds=lambda fallen: labelled[fallen].astype(np.int64),
        )

    def pre_score(self, pod: PodInfo, nodes: Columns) -> bool:
        return bool(self._constraints(pod, nodes, hard=False))

    def score(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Scores | float | None:
        soft = self._constraints(pod, nodes, hard=False)
        keys = tuple(sorted({spread.topology_key for spread in soft}))
        all_keys = bool(pod.spreads) or not self._system
        labelled = _labelled(keys if all_keys else (), nodes, rows)
        raw = np.zeros(labelled.size)
        for spread in soft:
            raw += self._cost(pod, spread, keys if all_keys else (), nodes, rows, labelled)
        return _reversed(np.floor(raw + 0.5), labelled)

    def _cost(
        self, pod: PodInfo, spread: Spread, keys: tuple[str, ...], nodes: Columns, rows: Rows, rated: Mask
    ) -> Scores:
        """Matching pods in each row's domain, weighted up the more domains there are."""
        ids = nodes.label_ids(spread.topology_key, rows)
        if spread.topology_key == _HOSTNAME:  # a domain of one node: what runs there, whatever the policies
            tally = nodes.tally(_term(pod, spread), key=_HOSTNAME)
            found, domains = tally.counts[rows], int(np.count_nonzero(rated))
        else:
            tally = _tally(pod, spread, keys, nodes)
            found = tally.sums(nodes.shape).take(ids)
            present = np.zeros(len(tally.column.values), dtype=np.bool_)
            present[ids[rated]] = True
            domains = int(np.count_nonzero(present[1:]))
        out: Scores = np.where(ids != ABSENT, found * math.log(domains + 2) + (spread.max_skew - 1), 0.0)
        return out


def _reversed(raw: Scores, rated: Mask) -> Scores:
    """The emptiest domain gets the most; nodes without the labels get 0."""
    out = np.zeros_like(raw)
    if not rated.any():
        return out
    chosen = raw[rated]
    least, most = chosen.min(), chosen.max()
    if most == 0:
        out[rated] = MAX_SCORE
    else:
        out[rated] = np.floor(MAX_SCORE * (most + least - chosen) / most)
    return out
