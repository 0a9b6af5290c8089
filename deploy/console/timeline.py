"""What happened, noticed by comparing one look with the next. Pure: the caller brings the time.

The page draws three things from it: spans (a fault that lasted, a term of a leader, an outage), moments, and
the rate of writes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Data = Mapping[str, Any]

WINDOW = 600.0
"""Seconds that the page looks back."""
MAX_SPANS = 400


@dataclass(slots=True)
class Span:
    """Something that lasts: `end` is None while it does."""

    lane: str
    text: str
    start: float
    end: float | None = None

    def data(self) -> dict[str, Any]:
        return {"lane": self.lane, "text": self.text, "start": self.start, "end": self.end}


@dataclass
class Timeline:
    """Everything of the last ten minutes."""

    spans: deque[Span] = field(default_factory=lambda: deque(maxlen=MAX_SPANS))
    rates: deque[tuple[float, float]] = field(default_factory=deque)
    _open: dict[tuple[str, str], Span] = field(default_factory=dict)
    _last: tuple[float, int] | None = None

    def members(self, now: float, members: Sequence[Data]) -> None:
        """One look at the store: who leads, who is silent, how far the revision moved."""
        leading = {
            ("leader", f"{each['host']} leads term {each['term']}")
            for each in members
            if each["role"] == "leader" and each["term"] == max(found.get("term", 0) for found in members)
        }
        self._follow(now, "leader", leading or {("leader", "no leader")})
        silent = {("store", f"{each['host']} silent") for each in members if each["role"] == "unreachable"}
        self._follow(now, "store", silent)
        self._rate(now, max((each.get("revision", 0) for each in members), default=0))

    def hosts(self, now: float, hosts: Sequence[Data]) -> None:
        """One look at the hosts: which are off, which units do not run."""
        trouble = {("hosts", f"{each['name']} off") for each in hosts if not each["up"]}
        trouble |= {
            ("hosts", f"{each['name']}: {unit['name']} {unit['state']}")
            for each in hosts
            for unit in each["units"]
            if each["up"] and unit["state"] != "running"
        }
        self._follow(now, "hosts", trouble)

    def nodes(self, now: float, nodes: Sequence[Data]) -> None:
        """One look at the nodes."""
        self._follow(
            now, "nodes", {("nodes", f"{each['name']} not ready") for each in nodes if not each["ready"]}
        )

    def api(self, now: float, error: str) -> None:
        """One look at the API."""
        self._follow(now, "api", {("api", "API unreachable")} if error else set())

    def faults(self, now: float, active: Sequence[Data]) -> None:
        """The faults that work now."""
        self._follow(now, "faults", {("faults", f"{each['fault']} {each['target']}") for each in active})

    def moment(self, now: float, lane: str, text: str) -> None:
        """Something that happened at once, such as a kill."""
        self.spans.append(Span(lane, text, now, now))

    def data(self, now: float) -> dict[str, Any]:
        """What the page draws."""
        since = now - WINDOW
        return {
            "now": now,
            "window": WINDOW,
            "spans": [span.data() for span in self.spans if span.end is None or span.end >= since],
            "rates": [[time, rate] for time, rate in self.rates if time >= since],
        }

    def _follow(self, now: float, lane: str, seen: set[tuple[str, str]]) -> None:
        for key in [key for key in self._open if key[0] == lane and key not in seen]:
            self._open.pop(key).end = now
        for key in sorted(seen):
            if key not in self._open:
                self._open[key] = Span(lane, key[1], now)
                self.spans.append(self._open[key])

    def _rate(self, now: float, revision: int) -> None:
        if (
            not revision
        ):  # nobody answered: that no write was seen is true, but how many there were is not known
            return
        if self._last is not None and now > self._last[0] and revision >= self._last[1]:
            self.rates.append((now, (revision - self._last[1]) / (now - self._last[0])))
        self._last = (now, revision)
        while self.rates and self.rates[0][0] < now - WINDOW:
            self.rates.popleft()
