"""Cron schedules: five fields, `@` nicknames, `@every <duration>`; and the next time they name. Pure.

A schedule fires at every whole minute whose reading on the zone's clock matches. So a time that the clock
skips in spring does not come that day, and one that it repeats in autumn comes twice; this is what the
library behind the real CronJob controller does too.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass

MINUTE = 60
YEARS = 5  # a schedule with no time in so many years names none at all (31 February)
_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class BadSchedule(ValueError):
    """The text is no schedule; the message says why."""


@dataclass(frozen=True, slots=True)
class Every:
    """At a fixed distance, in seconds, from the last time."""

    seconds: int

    def next_after(self, after: float, zone: dt.tzinfo) -> float | None:
        return float(int(after) + self.seconds)


@dataclass(frozen=True, slots=True)
class Fields:
    """The values each field allows. `any_day` when day of month or day of week is a star: then both must
    match, else either.
    """

    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    any_day: bool

    def matches_date(self, day: dt.date) -> bool:
        if day.month not in self.months:
            return False
        by_month, by_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return by_month and by_week if self.any_day else by_month or by_week

    def next_after(self, after: float, zone: dt.tzinfo) -> float | None:
        """The first matching minute later than `after` (seconds since the epoch); None when there is none.

        Days are skipped whole. Within a day the walk goes by quarters of an hour, because that is where
        zones change their offset.
        """
        at = (int(after) // MINUTE + 1) * MINUTE
        end = at + YEARS * 366 * 86400
        while at < end:
            local = dt.datetime.fromtimestamp(at, zone)
            if not self.matches_date(local.date()):
                at = max(_midnight_after(local.date(), zone), at + MINUTE)
            elif local.hour not in self.hours:
                at += (15 - local.minute % 15) * MINUTE
            elif local.minute not in self.minutes:
                at += MINUTE
            else:
                return float(at)
        return None


Schedule = Fields | Every


def _midnight_after(day: dt.date, zone: dt.tzinfo) -> int:
    start = dt.datetime.combine(day + dt.timedelta(days=1), dt.time(), zone)
    return int(start.timestamp()) // MINUTE * MINUTE


def parse(text: str) -> Schedule:
    """Raises BadSchedule."""
    if text.startswith("@every "):
        return Every(_duration(text.removeprefix("@every ")))
    if text.startswith("@"):
        if text not in _NICKNAMES:
            raise BadSchedule(f"unrecognized descriptor: {text}")
        text = _NICKNAMES[text]
    parts = text.split()
    if len(parts) != 5:
        raise BadSchedule(f"expected exactly 5 fields, found {len(parts)}: [{' '.join(parts)}]")
    minutes, _ = _field(parts[0], 0, 59)
    hours, _ = _field(parts[1], 0, 23)
    days, any_month_day = _field(parts[2], 1, 31)
    months, _ = _field(parts[3], 1, 12, _MONTHS)
    weekdays, any_weekday = _field(parts[4], 0, 6, _DAYS)
    return Fields(minutes, hours, days, months, weekdays, any_month_day or any_weekday)


def _duration(text: str) -> int:
    found = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text)
    if not found or "".join(number + unit for number, unit in found) != text:
        raise BadSchedule(f'failed to parse duration @every {text}: invalid duration "{text}"')
    return max(int(sum(float(number) * _UNITS[unit] for number, unit in found)), 1)


def _field(text: str, low: int, high: int, names: Sequence[str] = ()) -> tuple[frozenset[int], bool]:
    """(allowed values, whether the field is a plain star)."""
    values: set[int] = set()
    star = False
    for item in text.split(","):
        some, plain = _item(item, low, high, names)
        values.update(some)
        star = star or plain
    return frozenset(values), star


def _item(item: str, low: int, high: int, names: Sequence[str]) -> tuple[range, bool]:
    span, slash, step_text = item.partition("/")
    if slash and (not step_text.isdigit() or int(step_text) == 0):
        raise BadSchedule(f"step of range should be a positive number: {item}")
    step = int(step_text) if slash else 1
    if span in ("*", "?"):
        return range(low, high + 1, step), step == 1
    first_text, dash, last_text = span.partition("-")
    first = _number(first_text, low, names)
    last = _number(last_text, low, names) if dash else high if slash else first
    if first < low:
        raise BadSchedule(f"beginning of range ({first}) below minimum ({low}): {item}")
    if last > high:
        raise BadSchedule(f"end of range ({last}) above maximum ({high}): {item}")
    if first > last:
        raise BadSchedule(f"beginning of range ({first}) beyond end of range ({last}): {item}")
    return range(first, last + 1, step), False


def _number(text: str, low: int, names: Sequence[str]) -> int:
    if text.lower() in names:
        return names.index(text.lower()) + low
    if not text.isascii() or not text.isdigit():
        raise BadSchedule(f"failed to parse int from {text}: invalid syntax")
    return int(text)
