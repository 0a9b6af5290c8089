"""Keepalive (gRPC A8 and A9): when to ask whether the other side lives, and how often it may ask us. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_IDLE_INTERVAL: Final = 2 * 3600.0  # what grpc-go's server expects of a client without calls
_STRIKES: Final = 2
TOO_MANY_PINGS: Final = b"too_many_pings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keepalive:
    """Times in seconds. Defaults are etcd's: `--grpc-keepalive-interval`, `-timeout` and `-min-time`."""

    interval: float = 2 * 3600.0
    timeout: float = 20.0
    min_time: float = 5.0


class PingGuard:
    """Counts a client's PINGs that come too early. Answering a call in between makes up for all of them, so
    pings that measure bandwidth are free.
    """

    def __init__(self, min_time: float) -> None:
        self._min_time = min_time
        self._last = float("-inf")
        self._strikes = 0

    def pinged(self, now: float, *, has_calls: bool, spoke: bool) -> bool:
        """Whether this PING is one too many. `spoke`: we have sent headers or data since the last."""
        since, self._last = now - self._last, now
        if spoke:
            self._strikes = 0
            return False
        self._strikes += since < (self._min_time if has_calls else _IDLE_INTERVAL)
        return self._strikes > _STRIKES


class Watchdog:
    """Decides when to send a PING and when to give a silent peer up."""

    def __init__(self, keepalive: Keepalive, now: float) -> None:
        self._keepalive = keepalive
        self._heard = now
        self._asked: float | None = None

    def heard(self, now: float) -> None:
        """Something has arrived."""
        self._heard, self._asked = now, None

    def check(self, now: float) -> bool:
        """Whether a PING is due. Raises TimeoutError when an earlier one was not answered."""
        if self._asked is not None:
            if now - self._asked >= self._keepalive.timeout:
                raise TimeoutError("keepalive ping was not answered")
            return False
        if now - self._heard < self._keepalive.interval:
            return False
        self._asked = now
        return True

    def next_check(self, now: float) -> float:
        """Seconds until `check` can have something to say."""
        keepalive = self._keepalive
        if self._asked is None:
            return max(self._heard + keepalive.interval - now, 0.01)
        return max(self._asked + min(keepalive.timeout, keepalive.interval) - now, 0.01)
