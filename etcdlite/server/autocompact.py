"""Automatic compaction: which revision may be forgotten when. Pure; the caller brings time and revisions.

Every member watches the revisions go by, so that a new leader knows the past; only the leader proposes.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Protocol

from componentbase.flags import parse_duration
from etcdlite.consensus.errors import ConfigurationError

HOUR: Final = 3600.0
_REVISION_INTERVAL: Final = 300.0  # etcd's revInterval
_SAMPLES: Final = 10  # per compaction


class Policy(Protocol):
    """When to look, and what to compact to."""

    @property
    def interval(self) -> float:
        """Seconds between two calls of `look`."""

    def look(self, now: float, revision: int) -> int:
        """The revision to compact to now; 0 for none."""


class Periodic:
    """Keep what happened in the last `retention` seconds; compact once per retention, or hour if less."""

    def __init__(self, retention: float) -> None:
        self._retention = retention
        self._every = min(retention, HOUR)
        self._samples: deque[tuple[float, int]] = deque()
        self._next: float | None = None
        self._last = 0

    @property
    def interval(self) -> float:
        """A tenth of the time between compactions."""
        return self._every / _SAMPLES

    def look(self, now: float, revision: int) -> int:
        """The newest revision that is older than the retention, when a compaction is due."""
        self._samples.append((now, revision))
        if self._next is None:
            self._next = now + self._retention
        if now < self._next:
            return 0
        self._next = now + self._every
        target = 0
        while self._samples and self._samples[0][0] <= now - self._retention:
            target = self._samples.popleft()[1]
        if target <= self._last:
            return 0
        self._last = target
        return target


class Revisions:
    """Keep the last `retention` revisions; look every five minutes."""

    interval = _REVISION_INTERVAL

    def __init__(self, retention: int) -> None:
        self._retention = retention
        self._last = 0

    def look(self, now: float, revision: int) -> int:
        """The revision `retention` before the present one, if there is one that is new."""
        target = revision - self._retention
        if target <= self._last:
            return 0
        self._last = target
        return target


def parse(mode: str, retention: str) -> Policy | None:
    """The policy of `--auto-compaction-mode` and `--auto-compaction-retention`; None when it is off.

    Periodic retention is a Go duration, or a number of hours; else a number of revisions. Raises
    ConfigurationError.
    """
    try:
        if mode == "revision":
            count = int(retention)
            if count < 0:
                raise ValueError(retention)
            return Revisions(count) if count else None
        seconds = int(retention) * HOUR if retention.isdecimal() else parse_duration(retention)
        if seconds < 0:
            raise ValueError(retention)
    except ValueError:
        raise ConfigurationError(
            f"--auto-compaction-retention: {retention!r} does not fit mode {mode}"
        ) from None
    return Periodic(seconds) if seconds else None
