"""What a lease promises: its keys live while it is renewed, and not a moment longer than it.

The store's clock is not known, the clients' is. A renewal that was answered with `ttl` seconds keeps the
lease alive until `ttl` after it was *sent*, at the least; a revision existed by the time it was first shown
to anybody, at the latest. So the end of a lease was too early only if it was shown before a renewal that had
been answered could have run out, and no store is called wrong on a guess.
"""

from __future__ import annotations

from collections.abc import Mapping

from deploy.judge.history import Call, History, Lease
from deploy.judge.model import Put, Revoke
from deploy.judge.replay import Replay
from deploy.judge.revisions import Findings, Seen
from deploy.judge.violation import Violation


def check(history: History, replay: Replay, findings: Findings) -> list[Violation]:
    """Judge the ends of leases, which `revisions.check` found, and what came after them."""
    leases = {lease.id: lease for lease in history.leases}
    seen = Seen(history)
    found: list[Violation] = []
    ended: dict[int, tuple[int, Call | None]] = {}
    for revision, lease in sorted(findings.expired.items()):
        if lease in ended:
            found.append(_twice(lease, ended[lease][0], revision))
        ended.setdefault(lease, (revision, None))
        early = _early(leases.get(lease), lease, revision, seen, history.whole)
        if early is not None:
            found.append(early)
    for call in history.calls:
        if call.response is not None:
            for op in call.request.success:
                if isinstance(op, Revoke):
                    ended.setdefault(op.lease, (call.response.revision, call))
    return found + _outlived(ended, replay, findings)


def _early(lease: Lease | None, number: int, revision: int, seen: Seen, whole: bool) -> Violation | None:
    if lease is None:
        what = f"lease {number:x} ended at revision {revision}, and nobody was granted it"
        return Violation("lease", what) if whole else None
    shown = seen.when(revision)
    if shown is None or (lease.revoking is not None and lease.revoking < shown):
        return None
    for renewal in lease.renewals:
        if shown < renewal.invoked + renewal.ttl and renewal.returned < shown:
            left = renewal.invoked + renewal.ttl - shown
            return Violation(
                "lease ended early",
                f"{number:x}: its end, revision {revision}, was shown at {shown:.3f}; a renewal sent at "
                f"{renewal.invoked:.3f} and answered with {renewal.ttl:g} s at {renewal.returned:.3f} had "
                f"{left:.3f} s to run",
            )
    return None


def _twice(lease: int, first: int, second: int) -> Violation:
    return Violation("lease", f"{lease:x} ended at revision {first} and again at {second}")


def _outlived(
    ended: Mapping[int, tuple[int, Call | None]], replay: Replay, findings: Findings
) -> list[Violation]:
    """Keys that are attached to a lease after its end."""
    found = []
    for lease, (revision, call) in sorted(ended.items()):
        left = replay.at(revision).leased(lease)
        late = [
            number
            for number, writer in findings.writers.items()
            if number > revision
            and any(isinstance(op, Put) and op.lease == lease for op in writer.request.operations())
            and any(value is not None and value.lease == lease for value in replay.changes(number).values())
        ]
        calls = () if call is None else (call,)
        if left:
            what = f"{lease:x} ended by revision {revision}, and {left[0].key} is still there"
            found.append(Violation("key outlives its lease", what, calls))
        elif late:
            what = f"{lease:x} ended by revision {revision}, and a key was attached to it at {min(late)}"
            found.append(Violation("key outlives its lease", what, (*calls, findings.writers[min(late)])))
    return found
