"""All promises, over one history."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.judge import leases, revisions, watches
from deploy.judge.history import History
from deploy.judge.replay import Replay
from deploy.judge.violation import Violation


def judge(history: History) -> list[Violation]:
    """Everything that is wrong with a history; nothing, if every promise was kept."""
    replay = Replay(history.base, history.initial, history.log)
    findings = revisions.check(history, replay)
    found = [
        *replay.violations,
        *findings.violations,
        *watches.check(history, replay),
        *leases.check(history, replay, findings),
    ]
    if history.final > replay.last and history.whole:
        found.append(Violation("log", f"ends at {replay.last}; the store is at revision {history.final}"))
    return found


def explain(violations: Sequence[Violation]) -> str:
    """What to show of many violations: the shortest of each kind, since one cause breaks many promises."""
    kinds: dict[str, list[Violation]] = {}
    for violation in violations:
        kinds.setdefault(violation.rule, []).append(violation)
    lines = []
    for alike in kinds.values():
        lines.append(str(min(alike, key=lambda one: len(str(one)))))
        if len(alike) > 1:
            lines.append(f"    and {len(alike) - 1} more of this kind")
    return "\n".join(lines)
