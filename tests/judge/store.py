"""A store that is right by construction, and clients that overlap on it: histories for the judge.

Each call is invoked, takes effect at one moment, and is answered, all at random times; some answers get lost.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from deploy.judge.history import Batch, Call, Event, History, Lease, Renewal, Watch
from deploy.judge.model import (
    Compare,
    Delete,
    Get,
    KeyValue,
    Put,
    Request,
    Response,
    Revoke,
    Target,
    covers,
    evaluate,
)
from deploy.judge.wgl import Snapshot

KEYS = ("a", "b", "c")
LEASE = 7
LEASE_TTL = 5.0


@dataclass
class World:
    """The store, its past, and the clock."""

    chance: random.Random
    states: list[Snapshot] = field(default_factory=lambda: [PastSnapshot(0)])
    log: list[Event] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    now: float = 0.0
    numbers: int = 0
    guard: Target = "mod"

    def tick(self) -> float:
        self.now += self.chance.uniform(0.001, 0.01)
        return self.now

    def carry_out(self, request: Request) -> Response:
        """Take effect now."""
        state = self.states[-1]
        if request.serializable:
            state = self.chance.choice(self.states)
        effect = evaluate(request, _with_past(state, self.states), state.revision + 1)
        if effect.changes:
            revision = state.revision + 1
            kept = {one.key: one for one in state.values if one.key not in effect.changes}
            kept |= {key: value for key, value in effect.changes.items() if value is not None}
            for key, value in effect.changes.items():
                self.log.append(Event(revision, key, value, state.lookup(key)))
            self.states.append(PastSnapshot(revision, tuple(kept[key] for key in sorted(kept))))
            return Response(revision, effect.answers, effect.succeeded)
        return Response(state.revision, effect.answers, effect.succeeded)


@dataclass(frozen=True)
class PastSnapshot(Snapshot):
    """A snapshot that knows those before it."""

    states: tuple[Snapshot, ...] = ()

    def past(self, revision: int) -> Snapshot:
        return self.states[revision]


def _with_past(state: Snapshot, states: list[Snapshot]) -> PastSnapshot:
    return PastSnapshot(state.revision, state.values, tuple(states))


def random_request(world: World, *, present_only: bool = False) -> Request:
    """Any of the requests clients make."""
    chance = world.chance
    world.numbers += 1
    value, key = f"v{world.numbers}", chance.choice(KEYS)
    kind = chance.choice(("put", "put", "get", "range", "old", "stale", "delete", "sweep", "txn", "multi"))
    if present_only and kind in ("old", "stale"):
        kind = "get"
    if kind == "put":
        return Request((Put(key, value),))
    if kind == "get":
        return Request((Get(key),))
    if kind == "range":
        return Request((Get("a", "\0"),))
    if kind == "old":
        past = chance.randint(0, world.states[-1].revision)
        return Request((Get(key, "", past),)) if past else Request((Get(key),))
    if kind == "stale":
        return Request((Get(key, "\0"),), serializable=True)
    if kind == "delete":
        return Request((Delete(key),))
    if kind == "sweep":
        return Request((Delete("b", "d"),))
    found = world.states[-1].lookup(key)
    current = 0 if found is None else int(getattr(found, world.guard))
    guard = Compare(key, world.guard, "=", max(0, current - chance.randint(0, 1)))
    if kind == "txn":
        return Request((Put(key, value),), (guard,), (Get(key),))
    writes = tuple(Put(one, f"{value}.{one}") for one in KEYS if one != key)
    return Request((*writes, Get("a", "\0")), (guard,), (Get("a", "\0"),))


def simulate(
    seed: int,
    *,
    clients: int = 4,
    steps: int = 120,
    unknown: float = 0.1,
    plain: bool = False,
    guard: Target = "mod",
) -> History:
    """A history that keeps every promise."""
    world = World(random.Random(seed), guard=guard)
    pending: dict[int, tuple[Call, Response | None]] = {}
    for _ in range(steps):
        who = world.chance.randrange(clients)
        at = world.tick()
        if who not in pending:
            request = random_request(world, present_only=plain)
            pending[who] = (Call(client=f"c{who}", request=request, invoked=at), None)
            continue
        call, response = pending[who]
        if response is None:
            if world.chance.random() < unknown:
                if world.chance.random() < 0.5:
                    world.carry_out(call.request)
                world.calls.append(call)
                del pending[who]
            else:
                pending[who] = (call, world.carry_out(call.request))
        else:
            world.calls.append(replace(call, returned=at, response=response))
            del pending[who]
    world.calls += [call for call, _ in pending.values()]
    if not plain:
        leases = [_with_lease(world, revoked=True, number=LEASE), _with_lease(world, revoked=False, number=8)]
    else:
        leases = []
    last = world.states[-1].revision
    history = History(calls=world.calls, log=world.log, leases=leases, final=last)
    history.watches = [watch(world, "a", "\0", 1), watch(world, "b", "", world.chance.randint(1, last + 1))]
    return history


def _with_lease(world: World, *, revoked: bool, number: int) -> Lease:
    """A lease with two keys, renewed once, that is revoked or runs out."""
    granted = Renewal(world.tick(), world.tick(), LEASE_TTL)
    for key in ("l1", "l2"):
        request = Request((Put(key, f"held by {number}", number),))
        began = world.tick()
        response = world.carry_out(request)
        world.calls.append(
            Call(client="lessee", request=request, invoked=began, returned=world.tick(), response=response)
        )
    world.now += LEASE_TTL / 2
    renewals = (granted, Renewal(world.tick(), world.tick(), LEASE_TTL))
    revoking = None
    if revoked:
        revoking = world.tick()
        request = Request((Revoke(number),))
        revision = world.carry_out(request).revision
        world.calls.append(
            Call(
                client="lessee",
                request=request,
                invoked=revoking,
                returned=world.tick(),
                response=Response(revision, (None,)),
            )
        )
    else:
        world.now += LEASE_TTL
        world.carry_out(Request((Revoke(number),)))
    for _ in range(2):
        request, began = Request((Get("l1", "m"),)), world.tick()
        response = world.carry_out(request)
        world.calls.append(
            Call(client="reader", request=request, invoked=began, returned=world.tick(), response=response)
        )
    return Lease(id=number, renewals=renewals, revoking=revoking)


def watch(world: World, key: str, end: str, start: int) -> Watch:
    """A faithful watcher, whose responses hold one or several revisions, with bookmarks between."""
    last = world.states[-1].revision
    batches: list[Batch] = []
    gathered: list[Event] = []
    for revision in range(start, last + 1):
        gathered += [
            event for event in world.log if event.revision == revision and covers(key, end, event.key)
        ]
        if gathered and world.chance.random() < 0.6:
            batches.append(Batch(world.now + revision, revision, tuple(gathered)))
            gathered = []
        if not gathered and world.chance.random() < 0.2:
            batches.append(Batch(world.now + revision, revision))
    if gathered:
        batches.append(Batch(world.now + last, last, tuple(gathered)))
    return Watch(
        name=f"watch {key}",
        key=key,
        end=end,
        start=start,
        batches=tuple(batches),
        previous=True,
        complete=last,
    )


def edit_batches(watched: Watch, edit: Callable[[list[Batch]], None]) -> Watch:
    """A copy whose responses are edited in place."""
    batches = list(watched.batches)
    edit(batches)
    return replace(watched, batches=tuple(batches))


def other_value(found: KeyValue) -> KeyValue:
    """The same key with a value that nobody wrote."""
    return replace(found, value="never written")
