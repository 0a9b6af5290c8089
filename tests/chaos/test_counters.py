"""The judge must convict every kind of wrong, and acquit what is allowed."""

from __future__ import annotations

import pytest

from deploy.chaos.counters import Counters, Seen, longest_gap, lost_writes, stale_reads, watch_violations


def written() -> Counters:
    history = Counters()
    for number in (0, 1, 2):
        history.acknowledge("a", number, began=number - 0.5, at=float(number))
    history.unknown("a", 3)
    return history


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"a": 2}, None),
        ({"a": 3}, None),
        ({"a": 1}, "acknowledged 2, holds 1"),
        ({}, "acknowledged 2, gone"),
        ({"a": 9}, "holds 9, which nobody wrote"),
        ({"a": 2, "b": 0}, "holds a key nobody wrote"),
    ],
)
def test_stored_numbers(stored: dict[str, int], words: str | None) -> None:
    assert [each.what for each in lost_writes(written(), stored)] == ([words] if words else [])


@pytest.mark.parametrize(
    ("watched", "words"),
    [
        ([0, 1, 2], None),
        ([0, 1, 2, 3], None),
        ([0, 2], "watch never showed [1] (1 in all)"),
        ([0, 1, 1, 2], "watch showed 1 after 1"),
        ([0, 2, 1], "watch showed 1 after 2"),
    ],
)
def test_watched_numbers(watched: list[int], words: str | None) -> None:
    found = [each.what for each in watch_violations(written(), [("a", number) for number in watched])]
    assert found == ([words] if words else [])


@pytest.mark.parametrize(
    ("reads", "words"),
    [
        ([(1, 1.2, 1.3)], None),
        ([(0, 0.9, 1.3)], None),  # under way when 1 was acknowledged: both are right
        ([(0, 1.2, 1.3)], "read 0 after 1 was there"),
        ([(3, 2.1, 2.2), (2, 2.3, 2.4)], "read 2 after 3 was there"),  # what one reader saw, all must see
        ([(3, 2.1, 2.6), (2, 2.3, 2.4)], None),
    ],
)
def test_reads(reads: list[tuple[int, float, float]], words: str | None) -> None:
    history = written()
    history.reads = [Seen("a", *read) for read in reads]
    assert [each.what for each in stale_reads(history)] == ([words] if words else [])


@pytest.mark.parametrize(
    ("before", "listed", "after", "words"),
    [
        ([0], 2, [], None),  # 1 was overwritten before the list
        ([0, 1, 2], 2, [], None),
        ([0], 1, [2], None),
        ([0, 1], 0, [2], "watch showed 0 after 1"),  # the list went back in time
        ([], 1, [], "watch never showed [2] (1 in all)"),
    ],
)
def test_a_watcher_that_is_sent_to_list(
    before: list[int], listed: int, after: list[int], words: str | None
) -> None:
    history = written()
    history.watched = [("a", number) for number in before]
    history.relisted({"a": listed})
    history.watched += [("a", number) for number in after]
    found = [each.what for each in watch_violations(history, history.watched)]
    assert found == ([words] if words else [])


def test_gap_counts_the_ends_of_the_window() -> None:
    times = [0.0, 1.0, 2.0]
    assert longest_gap(times, 0.0, 2.0) == 1.0
    assert longest_gap(times, 0.0, 7.0) == 5.0
    assert longest_gap(times, 10.0, 14.0) == 4.0
