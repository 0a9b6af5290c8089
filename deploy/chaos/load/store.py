"""`python -m deploy.chaos.load.store ...`: clients of the store, in a process inside the lab's network.

Every call, the watch and the members' status go into one JSON file when it is told to end (SIGTERM): a
`deploy.judge` history, samples of who leads, and the changes of the namespace's pods as the store has them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from componentbase.backoff import Backoff
from componentbase.grpcwire.status import Code
from deploy import namespaces
from deploy.judge.history import Batch, Call, Event, History, Watch, to_json
from deploy.judge.model import Compare, Get, KeyValue, Put, Request, Response
from etcdlite.client import (
    EtcdClient,
    EtcdError,
    OutcomeUnknown,
    RequestFailed,
    WatchBroken,
    compare_mod,
    op_get,
    op_put,
    prefix_end,
)

REQUEST_TIMEOUT = 8.0
SAMPLE_INTERVAL = 0.25
CATCH_UP = 60.0
# Answers after which a write is certainly not in the store (rpctypes: refused before it was proposed).
CERTAIN = frozenset(
    {
        Code.RESOURCE_EXHAUSTED,
        Code.INVALID_ARGUMENT,
        Code.FAILED_PRECONDITION,
        Code.OUT_OF_RANGE,
        Code.NOT_FOUND,
        Code.UNAUTHENTICATED,
        Code.PERMISSION_DENIED,
    }
)


@dataclass(frozen=True)
class Plan:
    """What this process does. `members`: host -> client URL; each client prefers another one."""

    members: dict[str, str]
    pki: Path
    prefix: str
    pods: str
    clients: int
    keys: int
    pause: float
    seed: int
    out: Path


@dataclass
class Recorder:
    """Everything that happened. Times are CLOCK_MONOTONIC, which all processes of the machine share."""

    calls: list[Call] = field(default_factory=list)
    batches: list[Batch] = field(default_factory=list)
    samples: list[tuple[float, str, int, int, int]] = field(default_factory=list)
    bindings: list[tuple[int, str, str]] = field(default_factory=list)


def _value(found: Any) -> KeyValue:
    return KeyValue(
        found.key.decode(),
        found.value.decode(),
        found.create_revision,
        found.mod_revision,
        found.version,
        found.lease,
    )


class Client:
    """One sequential client: its next request is made when the last has been answered or given up."""

    def __init__(self, name: str, plan: Plan, recorder: Recorder, store: EtcdClient) -> None:
        self.name, self.plan, self.recorder, self.store = name, plan, recorder, store
        self.random = random.Random(f"{plan.seed}/{name}")
        self.keys = [f"{plan.prefix}k{number}" for number in range(plan.keys)]
        self.known: dict[str, int] = {}
        self.count = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Call until told to stop; after a failure, pause as a client should."""
        backoff = Backoff(0.02, 0.5)
        while not stop.is_set():
            if await self.step():
                backoff.reset()
                await asyncio.sleep(self.plan.pause * self.random.uniform(0.5, 1.5))
            else:
                await asyncio.sleep(backoff.next())

    async def step(self) -> bool:
        """One request, by chance."""
        key, dice = self.random.choice(self.keys), self.random.random()
        if dice < 0.45:
            return await self.put(key)
        if dice < 0.75:
            return await self.get(key)
        if dice < 0.92:
            return await self.swap(key)
        return await self.pair(*self.random.sample(self.keys, 2))

    def fresh(self) -> str:
        """A value that nobody else writes."""
        self.count += 1
        return f"{self.name}-{self.count}"

    async def put(self, key: str) -> bool:
        value = self.fresh()

        async def ask() -> Response:
            answer = await self.store.put(key.encode(), value.encode(), timeout=REQUEST_TIMEOUT)
            self.known[key] = answer.header.revision
            return Response(answer.header.revision, (None,))

        return await self.record(Request((Put(key, value),)), ask)

    async def get(self, key: str) -> bool:
        async def ask() -> Response:
            answer = await self.store.range(key.encode(), timeout=REQUEST_TIMEOUT)
            self.known[key] = answer.kvs[0].mod_revision if answer.kvs else 0
            return Response(answer.header.revision, (tuple(_value(found) for found in answer.kvs),))

        return await self.record(Request((Get(key),)), ask)

    async def swap(self, key: str) -> bool:
        """Put if the key is as this client saw it last, else read it."""
        value, expected = self.fresh(), self.known.get(key, 0)
        compare = Compare(key, "mod", "=", expected)
        request = Request((Put(key, value),), (compare,), (Get(key),))

        async def ask() -> Response:
            answer = await self.store.txn(
                [compare_mod(key.encode(), expected)],
                [op_put(key.encode(), value.encode())],
                [op_get(key.encode())],
                timeout=REQUEST_TIMEOUT,
            )
            if answer.succeeded:
                self.known[key] = answer.header.revision
                return Response(answer.header.revision, (None,))
            found = answer.responses[0].response_range.kvs
            self.known[key] = found[0].mod_revision if found else 0
            return Response(answer.header.revision, (tuple(_value(one) for one in found),), succeeded=False)

        return await self.record(request, ask)

    async def pair(self, one: str, other: str) -> bool:
        """Two keys in one transaction: both or neither."""
        value = self.fresh()

        async def ask() -> Response:
            puts = [op_put(key.encode(), value.encode()) for key in (one, other)]
            answer = await self.store.txn([], puts, timeout=REQUEST_TIMEOUT)
            return Response(answer.header.revision, (None, None))

        return await self.record(Request((Put(one, value), Put(other, value))), ask)

    async def record(self, request: Request, ask: Callable[[], Awaitable[Response]]) -> bool:
        """Make the call and write down what became of it; whether it was answered."""
        invoked = time.monotonic()
        response: Response | None = None
        refused = ""
        try:
            response = await ask()
        except OutcomeUnknown:
            pass
        except RequestFailed as error:
            refused = error.text if error.code in CERTAIN or not request.may_write else ""
        except EtcdError as error:
            refused = str(error) or type(error).__name__
        answered = response is not None or bool(refused)
        self.recorder.calls.append(
            Call(
                client=self.name,
                request=request,
                invoked=invoked,
                returned=time.monotonic() if answered else None,
                response=response,
                refused=refused[:200],
            )
        )
        return response is not None


class Reader(Client):
    """Reads only, from one member only: whatever becomes of that member, what it says must be so."""

    async def step(self) -> bool:
        return await self.get(self.random.choice(self.keys))


def _event(event: Any) -> Event:
    key = event.kv.key.decode()
    return Event(event.kv.mod_revision, key, None if event.type else _value(event.kv))


async def follow(
    store: EtcdClient, prefix: str, start: int, take: Callable[[Any], None], done: Callable[[], bool]
) -> None:
    """Watch a prefix from `start` on, resuming where the stream broke, until `done`; `take` every batch."""
    backoff, following = Backoff(0.05, 0.5), start
    while not done():
        with contextlib.suppress(WatchBroken, EtcdError):
            watch = store.watch(
                prefix.encode(), prefix_end(prefix.encode()), start_revision=following, prev_kv=False
            )
            async with watch:
                async for batch in watch:
                    if batch.compacted:
                        raise RuntimeError(f"the watch of {prefix} was compacted away at {batch.compacted}")
                    take(batch)
                    following = max(following, batch.revision + 1) if batch.events else following
                    backoff.reset()
                    if done():
                        return
        await asyncio.sleep(backoff.next())


async def sample(plan: Plan, recorder: Recorder, host: str, store: EtcdClient) -> None:
    """Ask one member again and again who leads, in which term, and how far it has applied the log."""
    url = plan.members[host]
    numbers: tuple[int, int, int]
    while True:
        try:
            status = await store.status(url, timeout=1.0)
            numbers = (
                int(status.leader == status.header.member_id),
                status.raftTerm,
                status.raftAppliedIndex,
            )
            if not status.leader:
                numbers = (-1, status.raftTerm, status.raftAppliedIndex)  # up, and without a leader
        except EtcdError:
            numbers = (-2, 0, 0)  # silent
        recorder.samples.append((time.monotonic(), host, *numbers))
        await asyncio.sleep(SAMPLE_INTERVAL)


def binding(event: Any) -> tuple[int, str, str] | None:
    """(revision, uid, node) of a change of a pod that is bound."""
    if event.type:
        return None
    pod = json.loads(event.kv.value)
    node = (pod.get("spec") or {}).get("nodeName")
    return (event.kv.mod_revision, pod["metadata"]["uid"], node) if node else None


class Load:
    """The whole process, from the first call to the file."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.recorder = Recorder()
        self.stop = asyncio.Event()
        self.progress = asyncio.Event()
        self.reached = 0
        self.final = 0

    def store(self, first: int = 0, *, only: bool = False) -> EtcdClient:
        """A client of all members that begins with one of them, or of that one alone."""
        urls = list(self.plan.members.values())
        urls = urls[first % len(urls) :] + urls[: first % len(urls)]
        pki = self.plan.pki
        return EtcdClient(
            urls[:1] if only else urls,
            ca=pki / "etcd-ca.pem",
            cert=pki / "etcd-client.pem",
            key=pki / "etcd-client-key.pem",
        )

    def take_batch(self, batch: Any) -> None:
        self.reached = max(self.reached, batch.revision)
        events = tuple(_event(event) for event in batch.events)
        self.recorder.batches.append(Batch(time.monotonic(), batch.revision, events))
        self.progress.set()

    def take_pods(self, batch: Any) -> None:
        found = (binding(event) for event in batch.events)
        self.recorder.bindings += [one for one in found if one is not None]

    async def run(self) -> History:
        """Work until SIGTERM, let the watch catch up, read everything once more, and fetch the log."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop.set)
        async with contextlib.AsyncExitStack() as stack:
            watcher = await stack.enter_async_context(self.store(1))
            base = (await watcher.range(self.plan.prefix.encode(), timeout=30.0)).header.revision
            async with asyncio.TaskGroup() as background:
                watching = [
                    background.create_task(
                        follow(watcher, self.plan.prefix, base + 1, self.take_batch, self.caught_up)
                    ),
                    background.create_task(
                        follow(watcher, self.plan.pods, base + 1, self.take_pods, lambda: False)
                    ),
                    *[
                        background.create_task(sample(self.plan, self.recorder, host, watcher))
                        for host in self.plan.members
                    ],
                ]
                await self.work(stack)
                await self.wait_caught_up(watcher)
                for task in watching:
                    task.cancel()
            log = await self.read_log(watcher, base)
            with contextlib.suppress(EtcdError):  # they are in nobody's way if they stay
                await watcher.delete(self.plan.prefix.encode(), prefix_end(self.plan.prefix.encode()))
        return self.history(base, log)

    def caught_up(self) -> bool:
        return bool(self.final) and self.reached >= self.final

    async def work(self, stack: contextlib.AsyncExitStack) -> None:
        clients: list[Client] = []
        for number in range(self.plan.clients):
            store = await stack.enter_async_context(self.store(number))
            clients.append(Client(f"c{number}", self.plan, self.recorder, store))
        for number, host in enumerate(self.plan.members):
            store = await stack.enter_async_context(self.store(number, only=True))
            clients.append(Reader(f"reader of {host}", self.plan, self.recorder, store))
        print("ready", flush=True)
        async with asyncio.TaskGroup() as working:
            for client in clients:
                working.create_task(client.run(self.stop), name=client.name)
        for key in clients[0].keys:  # what is there at last is read as calls: nothing acknowledged is missing
            await clients[0].get(key)
        # A last write of our own key space: the watch has caught up when it has shown this revision.
        await clients[0].put(clients[0].keys[0])

    async def wait_caught_up(self, store: EtcdClient) -> None:
        answer = await store.range(self.plan.prefix.encode(), prefix_end(self.plan.prefix.encode()))
        self.final = max((found.mod_revision for found in answer.kvs), default=0)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP):
                while not self.caught_up():
                    await self.progress.wait()
                    self.progress.clear()

    async def read_log(self, store: EtcdClient, base: int) -> list[Event]:
        """Every change of our keys, from a watch that begins in the past: independent of the live one."""
        log: list[Event] = []

        def done() -> bool:
            return bool(log) and log[-1].revision >= self.final

        def take(batch: Any) -> None:
            log.extend(_event(event) for event in batch.events)

        if self.final > base:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CATCH_UP):
                    await follow(store, self.plan.prefix, base + 1, take, done)
        return log

    def history(self, base: int, log: Sequence[Event]) -> History:
        prefix = self.plan.prefix
        watch = Watch(
            name="watch",
            key=prefix,
            end=prefix_end(prefix.encode()).decode(),
            start=base + 1,
            batches=tuple(self.recorder.batches),
            complete=self.final,
        )
        return History(
            calls=self.recorder.calls,
            watches=[watch],
            log=list(log),
            base=base,
            final=self.final,
            whole=False,
        )


def parse(argv: Sequence[str]) -> tuple[Plan, str]:
    """The plan, and the network namespace to work in."""
    parser = argparse.ArgumentParser()
    for name in ("namespace", "pki", "prefix", "pods", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--member", action="append", required=True, help="host=url")
    for name in ("clients", "keys", "seed"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--pause", type=float, required=True)
    given = parser.parse_args(argv)
    members = dict(pair.split("=", 1) for pair in given.member)
    plan = Plan(
        members,
        Path(given.pki),
        given.prefix,
        given.pods,
        given.clients,
        given.keys,
        given.pause,
        given.seed,
        Path(given.out),
    )
    return plan, given.namespace


def main(argv: Sequence[str]) -> int:
    """Enter the namespace before any thread or channel exists, work, write the file."""
    plan, namespace = parse(argv)
    namespaces.enter_network(namespace)
    load = Load(plan)
    history = asyncio.run(load.run())
    document = {
        "history": to_json(history),
        "samples": load.recorder.samples,
        "bindings": load.recorder.bindings,
    }
    plan.out.write_text(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
