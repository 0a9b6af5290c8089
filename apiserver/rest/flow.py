"""Flow control: the shell of `flowcontrol/`. Classifies requests, seats them, lets them wait, or answers 429.

Until the configuration has been read, and where mandatory objects are missing, the defaults are in force.
Long-running requests are classified, for their headers, and never counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from apimachinery import errors
from apiserver.auth.user import User
from apiserver.flowcontrol import classify, defaults, levels
from apiserver.flowcontrol.classify import Schema
from apiserver.flowcontrol.levels import Level
from apiserver.flowcontrol.queues import Seats, Ticket
from apiserver.rest.info import RequestInfo
from componentbase import metrics

Object = dict[str, Any]

QUEUE_SECONDS = 15.0  # a quarter of the request timeout, as in Kubernetes
REMEMBERED = 8192  # classifications
LONG_RUNNING = frozenset({"exec", "attach", "portforward", "log", "proxy"})

_NAMES = ("flow_schema", "priority_level")
DISPATCHED = metrics.counter(
    "apiserver_flowcontrol_dispatched_requests", "Number of requests executed after they were seated.", _NAMES
)
REJECTED = metrics.counter(
    "apiserver_flowcontrol_rejected_requests", "Number of requests rejected.", (*_NAMES, "reason")
)
WAITING = metrics.gauge(
    "apiserver_flowcontrol_current_inqueue_requests", "Number of requests waiting in queues.", _NAMES
)
EXECUTING = metrics.gauge(
    "apiserver_flowcontrol_current_executing_requests", "Number of requests executing.", _NAMES
)
NOMINAL = metrics.gauge(
    "apiserver_flowcontrol_nominal_limit_seats", "Nominal number of execution seats.", ("priority_level",)
)
WAITED = metrics.histogram(
    "apiserver_flowcontrol_request_wait_duration_seconds",
    "How long requests waited in their queues.",
    (*_NAMES, "execute"),
)


def is_long_running(info: RequestInfo) -> bool:
    return info.verb == "watch" or (info.is_resource and info.subresource in LONG_RUNNING)


@dataclass(slots=True)
class Place:
    """Where requests of one sort belong: found once, then remembered."""

    schema: Schema
    level: Level
    headers: list[tuple[bytes, bytes]]
    executing: Any
    dispatched: Any


class FlowControl:
    """All levels of one server."""

    def __init__(
        self, reads: int = 400, writes: int = 200, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = reads + writes
        self._clock = clock
        self._waiters: dict[Ticket, asyncio.Future[None]] = {}
        self.levels: dict[str, Level] = {}
        self.configure(defaults.SCHEMAS, defaults.LEVELS)

    def configure(self, flow_schemas: Iterable[Object], configurations: Iterable[Object]) -> None:
        """Take FlowSchemas and PriorityLevelConfigurations into force. Requests under way are not touched:
        what waits in a queue that is no more is dispatched from it.
        """
        given = _with_mandatory(configurations, defaults.LEVELS)
        self.levels = levels.build(given, self._total, self.levels)
        uids = {name: level.uid for name, level in self.levels.items()}
        self._schemas = classify.schemas(_with_mandatory(flow_schemas, defaults.SCHEMAS), uids)
        self._places: dict[tuple[Any, ...], Place] = {}
        for level in self.levels.values():
            if level.seats is not None:
                NOMINAL.labels(level.name).set(level.seats.limit)

    def place(self, user: User, info: RequestInfo) -> Place:
        what = info.resource if info.is_resource else info.path
        key = (user.name, user.groups, info.verb, info.group, what, info.subresource, info.namespace)
        found = self._places.get(key)
        if found is None:
            if len(self._places) >= REMEMBERED:
                self._places.clear()
            found = self._places[key] = self._classify(user, info)
        return found

    def _classify(self, user: User, info: RequestInfo) -> Place:
        for schema in self._schemas:
            if schema.matches(user, info):
                break
        else:  # of no group that the catch-all knows
            schema = next(one for one in self._schemas if one.name == "catch-all")
        level = self.levels[schema.level]
        headers = [
            (b"x-kubernetes-pf-flowschema-uid", schema.uid.encode()),
            (b"x-kubernetes-pf-prioritylevel-uid", schema.level_uid.encode()),
        ]
        names = schema.name, level.name
        return Place(schema, level, headers, EXECUTING.labels(*names), DISPATCHED.labels(*names))

    async def start(self, place: Place, user: User, info: RequestInfo) -> Ticket | None:
        """A seat; None for a request that needs none. Raises 429. What was given must be `finish`ed."""
        seats = place.level.seats
        if seats is None:
            return None
        now = self._clock()
        crowded = seats.executing >= seats.limit or seats.waiting
        borrowed = bool(crowded) and levels.may_borrow(place.level, self.levels.values())
        ticket = seats.arrive(place.schema.flow(user, info) if crowded else 0, now, borrowed=borrowed)
        if ticket is None:
            raise _rejected(place, "queue-full" if place.level.queues else "concurrency-limit")
        if not ticket.started:
            await self._wait(place, ticket, now)
        place.executing.inc()
        place.dispatched.inc()
        return ticket

    def finish(self, place: Place, ticket: Ticket | None) -> None:
        seats = place.level.seats
        if ticket is None or seats is None:
            return
        place.executing.dec()
        seats.finish(ticket, self._clock())
        if seats.waiting:
            self._dispatch(place.level, seats)

    def _dispatch(self, level: Level, seats: Seats) -> None:
        """Seat those whose turn it is, on seats of their own level or lent ones."""
        now = self._clock()
        while seats.waiting:
            lent = seats.executing >= seats.limit and levels.may_borrow(level, self.levels.values())
            chosen = seats.dispatch(now, borrowed=lent)
            if chosen is None:
                return
            waiter = self._waiters.pop(chosen)
            if not waiter.done():
                waiter.set_result(None)

    async def _wait(self, place: Place, ticket: Ticket, since: float) -> None:
        seats = place.level.seats
        assert seats is not None
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[ticket] = waiter
        self._dispatch(place.level, seats)
        waiting = WAITING.labels(place.schema.name, place.level.name)
        waiting.inc()
        try:
            async with asyncio.timeout(QUEUE_SECONDS):
                await waiter
        except BaseException as error:
            if self._waiters.pop(ticket, None) is not None:
                seats.cancel(ticket)
            else:  # its turn came in the moment it gave up
                seats.finish(ticket, self._clock())
                self._dispatch(place.level, seats)
            if isinstance(error, TimeoutError):
                raise _rejected(place, "time-out") from None
            raise
        finally:
            waiting.dec()
            executes = "true" if ticket.started else "false"
            WAITED.labels(place.schema.name, place.level.name, executes).observe(self._clock() - since)


def _with_mandatory(given: Iterable[Object], known: Iterable[Object]) -> list[Object]:
    out = {item["metadata"]["name"]: item for item in known if item["metadata"]["name"] in defaults.MANDATORY}
    out.update({item["metadata"]["name"]: item for item in given})
    return list(out.values())


def _rejected(place: Place, reason: str) -> errors.StatusError:
    REJECTED.labels(place.schema.name, place.level.name, reason).inc()
    return errors.too_many_requests("too many requests, please try again later")
