"""Exponential back-off with jitter. Pure: it counts, the caller sleeps."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Delays that grow from `initial` to `maximum` seconds.

    Each delay is stretched by up to `jitter` times itself, so that clients that failed together do not return
    together. `rng` yields floats in [0, 1).
    """

    def __init__(
        self,
        initial: float,
        maximum: float,
        factor: float = 2.0,
        jitter: float = 0.2,
        rng: Callable[[], float] | None = None,
    ) -> None:
        if initial <= 0 or maximum < initial or factor < 1 or jitter < 0:
            raise ValueError("back-off needs 0 < initial <= maximum, factor >= 1 and jitter >= 0")
        self._initial = initial
        self._maximum = maximum
        self._factor = factor
        self._jitter = jitter
        self._rng = rng if rng is not None else random.random
        self._base = initial

    def next(self) -> float:
        """Seconds to wait before the next attempt."""
        base = self._base
        self._base = min(self._maximum, base * self._factor)
        return base * (1 + self._jitter * self._rng())

    def reset(self) -> None:
        """Start again from `initial`, after a success."""
        self._base = self._initial
