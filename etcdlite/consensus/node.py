"""Consensus: one member of the cluster, as the rest of the process sees it.

The asyncio shell around `engine.Engine`. One task drives it: take what came in, advance, send, let one thread
do the disk work, and while the disk is busy take what comes in next. All state is touched on the loop's
thread only.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import heapq
import itertools
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from etcdlite.consensus import joining
from etcdlite.consensus.config import ConsensusConfig
from etcdlite.consensus.engine import WAL_FOLDER, DiskJob, Engine, EngineConfig
from etcdlite.consensus.errors import (
    BadChange,
    ConsensusError,
    DeadlineExceeded,
    NoLeader,
    Stopped,
    TooLarge,
)
from etcdlite.consensus.joining import JOIN_SECONDS
from etcdlite.consensus.membership import ChangeKind, Member, MemberChange, Membership
from etcdlite.consensus.statemachine import StateMachine
from etcdlite.consensus.status import ConsensusStatus
from etcdlite.consensus.transport import REMOVED, TcpTransport, Transport, ask
from etcdlite.pb import raft_pb2 as pb
from etcdlite.raft import messages as m
from etcdlite.raft.node import ProposalRefused
from etcdlite.raft.state import RaftConfig
from etcdlite.raft.types import NOBODY, EntryKind, NodeId, Role, SoftState
from etcdlite.wal.codec import Metadata
from etcdlite.wal.disk import Disk, PosixDisk
from etcdlite.wal.log import Wal

_READ_RETRY_TICKS = 5
_HASH_SECONDS = 30.0  # for a peer to hash its data

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Reads:
    """Reads share rounds: those in `next` start together when the round of those in `asked` has ended."""

    next: list[asyncio.Future[int]] = field(default_factory=list)
    asked: list[asyncio.Future[int]] = field(default_factory=list)
    # Never reused, not even after a restart: a late answer to a former life must not satisfy this one.
    context: int = field(default_factory=lambda: random.getrandbits(63))
    age: int = 0  # ticks since `asked` were


class Consensus:
    """One member. Construct it, then call everything else while `run()` runs in a task group."""

    def __init__(
        self,
        config: ConsensusConfig,
        state_machine: StateMachine,
        *,
        disk: Disk | None = None,
        transport: Transport | None = None,
    ) -> None:
        """Opens nothing yet. Raises ConfigurationError. `disk` and `transport` replace the real ones in
        tests.
        """
        self.config, self._machine = config, state_machine
        self._identity = joining.founders(config).identity  # a joiner's own follows in `_open`
        self._told = Membership({})
        self._disk = disk or PosixDisk(config.data_dir)
        self._transport = transport or TcpTransport(
            self._identity,
            config.listen_peer_urls or config.initial_cluster[config.name],
            server_tls=config.peer_server_tls,
            client_tls=config.peer_client_tls,
        )
        self._engine: Engine | None = None
        self._wake = asyncio.Event()
        self._inbox: list[m.Message] = []
        self._stopped: ConsensusError | None = None
        self._soft = SoftState(NOBODY, Role.FOLLOWER)
        self._term = 0
        self._leaving = False
        self._listeners: list[Callable[[ConsensusStatus], None]] = []
        self.hasher: Callable[[int], Awaitable[pb.Hash]] | None = None  # of the data up to a revision
        self._changed: list[asyncio.Future[None]] = []  # resolved at the next change of leader or membership
        self._applied_waiters: list[tuple[int, int, asyncio.Future[None]]] = []  # heap by index
        self._order = itertools.count()
        self._reads = _Reads()
        self._tasks: asyncio.TaskGroup | None = None

    @property
    def member_id(self) -> NodeId:
        """Of this member; a joiner's is right once it runs."""
        return self._identity.member_id

    @property
    def cluster_id(self) -> int:
        """Of the cluster; a joiner's is right once it runs."""
        return self._identity.cluster_id

    # -- running ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Open or create the log, then take part in the cluster until cancelled.

        Raises what stops the member: WalCorrupt, ConfigurationError, OSError of the disk, Stopped when the
        member has been removed from the cluster, or what the state machine raised. In a group if several.
        """
        await self._open()
        worker = ThreadPoolExecutor(1, thread_name_prefix="wal")
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                tasks.create_task(self._transport.run(self), name="peer transport")
                tasks.create_task(self._tick(), name="raft clock")
                tasks.create_task(self._drive(worker), name="raft driver")
                tasks.create_task(self._publish(), name="publish attributes")
                if self.member_id in self._opened.membership.removed:
                    self._on_membership(self._opened.membership)
        finally:
            self._tasks = None
            self._fail_waiters(self._stopped or Stopped("the member is shutting down"))
            worker.shutdown(wait=True)  # a write under way ends first; it takes milliseconds
            if self._engine is not None:
                self._engine.close()

    async def _open(self) -> None:
        config = self.config
        owner = Wal.owner(self._disk, WAL_FOLDER)
        place = await joining.find(config, owner)
        self._identity = self._transport.identity = place.identity
        election_ticks = max(2, round(config.election_timeout / config.heartbeat_interval))
        founding = owner is None and config.initial_cluster_state == "new"
        engine_config = EngineConfig(
            metadata=Metadata(self.cluster_id, self.member_id),
            raft=RaftConfig(
                id=self.member_id,
                random=random.Random().randrange,
                election_ticks=election_ticks,
                pre_vote=config.pre_vote,
            ),
            bootstrap=place.told if founding else None,
            force_new=config.force_new_cluster,
            snapshot_count=config.snapshot_count,
            catch_up_entries=config.catch_up_entries,
            segment_bytes=config.wal_segment_bytes,
        )
        engine = Engine(engine_config, self._disk, self._machine)
        joining.check_log(config, engine, place.identity)
        self._told = engine.foreseen
        if not self._told.members:  # a joiner that has not heard of the log yet
            self._told = place.told if place.told.members else (await joining.told(config, JOIN_SECONDS)).told
        self._engine = engine
        engine.on_membership = self._on_membership
        self._link_peers()
        if engine.membership.conf_state().voters == {self.member_id}:
            engine.node.campaign()  # nobody else to wait for
        else:
            engine.node.hasten()

    @property
    def _opened(self) -> Engine:
        """The engine. Raises Stopped before `run` has opened it and after the end."""
        self._check_running()
        if self._engine is None:
            raise Stopped("the member is not running yet")
        return self._engine

    def _check_running(self) -> None:
        if self._stopped is not None:
            raise self._stopped

    async def _tick(self) -> None:
        """Raft's clock. A process that was stopped does not count the time it missed."""
        engine = self._opened
        while True:
            await asyncio.sleep(self.config.heartbeat_interval)
            engine.node.tick()
            self._reads.age += 1
            self._wake.set()

    async def _drive(self, worker: ThreadPoolExecutor) -> None:
        engine, loop = self._opened, asyncio.get_running_loop()
        self._wake.set()
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._take_inputs(engine)
            effects = engine.advance()
            self._send(effects.messages)
            for answer in effects.reads:
                if answer.context == self._reads.context:
                    self._answer_reads(answer.index)
            if effects.job is not None:
                job = effects.job
                done = loop.run_in_executor(worker, job.run)
                done.add_done_callback(functools.partial(self._disk_done, job))
            self._after_advance(engine)

    def _disk_done(self, job: DiskJob, future: asyncio.Future[None]) -> None:
        if future.cancelled() or self._tasks is None:
            return
        try:
            future.result()
            self._opened.complete(job)
        except Exception as reason:
            self._abort(reason)
        self._wake.set()

    def _abort(self, reason: Exception) -> None:
        """End `run` with `reason`."""

        async def fail() -> None:
            raise reason

        if self._tasks is not None:
            self._tasks.create_task(fail(), name="failure")

    def _take_inputs(self, engine: Engine) -> None:
        inbox, self._inbox = self._inbox, []
        for message in inbox:
            engine.node.step(message)
        if self._reads.asked and self._reads.age >= _READ_RETRY_TICKS:
            self._reads.next = self._reads.asked + self._reads.next  # the answer got lost: ask again
            self._reads.asked = []
        if self._reads.next and not self._reads.asked:
            self._reads.context = (self._reads.context + 1) % (1 << 64)
            if engine.node.read_index(self._reads.context):
                self._reads.asked, self._reads.next, self._reads.age = self._reads.next, [], 0

    def _send(self, messages: list[m.Message]) -> None:
        if not messages:
            return
        ordinary = [x for x in messages if type(x) is not m.InstallSnapshot]
        dropped = self._transport.send(ordinary)
        for node in dropped:
            self._opened.node.report_unreachable(node)
        for message in messages:
            if isinstance(message, m.Proposal) and message.to in dropped and message.kind is EntryKind.NORMAL:
                self._opened.unsent(message)
            if isinstance(message, m.InstallSnapshot) and self._tasks is not None:
                self._tasks.create_task(self._send_snapshot(message), name=f"snapshot to {message.to:x}")

    async def _send_snapshot(self, message: m.InstallSnapshot) -> None:
        engine = self._opened
        source = self._machine.snapshot_reader()
        try:
            meta = engine.snapshot_meta(source.index, source.term)
            log.info("sending snapshot %d to member %x", meta.index, message.to)
            await self._transport.send_snapshot(replace(message, snapshot=meta), source.chunks)
            ok = True
        except (OSError, TimeoutError) as reason:
            log.warning("snapshot to member %x failed: %s", message.to, reason or type(reason).__name__)
            ok = False
        finally:
            with contextlib.suppress(AttributeError):
                source.chunks.close()  # type: ignore[attr-defined]
        engine.node.report_snapshot(message.to, ok=ok)
        self._wake.set()

    def _after_advance(self, engine: Engine) -> None:
        applied = self._machine.applied_index
        while self._applied_waiters and self._applied_waiters[0][0] <= applied:
            _, _, future = heapq.heappop(self._applied_waiters)
            if not future.done():
                future.set_result(None)
        soft, term = engine.node.soft_state, engine.node.raft.term
        if soft != self._soft or term != self._term:
            if soft.leader != self._soft.leader:
                log.info("leader is %x in term %d", soft.leader, term)
            self._soft, self._term = soft, term
            self._reads.age = _READ_RETRY_TICKS  # who answers reads has changed
            if self._reads.asked:
                self._wake.set()
            self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, []
        for future in changed:
            if not future.done():
                future.set_result(None)
        if self._listeners:
            status = self.status()
            for listener in self._listeners:
                listener(status)

    def _on_membership(self, membership: Membership) -> None:
        self._link_peers()
        if self.member_id in membership.removed and self._tasks is not None and not self._leaving:
            self._leaving = True
            self._tasks.create_task(self._leave(), name="leave the cluster")
        self._notify()

    async def _leave(self) -> None:
        """Stay for a while: members that do not know yet of the removal may need this one's vote."""
        await asyncio.sleep(2 * self.config.election_timeout)
        self.on_removed()

    def _link_peers(self) -> None:
        """Peers are the members, and before those are known the ones we were told of at the start."""
        assert self._engine is not None
        known = self._engine.membership
        members = known.members or self._told.members
        self._transport.set_peers({NodeId(x.id): x.peer_urls for x in members.values()}, known.removed)

    async def _publish(self) -> None:
        """Make this member's name and client URLs known to the others, as etcd does when it starts."""
        urls = tuple(self.config.advertise_client_urls)
        while True:
            engine = self._opened
            own = engine.membership.members.get(self.member_id)
            if own is not None:
                wanted = replace(own, name=self.config.name, client_urls=urls)
                if wanted == own:
                    return
                with contextlib.suppress(ProposalRefused, BadChange):
                    engine.propose_change(MemberChange(ChangeKind.UPDATE, wanted))
                    self._wake.set()
            with contextlib.suppress(DeadlineExceeded):
                await self._wait_change(asyncio.get_running_loop().time() + 1.0)

    def _fail_waiters(self, reason: ConsensusError) -> None:
        self._stopped = self._stopped or reason
        waiting: list[asyncio.Future[Any]] = [*self._reads.next, *self._reads.asked, *self._changed]
        waiting += [future for _, _, future in self._applied_waiters]
        for future in waiting:
            if not future.done():
                future.set_exception(reason)
                future.exception()  # its caller may be gone already

    # -- Receiver --------------------------------------------------------------------------------------------

    def on_message(self, message: m.Message) -> None:
        """A peer says something."""
        self._inbox.append(message)
        self._wake.set()

    def on_disconnect(self, node: NodeId) -> None:
        """The connection that `node` spoke on has ended: a leader that died takes its connections with it."""
        if self._engine is not None and node == self._engine.node.raft.leader:
            self._engine.node.leader_lost()

    def on_removed(self) -> None:
        """This member has been removed; its log may not say so, since nobody sends to it any more."""
        if self._stopped is None:
            self._stopped = Stopped(REMOVED)
            self._abort(self._stopped)

    def on_question(self, hello: pb.Hello) -> pb.Welcome:
        """Who the members are, or whether a learner may be promoted."""
        return joining.answer(hello, self._engine, self._identity)

    async def on_hash_question(self, hello: pb.Hello) -> pb.Welcome:
        """The hash of this member's data, for a peer that compares."""
        if self.hasher is None:
            return pb.Welcome(refused="the member is not running yet")
        try:
            digest = await self.hasher(hello.ask_hash)
        except (
            Exception
        ) as reason:  # whatever is wrong with the data is for this member to say, not for the peer
            return pb.Welcome(refused=str(reason) or type(reason).__name__)
        return pb.Welcome(cluster_id=self.cluster_id, hash=digest)

    async def on_snapshot(self, head: m.InstallSnapshot, chunks: AsyncIterator[bytes]) -> None:
        """Write the snapshot to its file, then let Raft decide about it."""
        engine = self._opened
        writer = await asyncio.to_thread(engine.snapshots.writer, head.snapshot)
        try:
            async for chunk in chunks:
                await asyncio.to_thread(writer.write, chunk)
        except BaseException:
            writer.abort()
            raise
        await asyncio.to_thread(writer.commit)
        self.on_message(head)

    # -- for the rest of the process -------------------------------------------------------------------------

    def status(self) -> ConsensusStatus:
        """The state of this member now."""
        engine = self._engine
        if engine is None:
            return ConsensusStatus(self.cluster_id, self.member_id, 0, 0, 0, 0, 0, Role.FOLLOWER.value, {})
        raft, own = engine.node.raft, engine.membership.members.get(self.member_id)
        return ConsensusStatus(
            cluster_id=self.cluster_id,
            member_id=self.member_id,
            leader_id=raft.leader,
            term=raft.term,
            commit_index=raft.log.committed,
            applied_index=self._machine.applied_index,
            last_index=raft.log.last,
            role=raft.role.value,
            members=engine.membership.members,
            is_learner=own is not None and own.is_learner,
        )

    def reachable(self) -> frozenset[int]:
        """Members this one has a connection to, itself included."""
        return self._transport.connected() | {self.member_id}

    def on_change(self, listener: Callable[[ConsensusStatus], None]) -> None:
        """Call `listener` whenever term, leader, role or membership changes (for lessor, metrics, logs)."""
        self._listeners.append(listener)

    async def peer_hashes(self, revision: int) -> dict[int, pb.Hash]:
        """What the other members say their data hashes to, up to `revision`. Who does not say is left out: it
        may be down, or not that far yet.
        """

        async def one(peer: Member) -> None:
            hello = pb.Hello(cluster_id=self.cluster_id, sender=self.member_id, to=peer.id, ask_hash=revision)
            for url in peer.peer_urls:
                try:
                    welcome = await ask(url, hello, self.config.peer_client_tls, timeout=_HASH_SECONDS)
                except OSError as reason:
                    log.info("member %x has no hash to compare: %s", peer.id, reason or type(reason).__name__)
                else:
                    found[peer.id] = welcome.hash
                    return

        found: dict[int, pb.Hash] = {}
        members = self._opened.membership.members.values()
        async with asyncio.TaskGroup() as tasks:
            for member in members:
                if member.id != self.member_id:
                    tasks.create_task(one(member), name=f"hash of {member.id:x}")
        return found

    async def wait_leader(self, timeout: float | None = None) -> int:
        """Wait until a leader is known; return its id. Raises NoLeader, Stopped."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while (leader := self._leader()) == NOBODY:
            try:
                await self._wait_change(deadline)
            except DeadlineExceeded:
                raise NoLeader("etcdserver: no leader") from None
        return leader

    async def propose(self, data: bytes, settled: Callable[[], bool], *, timeout: float = 5.0) -> None:
        """Put `data` into the leader's log, forwarding it if this member follows.

        Returning means that it is on its way, not committed: that shows in `apply`, and `settled` then says
        so, or that nobody waits any more. Until then it is proposed again if it is lost with a leader. Waits
        while there is no leader. Raises NoLeader, ProposalDropped, TooLarge, Stopped.
        """
        if len(data) > self.config.max_request_bytes:
            raise TooLarge(f"request of {len(data)} bytes is over {self.config.max_request_bytes}")
        if self._leader() == NOBODY:
            await self.wait_leader(timeout)
        self._opened.propose(data, settled)
        self._wake.set()

    async def read_index(self, *, timeout: float = 5.0) -> int:
        """The index that must be applied before a read counts as linearizable.

        Waiting for it to be applied is the caller's (`wait_applied`). Callers share rounds: one under way,
        one waiting. Raises NoLeader, DeadlineExceeded, Stopped.
        """
        self._check_running()
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._reads.next.append(future)
        self._wake.set()
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            if self._leader() == NOBODY:
                raise NoLeader("etcdserver: no leader") from None
            raise DeadlineExceeded("etcdserver: request timed out") from None

    async def wait_applied(self, index: int, *, timeout: float = 5.0) -> None:
        """Wait until the state machine has applied `index`. Raises DeadlineExceeded, Stopped."""
        if self._machine.applied_index >= index:
            return
        self._check_running()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._applied_waiters, (index, next(self._order), future))
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            raise DeadlineExceeded(f"index {index} was not applied in time") from None

    async def transfer_leadership(self, member: int, *, timeout: float = 5.0) -> None:
        """Hand leadership to `member` (section 3.10); returns when it leads.

        Raises BadChange for one that cannot lead, NoLeader, DeadlineExceeded, Stopped.
        """
        deadline = asyncio.get_running_loop().time() + timeout
        await self.wait_leader(timeout)
        engine = self._opened
        if member not in engine.membership.conf_state().voters:
            raise BadChange("etcdserver: bad leader transferee")
        engine.node.transfer_leader(NodeId(member))
        self._wake.set()
        while self._leader() != member:
            await self._wait_change(deadline)

    async def propose_conf_change(
        self, change: MemberChange, *, timeout: float = 5.0
    ) -> Mapping[int, Member]:
        """Make one membership change; returns the members once it is applied here.

        Proposed again while it is refused because another one is under way. Raises BadChange, NoLeader,
        DeadlineExceeded (the change may still happen), Stopped.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        await self.wait_leader(timeout)
        await self.wait_applied(
            await self.read_index(timeout=timeout), timeout=timeout
        )  # judge by the present
        before = self._opened.membership
        before.check(change)
        if change.kind is ChangeKind.PROMOTE:
            await joining.check_ready(self._opened, change.member.id, self.config)
        while not self._opened.membership.shows(change):
            with contextlib.suppress(ProposalRefused):
                self._opened.propose_change(change)
                self._wake.set()
            with contextlib.suppress(DeadlineExceeded):
                await self._wait_change(min(deadline, loop.time() + 0.5))
            if loop.time() >= deadline:
                raise DeadlineExceeded("the membership change was not applied in time")
        return self._opened.membership.members

    # -- waiting ---------------------------------------------------------------------------------------------

    def _leader(self) -> NodeId:
        return self._engine.node.raft.leader if self._engine is not None else NOBODY

    async def _wait_change(self, deadline: float | None) -> None:
        """Wait for a change of leader, term, role or membership. Raises DeadlineExceeded at `deadline`."""
        self._check_running()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._changed.append(future)
        try:
            async with asyncio.timeout_at(deadline):
                await future
        except TimeoutError:
            raise DeadlineExceeded("no change in time") from None

    def _answer_reads(self, index: int) -> None:
        answered, self._reads.asked = self._reads.asked, []
        for future in answered:
            if not future.done():
                future.set_result(index)
        if self._reads.next:
            self._wake.set()
