"""What clients did and saw, and the judgement over it. Pure.

Every key has one writer, which writes rising numbers. A write ends as acknowledged, refused, or unknown (the
answer got lost). Then, whatever was killed meanwhile:

- the stored number of a key is the last acknowledged one, or a later one whose outcome was unknown: never
less, never one that nobody wrote; - a watcher sees the numbers of a key rise, each at most once, and every
acknowledged one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class KeyHistory:
    """One key's writes, in the order in which its only writer made them."""

    acknowledged: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Violation:
    """A promise that was broken, in words."""

    key: str
    what: str


@dataclass(slots=True)
class History:
    """All keys, when acknowledgements arrived, and what the watcher saw (key, number) in order."""

    keys: dict[str, KeyHistory] = field(default_factory=dict)
    acknowledged_at: list[float] = field(default_factory=list)
    watched: list[tuple[str, int]] = field(default_factory=list)

    def acknowledge(self, key: str, number: int, at: float) -> None:
        self.keys.setdefault(key, KeyHistory()).acknowledged.append(number)
        self.acknowledged_at.append(at)

    def unknown(self, key: str, number: int) -> None:
        self.keys.setdefault(key, KeyHistory()).unknown.append(number)

    def longest_gap(self, start: float, end: float) -> float:
        """The longest time without an acknowledged write inside a window, its ends counted as writes."""
        inside = [at for at in self.acknowledged_at if start <= at <= end]
        marks = [start, *sorted(inside), end]
        return max(later - earlier for earlier, later in itertools.pairwise(marks))

    def promised(self) -> dict[str, int]:
        """The last acknowledged number of every key, as of now."""
        return {key: done.acknowledged[-1] for key, done in self.keys.items() if done.acknowledged}

    def count(self, start: float, end: float) -> int:
        return sum(start <= at <= end for at in self.acknowledged_at)


def behind(promised: Mapping[str, int], stored: Mapping[str, int]) -> int:
    """How many keys hold less than was promised before they were read."""
    return sum(stored.get(key, -1) < number for key, number in promised.items())


def lost_writes(history: History, stored: Mapping[str, int]) -> list[Violation]:
    """Compare what the cluster holds with what was promised."""
    found: list[Violation] = []
    for key, done in sorted(history.keys.items()):
        number = stored.get(key)
        last = done.acknowledged[-1] if done.acknowledged else None
        if number is None:
            if last is not None:
                found.append(Violation(key, f"acknowledged {last}, gone"))
        elif last is not None and number < last:
            found.append(Violation(key, f"acknowledged {last}, holds {number}"))
        elif number != last and number not in done.unknown:
            found.append(Violation(key, f"holds {number}, which nobody wrote"))
    found += [Violation(key, "holds a key nobody wrote") for key in stored if key not in history.keys]
    return found


def watch_violations(history: History, watched: Sequence[tuple[str, int]]) -> list[Violation]:
    """Judge a watcher that followed all keys from before the first write until after the last."""
    found: list[Violation] = []
    seen: dict[str, list[int]] = {}
    for key, number in watched:
        numbers = seen.setdefault(key, [])
        if numbers and number <= numbers[-1]:
            found.append(Violation(key, f"watch showed {number} after {numbers[-1]}"))
        numbers.append(number)
    for key, done in sorted(history.keys.items()):
        missing = sorted(set(done.acknowledged) - set(seen.get(key, ())))
        if missing:
            found.append(Violation(key, f"watch never showed {missing[:5]} ({len(missing)} in all)"))
    return found
