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


def explain(violations: Sequence[Violation], *, limit: int = 8) -> str:
    """What to show of many violations: one of each kind first, since one cause breaks many promises."""
    kinds: dict[str, Violation] = {}
    for violation in violations:
        kinds.setdefault(violation.rule, violation)
    chosen = [*kinds.values(), *(one for one in violations if one not in kinds.values())][:limit]
    lines = [str(violation) for violation in chosen]
    if len(violations) > len(chosen):
        lines.append(f"and {len(violations) - len(chosen)} more")
    return "\n".join(lines)
