"""The judge must convict every kind of wrong, and acquit what is allowed."""

from __future__ import annotations

import pytest

from deploy.chaos.history import History, behind, lost_writes, watch_violations
from deploy.chaos.report import Row, table


def written() -> History:
    history = History()
    for number in (0, 1, 2):
        history.acknowledge("a", number, at=float(number))
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


def test_gap_counts_the_ends_of_the_window() -> None:
    history = written()
    assert history.longest_gap(0.0, 2.0) == 1.0
    assert history.longest_gap(0.0, 7.0) == 5.0
    assert history.longest_gap(10.0, 14.0) == 4.0
    assert history.count(0.5, 2.5) == 2


def test_behind_counts_keys_that_hold_less_than_promised() -> None:
    assert behind({"a": 2, "b": 5, "c": 1}, {"a": 2, "b": 4}) == 2


def test_the_table_lines_up() -> None:
    lines = table([Row("store leader (controller-0)", 1.5, 10, 0, 2.25, "member healthy again")]).splitlines()
    assert lines[0].index("lost") == lines[2].index("0     2.25")
