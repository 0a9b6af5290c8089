"""What clients do: every kind of request, on few keys, so that they meet."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from deploy.judge.model import Compare, Delete, Get, Put, Request, Response
from etcdlite.client import EtcdError
from tests.robustness.recorder import Journal, OpenWatch, Recorder

PREFIX, END = "/r/", "/r0"
KEYS = tuple(f"/r/k{number}" for number in range(6))
RETREAT = 1.0  # seconds a client keeps away from a member that failed it
CLIENTS, LESSEES = 8, 3


@dataclass
class Load:
    """Clients on the members' recorders; `anyone` asks whichever member answers."""

    members: Sequence[Recorder]
    anyone: Recorder
    journal: Journal
    chance: random.Random
    progress: bool  # ask watches how far they are
    pace: float  # mean seconds between two requests of a client
    revisions: dict[str, int] = field(default_factory=dict)  # as last seen, for compare-and-swap
    newest: int = 0
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    lasting: list[OpenWatch] = field(default_factory=list)  # the watches that must see everything
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, base: int) -> None:
        """Ask until `stopping` is set, watch until cancelled."""
        self.newest = base
        async with asyncio.TaskGroup() as watching:
            for number, member in enumerate(self.members):
                watching.create_task(self._watch(f"all of {member.name}", member, base + 1))
                watching.create_task(self._watch_again(f"one key {number}", member))
            async with asyncio.TaskGroup() as asking:
                tasks = [asking.create_task(self._client(n), name=f"client {n}") for n in range(CLIENTS)]
                tasks += [asking.create_task(self._lessee(n), name=f"lessee {n}") for n in range(LESSEES)]
                await self.stopping.wait()
                for task in tasks:
                    task.cancel()
            self.stopped.set()

    def value(self) -> str:
        """One that nobody else writes."""
        return f"v{next(self.numbers)}"

    async def _client(self, number: int) -> None:
        recorders = [self._own(one, f"client {number} at {one.name}") for one in (*self.members, self.anyone)]
        away: dict[str, float] = {}
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self.chance.expovariate(1 / self.pace))
            open_to = [one for one in recorders if away.get(one.name, 0) <= loop.time()]
            recorder = self.chance.choice(open_to or recorders)
            request = self.request()
            response = await recorder.do(request)
            if response is None:
                away[recorder.name] = loop.time() + self.chance.uniform(0, RETREAT)
            else:
                self._learn(request, response)

    def _own(self, recorder: Recorder, name: str) -> Recorder:
        return Recorder(name, recorder.client, self.journal)

    def _learn(self, request: Request, response: Response) -> None:
        self.newest = max(self.newest, response.revision)
        for answer in response.answers:
            for found in answer if isinstance(answer, tuple) else ():
                self.revisions[found.key] = found.mod or 0
        for op in request.success if response.succeeded else request.failure:
            if isinstance(op, Put):
                self.revisions[op.key] = response.revision
            elif isinstance(op, Delete) and not op.end:
                self.revisions[op.key] = 0

    def request(self) -> Request:
        """One of everything a client may ask."""
        chance, key = self.chance, self.chance.choice(KEYS)
        kinds = ("put", "get", "stale", "range", "past", "delete", "sweep", "swap", "many", "look", "create")
        (kind,) = chance.choices(kinds, (20, 22, 10, 6, 3, 6, 1, 14, 10, 4, 4))
        if kind == "put":
            return Request((Put(key, self.value()),))
        if kind == "get":
            return Request((Get(key),))
        if kind == "stale":
            return Request((Get(PREFIX, END),), serializable=True)
        if kind == "range":
            return Request((Get(PREFIX, END),))
        if kind == "past":
            return Request((Get(PREFIX, END, max(1, self.newest - chance.randrange(50))),))
        if kind == "delete":
            return Request((Delete(key),))
        if kind == "sweep":
            return Request((Delete(KEYS[0], KEYS[3]),))
        if kind == "create":
            return Request((Put(key, self.value()),), (Compare(key, "create", "=", 0),), (Get(key),))
        if kind == "look":
            return Request(tuple(Get(one) for one in chance.sample(KEYS, 3)))
        guard = Compare(key, "mod", "=", self.revisions.get(key, 0))
        if kind == "swap":
            return Request((Put(key, self.value()),), (guard,), (Get(key),))
        chosen = chance.sample(KEYS, 3)
        writes = [*(Put(one, self.value()) for one in chosen[:2]), Delete(chosen[2]), Get(PREFIX, END)]
        guards = (guard,) if chance.random() < 0.3 else ()
        return Request(tuple(writes), guards, (Get(PREFIX, END),) if guards else ())

    # -- leases

    async def _lessee(self, number: int) -> None:
        while True:
            recorder = self._own(self.chance.choice((*self.members, self.anyone)), f"lessee {number}")
            with contextlib.suppress(EtcdError):
                await self._one_lease(recorder, number)
            await asyncio.sleep(self.chance.uniform(0.05, 0.5))

    async def _one_lease(self, recorder: Recorder, number: int) -> None:
        lease = await recorder.grant(self.chance.choice((2, 3)))
        if lease is None:
            return
        for part in "ab":
            await recorder.do(Request((Put(f"/r/l{number}{part}", self.value(), lease.id),)))
        for _ in range(self.chance.choice((0, 2, 6))):
            await asyncio.sleep(self.chance.uniform(0.3, 0.8))
            other = self.chance.choice((*self.members, self.anyone))
            await self._own(other, recorder.name).renew(lease)
        if self.chance.random() < 0.5:
            await recorder.revoke(lease)
        elif self.chance.random() < 0.5:
            await asyncio.sleep(lease.renewals[-1].ttl + 1)  # let it run out

    # -- watches

    async def _watch(self, name: str, recorder: Recorder, start: int) -> None:
        """Follow everything for ever, resuming where the stream broke."""
        watch = OpenWatch(name, PREFIX, END, start, start)
        self.journal.watches.append(watch)
        self.lasting.append(watch)
        while True:
            with contextlib.suppress(EtcdError):
                await self._follow(recorder, watch)
            await asyncio.sleep(self.chance.uniform(0.05, 0.3))

    async def _watch_again(self, name: str, recorder: Recorder) -> None:
        """Watch one key for a while, from somewhere in the past, again and again."""
        for turn in itertools.count():
            start = max(1, self.newest - self.chance.randrange(100))
            key = self.chance.choice(KEYS)
            watch = OpenWatch(f"{name}.{turn}", key, "", start, start)
            self.journal.watches.append(watch)
            with contextlib.suppress(EtcdError, TimeoutError):
                async with asyncio.timeout(self.chance.uniform(0.5, 4)):
                    await self._follow(recorder, watch)
            await asyncio.sleep(self.chance.uniform(0.05, 0.3))

    async def _follow(self, recorder: Recorder, watch: OpenWatch) -> None:
        async with recorder.client.watch(
            watch.key.encode(), watch.end.encode(), start_revision=watch.next, progress_notify=True
        ) as stream:
            asked = asyncio.get_running_loop().time()
            async for batch in stream:
                if batch.compacted:
                    self.journal.trouble.append(f"watch {watch.name}: compacted, and nobody compacts")
                    return
                watch.take(batch)
                if self.progress and asyncio.get_running_loop().time() > asked + 1:
                    asked = asyncio.get_running_loop().time()
                    await stream.request_progress()
