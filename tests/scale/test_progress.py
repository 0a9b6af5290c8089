"""A story that is cut short has said how far it came."""

from __future__ import annotations

import asyncio

import pytest

from bench import hollow
from bench.progress import EVERY, Progress


class Told:
    """A clock and a count of CPU that the test moves, and what was said."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cpu: dict[str, float] = {"apiserver": 1.0}
        self.lines: list[str] = []
        self.progress = Progress(lambda: self.cpu, self.lines.append, lambda: self.now)


def test_a_step_tells_its_time_and_what_it_cost() -> None:
    told = Told()
    with told.progress.step("filled"):
        told.now += 7.5
        told.cpu = {"apiserver": 3.0, "hollow-a": 4.0}
    assert told.progress.took == {"filled": 7.5}
    assert told.lines == [
        "  00:00:00Z +   0 s  filled ...",
        "  00:00:07Z +   8 s  filled: 7.5 s; CPU s: hollow-a 4.0, apiserver 2.0",
    ]


def test_a_long_step_is_heard_of_now_and_then() -> None:
    told = Told()
    said = [told.progress.maybe_line(lambda: "3 of 9")]
    for _ in range(3):
        told.now += EVERY / 2
        said.append(told.progress.maybe_line(lambda: "3 of 9"))
    assert said == [False, False, True, False]


def test_what_was_not_finished_is_not_in_the_table() -> None:
    told = Told()
    with told.progress.step("registered"):
        told.now += 2.0
    with pytest.raises(asyncio.CancelledError), told.progress.step("filled"):
        raise asyncio.CancelledError
    assert told.lines[-1].endswith("filled: not finished after 0.0 s (CancelledError)")
    rows = hollow.rows(hollow.Scale(), told.progress.took)
    assert [row.measure for row in rows] == ["nodes registered and ready"]
