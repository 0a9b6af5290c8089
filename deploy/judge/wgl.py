"""Linearizability by search, for histories whose answers carry no revisions.

Wing and Gong's search with Lowe's memory ("Testing for linearizability", 2017): take any request that began
before every pending one ended, let the model answer it, and go on; never visit the same (set of requests
taken, state) twice. Exponential in how many requests overlap at a time, so keys that no request joins are
judged one by one. A request of unknown outcome may be taken at any time after it was sent, or never.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deploy.judge.history import Call
from deploy.judge.model import KeyValue, Op, Revoke, agrees, covers, evaluate
from deploy.judge.violation import Violation

Values = tuple[KeyValue, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state by value: hashable, so that it can be remembered. Sorted by key."""

    revision: int
    values: Values = ()

    def lookup(self, key: str) -> KeyValue | None:
        return next((found for found in self.values if found.key == key), None)

    def within(self, key: str, end: str) -> list[KeyValue]:
        return [found for found in self.values if covers(key, end, found.key)]

    def leased(self, lease: int) -> list[KeyValue]:
        return [found for found in self.values if found.lease == lease]

    def past(self, revision: int) -> Snapshot:
        raise ValueError("a search judges reads of the present only")


def step(state: Snapshot, call: Call, *, revisions: bool) -> Snapshot | None:
    """The state after `call`, or None if it cannot have been answered so in `state`.

    With `revisions`, the answer's revision must be the state's; without, the counter only tells states apart
    in what comparisons of versions need, and keys carry no revisions at all.
    """
    effect = evaluate(call.request, state, state.revision + 1)
    if call.response is not None and not agrees(call.response, effect):
        return None
    revision = state.revision + 1 if revisions and effect.changes else state.revision
    if revisions and call.response is not None and call.response.revision != revision:
        return None
    if not effect.changes:
        return state
    kept = {found.key: found for found in state.values if found.key not in effect.changes}
    for key, value in effect.changes.items():
        if value is not None:
            kept[key] = (
                value if revisions else KeyValue(key, value.value, version=value.version, lease=value.lease)
            )
    return Snapshot(revision, tuple(kept[key] for key in sorted(kept)))


def linearizable(calls: Sequence[Call], initial: Snapshot, *, revisions: bool) -> bool:
    """Is there an order of the calls, true to real time, in which every answer is right?"""
    todo = sorted((call for call in calls if not call.refused), key=lambda call: call.invoked)
    ends = [float("inf") if call.returned is None or call.unknown else call.returned for call in todo]
    required = sum(1 << index for index, call in enumerate(todo) if not call.unknown)
    seen: set[tuple[int, Snapshot]] = set()
    stack: list[tuple[int, Snapshot]] = [(0, initial)]
    while stack:
        taken, state = stack.pop()
        if taken & required == required:
            return True
        if (taken, state) in seen:
            continue
        seen.add((taken, state))
        limit = min(end for index, end in enumerate(ends) if not taken >> index & 1)
        for index, call in enumerate(todo):
            if call.invoked > limit:
                break
            if not taken >> index & 1:
                after = step(state, call, revisions=revisions)
                if after is not None:
                    stack.append((taken | 1 << index, after))
    return False


def check(calls: Sequence[Call], initial: Iterable[KeyValue] = (), *, base: int = 0) -> list[Violation]:
    """Judge answers by their values alone, in groups of keys that no request joins; per group that cannot be
    ordered, a smallest set of calls that cannot be.

    Raises ValueError if a call compares a revision with anything but 0, which says whether the key exists.
    """
    for compare in (one for call in calls for one in call.request.compares):
        if compare.target in ("create", "mod") and (
            compare.operand != 0 or compare.relation not in ("=", "!=")
        ):
            raise ValueError(f"without revisions, {compare} cannot be judged")
    found = []
    values = tuple(initial)
    for group in partition(calls):
        keys = {key for call in group for key, _ in spans(call)}
        ends = [span for call in group for span in spans(call)]
        start = Snapshot(
            base,
            tuple(
                KeyValue(one.key, one.value, version=one.version, lease=one.lease)
                for one in sorted(values, key=lambda one: one.key)
                if any(covers(key, end, one.key) for key, end in ends)
            ),
        )
        if not linearizable(group, start, revisions=False):
            core = tuple(smallest(group, start))
            what = f"no order of these answers of {len(group)} on {', '.join(sorted(keys))} is right"
            found.append(Violation("linearizable", what, core))
    return found


def smallest(calls: Sequence[Call], initial: Snapshot) -> list[Call]:
    """Leave out answers as long as what is left is still wrong.

    A call that may have written and is left out is kept as one of unknown outcome, so nothing becomes wrong
    by leaving out. Those that are of no use even so are not shown.
    """
    core = list(calls)
    for call in list(calls):
        at = core.index(call)
        softer = core[:at] + ([_forget(call)] if call.request.may_write else []) + core[at + 1 :]
        if not linearizable(softer, initial, revisions=False):
            core = softer
    return [call for call in core if not call.unknown or call in calls]


def _forget(call: Call) -> Call:
    return Call(client=call.client, request=call.request, invoked=call.invoked)


def spans(call: Call) -> list[tuple[str, str]]:
    """The (key, end) ranges a call reads or writes."""
    ops: tuple[Op, ...] = call.request.operations()
    return [(one.key, "") for one in call.request.compares] + [
        ("", "\0") if isinstance(op, Revoke) else (op.key, getattr(op, "end", "")) for op in ops
    ]


def partition(calls: Sequence[Call]) -> list[list[Call]]:
    """Groups of calls with no key in common."""
    groups: list[tuple[list[tuple[str, str]], list[Call]]] = []
    for call in calls:
        mine = spans(call)
        joined = [group for group in groups if any(_overlap(a, b) for a in mine for b in group[0])]
        groups = [group for group in groups if group not in joined]
        merged = sorted({*mine, *(span for group in joined for span in group[0])})
        groups.append((merged, [*(one for group in joined for one in group[1]), call]))
    return [group[1] for group in groups]


def _overlap(one: tuple[str, str], other: tuple[str, str]) -> bool:
    return covers(*one, other[0]) or covers(*other, one[0])
