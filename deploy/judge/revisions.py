"""Linearizability, decided by revisions.

Every answer of etcd carries the revision of the state it was made from, and every write makes a new one. So
an order of all requests is given, and only has to be checked:

1. each answer is what the request must be answered in the state of its revision, or, if it wrote, what it
   must be answered in the state before and change into the state of its revision;
2. no two writes share a revision, and every change belongs to a request: to one that was acknowledged, to one
   whose outcome is unknown, or to the end of a lease;
3. a request that began after another had ended does not come before it in that order.

If all three hold, the order is a linearization; if one fails, there is none that agrees with the revisions
clients were told. Requests of unknown outcome are fitted into what is left over by matching; that is exact,
since all that limits where one may go is that it changed what was changed there, and did not take effect
before it was sent.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from deploy.judge.history import Call, History
from deploy.judge.model import (
    Changes,
    Delete,
    Effect,
    Put,
    Response,
    Revoke,
    agrees,
    covers,
    evaluate,
    same_changes,
)
from deploy.judge.replay import Replay
from deploy.judge.violation import Violation, say_value


@dataclass(slots=True)
class Findings:
    """What is wrong, which call made each revision, and which leases ended by themselves, at which."""

    violations: list[Violation] = field(default_factory=list)
    writers: dict[int, Call] = field(default_factory=dict)
    expired: dict[int, int] = field(default_factory=dict)  # revision -> lease


def check(history: History, replay: Replay) -> Findings:
    """Judge all calls of `history` against its log."""
    findings = Findings()
    wrote: set[int] = set()  # indices of calls that made a revision
    for index, call in enumerate(history.calls):
        if call.response is not None and not _revokes(call):
            writes = _explain(call, call.response, replay, findings)
            if writes:
                wrote.add(index)
    seen = Seen(history)
    for index, call in enumerate(history.calls):
        if call.response is not None and not call.request.serializable and not _revokes(call):
            _check_order(call, call.response, index in wrote, seen, findings)
    _attribute_rest(history, replay, seen, findings)
    if history.whole:
        missing = sorted(set(range(history.base + 1, replay.last + 1)) - set(replay.revisions))
        if missing:
            findings.violations.append(Violation("log", f"revisions {_ranges(missing)} changed nothing"))
    return findings


def _revokes(call: Call) -> bool:
    """The answer to a revocation carries the revision of the moment it was sent, not of the deletion."""
    return any(isinstance(op, Revoke) for op in call.request.success)


def _explain(call: Call, response: Response, replay: Replay, findings: Findings) -> bool:
    """Rules 1 and (half of) 2 for one acknowledged call; says whether it wrote."""
    revision = response.revision
    written: Effect | None = None
    if call.request.may_write:
        written = evaluate(call.request, replay.at(revision - 1), revision)
        if (
            written.changes
            and agrees(response, written)
            and same_changes(written.changes, replay.changes(revision))
        ):
            other = findings.writers.setdefault(revision, call)
            if other is not call:
                findings.violations.append(
                    Violation("one writer", f"revision {revision} was given to two", (other, call))
                )
            return True
    read = evaluate(call.request, replay.at(revision), revision + 1)
    if not read.changes and agrees(response, read):
        return False
    findings.violations.append(_contradiction(call, response, written, read, replay))
    return False


def _contradiction(
    call: Call, response: Response, written: Effect | None, read: Effect, replay: Replay
) -> Violation:
    revision = response.revision
    if written is not None and written.changes and response.succeeded == written.succeeded:
        found = _say_changes(replay.changes(revision))
        return Violation(
            "acknowledged write", f"revision {revision} should be this write, but is: {found}", (call,)
        )
    truth = Response(revision, read.answers, read.succeeded)
    expected = Call(client="the log", request=call.request, invoked=0.0, returned=0.0, response=truth)
    return Violation("answer", f"not what the state of revision {revision} gives", (call, expected))


def _check_order(call: Call, response: Response, wrote: bool, seen: Seen, findings: Findings) -> None:
    """Rule 3."""
    floor, witness = seen.before(call.invoked)
    if response.revision > floor or (response.revision == floor and not wrote):
        return
    shown = f"revision {floor} had been shown before it began" + ("" if witness else ", by a watch")
    rule = "write in the past" if wrote else "stale read"
    calls = (call,) if witness is None else (witness, call)
    findings.violations.append(Violation(rule, f"made at revision {response.revision}; {shown}", calls))


class Seen:
    """Which revision had been shown to anybody at a time: by an answer or by a watch."""

    def __init__(self, history: History) -> None:
        points: list[tuple[float, int, Call | None]] = [
            (call.returned, call.response.revision, call)
            for call in history.calls
            if call.response is not None and call.returned is not None
        ]
        points += [
            (batch.at, batch.events[-1].revision, None)
            for watch in history.watches
            for batch in watch.batches
            if batch.events
        ]
        points.sort(key=lambda point: point[:2])
        self._times: list[float] = []
        self._highest: list[tuple[int, Call | None]] = []
        highest: tuple[int, Call | None] = (history.base, None)
        for at, revision, call in points:
            if revision > highest[0]:
                highest = (revision, call)
            self._times.append(at)
            self._highest.append(highest)
        self._base = history.base

    def before(self, time: float) -> tuple[int, Call | None]:
        """The highest revision that was shown before `time`, and the call that showed it (None: a watch)."""
        position = bisect_left(self._times, time)
        return self._highest[position - 1] if position else (self._base, None)

    def when(self, revision: int) -> float | None:
        """The first time at which this revision, or a later one, was shown."""
        position = bisect_left(self._highest, revision, key=lambda entry: entry[0])
        return self._times[position] if position < len(self._times) else None


# -- requests of unknown outcome -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A call that may have made a revision in (after, until]."""

    call: Call
    after: int
    until: int


def _attribute_rest(history: History, replay: Replay, seen: Seen, findings: Findings) -> None:
    """Rule 2 for what no acknowledged write explains."""
    rest = [revision for revision in replay.revisions if revision not in findings.writers]
    leases = {revision: _lease_ended(revision, replay) for revision in rest}
    rest.sort(key=lambda revision: leases[revision] != 0)  # a lease's end needs no call: it asks last
    options = _options(rest, _candidates(history, seen, replay.last), replay)
    matched = match(rest, options)
    for revision in rest:
        if revision in matched:
            findings.writers[revision] = matched[revision].call
        elif leases[revision]:
            findings.expired[revision] = leases[revision]
        elif history.whole or any(_touches(call, replay.changes(revision)) for call in history.calls):
            findings.violations.append(_orphan(revision, history, replay, seen))


def _candidates(history: History, seen: Seen, last: int) -> list[_Candidate]:
    found = []
    for call in history.calls:
        if call.unknown and call.request.may_write:
            found.append(_Candidate(call, seen.before(call.invoked)[0], last))
        elif call.response is not None and _revokes(call):
            found.append(_Candidate(call, seen.before(call.invoked)[0], call.response.revision))
    return found


def _options(
    rest: Sequence[int], candidates: Sequence[_Candidate], replay: Replay
) -> dict[int, list[_Candidate]]:
    options: dict[int, list[_Candidate]] = {}
    for revision in rest:
        changes = replay.changes(revision)
        before = replay.at(revision - 1)
        options[revision] = [
            one
            for one in candidates
            if one.after < revision <= one.until
            and _touches(one.call, changes)
            and same_changes(evaluate(one.call.request, before, revision).changes, changes)
        ]
    return options


def _touches(call: Call, changes: Changes) -> bool:
    """Could this call have changed all of that? A quick look, by keys and values only."""
    ops = call.request.operations()
    if any(isinstance(op, Revoke) for op in ops):
        return all(value is None for value in changes.values())
    for key, value in changes.items():
        if value is None:
            if not any(isinstance(op, Delete) and covers(op.key, op.end, key) for op in ops):
                return False
        elif not any(isinstance(op, Put) and op.key == key and op.value == value.value for op in ops):
            return False
    return True


def match(rest: Iterable[int], options: dict[int, list[_Candidate]]) -> dict[int, _Candidate]:
    """A largest assignment of revisions to candidates, each used once (augmenting paths), the earlier
    revisions of `rest` served first.
    """
    taken: dict[int, int] = {}  # id of candidate -> revision
    chosen: dict[int, _Candidate] = {}

    def assign(revision: int, tried: set[int]) -> bool:
        for candidate in options[revision]:
            key = id(candidate)
            if key in tried:
                continue
            tried.add(key)
            if key not in taken or assign(taken[key], tried):
                taken[key] = revision
                chosen[revision] = candidate
                return True
        return False

    for revision in rest:
        assign(revision, set())
    return chosen


def _lease_ended(revision: int, replay: Replay) -> int:
    """The lease whose end explains the changes of a revision, or 0."""
    changes = replay.changes(revision)
    before = replay.at(revision - 1)
    held = [before.lookup(key) for key, value in changes.items() if value is None]
    leases = {found.lease for found in held if found is not None}
    if len(held) != len(changes) or len(leases) != 1:
        return 0
    lease = leases.pop() or 0
    return lease if lease and len(before.leased(lease)) == len(changes) else 0


def _orphan(revision: int, history: History, replay: Replay, seen: Seen) -> Violation:
    """A change that belongs to nobody; with the calls that come closest to it."""
    changes = replay.changes(revision)
    close = tuple(call for call in history.calls if call.request.may_write and _touches(call, changes))[:2]
    if not close:
        partial = [call for call in history.calls if _shares(call, changes)][:2]
        return Violation(
            "atomic or unknown change",
            f"revision {revision} ({_say_changes(changes)}) is no request's whole effect",
            tuple(partial),
        )
    first = close[0]
    if first.refused:
        reason = "of a request that was refused"
    elif first.unknown and seen.before(first.invoked)[0] >= revision:
        reason = "before its request was sent"
    else:
        reason = "which its request did not make there, or not a second time"
    return Violation("unwritten change", f"revision {revision} ({_say_changes(changes)}), {reason}", close)


def _shares(call: Call, changes: Changes) -> bool:
    return any(
        isinstance(op, Put) and (found := changes.get(op.key)) is not None and found.value == op.value
        for op in call.request.operations()
    )


def _say_changes(changes: Changes) -> str:
    said = [f"{key} deleted" if value is None else say_value(value) for key, value in sorted(changes.items())]
    return ", ".join(said) or "no change at all"


def _ranges(numbers: Sequence[int]) -> str:
    said = ", ".join(str(number) for number in numbers[:5])
    return said + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")
