"""Events: what a component tells users about an object, compressed so that a loop cannot flood the store.

Three steps of client-go's recorder, in this order: similar events (same but for the message) beyond ten in
ten minutes are combined into one; an event seen before raises its count by a patch instead of being
created; a source may say 25 things about one object at once and one more every five minutes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from apimachinery.errors import StatusError, is_not_found
from componentbase import metrics
from componentbase.clock import Clock, RealClock
from kubeclient.ratelimit import TokenBucket
from kubeclient.resources import EVENTS
from kubeclient.rest import STRATEGIC, ConnectionFailed, RestClient

log = logging.getLogger(__name__)

NORMAL = "Normal"
WARNING = "Warning"

SIMILAR_LIMIT = 10
SIMILAR_WINDOW = 600.0
SPAM_BURST = 25
SPAM_RATE = 1 / 300
CACHE_SIZE = 4096
QUEUE_SIZE = 10_000
"""Events that wait. They are sent one after another: in a burst they leave the server to the work they tell
of, and catch up when it is done; client-go sends all at once and drops what exceeds a thousand.
"""
_SEND_ATTEMPTS = 12
_SEND_PAUSE = 10.0
_COMBINED = "(combined from similar events): "

Object = dict[str, Any]

_discarded = metrics.counter("event_recorder_discarded_total", "Events not sent, by reason.", ["reason"])


def reference(obj: Object) -> Object:
    """The ObjectReference that an event about `obj` carries."""
    metadata = obj.get("metadata", {})
    parts = {
        "kind": obj.get("kind"),
        "namespace": metadata.get("namespace"),
        "name": metadata.get("name"),
        "uid": metadata.get("uid"),
        "apiVersion": obj.get("apiVersion"),
        "resourceVersion": metadata.get("resourceVersion"),
        "fieldPath": obj.get("fieldPath"),  # a container of a pod: spec.containers{name}
    }
    return {name: value for name, value in parts.items() if value}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to do with an event: create it, or patch the event `name` with `patch`; None means drop it."""

    event: Object
    patch: Object | None = None


@dataclass(slots=True)
class _Similar:
    messages: set[str] = field(default_factory=set)
    last: float = 0.0


class Correlator:
    """Decides what becomes of an event. Pure: the time in seconds is an argument."""

    def __init__(self) -> None:
        self._similar: OrderedDict[tuple[str, ...], _Similar] = OrderedDict()
        self._known: OrderedDict[tuple[str, ...], Object] = OrderedDict()
        self._buckets: OrderedDict[tuple[str, ...], TokenBucket] = OrderedDict()

    def correlate(self, event: Object, now: float) -> Outcome | None:
        """None when the source has said too much about this object."""
        event, identity = self._aggregate(event, now)
        known = self._known.get(identity)
        if known is not None:
            event = {
                **known,
                "count": known["count"] + 1,
                "message": event["message"],
                "lastTimestamp": event["lastTimestamp"],
            }
        _remember(self._known, identity, event)
        bucket = self._buckets.get(_source(event))
        if bucket is None:
            bucket = TokenBucket(SPAM_RATE, SPAM_BURST, now)
            _remember(self._buckets, _source(event), bucket)
        if not bucket.try_take(now):
            return None
        if known is None:
            return Outcome(event)
        return Outcome(event, {field: event[field] for field in ("count", "message", "lastTimestamp")})

    def _aggregate(self, event: Object, now: float) -> tuple[Object, tuple[str, ...]]:
        group = (*_source(event), event["type"], event["reason"])
        similar = self._similar.get(group)
        if similar is None or now - similar.last > SIMILAR_WINDOW:
            similar = _Similar()
        similar.last = now
        similar.messages.add(event["message"])
        _remember(self._similar, group, similar)
        if len(similar.messages) <= SIMILAR_LIMIT:
            return event, (*group, event["message"])
        # The set only has to tell "more than ten": it must not grow with every new message.
        similar.messages.pop()
        return {**event, "message": _COMBINED + event["message"]}, group


def _source(event: Object) -> tuple[str, ...]:
    involved = event["involvedObject"]
    return (
        event["source"].get("component", ""),
        event["source"].get("host", ""),
        *(involved.get(part, "") for part in ("kind", "namespace", "name", "uid", "apiVersion", "fieldPath")),
    )


def _remember(cache: OrderedDict[tuple[str, ...], Any], identity: tuple[str, ...], value: Any) -> None:
    cache[identity] = value
    cache.move_to_end(identity)
    if len(cache) > CACHE_SIZE:
        cache.popitem(last=False)


class EventRecorder:
    """Takes events from anywhere in a daemon and sends them from `run`. Recording never waits and never
    fails.
    """

    def __init__(
        self,
        client: RestClient,
        component: str,
        host: str = "",
        *,
        clock: Clock | None = None,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._source = {"component": component, "host": host} if host else {"component": component}
        self._component = component
        self._instance = host
        self._clock = clock or RealClock()
        self._rng = rng
        self._queue: asyncio.Queue[Object] = asyncio.Queue(QUEUE_SIZE)
        self._correlator = Correlator()
        self._sequence = itertools.count()

    def event(self, obj: Object, type: str, reason: str, message: str) -> None:
        """Say `message` about `obj`. `type` is Normal or Warning; when the queue is full the event is
        dropped.
        """
        now = self._clock.now()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        involved = reference(obj)
        unique = int(now * 1e9) + next(self._sequence)
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": f"{involved.get('name', '')}.{unique:x}",
                "namespace": involved.get("namespace") or "default",
            },
            "involvedObject": involved,
            "type": type,
            "reason": reason,
            "message": message[:1024],
            "source": self._source,
            "reportingComponent": self._component,
            "reportingInstance": self._instance,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            _discarded.labels("queue_full").inc()

    async def run(self) -> None:
        """Send what is recorded, until cancelled."""
        while True:
            event = await self._queue.get()
            outcome = self._correlator.correlate(event, self._clock.monotonic())
            if outcome is None:
                _discarded.labels("spam").inc()
                continue
            await self._send(outcome)

    async def _send(self, outcome: Outcome) -> None:
        for _ in range(_SEND_ATTEMPTS):
            try:
                await self._write(outcome)
                return
            except StatusError as error:
                # The server will not take it, now or later: an event is not worth more.
                log.warning("event refused: %s", error, extra={"reason": outcome.event["reason"]})
                _discarded.labels("refused").inc()
                return
            except (ConnectionFailed, OSError) as error:
                log.debug("event not sent: %s", error)
                await self._clock.sleep(_SEND_PAUSE * self._rng())
        _discarded.labels("unreachable").inc()

    async def _write(self, outcome: Outcome) -> None:
        event = outcome.event
        metadata = event["metadata"]
        if outcome.patch is not None:
            try:
                await self._client.patch(
                    EVENTS, metadata["name"], outcome.patch, metadata["namespace"], content_type=STRATEGIC
                )
                return
            except StatusError as error:
                if not is_not_found(error):
                    raise
        # New, or its time to live in the store is over.
        await self._client.create(EVENTS, event)
