"""The work queue of controllers: every key is worked on by one worker at a time, and never lost.

Three sets, as in client-go: `queue` (order), `dirty` (needs work), `processing` (is being worked on). A key
added while it is being worked on becomes dirty and is queued again when its worker says `done`; a key added
twice before that is worked on once. Delayed keys wait in a heap and are added when their time comes.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

from componentbase import metrics
from componentbase.clock import RealClock, Timer, TimerClock
from kubeclient.ratelimit import TokenBucket

K = TypeVar("K", bound=Hashable)

BASE_DELAY = 0.005
MAX_DELAY = 1000.0
OVERALL_RATE = 10.0
OVERALL_BURST = 100

_depth = metrics.gauge("workqueue_depth", "Current depth of workqueue.", ["name"])
_adds = metrics.counter("workqueue_adds_total", "Number of adds handled by workqueue.", ["name"])
_retries = metrics.counter("workqueue_retries_total", "Number of retries handled by workqueue.", ["name"])
_waited = metrics.histogram(
    "workqueue_queue_duration_seconds", "Seconds an item stays in workqueue before being requested.", ["name"]
)
_worked = metrics.histogram(
    "workqueue_work_duration_seconds", "Seconds processing an item from workqueue takes.", ["name"]
)


class QueueShutDown(Exception):
    """No more work: the queue was shut down and is empty."""


class FailureLimiter(Generic[K]):
    """Delays for keys that failed: per key 5 ms doubling to 1000 s, and an overall rate. Pure.

    These are client-go's `DefaultTypedControllerRateLimiter` numbers.
    """

    def __init__(
        self,
        *,
        base: float = BASE_DELAY,
        maximum: float = MAX_DELAY,
        rate: float = OVERALL_RATE,
        burst: int = OVERALL_BURST,
        now: float = 0.0,
    ) -> None:
        self._base = base
        self._maximum = maximum
        self._failures: dict[K, int] = {}
        self._bucket = TokenBucket(rate, burst, now)

    def when(self, key: K, now: float) -> float:
        """Count a failure and return the seconds to wait."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        # Beyond 2**60 the product would only overflow; the maximum has been reached long before.
        alone = min(self._maximum, self._base * 2.0 ** min(count, 60))
        return max(alone, self._bucket.reserve(now))

    def forget(self, key: K) -> None:
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        return self._failures.get(key, 0)


class WorkQueue(Generic[K]):
    """The queue. Not thread-safe: all of it runs on the event loop."""

    def __init__(
        self, clock: TimerClock | None = None, *, name: str = "", limiter: FailureLimiter[K] | None = None
    ) -> None:
        self._clock = clock or RealClock()
        self._limiter = limiter or FailureLimiter(now=self._clock.monotonic())
        self._queue: deque[K] = deque()
        self._dirty: set[K] = set()
        self._processing: set[K] = set()
        self._delayed: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._order = itertools.count()
        self._timer: Timer | None = None
        self._getters: deque[asyncio.Future[None]] = deque()
        self._shutting_down = False
        self._name = name
        self._since: dict[K, float] = {}
        self._started: dict[K, float] = {}

    def __len__(self) -> int:
        """Keys ready to be worked on."""
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Nothing is queued or being worked on; delayed keys do not count."""
        return not self._queue and not self._processing

    def add(self, key: K) -> None:
        """Mark `key` as needing work."""
        if self._shutting_down or key in self._dirty:
            return
        self._dirty.add(key)
        _adds.labels(self._name).inc()
        self._since.setdefault(key, self._clock.monotonic())
        if key not in self._processing:
            self._push(key)

    def add_after(self, key: K, seconds: float) -> None:
        """Add `key` later. Of several times asked for one key the earliest counts."""
        if self._shutting_down:
            return
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + seconds
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._delayed, (due, next(self._order), key))
        self._set_timer()

    def add_rate_limited(self, key: K) -> None:
        """Add `key` after the delay its failures have earned."""
        _retries.labels(self._name).inc()
        self.add_after(key, self._limiter.when(key, self._clock.monotonic()))

    def forget(self, key: K) -> None:
        """The key succeeded: its next failure starts from the shortest delay."""
        self._limiter.forget(key)

    def failures(self, key: K) -> int:
        """How often the key was added rate limited since it was last forgotten (client-go's NumRequeues)."""
        return self._limiter.failures(key)

    async def get(self) -> K:
        """The next key, waiting for one; call `done` with it afterwards. Raises QueueShutDown."""
        while not self._queue:
            if self._shutting_down:
                raise QueueShutDown(self._name)
            getter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._getters.append(getter)
            try:
                await getter
            except asyncio.CancelledError:
                # The wake-up this getter may have been given belongs to the next one.
                if getter.done() and not getter.cancelled():
                    self._wake_one()
                raise
        key = self._queue.popleft()
        self._processing.add(key)
        self._dirty.discard(key)
        now = self._clock.monotonic()
        self._started[key] = now
        _waited.labels(self._name).observe(now - self._since.pop(key, now))
        _depth.labels(self._name).set(len(self._queue))
        return key

    def done(self, key: K) -> None:
        """The worker has finished with `key`; if it became dirty meanwhile it is queued again."""
        self._processing.discard(key)
        now = self._clock.monotonic()
        _worked.labels(self._name).observe(now - self._started.pop(key, now))
        if key in self._dirty:
            self._push(key)

    def shut_down(self) -> None:
        """Take no more keys; those queued are still handed out, then `get` raises QueueShutDown."""
        self._shutting_down = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._delayed.clear()
        self._due.clear()
        while self._getters:
            self._wake_one()

    def _push(self, key: K) -> None:
        self._queue.append(key)
        _depth.labels(self._name).set(len(self._queue))
        self._wake_one()

    def _wake_one(self) -> None:
        while self._getters:
            getter = self._getters.popleft()
            if not getter.done():
                getter.set_result(None)
                return

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._delayed:
            wait = max(0.0, self._delayed[0][0] - self._clock.monotonic())
            self._timer = self._clock.call_later(wait, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        while self._delayed and self._delayed[0][0] <= now:
            due, _, key = heapq.heappop(self._delayed)
            # A later, superseded entry of the same key is skipped.
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)
        self._set_timer()
