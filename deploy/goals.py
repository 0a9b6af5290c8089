"""Waiting for many things at once, each with its own deadline, and saying which of them did not come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

INTERVAL = 0.05
LOG_LINES = 8
LOG_WIDTH = 220


@dataclass(frozen=True)
class Goal:
    """Something to be reached. `probe` returns None when it is, else what is lacking; it may itself do the
    work that brings the goal nearer, and then `acts` is set. `logs` are shown when it is missed."""

    name: str
    probe: Callable[[], str | None]
    logs: tuple[Path, ...] = ()
    acts: bool = False


@dataclass(frozen=True)
class Missed:
    """A goal that was not reached, and what was lacking last."""

    goal: Goal
    lacking: str


class Reporter:
    """Prints steps as they happen, each with the seconds since the start."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    def step(self, text: str) -> None:
        """One line."""
        print(f"{self.elapsed:7.2f} s  {text}", flush=True)

    def missed(self, missed: Sequence[Missed]) -> None:
        """What did not happen and what was lacking; then the ends of the logs that may tell why, one a unit,
        since the same daemon mostly fails alike on every host."""
        print()
        for one in missed:
            print(f"NOT REACHED  {one.goal.name}: {one.lacking}")
        shown: set[str] = set()
        for log in (log for one in missed for log in one.goal.logs):
            if log.name not in shown:
                shown.add(log.name)
                print(f"\nlast lines of {log}:")
                for line in tail(log):
                    print(f"    {line[:LOG_WIDTH]}")


def tail(path: Path, count: int = LOG_LINES) -> list[str]:
    """The last `count` lines of a log."""
    try:
        with path.open(errors="replace") as file:
            return [line.rstrip("\n") for line in deque(file, maxlen=count)] or ["(empty)"]
    except FileNotFoundError:
        return ["(no such file)"]


def pursue(
    goals: Iterable[Goal],
    *,
    timeout: float,
    on_reached: Callable[[Goal], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Sequence[Missed]:
    """Probe all goals in turn until each is reached or `timeout` seconds are over; return those that were
    missed."""
    deadline = clock() + timeout
    pending: dict[str, Goal] = {goal.name: goal for goal in goals}
    lacking: dict[str, str] = {}
    while pending:
        for name, goal in list(pending.items()):
            answer = goal.probe()
            if answer is None:
                del pending[name]
                on_reached(goal)
            else:
                lacking[name] = answer
        if pending and clock() >= deadline:
            break
        if pending:
            sleep(INTERVAL)
    return [Missed(goal, lacking[name]) for name, goal in pending.items()]
