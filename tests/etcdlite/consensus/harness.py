"""Real members in one process: loopback TCP, files below a temporary folder, a list as the state machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from etcdlite.consensus.config import ConsensusConfig
from etcdlite.consensus.node import Consensus
from etcdlite.consensus.statemachine import Entry, SnapshotSource
from tests.ports import free_port

FAST = {"heartbeat_interval": 0.02, "election_timeout": 0.2}


class ListMachine:
    """Applied data in order. Outlives its process as if every apply were synced."""

    def __init__(self) -> None:
        self.applied_index = self.applied_term = 0
        self.data: list[bytes] = []
        self.waiting: dict[bytes, asyncio.Future[None]] = {}
        self.installed = 0
        self.hold_durable: int | None = None

    @property
    def durable_index(self) -> int:
        """All of it, unless a test holds it back."""
        return self.applied_index if self.hold_durable is None else self.hold_durable

    def apply(self, entries: Sequence[Entry]) -> None:
        """Append, and tell who waits."""
        for entry in entries:
            if entry.index > self.applied_index:
                assert entry.index == self.applied_index + 1
                self.applied_index, self.applied_term = entry.index, entry.term
                if entry.data:
                    self.data.append(entry.data)
                    future = self.waiting.pop(entry.data, None)
                    if future is not None and not future.done():
                        future.set_result(None)

    def snapshot_reader(self) -> SnapshotSource:
        """Length-prefixed data."""

        def chunks(data: list[bytes]) -> Iterator[bytes]:
            for item in data:
                yield len(item).to_bytes(4, "big") + item

        return SnapshotSource(self.applied_index, self.applied_term, chunks(list(self.data)))

    def install_snapshot(self, index: int, term: int, chunks: Iterator[bytes]) -> None:
        """Replace everything."""
        self.data = [chunk[4:] for chunk in chunks]
        self.applied_index, self.applied_term = index, term
        self.installed += 1


class Harness:
    """Members by name. `start` and `stop` may be repeated; state machines and folders stay."""

    def __init__(self, folder: Path, size: int, **options: Any) -> None:
        self.folder, self.options = folder, {**FAST, **options}
        scheme = "https" if "peer_server_tls" in options else "http"
        self.cluster = {f"m{n}": [f"{scheme}://127.0.0.1:{free_port()}"] for n in range(size)}
        self.machines = {name: ListMachine() for name in self.cluster}
        self.members: dict[str, Consensus] = {}
        self._runs: dict[str, asyncio.Task[None]] = {}

    def start(self, *names: str) -> None:
        """Start members, all without names."""
        for name in names or self.cluster:
            config = ConsensusConfig(
                name=name,
                data_dir=self.folder / name,
                initial_cluster=self.cluster,
                advertise_client_urls=[f"http://{name}"],
                **self.options,
            )
            self.members[name] = member = Consensus(config, self.machines[name])
            loop = asyncio.get_running_loop()
            self._runs[name] = loop.create_task(member.run(), name=name)

    async def stop(self, *names: str) -> None:
        """Stop members, all without names."""
        for name in names or list(self._runs):
            run = self._runs.pop(name)
            run.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await run
            del self.members[name]

    async def ended(self, name: str) -> BaseException | None:
        """Wait until the member stops by itself; why."""
        async with asyncio.timeout(5):
            await asyncio.wait({self._runs[name]})
        return self._runs.pop(name).exception()

    async def leader(self) -> str:
        """Wait for a leader that all running members know."""

        def agreed() -> bool:
            leaders = {member.status().leader_id for member in self.members.values()}
            return len(leaders) == 1 and leaders != {0}

        await self.until(agreed)
        (leader,) = {member.status().leader_id for member in self.members.values()}
        return next(name for name, member in self.members.items() if member.member_id == leader)

    async def followers(self) -> list[str]:
        """Running members but the leader."""
        leader = await self.leader()
        return [name for name in self.members if name != leader]

    async def put(self, name: str, data: bytes, seconds: float = 5) -> None:
        """Propose at a member and wait until that member has applied it."""
        future = asyncio.get_running_loop().create_future()
        self.machines[name].waiting[data] = future
        await self.members[name].propose(data, future.done, timeout=seconds)
        async with asyncio.timeout(seconds):
            await future

    async def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        """Wait for `condition`."""
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110 -- what is waited for is another member's inside
                await asyncio.sleep(0.01)

    async def settled(self) -> None:
        """All running members have applied the same."""
        machines = [self.machines[name] for name in self.members]
        await self.until(lambda: len({machine.applied_index for machine in machines}) == 1)


@contextlib.asynccontextmanager
async def running(folder: Path, size: int, **options: Any) -> AsyncIterator[Harness]:
    """A cluster that is stopped at the end."""
    harness = Harness(folder, size, **options)
    harness.start()
    try:
        yield harness
    finally:
        await harness.stop()


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run one asynchronous test under a deadline."""

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    asyncio.run(bounded())
