"""What the measurements over the API share: concurrent callers, latencies, rows beside their targets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]


@dataclass(slots=True)
class Outcome:
    """Calls made in `seconds`, and how long each took."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    def percentile(self, part: float) -> float:
        """Milliseconds."""
        return percentile(self.latencies, part)


def percentile(seconds: Sequence[float], part: float) -> float:
    """Of durations in seconds, in milliseconds."""
    ordered = sorted(seconds)
    return 1000 * ordered[min(int(len(ordered) * part), len(ordered) - 1)]


async def calls(count: int, callers: int, call: Callable[[int], Awaitable[object]]) -> Outcome:
    """`call(0)` to `call(count - 1)`, by so many callers at once."""
    outcome, numbers = Outcome(), iter(range(count))

    async def caller() -> None:
        for number in numbers:
            started = time.perf_counter()
            await call(number)
            outcome.latencies.append(time.perf_counter() - started)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    outcome.seconds = time.perf_counter() - started
    return outcome


@dataclass(frozen=True, slots=True)
class Row:
    """One measure: `value` beside `target`; `more` when more is better."""

    measure: str
    value: float
    unit: str
    target: float | None = None
    more: bool = True
    note: str = ""

    def text(self) -> str:
        cells = f"{self.measure:58} {_number(self.value):>9} {self.unit:6}"
        if self.target is not None:
            ratio = self.value / self.target if self.more else self.target / max(self.value, 1e-9)
            mark = "" if ratio >= 1 else "  missed"
            cells += f" {_number(self.target):>9}  {ratio:5.2f}x{mark}"
        return f"{cells}  {self.note}".rstrip()


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def heading(title: str) -> None:
    print(f"\n{title:58} {'value':>9} {'':6} {'target':>9}  target met", flush=True)


def show(*rows: Row) -> None:
    for row in rows:
        print(row.text(), flush=True)
