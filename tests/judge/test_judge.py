"""Right histories are accepted, whatever overlaps; wrong ones are rejected, each under its own name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.judge import history as histories
from deploy.judge import wgl
from deploy.judge.history import Batch, Call, Event, History
from deploy.judge.model import Get, KeyValue, Put, Request, Response, evaluate
from deploy.judge.replay import Replay
from deploy.judge.revisions import Seen, check
from deploy.judge.verdict import explain, judge
from deploy.judge.violation import Violation
from tests.judge import store

SEEDS = st.integers(0, 10**9)
EXAMPLES = settings(max_examples=60, deadline=None)


@EXAMPLES
@given(SEEDS)
def test_right_histories_are_accepted(seed: int) -> None:
    assert judge(store.simulate(seed)) == []


@EXAMPLES
@given(SEEDS)
def test_a_history_survives_its_file(seed: int) -> None:
    history = store.simulate(seed)
    assert histories.from_json(json.loads(json.dumps(histories.to_json(history)))) == history


@EXAMPLES
@given(SEEDS)
def test_a_log_of_bare_values_will_do(seed: int) -> None:
    history = store.simulate(seed)
    history.log = [_bare(event) for event in history.log]
    assert judge(history) == []


def _bare(event: Event) -> Event:
    value = event.value and KeyValue(event.key, event.value.value, lease=event.value.lease)
    return Event(event.revision, event.key, value)


@EXAMPLES
@given(SEEDS, st.booleans())
def test_the_search_agrees_with_the_revisions(seed: int, spoil: bool) -> None:
    """Two judges that have nothing in common but the model, on short histories, right and wrong."""
    history = store.simulate(seed, clients=3, steps=40, plain=True)
    history.watches = []
    if spoil:
        _move_an_answer(history, seed)
    by_search = wgl.linearizable(history.calls, wgl.Snapshot(0), revisions=True)
    assert (judge(history) == []) == by_search


def _move_an_answer(history: History, seed: int) -> None:
    """Answer one read from the state before: sometimes still right, sometimes stale."""
    reads = [i for i, call in enumerate(history.calls) if call.response and not call.request.may_write]
    if not reads:
        return
    index = reads[seed % len(reads)]
    call = history.calls[index]
    assert call.response is not None
    revision = max(0, call.response.revision - 1)
    state = Replay(0, (), history.log).at(revision)
    effect = evaluate(call.request, state, revision + 1)
    history.calls[index] = replace(call, response=Response(revision, effect.answers, effect.succeeded))


@EXAMPLES
@given(SEEDS)
def test_the_search_needs_no_revisions(seed: int) -> None:
    history = store.simulate(seed, clients=3, steps=60, plain=True, guard="version")
    assert wgl.check([_without_revisions(call) for call in history.calls]) == []


def _without_revisions(call: Call) -> Call:
    if call.response is None:
        return call
    answers = tuple(
        tuple(KeyValue(one.key, one.value, version=one.version) for one in answer)
        if isinstance(answer, tuple)
        else answer
        for answer in call.response.answers
    )
    return replace(call, response=Response(0, answers, call.response.succeeded))


# -- every mutation below breaks a promise for certain -------------------------------------------------------


def _spoil_answer(history: History) -> str:
    for index, call in enumerate(history.calls):
        if call.response and call.response.answers and isinstance(call.response.answers[0], tuple):
            found = call.response.answers[0]
            if found:
                answers = ((store.other_value(found[0]), *found[1:]), *call.response.answers[1:])
                history.calls[index] = replace(call, response=replace(call.response, answers=answers))
                return "answer"
    return ""


def _stale_read(history: History) -> str:
    replay, seen = Replay(0, (), history.log), Seen(history)
    for index, call in enumerate(history.calls):
        floor, _ = seen.before(call.invoked)
        simple = not call.request.may_write and not call.request.serializable
        if call.response and simple and floor:
            state = replay.at(floor - 1)
            effect = evaluate(call.request, state, floor)
            history.calls[index] = replace(
                call, response=Response(floor - 1, effect.answers, effect.succeeded)
            )
            return "stale read"
    return ""


def _lost_write(history: History) -> str:
    """The newest acknowledged put vanishes, and the revision with it."""
    last = history.log[-1].revision
    writer = check(history, Replay(0, (), history.log)).writers[last]
    history.log = [event for event in history.log if event.revision != last]
    return "log" if writer.unknown else "acknowledged write"


def _phantom(history: History) -> str:
    history.final += 1
    history.log.append(Event(history.final, "a", KeyValue("a", "from nowhere")))
    history.watches = []
    return "atomic or unknown change"


def _refused_but_done(history: History) -> str:
    for index, call in enumerate(history.calls):
        wrote = call.response and any(event.revision == call.response.revision for event in history.log)
        if wrote and isinstance(call.request.success[0], Put) and not call.request.compares:
            history.calls[index] = replace(call, response=None, refused="no space")
            return "unwritten change"
    return ""


def _split(history: History) -> str:
    """A transaction over two keys comes apart: its second half gets a revision of its own, at the end."""
    for event in history.log:
        mates = [one for one in history.log if one.revision == event.revision]
        if len(mates) > 1 and mates[-1].value is not None and event.revision == history.log[-1].revision:
            writer = check(history, Replay(0, (), history.log)).writers[event.revision]
            history.log.remove(mates[-1])
            history.final += 1
            history.log.append(
                Event(history.final, mates[-1].key, replace(mates[-1].value, mod=history.final))
            )
            history.watches = []
            return "unwritten change" if writer.unknown else "acknowledged write"
    return ""


def _twice(history: History) -> str:
    """Two clients are told that they made the same revision."""
    for call in history.calls:
        wrote = call.response and any(event.revision == call.response.revision for event in history.log)
        if wrote and isinstance(call.request.success[0], Put) and not call.request.compares:
            history.calls.append(replace(call, client="another"))
            return "one writer"
    return ""


def _hole(history: History) -> str:
    history.calls = [call for call in history.calls if not call.response]
    history.log = [event for event in history.log if event.revision != 1]
    history.watches, history.leases = [], []
    return "log"


MUTATIONS = (_spoil_answer, _stale_read, _lost_write, _phantom, _refused_but_done, _split, _twice, _hole)


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__.strip("_"))
def test_wrong_histories_are_rejected(mutate: Callable[[History], str]) -> None:
    _rejected(mutate, lambda seed: store.simulate(seed, plain=True))


def _edited(edit: Callable[[list[Batch]], str]) -> Callable[[History], str]:
    def mutate(history: History) -> str:
        rule = ""

        def once(batches: list[Batch]) -> None:
            nonlocal rule
            rule = edit(batches)

        history.watches[0] = store.edit_batches(history.watches[0], once)
        return rule and f"watch: {rule}"

    mutate.__name__ = edit.__name__
    return mutate


def _duplicate(batches: list[Batch]) -> str:
    events = [batch for batch in batches if batch.events]
    batches.append(replace(events[-1], revision=batches[-1].revision))
    return "unique"


def _skip(batches: list[Batch]) -> str:
    del batches[next(i for i, batch in enumerate(batches) if batch.events)]
    return "reliable"


def _skip_last(batches: list[Batch]) -> str:
    while batches and not batches[-1].events:
        batches.pop()
    batches.pop()
    return "reliable"


def _reorder(batches: list[Batch]) -> str:
    for index, batch in enumerate(batches):
        if len({event.revision for event in batch.events}) > 1:
            batches[index] = replace(batch, events=tuple(reversed(batch.events)))
            return "ordered"
    return ""


def _tear(batches: list[Batch]) -> str:
    for index, batch in enumerate(batches):
        if len(batch.events) > 1 and batch.events[-1].revision == batch.events[-2].revision:
            batches[index : index + 1] = [
                replace(batch, events=batch.events[:-1]),
                replace(batch, events=batch.events[-1:]),
            ]
            return "atomic"
    return ""


def _wrong_value(batches: list[Batch]) -> str:
    for index, batch in enumerate(batches):
        for event in batch.events[:1]:
            if event.value is not None:
                wrong = replace(event, value=store.other_value(event.value))
                batches[index] = replace(batch, events=(wrong, *batch.events[1:]))
                return "true"
    return ""


def _wrong_previous(batches: list[Batch]) -> str:
    for index, batch in enumerate(batches):
        for event in batch.events[:1]:
            if event.previous is not None:
                wrong = replace(event, previous=store.other_value(event.previous))
                batches[index] = replace(batch, events=(wrong, *batch.events[1:]))
                return "true"
    return ""


def _early_bookmark(batches: list[Batch]) -> str:
    for index, batch in enumerate(batches):
        if batch.events:
            batches.insert(index, Batch(batch.at, batch.events[-1].revision))
            return "reliable"
    return ""


EDITS = (_duplicate, _skip, _skip_last, _reorder, _tear, _wrong_value, _wrong_previous, _early_bookmark)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__.strip("_"))
def test_wrong_watches_are_rejected(edit: Callable[[list[Batch]], str]) -> None:
    _rejected(_edited(edit), store.simulate)


def _rejected(mutate: Callable[[History], str], simulate: Callable[[int], History]) -> None:
    """In every one of many histories that the mutation applies to, its rule is broken."""
    applied = 0
    for seed in range(40):
        history = simulate(seed)
        rule = mutate(history)
        if rule:
            applied += 1
            found = judge(history)
            assert rule in {violation.rule for violation in found}, (seed, rule, explain(found))
    assert applied >= 3


def _rules(history: History) -> set[str]:
    return {violation.rule for violation in judge(history)}


def test_a_write_takes_no_effect_before_it_was_sent() -> None:
    early = Call(client="a", request=histories.put("k", "1"), invoked=5.0)
    later = Call(
        client="b",
        request=histories.put("k", "2"),
        invoked=1.0,
        returned=2.0,
        response=Response(2, (None,)),
    )
    log = [Event(1, "k", KeyValue("k", "1")), Event(2, "k", KeyValue("k", "2"))]
    history = History(calls=[early, later], log=log, final=2)
    assert _rules(history) == {"unwritten change"}
    assert "before its request was sent" in explain(judge(history))


def test_unknown_deletes_are_matched_as_a_whole() -> None:
    """Two unknown requests, two changes, and only one way to pair them."""
    sweep = Call(client="a", request=histories.delete("a", "z"), invoked=0.0)
    single = Call(client="b", request=histories.delete("k"), invoked=0.0)
    initial = (KeyValue("k", "1", 1, 1, 1, 0), KeyValue("m", "1", 1, 1, 1, 0))
    log = [Event(2, "k", None), Event(3, "m", None)]
    history = History(calls=[sweep, single], log=log, initial=initial, base=1, final=3)
    assert judge(history) == []


def test_leases() -> None:
    for seed in range(20):
        early = store.simulate(seed)
        ran_out = early.leases[1]
        renewed = replace(ran_out.renewals[-1], ttl=60.0)
        early.leases[1] = replace(ran_out, renewals=(*ran_out.renewals, renewed))
        assert _rules(early) == {"lease ended early"}

        nobody = store.simulate(seed)
        del nobody.leases[1]
        assert _rules(nobody) == {"lease"}


def test_a_key_that_outlives_its_lease() -> None:
    revoke = Call(
        client="a",
        request=Request((store.Revoke(9),)),
        invoked=0.0,
        returned=1.0,
        response=Response(5, (None,)),
    )
    initial = (KeyValue("k", "1", 1, 1, 1, 9),)
    history = History(calls=[revoke], initial=initial, base=5, final=5)
    assert _rules(history) == {"key outlives its lease"}


def test_a_stale_read_names_the_two_requests_that_prove_it() -> None:
    write = Call(
        client="writer",
        request=histories.put("k", "2"),
        invoked=1.0,
        returned=2.0,
        response=Response(2, (None,)),
    )
    read = Call(
        client="reader",
        request=Request((Get("k"),)),
        invoked=3.0,
        returned=4.0,
        response=Response(1, ((KeyValue("k", "1"),),)),
    )
    log = [Event(2, "k", KeyValue("k", "2"))]
    history = History(calls=[write, read], log=log, initial=(KeyValue("k", "1"),), base=1, final=2)
    assert judge(history) == [
        Violation(
            "stale read",
            "made at revision 1; revision 2 had been shown before it began",
            (write, read),
        )
    ]
    assert explain(judge(history)).splitlines() == [
        "stale read: made at revision 1; revision 2 had been shown before it began",
        "    [1.000000 .. 2.000000] writer: put k=2 -> revision 2 [done]",
        "    [3.000000 .. 4.000000] reader: get k -> revision 1 [k=1]",
    ]


def test_the_search_shows_a_smallest_set() -> None:
    calls = [
        Call(
            client="w",
            request=histories.put("k", str(n)),
            invoked=n,
            returned=n + 0.5,
            response=Response(0, (None,)),
        )
        for n in range(1, 9)
    ]
    stale = Call(
        client="r",
        request=histories.get("k"),
        invoked=20.0,
        returned=21.0,
        response=Response(0, ((KeyValue("k", "7"),),)),
    )
    (violation,) = wgl.check([*calls, stale])
    assert len(violation.calls) <= 3
    assert stale in violation.calls
    with pytest.raises(ValueError, match="cannot be judged"):
        wgl.check([replace(stale, request=Request((), (store.Compare("k", "mod", "=", 4),)))])
