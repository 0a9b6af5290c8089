"""The member without a loop: Raft core, log, membership and state machine, joined in the one right order.

Everything that decides what a member does is here or below, and nothing here waits or starts a thread. The
asyncio shell (`node`) and the simulation drive the same code: call inputs, call `advance`, send its messages,
run its job on any thread, hand it back to `complete`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from etcdlite.consensus import wire
from etcdlite.consensus.errors import BadChange, ConfigurationError
from etcdlite.consensus.membership import ChangeKind, MemberChange, Membership
from etcdlite.consensus.proposals import Proposal, Proposals
from etcdlite.consensus.statemachine import Entry as CommittedEntry
from etcdlite.consensus.statemachine import StateMachine
from etcdlite.raft import messages as m
from etcdlite.raft.node import ProposalRefused, RawNode, Write
from etcdlite.raft.state import RaftConfig, ReadState
from etcdlite.raft.types import NOBODY, Entry, EntryKind, HardState, Index, NodeId, SnapshotMeta, Term
from etcdlite.wal.codec import Metadata
from etcdlite.wal.disk import Disk
from etcdlite.wal.log import Recovered, Wal
from etcdlite.wal.snapshots import SnapshotStore

WAL_FOLDER = "member/wal"
SNAPSHOT_FOLDER = "member/snap"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What an engine needs to know. `bootstrap` is None for a member that joins a running cluster.

    `force_new` (`--force-new-cluster`) makes this member the only one, whatever the log says.
    """

    metadata: Metadata
    raft: RaftConfig
    bootstrap: Membership | None
    snapshot_count: int = 10_000
    catch_up_entries: int = 5_000
    log_bytes: int = 32 << 20  # of the log in memory: above, it is shortened early, and half of it is kept
    segment_bytes: int = 16 << 20
    force_new: bool = False


@dataclass(slots=True)
class DiskJob:
    """Work for the disk. `run` may be called on another thread; nothing else touches the log meanwhile."""

    wal: Wal
    write: Write | None
    marker: SnapshotMeta | None  # compaction: the state machine durably holds everything up to here

    def run(self) -> None:
        """Make it durable. Raises OSError, after which the member must stop."""
        write = self.write
        if write is not None:
            self.wal.append(write.entries, write.hard_state, write.snapshot)
        if self.marker is not None:
            self.wal.append((), None, self.marker)
        if self.marker is not None or (write is not None and write.snapshot is not None):
            self.wal.purge()


@dataclass(slots=True)
class Effects:
    """What `advance` asks for."""

    messages: list[m.Message] = field(default_factory=list)
    job: DiskJob | None = None
    reads: list[ReadState] = field(default_factory=list)


class Engine:
    """See the module. Not thread-safe."""

    def __init__(
        self,
        config: EngineConfig,
        disk: Disk,
        state_machine: StateMachine,
        node_type: type[RawNode] = RawNode,
    ) -> None:
        """Open the log, creating it if there is none. Raises WalCorrupt, ConfigurationError."""
        self.config, self.machine = config, state_machine
        self.snapshots = SnapshotStore(disk, SNAPSHOT_FOLDER)
        self.wal, recovered = _open_log(config, disk)
        if config.force_new:
            self._leave_the_others(recovered)
        self._recover_machine(recovered)
        self._adopt_membership(recovered)
        self.node = RawNode(
            config.raft,
            hard_state=recovered.hard_state,
            snapshot=recovered.snapshot,
            entries=recovered.entries,
            conf=self.membership.conf_state(),
            applied=Index(state_machine.applied_index),
        )
        for entry in recovered.entries:
            entry.encoded = None  # needed again only for a follower that is behind
        self._hand_over_conf()
        self._proposals = Proposals()
        self._applied_term = 0  # of the last entry applied since the start
        self._job: DiskJob | None = None
        self._compacted = recovered.snapshot.index
        self._weighed = 0  # durable index at which the log in memory was last found too large
        self.on_membership: Callable[[Membership], None] = lambda membership: None

    # -- restart ---------------------------------------------------------------------------------------------

    def _recover_machine(self, recovered: Recovered) -> None:
        """Bring the state machine to the log's marker; the entries behind it are applied as they commit."""
        marker, applied = recovered.snapshot, self.machine.applied_index
        if applied < marker.index:
            if not self.snapshots.has(marker.index, marker.term):
                raise ConfigurationError(
                    f"the state ends at index {applied}, the log begins after {marker.index}, and no snapshot"
                    " fills the gap: the member's data was lost in part; remove the member and add it anew"
                )
            self._install(marker)
        last = marker.index + len(recovered.entries)
        if applied > last:
            raise ConfigurationError(
                f"the state has applied index {applied}, but the log ends at {last}: log lost or replaced"
            )
        self.snapshots.purge()

    def _adopt_membership(self, recovered: Recovered) -> None:
        self.membership = wire.decode_membership(recovered.snapshot.context)
        self.foreseen = _after(self.membership, recovered.entries)
        self._history: list[tuple[int, Membership]] = [(recovered.snapshot.index, self.membership)]
        for entry in recovered.entries:
            if entry.index > self.machine.applied_index:
                break
            self._apply_change(entry)

    def _leave_the_others(self, recovered: Recovered) -> None:
        """Append, as committed, what makes this member the only one.

        The whole log counts as committed first, its tail too: what a majority acknowledged may be there, and
        nobody is left who could know better. Raises ConfigurationError when this member was removed.
        """
        membership = _after(wire.decode_membership(recovered.snapshot.context), recovered.entries)
        changes = list(_changes_to_alone(membership, self.config.raft.id))
        index = recovered.snapshot.index + len(recovered.entries)
        term = recovered.hard_state.term
        entries = [
            Entry(term, Index(index + number), EntryKind.CONF_CHANGE, wire.encode_change(change))
            for number, change in enumerate(changes, 1)
        ]
        hard_state = HardState(term, recovered.hard_state.vote, Index(index + len(entries)))
        self.wal.append(entries, hard_state, None)
        recovered.entries += entries
        recovered.hard_state = hard_state

    # -- driving ---------------------------------------------------------------------------------------------

    def advance(self) -> Effects:
        """Do what can be done now. Call it after inputs and after `complete`, until it asks for nothing."""
        effects = Effects()
        while True:
            self._make_proposals()
            while ready := self.node.ready(may_write=self._job is None and effects.job is None):
                effects.messages += ready.messages
                effects.reads += ready.reads
                if ready.write is not None:
                    effects.job = DiskJob(self.wal, ready.write, None)
                self._apply(ready.committed)
            if not self._proposals.passed(self._applied_term):
                break
        if effects.job is None and self._job is None:
            marker = self._compaction()
            if marker is not None:
                effects.job = DiskJob(self.wal, None, marker)
        if effects.job is not None:
            assert self._job is None, "one job at a time"
            self._job = effects.job
        return effects

    def complete(self, job: DiskJob) -> None:
        """`job` has run."""
        assert job is self._job, "jobs complete in order"
        self._job = None
        if job.marker is not None:
            self._compacted = job.marker.index
            self.node.compact(job.marker.index)
            kept = [item for item in self._history if item[0] > job.marker.index]
            self._history = [(job.marker.index, self._membership_at(job.marker.index)), *kept]
        if job.write is not None:
            if job.write.snapshot is not None:
                self._adopt_snapshot(job.write.snapshot)
            for entry in job.write.entries:
                entry.encoded = None  # on disk, and sent if we lead: the log need not hold the bytes twice
            self.node.persisted(job.write)

    def propose(self, data: bytes, settled: Callable[[], bool]) -> None:
        """Put `data` into the log, here or by way of the leader; it waits while there is none.

        Should it be lost with a leader, it is proposed again, until `settled` says that its outcome is known
        or not waited for any more. Raises ProposalDropped when too much waits already.
        """
        self._proposals.add(Proposal(data, settled))

    def unsent(self, message: m.Proposal) -> None:
        """A message did not leave this member: what it proposed waits for a leader within reach."""
        self._proposals.unmade(message.data)

    def propose_change(self, change: MemberChange) -> None:
        """Propose a membership change. Raises BadChange, ProposalRefused."""
        self.membership.check(change)
        kind = EntryKind.ATTRIBUTES if change.kind is ChangeKind.UPDATE else EntryKind.CONF_CHANGE
        self.node.propose([wire.encode_change(change)], kind)

    def snapshot_meta(self, index: int, term: int) -> SnapshotMeta:
        """Head of the snapshot that the state machine opened at `index`."""
        membership = self._membership_at(index)
        return SnapshotMeta(
            Index(index), Term(term), membership.conf_state(), wire.encode_membership(membership)
        )

    def close(self) -> None:
        """Close the log; the caller has let the last job end."""
        self.wal.close()

    # -- inside ----------------------------------------------------------------------------------------------

    def _make_proposals(self) -> None:
        raft = self.node.raft
        while raft.leader != NOBODY and (batch := self._proposals.take(raft.term)):
            data = [proposal.data for proposal in batch]
            try:
                self.node.propose(data)
            except ProposalRefused:
                self._proposals.unmade(data)  # leadership moves, or the log is full: soon again
                return

    def _apply(self, entries: Sequence[Entry]) -> None:
        if not entries:
            return
        normal = EntryKind.NORMAL
        for entry in entries:
            if entry.kind is not normal:
                self._apply_change(entry, live=True)
        self.machine.apply(
            [CommittedEntry(e.index, e.term, e.data if e.kind is normal else b"") for e in entries]
        )
        self.node.applied(entries[-1].index)
        self._applied_term = entries[-1].term

    def _apply_change(self, entry: Entry, *, live: bool = False) -> None:
        """A committed membership change; one that makes no sense any more is void, on every member alike."""
        if entry.kind is EntryKind.NORMAL:
            return
        change = wire.decode_change(entry.data)
        try:
            self.membership.check(change)
        except BadChange:
            return
        self._set_membership(entry.index, self.membership.with_change(change), notify=live)
        if live and entry.kind is EntryKind.CONF_CHANGE:
            self._hand_over_conf()

    def _hand_over_conf(self) -> None:
        removed = self.config.raft.id in self.membership.removed
        self.node.apply_conf(self.membership.conf_state(), removed=removed)

    def _set_membership(self, index: int, membership: Membership, *, notify: bool = True) -> None:
        self.membership = membership
        self._history.append((index, membership))
        if notify:
            self.on_membership(membership)

    def _membership_at(self, index: int) -> Membership:
        return next(membership for start, membership in reversed(self._history) if start <= index)

    def _compaction(self) -> SnapshotMeta | None:
        """The marker that lets the log be shortened, when it has grown enough."""
        config, log = self.config, self.node.raft.log
        many = log.applied - self._compacted >= config.snapshot_count + config.catch_up_entries
        if not many and (log.bytes <= config.log_bytes or self._weighed == self.machine.durable_index):
            return None
        self._weighed = self.machine.durable_index  # weighing walks the log: not before there is hope
        keep_from = Index(max(log.applied - config.catch_up_entries, log.base))
        if log.bytes > config.log_bytes:
            keep_from = log.bounded(keep_from, config.log_bytes // 2)
        index = Index(min(keep_from, log.applied, self.machine.durable_index))
        term = log.term(index)
        if index <= self._compacted or term is None:
            return None
        return self.snapshot_meta(index, term)

    def _adopt_snapshot(self, meta: SnapshotMeta) -> None:
        self._install(meta)
        self._proposals.forget()
        self.snapshots.purge(meta.index)
        self._compacted = meta.index
        self._history.clear()
        self._set_membership(meta.index, wire.decode_membership(meta.context))

    def _install(self, meta: SnapshotMeta) -> None:
        self.snapshots.verify(meta.index, meta.term)
        self.machine.install_snapshot(meta.index, meta.term, self.snapshots.read(meta.index, meta.term))


def _open_log(config: EngineConfig, disk: Disk) -> tuple[Wal, Recovered]:
    size = config.segment_bytes
    if not Wal.exists(disk, WAL_FOLDER):
        Wal.create(disk, WAL_FOLDER, config.metadata, first=_first_state(config), segment_bytes=size)
    wal, recovered = Wal.open(disk, WAL_FOLDER, segment_bytes=size)
    if recovered.metadata != config.metadata:
        raise ConfigurationError(
            f"the data directory belongs to member {recovered.metadata.member_id:x} of cluster"
            f" {recovered.metadata.cluster_id:x}, not to member {config.metadata.member_id:x} of cluster"
            f" {config.metadata.cluster_id:x}"
        )
    return wal, recovered


def _after(membership: Membership, entries: Sequence[Entry]) -> Membership:
    """The members once all of `entries` are applied."""
    for entry in entries:
        if entry.kind is not EntryKind.NORMAL:
            change = wire.decode_change(entry.data)
            with contextlib.suppress(BadChange):
                membership.check(change)
                membership = membership.with_change(change)
    return membership


def _changes_to_alone(membership: Membership, me: NodeId) -> Iterator[MemberChange]:
    """Promote this member if it must be, then remove everyone else."""
    own = membership.members.get(me)
    if own is None:
        raise ConfigurationError(
            f"--force-new-cluster: member {me:x} is not, or no longer, in the cluster its log tells of"
        )
    if own.is_learner:
        yield MemberChange(ChangeKind.PROMOTE, own)
    for other in membership.members.values():
        if other.id != me:
            yield MemberChange(ChangeKind.REMOVE, other)


def _first_state(config: EngineConfig) -> Recovered:
    """What a new log holds: for a new cluster, its members as committed entries, the same on every member."""
    entries: list[Entry] = []
    members = config.bootstrap.members if config.bootstrap else {}
    for number, (_, member) in enumerate(sorted(members.items()), 1):
        kind = ChangeKind.ADD_LEARNER if member.is_learner else ChangeKind.ADD_VOTER
        change = wire.encode_change(MemberChange(kind, replace(member, client_urls=())))
        entries.append(Entry(Term(1), Index(number), EntryKind.CONF_CHANGE, change))
    hard_state = HardState(Term(1 if entries else 0), NodeId(0), Index(len(entries)))
    return Recovered(config.metadata, SnapshotMeta(), hard_state, entries)
