"""A cluster in one thread under one seed: virtual time, a bad network, disks that forget, and rules that must
hold.

Everything between the members' engines and the hardware is simulated; the engines, the Raft core, the log on
disk and the encoding of messages are the real ones.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from etcdlite.consensus import wire
from etcdlite.consensus.engine import DiskJob, Engine, EngineConfig
from etcdlite.consensus.errors import BadChange
from etcdlite.consensus.membership import ChangeKind, Member, MemberChange, Membership
from etcdlite.consensus.statemachine import Entry as Applied
from etcdlite.raft import messages as m
from etcdlite.raft.node import ProposalRefused
from etcdlite.raft.state import RaftConfig
from etcdlite.raft.types import NodeId, Role
from etcdlite.wal.codec import Metadata
from etcdlite.wal.memory import Crash, MemoryDisk
from tests.etcdlite.simulation.machine import SimMachine
from tests.etcdlite.simulation.rules import Rules

CLUSTER = 7
TICK = 10.0  # milliseconds of virtual time


@dataclass
class Weather:
    """What the network does, as probabilities and milliseconds."""

    drop: float = 0.02
    duplicate: float = 0.02
    slow: float = 0.05
    delay: float = 2.0
    cut: set[tuple[int, int]] = field(default_factory=set)  # (from, to) that hear nothing


class SimMember:
    """One machine: its disk and state outlive its process."""

    def __init__(self, world: World, node: NodeId, bootstrap: Membership | None) -> None:
        self.world, self.id = world, node
        self.disk = MemoryDisk()
        self.machine = SimMachine(world.rng, lambda entry: world.applied(self, entry))
        self.engine: Engine | None = None
        self.life = 0  # number of the process; events of a dead one are void
        self.waiting: set[bytes] = set()  # proposals whose proposer is connected here
        self.reads: dict[int, int] = {}  # context -> index that the answer must reach
        self.config = EngineConfig(
            metadata=Metadata(CLUSTER, node),
            raft=RaftConfig(
                id=node,
                random=world.rng.randrange,
                election_ticks=world.election_ticks,
                pre_vote=world.pre_vote,
                max_append_bytes=200,
                max_inflight=4,
                max_apply_bytes=100,
            ),
            bootstrap=bootstrap,
            snapshot_count=world.rng.choice((5, 20, 1000)),
            catch_up_entries=world.rng.choice((0, 5)),
            segment_bytes=world.rng.choice((500, 2000, 1 << 20)),
            log_bytes=world.rng.choice((3000, 1 << 25)),
        )

    def start(self) -> None:
        """Start the process. A crash while starting is a crash."""
        self.life += 1
        try:
            self.engine = Engine(self.config, self.disk, self.machine)
        except Crash:
            self.crash()
            return
        self.world.rules.opened(self)
        self.advance()

    def crash(self) -> None:
        """Power loss."""
        self.engine = None
        self.life += 1
        self.waiting.clear()
        self.reads.clear()
        self.disk.crash(self.world.rng)
        self.machine.crash()

    def act(self, action: Callable[[Engine], None]) -> None:
        """Do something to the running process, then let it advance; power may fail in the middle."""
        if self.engine is None:
            return
        try:
            action(self.engine)
            self.advance()
        except Crash:
            self.crash()

    def advance(self) -> None:
        """Let the engine do what it can, and carry its wishes out."""
        assert self.engine is not None
        effects = self.engine.advance()
        for answer in effects.reads:
            self.world.rules.read_answered(
                self, answer.context, answer.index, self.reads.pop(answer.context, 0)
            )
        for message in effects.messages:
            self.world.send(self, message)
        if effects.job is not None:
            if effects.job.write is not None:
                self.world.rules.written(self, effects.job.write)
            delay = self.world.rng.expovariate(1 / self.world.disk_delay)
            job = effects.job
            self.world.later(delay, self, lambda engine: self._work(job))
        self.world.rules.check(self)

    def _work(self, job: DiskJob) -> None:
        job.run()
        if job.write is not None:
            self.world.rules.synced(self, job.write)
        self.world.later(self.world.rng.expovariate(2), self, lambda engine: engine.complete(job))


class World:
    """The cluster and its clock."""

    def __init__(self, seed: int, *, size: int | None = None, nervous: bool = False) -> None:
        self.rng = random.Random(seed)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        # Nervous clusters elect more often, slow disks widen the gap between saying and knowing.
        self.election_ticks = 2 if nervous else self.rng.choice((3, 10))
        self.pre_vote = not nervous and self.rng.random() < 0.6
        self.disk_delay = self.rng.choice((1, 1, 20))
        self.weather = Weather()
        self.rules = Rules()
        self._proposals = itertools.count(1)
        self._contexts = itertools.count(1)
        size = size or self.rng.choice((3, 3, 5))
        first = Membership({i: Member(i, peer_urls=(f"http://{i}:1",)) for i in range(1, size + 1)})
        self.members = {i: SimMember(self, NodeId(i), first) for i in range(1, size + 1)}
        for member in self.members.values():
            member.start()
            self._tick(member)

    # -- time ------------------------------------------------------------------------------------------------

    def at(self, delay: float, action: Callable[[], None]) -> None:
        """Run `action` after `delay` milliseconds."""
        heapq.heappush(self._events, (self.now + delay, next(self._order), action))

    def later(self, delay: float, member: SimMember, action: Callable[[Engine], None]) -> None:
        """Run `action` on the process that runs now, if it still does."""
        life = member.life
        self.at(delay, lambda: member.act(action) if member.life == life else None)

    def run(self, duration: float) -> None:
        """Let time pass."""
        end = self.now + duration
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = end

    def _tick(self, member: SimMember) -> None:
        member.act(lambda engine: engine.node.tick())
        self.at(TICK * self.rng.uniform(0.8, 1.2), lambda: self._tick(member))

    # -- network ---------------------------------------------------------------------------------------------

    def send(self, sender: SimMember, message: m.Message) -> None:
        """Carry a message, or lose it, or carry it twice."""
        if isinstance(message, m.InstallSnapshot):
            self._send_snapshot(sender, message)
            return
        encoded = wire.encode_message(message)
        # A proposal delivered twice is written twice: the one message for which the transport must not repeat
        # itself.
        twice = self.rng.random() < self.weather.duplicate and not isinstance(message, m.Proposal)
        for _ in range(2 if twice else 1):
            if self.rng.random() >= self.weather.drop:
                self.at(self._delay(), lambda: self._deliver(sender.id, message.to, encoded))

    def _delay(self) -> float:
        slow = self.rng.random() < self.weather.slow
        return self.rng.expovariate(1 / self.weather.delay) * (30 if slow else 1)

    def _deliver(self, sender: int, to: int, encoded: bytes) -> None:
        receiver = self.members.get(to)
        if receiver is not None and (sender, to) not in self.weather.cut:
            receiver.act(lambda engine: engine.node.step(wire.decode_message(encoded)))

    def _send_snapshot(self, sender: SimMember, message: m.InstallSnapshot) -> None:
        assert sender.engine is not None
        source = sender.machine.snapshot_reader()
        meta = sender.engine.snapshot_meta(source.index, source.term)
        head, chunks = m.InstallSnapshot(message.sender, message.to, message.term, meta), list(source.chunks)
        encoded, life = wire.encode_message(head), sender.life

        def arrive() -> None:
            receiver, ok = self.members.get(message.to), False
            if receiver is not None and receiver.engine is not None and not self._cut(sender.id, message.to):
                ok = self._receive_snapshot(receiver, encoded, chunks)
            if sender.life == life:
                sender.act(lambda engine: engine.node.report_snapshot(message.to, ok=ok))

        self.at(min(self._delay() * 5, 300), arrive)  # a transfer has a deadline

    def _cut(self, one: int, other: int) -> bool:
        return (one, other) in self.weather.cut or (other, one) in self.weather.cut

    def _receive_snapshot(self, receiver: SimMember, encoded: bytes, chunks: list[bytes]) -> bool:
        def receive(engine: Engine) -> None:
            head = wire.decode_message(encoded)
            assert isinstance(head, m.InstallSnapshot)
            writer = engine.snapshots.writer(head.snapshot)
            for chunk in chunks:
                writer.write(chunk)
            if self.rng.random() < 0.1:
                writer.abort()
                return
            writer.commit()
            engine.node.step(head)

        receiver.act(receive)
        return receiver.engine is not None

    # -- clients and operators -------------------------------------------------------------------------------

    def propose(self, member: SimMember) -> bytes:
        """A client of `member` writes something unique, and waits for as long as the process lives."""
        data = b"p%d" % next(self._proposals)

        def act(engine: Engine) -> None:
            member.waiting.add(data)
            engine.propose(data, lambda: data not in member.waiting)

        member.act(act)
        return data

    def applied(self, member: SimMember, entry: Applied) -> None:
        """A member has applied an entry: its client is told, and the whole world must agree."""
        acknowledged = entry.data in member.waiting
        member.waiting.discard(entry.data)
        self.rules.applied(member, entry, acknowledged=acknowledged)

    def read(self, member: SimMember) -> None:
        """A client of `member` wants to read."""
        context = next(self._contexts)
        member.reads[context] = self.rules.acknowledged_index

        def ask(engine: Engine) -> None:
            engine.node.read_index(context)  # False: no leader, so no answer, as if it were lost

        member.act(ask)

    def leader(self) -> SimMember | None:
        """The leader of the greatest term that runs."""
        leading = [x for x in self.members.values() if x.engine and x.engine.node.raft.role is Role.LEADER]
        return max(leading, key=lambda x: x.engine.node.raft.term if x.engine else 0, default=None)

    def change(self, change: MemberChange) -> None:
        """An operator changes the membership."""
        leader = self.leader()

        def act(engine: Engine) -> None:
            try:
                engine.propose_change(change)
            except (ProposalRefused, BadChange):
                return
            node = change.member.id
            if change.kind in (ChangeKind.ADD_LEARNER, ChangeKind.ADD_VOTER) and node not in self.members:
                self.members[node] = joined = SimMember(self, NodeId(node), None)
                self.at(1, joined.start)
                self.at(2, lambda: self._tick(joined))

        if leader is not None:
            leader.act(act)
