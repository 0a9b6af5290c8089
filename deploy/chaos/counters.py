"""What clients of the API did and saw, and the judgement over it. Pure.

Every object has one writer, which writes rising numbers into it. A write ends as acknowledged, refused, or
unknown (the answer got lost). Then, whatever was broken meanwhile:

- the stored number is the last acknowledged one, or a later one whose outcome was unknown: never less, never
  one that nobody wrote;
- a read shows at least what was acknowledged, or read by anybody, before it began (a GET without
  resourceVersion is linearizable);
- a watcher sees the numbers of an object rise, each at most once, and every acknowledged one; only when
  told that what it asks for is too old (410, as by an apiserver that has just started) may it list instead,
  and then does not see what was overwritten before the list.
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


@dataclass(frozen=True, slots=True)
class Seen:
    """A number that was certainly there at `at`, acknowledged or read by a request made at `began`."""

    key: str
    number: int
    began: float
    at: float


@dataclass(slots=True)
class Counters:
    """All objects, every answer in the order of its arrival, failures, and what the watcher saw in order."""

    keys: dict[str, KeyHistory] = field(default_factory=dict)
    writes: list[Seen] = field(default_factory=list)
    reads: list[Seen] = field(default_factory=list)
    failed_at: list[float] = field(default_factory=list)
    watched: list[tuple[str, int]] = field(default_factory=list)
    skipped: dict[str, set[int]] = field(default_factory=dict)

    def relisted(self, stored: Mapping[str, int]) -> None:
        """The watcher was sent to list, and found this: it goes on from there."""
        last: dict[str, int] = {}
        for key, number in self.watched:
            last[key] = max(number, last.get(key, -1))
        for key, number in stored.items():
            before = last.get(key, -1)
            self.skipped.setdefault(key, set()).update(range(before + 1, number))
            if number != before:
                self.watched.append((key, number))

    def acknowledge(self, key: str, number: int, began: float, at: float) -> None:
        self.keys.setdefault(key, KeyHistory()).acknowledged.append(number)
        self.writes.append(Seen(key, number, began, at))

    def unknown(self, key: str, number: int) -> None:
        self.keys.setdefault(key, KeyHistory()).unknown.append(number)


def longest_gap(times: Sequence[float], start: float, end: float) -> float:
    """The longest time without any of `times` inside a window, whose ends count as well."""
    marks = [start, *sorted(at for at in times if start <= at <= end), end]
    return max(later - earlier for earlier, later in itertools.pairwise(marks))


def stale_reads(history: Counters) -> list[Violation]:
    """Reads that show less than what was certainly there when they began."""
    found: list[Violation] = []
    certain = sorted((*history.writes, *history.reads), key=lambda seen: seen.at)
    known: dict[str, int] = {}
    position = 0
    for read in sorted(history.reads, key=lambda seen: seen.began):
        while position < len(certain) and certain[position].at < read.began:
            seen = certain[position]
            known[seen.key] = max(known.get(seen.key, -1), seen.number)
            position += 1
        if read.number < known.get(read.key, -1):
            found.append(Violation(read.key, f"read {read.number} after {known[read.key]} was there"))
    return found


def lost_writes(history: Counters, stored: Mapping[str, int]) -> list[Violation]:
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


def watch_violations(history: Counters, watched: Sequence[tuple[str, int]]) -> list[Violation]:
    """Judge a watcher that followed all keys from before the first write until after the last."""
    found: list[Violation] = []
    seen: dict[str, list[int]] = {}
    for key, number in watched:
        numbers = seen.setdefault(key, [])
        if numbers and number <= numbers[-1]:
            found.append(Violation(key, f"watch showed {number} after {numbers[-1]}"))
        numbers.append(number)
    for key, done in sorted(history.keys.items()):
        excused = history.skipped.get(key, set())
        missing = sorted(set(done.acknowledged) - set(seen.get(key, ())) - excused)
        if missing:
            found.append(Violation(key, f"watch never showed {missing[:5]} ({len(missing)} in all)"))
    return found
