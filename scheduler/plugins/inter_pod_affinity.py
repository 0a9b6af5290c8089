"""InterPodAffinity: be near, or away from, the nodes where certain pods run.

Three hard rules: the domain must hold no pod that repels this one; every affinity term must find a matching
pod in the domain (unless no pod anywhere matches and the pod matches its own terms: the first of a group); no
anti-affinity term may find one. Preferences weigh the matching pods of a domain, both ways.
"""

from __future__ import annotations

import numpy as np

from scheduler.columns import ABSENT, Columns, Mask
from scheduler.framework import MAX_SCORE, ClusterEvent, Rows, Scores, Verdict
from scheduler.podinfo import PodInfo

_REPELLED = ("node(s) didn't satisfy existing pods anti-affinity rules",)
_NEAR = ("node(s) didn't match pod affinity rules",)
_APART = ("node(s) didn't match pod anti-affinity rules",)


class InterPodAffinity:
    name = "InterPodAffinity"
    events = (
        ClusterEvent.NODE_ADDED
        | ClusterEvent.NODE_LABELS
        | ClusterEvent.POD_PLACED
        | ClusterEvent.POD_REMOVED
        | ClusterEvent.NAMESPACE_LABELS
    )

    def filter(self, pod: PodInfo, nodes: Columns) -> Verdict | None:
        repelled = self._repelled(pod, nodes)
        if repelled is None and not pod.affinity and not pod.anti_affinity:
            return None
        none = np.zeros(len(nodes.live), dtype=np.bool_)
        far = ~self._near(pod, nodes) if pod.affinity else none
        close = self._too_close(pod, nodes) if pod.anti_affinity else none
        pushed = none if repelled is None else repelled

        def reasons(row: int) -> tuple[str, ...]:
            return _NEAR if far[row] else _APART if close[row] else _REPELLED

        return Verdict(~(pushed | far | close), reasons)

    def _repelled(self, pod: PodInfo, nodes: Columns) -> Mask | None:
        out: Mask | None = None
        for term, owners in nodes.anti_affinity.items():
            if nodes.selects(term, pod):
                hit = nodes.by_domain(owners, term.topology_key) > 0
                out = hit if out is None else out | hit
        return out

    def _near(self, pod: PodInfo, nodes: Columns) -> Mask:
        """Pods near must match all terms at once; each term's domain must then hold one."""
        if len(pod.affinity) == 1:
            matching = [nodes.term_counts(pod.affinity[0])]
        else:
            matching = [nodes.joint_counts(pod.affinity)] * len(pod.affinity)
        everywhere = np.ones(len(nodes.live), dtype=np.bool_)
        labelled = everywhere.copy()
        found_any = False
        for term, counts in zip(pod.affinity, matching, strict=True):
            labelled &= nodes.label_column(term.topology_key).ids != ABSENT
            found_any = found_any or bool(counts.any())
            everywhere &= nodes.by_domain(counts, term.topology_key) > 0
        if not found_any and all(nodes.selects(term, pod) for term in pod.affinity):
            return labelled
        return labelled & everywhere

    def _too_close(self, pod: PodInfo, nodes: Columns) -> Mask:
        out = np.zeros(len(nodes.live), dtype=np.bool_)
        for term in pod.anti_affinity:
            out |= nodes.by_domain(nodes.term_counts(term), term.topology_key) > 0
        return out

    def score(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Scores | None:
        raw = np.zeros(len(nodes.live), dtype=np.float64)
        touched = False
        for sign, terms in ((1, pod.preferred_affinity), (-1, pod.preferred_anti_affinity)):
            for weight, term in terms:
                raw += sign * weight * nodes.by_domain(nodes.term_counts(term), term.topology_key)
                touched = True
        for (weight, term), owners in nodes.weighted_terms.items():
            if nodes.selects(term, pod):
                raw += weight * nodes.by_domain(owners, term.topology_key)
                touched = True
        if not touched:
            return None
        rated = raw[rows]
        least, most = rated.min(), rated.max()
        if most == least:
            return np.zeros_like(rated)
        out: Scores = np.floor(MAX_SCORE * (rated - least) / (most - least))
        return out
