"""Every check convicts what it is there for, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from deploy.chaos.counters import Seen
from deploy.chaos.load.service import Look
from deploy.chaos.record import Reign, Run, Sample, leaders
from deploy.chaos.verdict import back, decide
from deploy.judge.history import Event
from deploy.judge.model import Response
from tests.chaos import runs


def broken_checks(run: Run) -> dict[str, str]:
    """What does not hold: check -> its first violation."""
    return {finding.check: finding.violations[0] for finding in decide(run).findings if not finding.holds}


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    assert broken_checks(runs.good()) == {}


def lose_in_the_store(run: Run) -> None:
    run.store.log = [event for event in run.store.log if event.revision != run.store.base + 9]


def lose_through_the_api(run: Run) -> None:
    run.stored["w0-k0"] = 3


def read_old_from_the_store(run: Run) -> None:
    last = run.store.calls[-1]
    run.store.calls[-1] = replace(last, response=Response(runs.BASE + 3, ((runs.value(2),),)))


def read_old_through_the_api(run: Run) -> None:
    run.counters.reads.append(Seen("w0-k0", 2, 20.3, 20.4))


def watch_misses(run: Run) -> None:
    watch = run.store.watches[0]
    run.store.watches[0] = replace(watch, batches=watch.batches[:4] + watch.batches[5:])


def api_watch_repeats(run: Run) -> None:
    run.counters.watched.insert(5, ("w0-k0", 3))


def bind_twice(run: Run) -> None:
    run.bindings.append((104, "p1", "w0"))


def never_whole_again(run: Run) -> None:
    run.service.looks = [
        look if look.at < 10 else Look(look.at, 2, {"p0": "w0", "p1": "w1"}) for look in run.service.looks
    ]


def a_worker_stays_mute(run: Run) -> None:
    run.service.answers = [one for one in run.service.answers if one[0] < 10 or one[1] != "w1"]


def no_leader_again(run: Run) -> None:
    run.samples = [replace(one, role=-1) if one.at >= 10 else one for one in run.samples]


def two_leaders_for_ever(run: Run) -> None:
    run.samples = [replace(one, role=1) if one.at >= 10 and one.host == "c0" else one for one in run.samples]


def could_not_inject(run: Run) -> None:
    run.strikes[0].error = "FaultError: nft: no"


def store_stands_still(run: Run) -> None:
    inside = [call for call in run.store.calls if 5 <= call.invoked < 10]
    numbers = {call.response.revision for call in inside if call.response}
    run.store.calls = [call for call in run.store.calls if call not in inside]
    run.store.log = [event for event in run.store.log if event.revision not in numbers]
    watch = run.store.watches[0]
    run.store.watches[0] = replace(
        watch, batches=tuple(batch for batch in watch.batches if batch.revision not in numbers)
    )
    # What comes after says what its key went through: tell it without the missing versions.
    run.store.log = [bare(event) for event in run.store.log]
    run.store.watches[0] = replace(
        run.store.watches[0],
        batches=tuple(
            replace(batch, events=tuple(bare(event) for event in batch.events))
            for batch in run.store.watches[0].batches
        ),
    )
    run.store.calls = run.store.calls[:-1]


def bare(event: Event) -> Event:
    assert event.value is not None
    return replace(event, value=replace(event.value, version=None))


def service_stands_still(run: Run) -> None:
    run.service.answers = [one for one in run.service.answers if one[1] != "w0" or not 5 <= one[0] <= 10]


def did_not_move(run: Run) -> None:
    run.strikes[0].met = False


def was_evicted(run: Run) -> None:
    run.service.looks.append(Look(29.0, 3, {"p0": "w0", "p1": "w1", "p9": "w0"}))


@pytest.mark.parametrize(
    ("spoil", "check", "words"),
    [
        (lose_in_the_store, "acknowledged", "store k: acknowledged at revision 109, gone"),
        (lose_through_the_api, "acknowledged", "acknowledged 29, holds 3"),
        (read_old_from_the_store, "linearizable", "get k"),
        (read_old_through_the_api, "linearizable", "read 2 after 20 was there"),
        (watch_misses, "watches", "watch"),
        (api_watch_repeats, "watches", "watch showed 3 after 4"),
        (bind_twice, "bound-once", "pod p1: bound to w1, then w0"),
        (never_whole_again, "recovered", "not seen: Deployment whole"),
        (a_worker_stays_mute, "recovered", "not seen: Service answers"),
        (no_leader_again, "recovered", "not seen: members agree"),
        (two_leaders_for_ever, "recovered", "not seen: members agree"),
        (could_not_inject, "recovered", "partition c0: FaultError: nft: no"),
        (store_stands_still, "writes-continue", "no write was acknowledged in 5.0 s"),
        (service_stands_still, "service-continues", "no answer of the Service on w0"),
        (did_not_move, "pods-moved", "did not become whole elsewhere in 5 s"),
        (was_evicted, "pods-stay", "pod p2 was replaced"),
    ],
)
def test_each_wrong_is_found(spoil: Callable[[Run], None], check: str, words: str) -> None:
    run = runs.good()
    spoil(run)
    found = broken_checks(run)
    assert words in found[check]


def test_a_write_without_a_quorum() -> None:
    run = runs.good()
    run.scenario = replace(run.scenario, expect=("no-quorum-no-write",))
    assert "was acknowledged a write made 0.00 s in" in broken_checks(run)["no-quorum-no-write"]
    store_stands_still(run)
    assert "no-quorum-no-write" not in broken_checks(run)


def test_a_struck_worker_owes_no_answer() -> None:
    run = runs.good()
    service_stands_still(run)
    run.strikes[0].targets = ("w0",)
    assert broken_checks(run) == {}


def test_how_long_until_each_part_was_back() -> None:
    run = runs.good()
    run.strikes[0].ended = 10.5
    parts = back(run, run.healed).parts
    assert parts["store writes"] == pytest.approx(0.6)
    assert parts["API writes"] == pytest.approx(0.7)
    assert parts["members agree"] == pytest.approx(0.5)
    assert parts["Deployment whole"] == pytest.approx(0.5)
    assert back(run, run.healed).all == pytest.approx(0.7)
    assert back(run, 99.0).all is None


def test_a_run_that_could_not_begin_did_not_hold() -> None:
    run = runs.good()
    empty = Run(run.scenario, 1, broken="NotReady: the members")
    assert broken_checks(empty)["recovered"] == "NotReady: the members"


def test_the_longest_time_without_a_write() -> None:
    run = runs.good()
    assert decide(run).gap == pytest.approx(1.0)
    store_stands_still(run)
    assert decide(run).gap == pytest.approx(5.2)  # counted from the first fault on, at 4.9


def test_leaders_are_told_by_rising_terms() -> None:
    samples = [
        Sample(1, "a", 1, 2, 0),
        Sample(2, "b", 1, 3, 0),
        Sample(2.5, "a", 1, 2, 0),  # has not heard of it yet
        Sample(3, "b", 1, 3, 0),
        Sample(4, "b", 1, 5, 0),
    ]
    assert leaders(samples) == [Reign("a", 2, 1, 1), Reign("b", 3, 2, 3), Reign("b", 5, 4, 4)]
