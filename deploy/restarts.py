"""When a unit that died is started again, and what is known about it meanwhile. Pure: the caller brings the
time."""

from __future__ import annotations

import enum
import signal
from dataclasses import dataclass
from typing import Any

FIRST_DELAY = 0.1
LONGEST_DELAY = 5.0
# A unit that ran this long was healthy: its next death is a new story.
STABLE = 10.0


class Phase(enum.Enum):
    """What a unit does. STOPPING and STOPPED are wanted; WAITING is a dead unit that will be started
    again."""

    RUNNING = "running"
    WAITING = "waiting"
    STOPPING = "stopping"
    STOPPED = "stopped"


def describe_exit(status: int) -> str:
    """Words for a wait status: how the process ended."""
    code = status >> 8
    number = status & 0x7F
    if number:
        try:
            return f"killed by {signal.Signals(number).name}"
        except ValueError:
            return f"killed by signal {number}"
    return f"exit code {code}"


@dataclass
class Life:
    """The life of one unit. Illegal moves raise and change nothing."""

    phase: Phase = Phase.STOPPED
    pid: int | None = None
    started: float = 0.0
    restarts: int = 0
    last_exit: str = ""
    due: float | None = None
    delay: float = FIRST_DELAY
    stop_deadline: float | None = None

    def become_running(self, pid: int, now: float) -> None:
        """The process `pid` was started at `now` (monotonic seconds)."""
        if self.phase in (Phase.RUNNING, Phase.STOPPING):
            raise ValueError(f"already {self.phase.value} as {self.pid}")
        self.phase, self.pid, self.started, self.due = Phase.RUNNING, pid, now, None
        self.stop_deadline = None

    def become_stopping(self, now: float, grace: float) -> None:
        """It was asked to end and must have ended `grace` seconds from `now`."""
        if self.phase is Phase.WAITING:
            self.phase, self.due = Phase.STOPPED, None
        elif self.phase is Phase.RUNNING:
            self.phase, self.stop_deadline = Phase.STOPPING, now + grace

    def become_dead(self, status: int, now: float) -> float | None:
        """Its process ended with wait status `status`; return after how many seconds it is due again, or
        None."""
        if self.pid is None:
            raise ValueError("no process to end")
        wanted = self.phase is Phase.STOPPING
        self.last_exit, self.pid, self.stop_deadline = describe_exit(status), None, None
        if wanted:
            self.phase = Phase.STOPPED
            return None
        if now - self.started >= STABLE:
            self.delay = FIRST_DELAY
        wait, self.delay = self.delay, min(self.delay * 2, LONGEST_DELAY)
        self.phase, self.due = Phase.WAITING, now + wait
        self.restarts += 1
        return wait

    def next_event(self) -> float | None:
        """The monotonic time at which something is to be done about this unit, if any."""
        return self.due if self.phase is Phase.WAITING else self.stop_deadline

    def to_json(self, now: float) -> dict[str, Any]:
        """For `status`."""
        return {
            "state": self.phase.value,
            "pid": self.pid,
            "seconds": round(now - self.started, 1) if self.pid is not None else 0,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
        }
