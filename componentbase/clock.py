"""Time as a port: daemons sleep and read clocks through this, so that tests own time."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from typing import Protocol


class Timer(Protocol):
    """A scheduled call that can still be called off."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """Wall time for what is written down, monotonic time for what is measured."""

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary point; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None: ...


class TimerClock(Clock, Protocol):
    """A clock that also calls back; the callback runs on the event loop's thread."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer: ...


class RealClock:
    """The machine's clocks and the running loop's timers."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(seconds, callback)


class _FakeTimer:
    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.pending = True

    def cancel(self) -> None:
        self.pending = False


class FakeClock:
    """Time that stands still until `advance` is called.

    Timers fire in the order of their deadlines, equal ones in the order they were set. A woken sleeper runs
    when the loop next runs ready callbacks: use `settle` to let everything runnable run.
    """

    def __init__(self, now: float = 1_767_225_600.0) -> None:
        self._now = now
        self._monotonic = 0.0
        self._order = itertools.count()
        self._timers: list[tuple[float, int, _FakeTimer]] = []

    def now(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        timer = self.call_later(seconds, lambda: None if future.done() else future.set_result(None))
        try:
            await future
        finally:
            timer.cancel()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = _FakeTimer(callback)
        heapq.heappush(self._timers, (self._monotonic + seconds, next(self._order), timer))
        return timer

    @property
    def sleeping(self) -> int:
        """How many sleepers and timers are still waiting; cancelled ones do not count."""
        return sum(timer.pending for _, _, timer in self._timers)

    def advance(self, seconds: float) -> None:
        """Move both clocks and fire every timer whose deadline has come."""
        self._now += seconds
        self._monotonic += seconds
        while self._timers and self._timers[0][0] <= self._monotonic:
            _, _, timer = heapq.heappop(self._timers)
            if timer.pending:
                timer.pending = False
                timer.callback()

    async def settle(self, rounds: int = 20) -> None:
        """Let every task that can run do so, without moving time."""
        for _ in range(rounds):
            await asyncio.sleep(0)
