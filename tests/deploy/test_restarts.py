"""The life of a unit, told as a table of moves."""

from __future__ import annotations

import signal

import pytest

from deploy.restarts import LONGEST_DELAY, STABLE, Life, Phase, describe_exit


def running(at: float = 0.0) -> Life:
    life = Life()
    life.become_running(10, at)
    return life


def die(life: Life, now: float, status: int = 9) -> float | None:
    return life.become_dead(status, now)


def test_a_death_is_followed_by_a_start_soon_then_later() -> None:
    life, now, waits = Life(), 0.0, []
    for _ in range(9):
        life.become_running(10, now)
        wait = die(life, now + 0.01)
        assert wait is not None
        waits.append(wait)
        assert life.next_event() == pytest.approx(now + 0.01 + wait)
        now = life.next_event() or 0.0
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, LONGEST_DELAY, LONGEST_DELAY, LONGEST_DELAY]
    assert life.restarts == 9


def test_a_long_life_forgives() -> None:
    life = Life(delay=3.2)
    life.become_running(10, 0.0)
    assert die(life, STABLE) == 0.1


def test_a_stop_is_kept() -> None:
    life = running()
    life.become_stopping(5.0, grace=3.0)
    assert (life.phase, life.next_event()) == (Phase.STOPPING, 8.0)
    assert die(life, 6.0, 0) is None
    assert (life.phase, life.next_event(), life.last_exit) == (Phase.STOPPED, None, "exit code 0")


def test_stopping_one_that_waits_for_its_start() -> None:
    life = running()
    die(life, 1.0)
    life.become_stopping(1.05, grace=3.0)
    assert (life.phase, life.next_event()) == (Phase.STOPPED, None)


def test_stopping_twice_or_when_stopped_changes_nothing() -> None:
    life = Life()
    life.become_stopping(1.0, 3.0)
    assert life.phase is Phase.STOPPED
    life = running()
    life.become_stopping(1.0, 3.0)
    life.become_stopping(2.0, 3.0)
    assert life.next_event() == 4.0


def test_illegal_moves_raise_and_change_nothing() -> None:
    life = running()
    with pytest.raises(ValueError, match="already running as 10"):
        life.become_running(11, 1.0)
    assert life.pid == 10
    with pytest.raises(ValueError, match="no process"):
        Life().become_dead(0, 1.0)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (0, "exit code 0"),
        (3 << 8, "exit code 3"),
        (signal.SIGKILL, "killed by SIGKILL"),
        (139, "killed by SIGSEGV"),
    ],
)
def test_exit_in_words(status: int, text: str) -> None:
    assert describe_exit(status) == text
