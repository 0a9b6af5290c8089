"""One round: a fresh cluster, load and faults, then calm, then the reckoning."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from deploy.judge.history import Batch, Event, History, Watch
from deploy.judge.verdict import judge
from deploy.judge.violation import Violation
from etcdlite.client import EtcdClient, EtcdError
from tests.robustness import lab
from tests.robustness.members import Member, tells_progress
from tests.robustness.recorder import Journal, Recorder, event
from tests.robustness.schedule import Stage, trouble
from tests.robustness.workload import Load

BASE = 1  # the revision of an empty store
READY_SECONDS = 60.0
CALM_SECONDS = 90.0
REQUEST_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a round is to be. `names` are those of schedule.STRIKES; `gap` seconds between two."""

    kind: str
    seed: int
    seconds: float
    names: Sequence[str]
    gap: float = 2.5
    pace: float = 0.02
    size: int = 3


@dataclass
class Result:
    """What a round was."""

    plan: Plan
    violations: list[Violation]
    history: History
    faults: Counter[str] = field(default_factory=Counter)
    leader_changes: int = 0
    longest_gap: float = 0.0

    @property
    def acknowledged(self) -> int:
        return sum(call.response is not None for call in self.history.calls)

    @property
    def unknown(self) -> int:
        return sum(call.unknown for call in self.history.calls)


class Stuck(Exception):
    """The cluster did not come right in calm; says what it lacks."""


@contextlib.asynccontextmanager
async def _clients(
    members: Sequence[Member], certificates: lab.Certificates
) -> AsyncIterator[list[EtcdClient]]:
    """One of each member, and last one of all of them."""
    async with contextlib.AsyncExitStack() as stack:
        urls = [[member.url] for member in members] + [[member.url for member in members]]
        yield [
            await stack.enter_async_context(
                EtcdClient(
                    each,
                    ca=certificates.ca,
                    cert=certificates.client,
                    key=certificates.client_key,
                    timeout=REQUEST_SECONDS,
                )
            )
            for each in urls
        ]


class Round:
    """The parts of one round, in order."""

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None]) -> None:
        self.plan, self.folder, self.say = plan, folder, say
        self.chance = random.Random(plan.seed)
        self.journal = Journal()
        self.members: list[Member] = []
        self.log: list[Event] = []
        self.final = BASE
        self.found: list[Violation] = []
        self.result = Result(plan, self.found, History())

    def run(self) -> Result:
        """Everything; what is wrong is in the result."""
        certificates = lab.certificates(self.folder / "pki", self.plan.size)
        with contextlib.ExitStack() as stack:
            hosts = stack.enter_context(lab.hosts(self.plan.size))
            peers = {host.name: f"https://{host.address}:{lab.PEER_PORT}" for host in hosts}
            for host in hosts:
                member = Member(self.plan.kind, host, peers, self.folder / host.name, certificates)
                stack.enter_context(lab.disk(member.disk))
                stack.callback(member.end)
                self.members.append(member)
            for member in self.members:
                member.start()
            try:
                asyncio.run(self._conduct(certificates))
            except* Stuck as stuck:
                self.found += [Violation("recovery", str(error)) for error in stuck.exceptions]
        self.found += [
            Violation("members", text)
            for text in itertools.chain(self.journal.trouble, *(member.trouble for member in self.members))
        ]
        self.result.history = self._history()
        if self.log or not self.found:
            self.found += judge(self.result.history)
        return self.result

    async def _conduct(self, certificates: lab.Certificates) -> None:
        async with _clients(self.members, certificates) as clients:
            await self._ready(clients, READY_SECONDS)
            terms = await self._term(clients[-1])
            stage = Stage(self.members, clients[-1], self.chance, self.say)
            self.result.faults = stage.counts
            began = time.monotonic()
            try:
                await self._load(clients, stage)
            finally:
                self.result.longest_gap = _gap(self.journal.acknowledged_at, began, time.monotonic())
            self.result.leader_changes = await self._term(clients[-1]) - terms

    async def _load(self, clients: Sequence[EtcdClient], stage: Stage) -> None:
        recorders = [
            Recorder(member.name, client, self.journal)
            for member, client in zip(self.members, clients, strict=False)
        ]
        anyone = Recorder("any", clients[-1], self.journal)
        progress = tells_progress(self.plan.kind)
        if not progress:
            self.say("  no progress requests: this version of etcd is known to answer them wrongly")
        load = Load(recorders, anyone, self.journal, self.chance, progress, self.plan.pace)
        async with asyncio.TaskGroup() as tasks:
            working = tasks.create_task(load.run(BASE), name="load")
            guarding = tasks.create_task(self._guard(stage), name="guard")
            enough = asyncio.Event()
            strikes = trouble(stage, self.plan.names, self.plan.gap, enough)
            striking = tasks.create_task(strikes, name="faults")
            await asyncio.sleep(self.plan.seconds)
            enough.set()
            await asyncio.wait([striking])
            await self._ready(clients, CALM_SECONDS)
            load.stopping.set()
            await self._collect(clients, load)
            working.cancel()
            guarding.cancel()

    async def _guard(self, stage: Stage) -> None:
        """Start what died, once its disk is good again; nobody may die of anything else."""
        while True:
            await asyncio.sleep(0.3)
            for member in self.members:
                frail = stage.frail.get(member.name, 0.0)
                if frail == math.inf:
                    continue
                death = member.note_death()
                if death is None:
                    continue
                if time.monotonic() > frail:
                    self.say(f"  {death}")
                    self.found.append(Violation("members", death))
                member.start()

    async def _ready(self, clients: Sequence[EtcdClient], limit: float) -> None:
        """Until every member answers a linearizable read. Raises Stuck."""
        deadline = time.monotonic() + limit
        for member, client in zip(self.members, clients, strict=False):
            while True:
                try:
                    await client.range(b"/r/ready")
                    break
                except EtcdError as error:
                    if time.monotonic() > deadline:
                        tail = " | ".join(member.tail(4))
                        raise Stuck(f"{member.name} does not answer in calm: {error}; {tail}") from None
                    await asyncio.sleep(0.2)

    async def _term(self, client: EtcdClient) -> int:
        terms = [0]
        for member in self.members:
            with contextlib.suppress(EtcdError):
                terms.append((await client.status(member.url, timeout=2)).raftTerm)
        return max(terms)

    async def _collect(self, clients: Sequence[EtcdClient], load: Load) -> None:
        """Every member's log up to one revision; wait for the watchers to reach it. Raises Stuck."""
        await load.stopped.wait()
        self.final = (await clients[-1].range(b"/r/ready", timeout=20)).header.revision
        logs = []
        for member, client in zip(self.members, clients, strict=False):
            try:
                async with asyncio.timeout(CALM_SECONDS):
                    logs.append(await _whole_log(client, self.final))
            except (TimeoutError, EtcdError) as error:
                raise Stuck(f"{member.name} does not show its history: {error}") from None
        self.log = logs[0]
        for member, log in zip(self.members[1:], logs[1:], strict=True):
            if log != self.log:
                first = next(
                    (pair for pair in itertools.zip_longest(self.log, log) if pair[0] != pair[1]), None
                )
                what = f"{self.members[0].name} and {member.name} differ: {first}"
                self.found.append(Violation("members agree", what))
        deadline = time.monotonic() + CALM_SECONDS / 3
        while time.monotonic() < deadline:
            if all(watch.next > self.final for watch in load.lasting):
                break
            await asyncio.sleep(0.1)

    def _history(self) -> History:
        lasting = {watch.name for watch in self.journal.watches if watch.name.startswith("all of")}
        return History(
            calls=self.journal.calls,
            watches=[
                _cut(watch.closed(self.final if watch.name in lasting and self.log else 0), self.final)
                for watch in self.journal.watches
            ],
            leases=[lease.closed() for lease in self.journal.leases.values()],
            log=self.log,
            base=BASE,
            final=self.final,
        )


async def _whole_log(client: EtcdClient, final: int) -> list[Event]:
    """Every change after BASE up to `final`, as one member tells it now."""
    log: list[Event] = []
    if final <= BASE:
        return log
    async with client.watch(b"\0", b"\0", start_revision=BASE + 1) as stream:
        async for batch in stream:
            log += [event(seen) for seen in batch.events if seen.kv.mod_revision <= final]
            if batch.revision >= final and (not batch.events or batch.events[-1].kv.mod_revision >= final):
                break
    return log


def _cut(watch: Watch, final: int) -> Watch:
    """Without what came after `final`: leases go on running out."""
    batches = []
    for batch in watch.batches:
        kept = tuple(one for one in batch.events if one.revision <= final)
        if kept or (not batch.events and batch.revision <= final):
            batches.append(replace(batch, events=kept) if kept else Batch(batch.at, batch.revision))
    return replace(watch, batches=tuple(batches))


def _gap(times: Sequence[float], began: float, ended: float) -> float:
    marks = [began, *sorted(times), ended]
    return max(later - earlier for earlier, later in itertools.pairwise(marks))
