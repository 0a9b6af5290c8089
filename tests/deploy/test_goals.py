"""Waiting: goals are reached in any order, and what is missed is named with its last complaint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.goals import INTERVAL, Goal, Missed, Reporter, pursue, tail


class Time:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def answers(*values: str | None) -> Iterator[str | None]:
    yield from values
    while True:
        yield values[-1]


def goal(name: str, *values: str | None) -> Goal:
    script = answers(*values)
    return Goal(name, lambda: next(script))


def test_goals_are_reached_as_they_come() -> None:
    time, reached = Time(), list[tuple[str, float]]()
    goals = [goal("slow", "a", "b", None), goal("fast", None), goal("middle", "a", None)]

    def note(one: Goal) -> None:
        reached.append((one.name, round(time.now - 100, 3)))

    assert pursue(goals, timeout=10, on_reached=note, clock=time, sleep=time.sleep) == []
    assert reached == [("fast", 0.0), ("middle", INTERVAL), ("slow", 2 * INTERVAL)]


def test_what_is_missed_keeps_its_last_complaint() -> None:
    time = Time()
    never = goal("never", "connection refused", "no leader")
    missed = pursue(
        [never, goal("done", None)], timeout=1, on_reached=lambda _: None, clock=time, sleep=time.sleep
    )
    assert missed == [Missed(never, "no leader")]
    assert time.now == pytest.approx(101, abs=2 * INTERVAL)


def test_a_reached_goal_is_not_asked_again() -> None:
    time = Time()
    once = iter([None])
    goals = [Goal("once", lambda: next(once)), goal("later", "x", "x", None)]
    assert pursue(goals, timeout=5, on_reached=lambda _: None, clock=time, sleep=time.sleep) == []


def test_the_report_shows_each_units_log_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = []
    for host in ("one", "two"):
        (tmp_path / host).mkdir()
        logs.append(tmp_path / host / "etcdlite.log")
        logs[-1].write_text(f"panic on {host}\n")
    missed = [Missed(Goal(f"g{n}", lambda: None, (log,)), f"reason {n}") for n, log in enumerate(logs)]
    Reporter(Time()).missed(missed)
    out = capsys.readouterr().out
    assert "NOT REACHED  g0: reason 0\nNOT REACHED  g1: reason 1" in out
    assert "panic on one" in out
    assert "panic on two" not in out


def test_steps_carry_the_time_since_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    time = Time()
    report = Reporter(time)
    time.sleep(1.5)
    report.step("hosts up")
    assert capsys.readouterr().out == "   1.50 s  hosts up\n"


@pytest.mark.parametrize(
    ("text", "lines"), [("a\nb\nc\n", ["b", "c"]), ("", ["(empty)"]), (None, ["(no such file)"])]
)
def test_tail(text: str | None, lines: list[str], tmp_path: Path) -> None:
    path = tmp_path / "log"
    if text is not None:
        path.write_text(text)
    assert tail(path, 2) == lines
