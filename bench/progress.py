"""What a long measurement says while it runs: lines with the time, so that one that is cut short has shown
how far it came, and the CPU that each step cost each process, which counts on a busy machine too.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

EVERY = 15.0
"""Seconds between two words about a step that goes on."""


def _nothing() -> Mapping[str, float]:
    return {}


@dataclass(slots=True)
class Progress:
    """`cpu` gives the seconds of CPU of each process so far; `say` takes a line."""

    cpu: Callable[[], Mapping[str, float]] = _nothing
    say: Callable[[str], None] = lambda line: print(line, flush=True)
    clock: Callable[[], float] = time.time
    took: dict[str, float] = field(default_factory=dict)
    """Seconds by step, of those that came to their end."""
    _started: float = field(init=False)
    _said: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self._said = self.clock()

    def line(self, text: str) -> None:
        """Say something, with the time of day and the seconds since the start."""
        now = self._said = self.clock()
        stamp = time.strftime("%H:%M:%SZ", time.gmtime(now))
        self.say(f"  {stamp} +{now - self._started:4.0f} s  {text}")

    def maybe_line(self, text: Callable[[], object]) -> bool:
        """Say where a step stands, if nothing was said for EVERY seconds. Returns whether it did."""
        if self.clock() - self._said < EVERY:
            return False
        self.line(f"  {text()}")
        return True

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what happens inside; a step that fails is said to have failed and not counted."""
        began, before = self.clock(), dict(self.cpu())
        self.line(f"{name} ...")
        try:
            yield
        except BaseException as error:
            self.line(f"{name}: not finished after {self.clock() - began:.1f} s ({type(error).__name__})")
            raise
        self.took[name] = self.clock() - began
        self.line(f"{name}: {self.took[name]:.1f} s; CPU s: {spent(before, self.cpu())}")


def spent(before: Mapping[str, float], now: Mapping[str, float]) -> str:
    """Seconds of CPU by process, the busiest first; one that was started meanwhile counts from zero."""
    seconds = {name: value - before.get(name, 0.0) for name, value in now.items()}
    listed = sorted(seconds.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {value:.1f}" for name, value in listed)
