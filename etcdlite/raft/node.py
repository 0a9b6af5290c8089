"""The core's one door: `RawNode`. Inputs are calls, all output is a `Ready`.

    node.tick() / node.step(message) / node.propose(...) / ...        any number of them, then
    ready = node.ready()
        1. send ready.messages           (they depend on nothing that is not on disk)
        2. put ready.write on disk       (in one fsync), then node.persisted(write)
        3. apply ready.committed         then node.applied(index)
        4. answer ready.reads

1 to 4 need no order among themselves. What does depend on a write (votes, acknowledgements) is not in the
`Ready` that holds the write: the core keeps it back until `persisted`, and hands it out with a later `Ready`.
So a driver cannot get the order wrong. At most one write is out at a time; what arrives meanwhile is the next
one (group commit).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from etcdlite.raft import election, reads, replication
from etcdlite.raft import messages as m
from etcdlite.raft.log import Log
from etcdlite.raft.state import Raft, RaftConfig, ReadState
from etcdlite.raft.types import (
    NO_INDEX,
    NOBODY,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Index,
    NodeId,
    Role,
    SnapshotMeta,
    SoftState,
    Term,
)


class ProposalRefused(Exception):
    """The proposal did not enter a log here and was not sent on."""


@dataclass(frozen=True, slots=True)
class Write:
    """What must be on disk, in this order: snapshot marker, entries, hard state; one fsync at the end.

    Entries replace everything from the first of them on. `snapshot`, if any, replaces the whole log and is to
    be installed in the state machine before `persisted`.
    """

    entries: list[Entry]
    hard_state: HardState
    snapshot: SnapshotMeta | None


@dataclass(frozen=True, slots=True)
class Ready:
    """See the module."""

    messages: list[m.Message]
    write: Write | None
    committed: list[Entry]
    reads: list[ReadState]

    def __bool__(self) -> bool:
        return bool(self.messages or self.write or self.committed or self.reads)


_LEADERS_OWN = (m.AppendRequest, m.HeartbeatRequest, m.InstallSnapshot, m.TimeoutNow)
# Answers. Only members are asked, so an answer of anybody else was overtaken by a removal. Its term, which a
# member that does not know of its removal raises for ever, must not depose a leader (dissertation, 4.2.3).
_REPLIES = (m.PreVoteReply, m.VoteReply, m.AppendReply, m.HeartbeatReply)

Handler = Callable[[Raft, Any], None]

# What only a leader does, only a follower does, and everyone does.
_AS_LEADER: dict[type[m.Message], Handler] = {
    m.AppendReply: replication.handle_append_reply,
    m.HeartbeatReply: replication.handle_heartbeat_reply,
    m.ReadIndexRequest: reads.handle_request,
}
_AS_FOLLOWER: dict[type[m.Message], Handler] = {
    m.AppendRequest: replication.handle_append,
    m.HeartbeatRequest: replication.handle_heartbeat,
    m.InstallSnapshot: replication.handle_snapshot,
    m.TimeoutNow: election.handle_timeout_now,
    m.ReadIndexReply: reads.handle_reply,
}
_ALWAYS: dict[type[m.Message], Handler] = {
    m.PreVoteRequest: election.handle_pre_vote,
    m.PreVoteReply: election.handle_pre_vote_reply,
    m.VoteRequest: election.handle_vote,
    m.VoteReply: election.handle_vote_reply,
}


class RawNode:
    """One member's Raft. Not thread-safe; every call returns at once."""

    def __init__(
        self,
        config: RaftConfig,
        *,
        hard_state: HardState | None = None,
        snapshot: SnapshotMeta | None = None,
        entries: list[Entry] | None = None,
        conf: ConfState | None = None,
        applied: Index = NO_INDEX,
    ) -> None:
        """Start from what the disk holds. `conf` is the membership at `applied`."""
        base, hard = snapshot or SnapshotMeta(), hard_state or HardState()
        log = Log(base.index, base.term, entries or [], hard.commit, max(applied, base.index))
        self.raft = Raft(config, log, hard, base.conf if conf is None else conf)
        self._writing: Write | None = None
        self._releasing: list[m.Message] = []
        self.raft.become_follower(hard.term, NOBODY)

    # -- inputs ----------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """A tick of time has passed."""
        if self.raft.role is Role.LEADER:
            election.tick_leader(self.raft)
        else:
            election.tick_follower(self.raft)

    def step(self, message: m.Message) -> None:
        """Take a message from a peer. Messages of another time are answered or dropped."""
        if isinstance(message, m.Proposal):
            self._step_proposal(message)
        elif isinstance(message, m.TransferRequest):
            election.transfer(self.raft, message.target)
        elif isinstance(message, _REPLIES) and message.sender not in self.raft.conf.nodes():
            return
        elif message.term == 0 or self._accept_term(message):
            self._dispatch(message)

    def propose(self, data: list[bytes], kind: EntryKind = EntryKind.NORMAL) -> None:
        """Append to the log (leader) or send on to the leader. Raises ProposalRefused."""
        raft = self.raft
        if raft.role is Role.LEADER:
            self._append(kind, data)
        elif raft.leader == NOBODY:
            raise ProposalRefused("there is no leader")
        else:
            raft.send(m.Proposal(raft.id, raft.leader, raft.term, kind, data))

    def read_index(self, context: int) -> bool:
        """Ask for a read index. Returns False if no leader is known; if no answer comes, ask again."""
        return reads.request(self.raft, self.raft.id, context)

    def transfer_leader(self, target: NodeId) -> None:
        """Hand leadership to `target`, asking the leader to if this member follows."""
        raft = self.raft
        if raft.role is Role.LEADER:
            election.transfer(raft, target)
        elif raft.leader != NOBODY:
            raft.send(m.TransferRequest(raft.id, raft.leader, Term(0), target))

    def campaign(self) -> None:
        """Try to lead now (tests; a cluster of one need not wait)."""
        election.campaign(self.raft)

    def leader_lost(self) -> None:
        """The driver lost its link to the leader as if that had died: do not wait the timeout out."""
        if self.raft.role is Role.FOLLOWER and self.raft.leader != NOBODY:
            self.hasten()

    def hasten(self) -> None:
        """Campaign soon: after a start, or when the leader seems dead.

        Only shortens the wait. A pre-vote still asks the others, who refuse while they hear a leader.
        """
        raft, ticks = self.raft, self.raft.config.election_ticks
        if raft.role is not Role.LEADER:
            raft.election_elapsed = max(raft.election_elapsed, ticks)
            soon = ticks + 1 + raft.config.random(max(ticks // 3, 1))
            raft.election_timeout = min(raft.election_timeout, soon)

    def report_unreachable(self, node: NodeId) -> None:
        """Messages to `node` are being lost: stop streaming to it blindly."""
        progress = self.raft.progress.get(node)
        if progress is not None and progress.state is progress.state.REPLICATE and node != self.raft.id:
            progress.become_probe()

    def report_snapshot(self, node: NodeId, *, ok: bool) -> None:
        """Sending a snapshot has ended. Success shows in the follower's reply; a failure is tried again."""
        progress = self.raft.progress.get(node)
        if progress is not None and progress.state is progress.state.SNAPSHOT:
            progress.become_probe()
            progress.probe_sent = ok  # wait for its reply or heartbeat before probing

    # -- outputs ---------------------------------------------------------------------------------------------

    def ready(self, *, may_write: bool = True) -> Ready:
        """Everything there is to do now. Nothing is handed out twice.

        `may_write` False: the disk is busy with other things; what needs it stays here.
        """
        raft = self.raft
        self._send_wanted()
        write = self._next_write() if may_write else None
        if may_write and write is None and self._writing is None:
            self._release(raft.held)
            self._send_wanted()
            write = self._next_write()  # our own vote may have been among them
        messages, raft.outbox = raft.outbox, []
        committed = raft.log.next_committed(raft.config.max_apply_bytes)
        if committed and raft.uncommitted_bytes:
            raft.uncommitted_bytes = max(0, raft.uncommitted_bytes - sum(len(e.data) for e in committed))
        answers, raft.read_states = raft.read_states, []
        return Ready(messages, write, committed, answers)

    def persisted(self, write: Write) -> None:
        """`write` is on disk, synced. Frees the messages that waited for it."""
        raft = self.raft
        assert write is self._writing, "writes are answered once, in order"
        self._writing = None
        raft.durable = write.hard_state
        if write.entries:
            raft.log.stable_to(write.entries[-1].index, write.entries[-1].term)
        replication.stable(raft)
        self._release(self._releasing)

    def applied(self, index: Index) -> None:
        """The state machine has applied everything up to `index`."""
        raft = self.raft
        waiting = raft.log.applied < raft.pending_conf_index
        raft.log.applied_to(index)
        if waiting and raft.role is Role.LEADER and index >= raft.pending_conf_index:
            replication.maybe_commit(raft)  # what follows the change may be counted now

    def apply_conf(self, conf: ConfState, *, removed: bool = False) -> None:
        """A committed membership change takes effect, in the order of the log. `removed`: it took us out."""
        raft = self.raft
        raft.conf, raft.removed = conf, removed
        if raft.role is not Role.LEADER:
            return
        if raft.id not in conf.voters:
            raft.become_follower(raft.term, NOBODY)
            return
        raft.track()
        if raft.transfer_target not in conf.voters:
            raft.transfer_target = NOBODY
        replication.maybe_commit(raft)  # the majority may have become smaller
        raft.append_wanted = True

    def compact(self, index: Index) -> None:
        """Forget the log up to `index`, which a snapshot on disk now stands for."""
        self.raft.log.compact(index)

    @property
    def soft_state(self) -> SoftState:
        """Role and leader."""
        return SoftState(self.raft.leader, self.raft.role)

    # -- inside ----------------------------------------------------------------------------------------------

    def _accept_term(self, message: m.Message) -> bool:
        """The rules about terms (section 3.3). Returns whether the message is for this term."""
        raft = self.raft
        if message.term > raft.term:
            return self._see_newer_term(message)
        if message.term < raft.term:
            self._answer_older_term(message)
            return False
        if isinstance(message, _LEADERS_OWN):
            if raft.role is Role.LEADER:
                return False  # two leaders in one term cannot be; never follow oneself
            if raft.role is not Role.FOLLOWER:
                raft.become_follower(message.term, message.sender)
            raft.election_elapsed, raft.leader = 0, message.sender
        return True

    def _see_newer_term(self, message: m.Message) -> bool:
        raft = self.raft
        if isinstance(message, m.PreVoteRequest | m.VoteRequest):
            asked_for = isinstance(message, m.VoteRequest) and message.transfer
            if not asked_for and election.in_lease(raft):
                return False
        if isinstance(message, m.PreVoteRequest) or (
            isinstance(message, m.PreVoteReply) and not message.rejected
        ):
            return True
        leader = message.sender if isinstance(message, _LEADERS_OWN) else NOBODY
        raft.become_follower(message.term, leader)
        return True

    def _answer_older_term(self, message: m.Message) -> None:
        """Tell a member that fell behind of the newer term; else a pre-vote cluster could stay stuck."""
        raft = self.raft
        if isinstance(message, m.AppendRequest | m.HeartbeatRequest):
            raft.send(m.AppendReply(raft.id, message.sender, raft.term, Index(0)))
        elif isinstance(message, m.PreVoteRequest):
            raft.send(m.PreVoteReply(raft.id, message.sender, raft.term, True))

    def _dispatch(self, message: m.Message) -> None:
        kind, leads = type(message), self.raft.role is Role.LEADER
        handler = _ALWAYS.get(kind) or (_AS_LEADER if leads else _AS_FOLLOWER).get(kind)
        if handler is not None:
            handler(self.raft, message)

    def _step_proposal(self, message: m.Proposal) -> None:
        if self.raft.role is Role.LEADER and self.raft.term == message.term:
            try:
                self._append(message.kind, message.data)
            except ProposalRefused:
                return  # the proposer's deadline speaks

    def _append(self, kind: EntryKind, data: list[bytes]) -> None:
        raft = self.raft
        if raft.transfer_target != NOBODY:
            raise ProposalRefused("leadership is being transferred")
        if raft.uncommitted_bytes > raft.config.max_uncommitted_bytes:
            raise ProposalRefused("too much is waiting to be committed")
        if kind is EntryKind.CONF_CHANGE:
            if raft.pending_conf_index > raft.log.applied or len(data) != 1:
                raise ProposalRefused("another membership change is under way")
            raft.pending_conf_index = Index(raft.log.last + 1)
        replication.append_entries(raft, kind, data)

    def _send_wanted(self) -> None:
        raft = self.raft
        if raft.role is Role.LEADER:
            if raft.append_wanted:
                raft.append_wanted = False
                replication.broadcast_append(raft)
            if raft.heartbeat_wanted:
                raft.heartbeat_wanted = False
                replication.broadcast_heartbeat(raft)

    def _next_write(self) -> Write | None:
        """A write if something must be on disk and none is out. A mere commit index waits for the next."""
        raft = self.raft
        if self._writing is not None:
            return None
        entries, hard = raft.log.unstable(), raft.hard_state()
        same = (hard.term, hard.vote) == (raft.durable.term, raft.durable.vote)
        if not entries and same and raft.pending_snapshot is None:
            return None
        self._writing = Write(entries, hard, raft.pending_snapshot)
        raft.pending_snapshot = None
        self._releasing, raft.held = raft.held, []
        return self._writing

    def _release(self, waiting: list[m.Message]) -> None:
        messages = waiting[:]
        waiting.clear()
        for message in messages:
            if message.to == self.raft.id:
                self.step(message)
            else:
                self.raft.outbox.append(message)
