"""What happens to the members: faults from a seed, one after another and sometimes two at a time.

Every strike undoes what it did before it ends, also when it is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.faults import delay, disk, fsync, network, process
from deploy.faults.fault import Fault
from etcdlite.client import EtcdClient, EtcdError
from tests.robustness.lab import PEER_PORT
from tests.robustness.members import ETCD, Member

CTL_SECONDS = 15.0
REPLACE_SECONDS = 60.0
AFTERMATH_SECONDS = 20.0  # a busy machine takes its time to end a member whose disk has failed


@dataclass
class Stage:
    """The members under test, and who may die of what is being done to them."""

    members: Sequence[Member]
    client: EtcdClient
    chance: random.Random
    say: Callable[[str], None]
    counts: Counter[str] = field(default_factory=Counter)
    frail: dict[str, float] = field(default_factory=dict)  # until when a bad disk explains a member's end

    def one(self) -> Member:
        """Any member that runs."""
        return self.chance.choice([member for member in self.members if member.running] or self.members)

    async def leader(self) -> Member:
        """The member that says it leads, or any."""
        for member in self.members:
            with contextlib.suppress(EtcdError):
                status = await self.client.status(member.url, timeout=0.5)
                if status.leader == status.header.member_id:
                    return member
        return self.one()

    async def victim(self) -> Member:
        """Half the time the leader: it matters most."""
        return await self.leader() if self.chance.random() < 0.5 else self.one()

    def others(self, member: Member) -> list[str]:
        """Addresses of the other members."""
        return [other.host.address for other in self.members if other is not member]

    async def hold(self, low: float, high: float) -> None:
        """For as long as the fault lasts."""
        await asyncio.sleep(self.chance.uniform(low, high))

    @contextlib.asynccontextmanager
    async def under(self, *faults: Fault) -> AsyncIterator[None]:
        """Faults in force inside the block."""
        try:
            for fault in faults:
                await asyncio.to_thread(fault.apply)
            yield
        finally:
            for fault in faults:
                await asyncio.to_thread(fault.undo)


Strike = Callable[[Stage], Awaitable[None]]


async def kill(stage: Stage) -> None:
    """kill -9 of one, the leader, or all at once."""
    victims = list(stage.members) if stage.chance.random() < 0.3 else [await stage.victim()]
    await _restart(stage, victims, signal.SIGKILL)


async def power_cut(stage: Stage) -> None:
    """kill -9 of all at once: what only memory held is gone everywhere."""
    await _restart(stage, list(stage.members), signal.SIGKILL)


async def restart(stage: Stage) -> None:
    """An orderly restart under load."""
    await _restart(stage, [await stage.victim()], signal.SIGTERM)


async def _restart(stage: Stage, victims: Sequence[Member], how: int) -> None:
    try:
        for member in victims:
            member.order_end(how)
        await asyncio.gather(*(asyncio.to_thread(member.end, how) for member in victims))
        await stage.hold(0, 3)
    finally:
        for member in victims:
            member.start()


async def torn_tail(stage: Stage) -> None:
    """kill -9, and the end of the log is a record that was never finished."""
    member = await stage.victim()
    if member.kind == ETCD:
        return await kill(stage)  # it reserves its segments beforehand: their end is not the log's
    await asyncio.to_thread(member.end, signal.SIGKILL)
    segments = sorted(member.data.rglob("*.wal"))
    if segments and member.torn != (segments[-1].name, segments[-1].stat().st_size):
        # Once only: a member repairs its log before it writes to it again; no crash tears a torn end.
        _begin_record(segments[-1], stage.chance)
        member.torn = (segments[-1].name, segments[-1].stat().st_size)
    await stage.hold(0, 2)
    member.start()
    return None


def _begin_record(segment: Path, chance: random.Random) -> None:
    """What a crash may leave behind the last record: the beginning of one, or sectors of zeros."""
    first = segment.read_bytes()[: 13 + int.from_bytes(segment.read_bytes()[:4], "little")]
    begun = first[: chance.randrange(1, len(first))]
    with segment.open("ab") as file:
        file.write(begun if chance.random() < 0.5 else bytes(chance.randrange(1, 2000)))


async def pause(stage: Stage) -> None:
    """SIGSTOP: on waking it believes what it believed, and its clock has moved on."""
    member = await stage.victim()
    if member.running:
        async with stage.under(process.paused(member.pid)):
            await stage.hold(0.3, 6)


async def partition(stage: Stage) -> None:
    """One member apart from the others, and half the time from the clients too."""
    member = await stage.victim()
    if stage.chance.random() < 0.5:
        fault = network.partitioned(member.host.network, peers=stage.others(member))
    else:
        fault = network.partitioned(member.host.network)
    async with stage.under(fault):
        await stage.hold(1, 7)


async def one_way(stage: Stage) -> None:
    """It hears the others and they do not hear it, or the other way round."""
    member = await stage.victim()
    direction: network.Direction = stage.chance.choice(("in", "out"))
    async with stage.under(
        network.partitioned(member.host.network, peers=stage.others(member), direction=direction)
    ):
        await stage.hold(1, 7)


async def broken_link(stage: Stage) -> None:
    """Two members cannot talk to each other on the peer port; the third hears both."""
    member = await stage.victim()
    other = stage.chance.choice(stage.others(member))
    async with stage.under(network.partitioned(member.host.network, peers=[other], ports=[PEER_PORT])):
        await stage.hold(1, 7)


async def loss(stage: Stage) -> None:
    """A part of all packets is lost, everywhere."""
    percent = stage.chance.uniform(2, 20)
    async with stage.under(*(network.lossy(member.host.network, percent) for member in stage.members)):
        await stage.hold(2, 6)


async def latency(stage: Stage) -> None:
    """Every packet of one member, or of all, takes its time."""
    victims = stage.members if stage.chance.random() < 0.3 else [await stage.victim()]
    milliseconds = stage.chance.choice((5, 40, 200))
    async with stage.under(
        *(
            delay.delayed(
                member.host.network, milliseconds, milliseconds / 2, name=f"{os.getpid()}-{member.name}"
            )
            for member in victims
        )
    ):
        await stage.hold(2, 6)


async def narrow(stage: Stage) -> None:
    """One member has a thin line."""
    member = await stage.victim()
    async with stage.under(network.throttled(member.host.network, stage.chance.choice((200, 1000, 4000)))):
        await stage.hold(2, 6)


async def slow_disk(stage: Stage) -> None:
    """fsync takes its time, on one member or on all."""
    seconds = stage.chance.choice((0.05, 0.3, 1.5))
    victims = stage.members if stage.chance.random() < 0.3 else [await stage.victim()]
    async with stage.under(*(fsync.slow_fsync(member.rule, seconds) for member in victims)):
        await stage.hold(1, 6)


async def failing_disk(stage: Stage) -> None:
    """fsync fails; a member that cannot say what is on its disk must end."""
    member = await stage.victim()
    await _bad_disk(stage, member, fsync.failing_fsync(member.rule))


async def full_disk(stage: Stage) -> None:
    """No space for anything."""
    member = await stage.victim()
    await _bad_disk(stage, member, disk.full(member.disk, leave=stage.chance.choice((0, 0, 100_000))))


async def _bad_disk(stage: Stage, member: Member, fault: Fault) -> None:
    stage.frail[member.name] = math.inf
    try:
        async with stage.under(fault):
            await stage.hold(1, 4)
    finally:
        stage.frail[member.name] = time.monotonic() + AFTERMATH_SECONDS


async def transfer(stage: Stage) -> None:
    """Leadership is handed over."""
    leader, target = await stage.leader(), stage.one()
    listed = await etcdctl(leader, "member", "list")
    ids = [line.split(", ")[0] for line in listed.splitlines() if f", {target.name}, " in line]
    if ids and target is not leader:
        await etcdctl(leader, "move-leader", ids[0])


async def replace(stage: Stage) -> None:
    """A member is removed, loses its data, and is added anew."""
    member = stage.one()
    helper = next(other for other in stage.members if other is not member)
    listed = await etcdctl(helper, "member", "list")
    ids = [line.split(", ")[0] for line in listed.splitlines() if f", {member.name}, " in line]
    if not ids or len(listed.splitlines()) < 3:
        return
    await asyncio.to_thread(member.end, signal.SIGKILL)
    removed = added = False
    deadline = time.monotonic() + REPLACE_SECONDS
    while not added and time.monotonic() < deadline:
        # A command that failed may have been carried out: what the members are says what is left to do.
        listed = await etcdctl(helper, "member", "list")
        removed = removed or (bool(listed) and ids[0] not in listed)
        added = removed and member.peer_url in listed
        if listed and not removed:
            await etcdctl(helper, "member", "remove", ids[0])
        elif listed and not added:
            await etcdctl(helper, "member", "add", member.name, f"--peer-urls={member.peer_url}")
        await asyncio.sleep(0.2)
    if removed:
        member.generation += 1
        member.state = "existing"
    stage.say(f"  replaced {member.name}: removed {removed}, added {added}")
    member.start()


async def etcdctl(member: Member, *arguments: str) -> str:
    """What etcdctl says, or nothing when it fails: the cluster is under faults."""
    certificates = member.certificates
    argv = [
        "etcdctl",
        f"--endpoints={member.url}",
        f"--cacert={certificates.ca}",
        f"--cert={certificates.client}",
        f"--key={certificates.client_key}",
        *arguments,
    ]

    def run() -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            done = subprocess.run(
                argv,
                env={**os.environ, "ETCDCTL_API": "3"},
                capture_output=True,
                text=True,
                timeout=CTL_SECONDS,
                check=False,
            )
            if done.returncode == 0:
                return done.stdout
        return ""

    return await asyncio.to_thread(run)


STRIKES: dict[str, Strike] = {
    strike.__name__.replace("_", "-"): strike
    for strike in (
        kill,
        power_cut,
        restart,
        torn_tail,
        pause,
        partition,
        one_way,
        broken_link,
        loss,
        latency,
        narrow,
        slow_disk,
        failing_disk,
        full_disk,
        transfer,
        replace,
    )
}
SCENARIOS: dict[str, tuple[str, ...]] = {
    "all": tuple(STRIKES),
    "process": ("kill", "power-cut", "restart", "torn-tail", "pause"),
    "network": ("partition", "one-way", "broken-link", "loss", "latency", "narrow", "transfer"),
    "disk": ("slow-disk", "failing-disk", "full-disk", "kill", "torn-tail"),
    "membership": ("replace", "transfer", "kill", "partition"),
    "calm": (),
    **{name: (name,) for name in STRIKES},
}


async def trouble(stage: Stage, names: Sequence[str], gap: float, enough: asyncio.Event) -> None:
    """Strike after strike until `enough`, with `gap` seconds of peace between two on average."""
    while names:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(stage.chance.expovariate(1 / gap)):
                await enough.wait()
        if enough.is_set():
            return
        chosen = stage.chance.sample(names, 2 if stage.chance.random() < 0.2 and len(names) > 1 else 1)
        stage.say(f"  {' and '.join(chosen)}")
        stage.counts.update(chosen)
        async with asyncio.TaskGroup() as tasks:
            for name in chosen:
                tasks.create_task(_strike(stage, STRIKES[name]), name=name)


async def _strike(stage: Stage, strike: Strike) -> None:
    await strike(stage)


def leftovers(folder: Path) -> list[str]:
    """Rule files that a strike forgot."""
    return [str(path) for path in folder.rglob("fsync-rule")]
