"""What local plugins said of every node about one kind of pod, kept and brought up to date row by row.

Pods of one template come in a row, and each decision changes one node. So verdicts and scores that depend on
a row alone are kept per pod signature, and only rows noted in the journal since are judged again. Plugins
that look across nodes are asked each time.

Invariant: after `refresh`, `ranked` equals what a fresh sheet would hold (`tests/scheduler/test_sheets.py`).
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np

from scheduler.columns import Columns, Rows
from scheduler.framework import Profile, Scores
from scheduler.podinfo import PodInfo

MAX_SHEETS = 256
UNFIT = -1.0  # below every score: the row cannot take the pod


class Sheet:
    """Per row the weighted sum of local scores, or UNFIT where a local filter says no."""

    def __init__(self) -> None:
        self.ranked: Scores = np.zeros(0)
        self._position = -1

    def refresh(self, profile: Profile, pod: PodInfo, nodes: Columns) -> Scores:
        """Bring the sheet up to date; the result belongs to the sheet and must not be changed."""
        changed = nodes.journal.since(self._position) if len(self.ranked) == nodes.top else None
        if changed is None or len(changed) > nodes.top // 2:
            self.ranked = judge(profile, pod, nodes, nodes.every)
        elif changed:
            rows = np.array(changed, dtype=np.intp)
            self.ranked[rows] = judge(profile, pod, nodes, rows)
        self._position = nodes.journal.position
        return self.ranked


def judge(profile: Profile, pod: PodInfo, nodes: Columns, rows: Rows) -> Scores:
    """Local filters and scores of the given rows, together."""
    passes = nodes.live[rows].copy()
    for plugin in profile.local_filters:
        verdict = plugin.filter(pod, nodes, rows)
        if verdict is not None:
            passes &= verdict.passes
    totals = np.zeros(passes.size)
    idle = {plugin.name for plugin in profile.pre_scores if not plugin.pre_score(pod, nodes)}
    for scorer, weight in profile.local_scores:
        scores = None if scorer.name in idle else scorer.score(pod, nodes, rows)
        if scores is not None:
            totals += weight * scores
    totals[~passes] = UNFIT
    return totals


class Sheets:
    """The sheets of the kinds of pods seen last."""

    def __init__(self) -> None:
        self._sheets: OrderedDict[tuple[str, str, bytes], Sheet] = OrderedDict()

    def of(self, profile: Profile, pod: PodInfo) -> Sheet:
        kind = (profile.scheduler_name, pod.node_name, pod.signature)
        sheet = self._sheets.get(kind)
        if sheet is None:
            sheet = self._sheets[kind] = Sheet()
            if len(self._sheets) > MAX_SHEETS:
                self._sheets.popitem(last=False)
        else:
            self._sheets.move_to_end(kind)
        return sheet
