"""The log in memory."""

from __future__ import annotations

import pytest

from etcdlite.raft.log import Log, LogInvariant
from etcdlite.raft.types import Entry, Index, Term
from tests.etcdlite.raft.dialogue import entry


def log(
    *terms: int, base: int = 0, base_term: int = 0, committed: int = 0, applied: int | None = None
) -> Log:
    entries = [entry(index, term) for index, term in enumerate(terms, base + 1)]
    applied_index = Index(base if applied is None else applied)
    return Log(Index(base), Term(base_term), entries, Index(max(committed, base)), applied_index)


def terms(of: Log) -> list[int]:
    return [e.term for e in of.slice(Index(of.base + 1), of.last)]


@pytest.mark.parametrize(
    ("mine", "prev", "theirs", "last", "after"),
    [
        ((1, 1), (2, 1), [2], 3, [1, 1, 2]),  # extends
        ((1, 1), (1, 1), [1], 2, [1, 1]),  # already here
        ((1, 1, 1), (1, 1), [2], 2, [1, 2]),  # conflict: the tail goes
        ((1, 1, 1), (0, 0), [1], 1, [1, 1, 1]),  # a late duplicate cuts nothing
        ((1, 1), (3, 1), [2], None, [1, 1]),  # hole
        ((1, 1), (2, 2), [2], None, [1, 1]),  # other term before it
    ],
)
def test_maybe_append(
    mine: tuple[int, ...], prev: tuple[int, int], theirs: list[int], last: int | None, after: list[int]
) -> None:
    it = log(*mine)
    entries: list[Entry] = [entry(index, term) for index, term in enumerate(theirs, prev[0] + 1)]
    assert it.maybe_append(Index(prev[0]), Term(prev[1]), entries) == last
    assert terms(it) == after


@pytest.mark.parametrize(
    ("mine", "index", "term", "hint"),
    [
        ((1, 1, 2, 2, 2), 5, 1, (2, 1)),  # skips a whole term of ours
        ((1, 1, 1), 9, 5, (3, 1)),  # ours is short
        ((1, 2, 3), 3, 0, (0, 0)),
    ],
)
def test_agreement_hint(mine: tuple[int, ...], index: int, term: int, hint: tuple[int, int]) -> None:
    assert log(*mine).agreement_hint(Index(index), Term(term)) == hint


def test_a_committed_entry_is_never_replaced() -> None:
    it = log(1, 1, committed=2)
    with pytest.raises(LogInvariant, match="would replace a committed one"):
        it.append([entry(2, 2)])


def test_a_commit_beyond_the_end_stops_the_member() -> None:
    with pytest.raises(LogInvariant, match="beyond the last entry 1"):
        log(1).commit_to(Index(2))


def test_truncation_makes_the_replaced_entries_unstable() -> None:
    it = log(1, 1, 1)
    it.append([entry(2, 2)])
    assert (it.stable, [e.index for e in it.unstable()]) == (1, [2])
    it.stable_to(Index(3), Term(1))  # the answer to a write of what has been replaced
    assert it.stable == 1
    it.stable_to(Index(2), Term(2))
    assert it.stable == 2


def test_nothing_is_handed_out_before_it_is_on_disk() -> None:
    it = log()
    it.append([entry(1, 1), entry(2, 1)])
    it.commit_to(Index(2))
    assert it.next_committed(1000) == []
    it.stable_to(Index(1), Term(1))
    assert [e.index for e in it.next_committed(1000)] == [1]
    assert it.next_committed(1000) == []


def test_batches_are_bounded_but_never_empty() -> None:
    it = log(1, 1, 1, committed=3)
    assert [e.index for e in it.next_committed(2)] == [1, 2]
    assert [e.index for e in it.slice(Index(1), Index(3), 0)] == [1]


def test_compaction_keeps_the_term_of_what_it_forgets() -> None:
    it = log(1, 2, 3, committed=3, applied=2)
    it.compact(Index(2))
    assert (it.base, it.term(Index(2)), it.term(Index(1)), terms(it)) == (2, 2, None, [3])
    with pytest.raises(LogInvariant, match="only 2 is applied"):
        it.compact(Index(3))
    with pytest.raises(LogInvariant, match="is compacted"):
        it.slice(Index(2), Index(3))


@pytest.mark.parametrize(
    ("longer", "expected"), [((3, 1), True), ((2, 2), True), ((1, 2), False), ((9, 1), False)]
)
def test_up_to_date(longer: tuple[int, int], expected: bool) -> None:
    it = log(1, 2) if longer != (3, 1) else log(1, 1)
    assert it.is_up_to_date(Index(longer[0]), Term(longer[1])) is expected
