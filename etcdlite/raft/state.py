"""A member's Raft state and the moves all parts share: sending, changing role, starting a term.

The rules live in `election`, `replication` and `reads`, as functions over this state; `node` dispatches to
them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from etcdlite.raft import messages as m
from etcdlite.raft.log import Log
from etcdlite.raft.tracker import Progress
from etcdlite.raft.types import NOBODY, ConfState, HardState, Index, NodeId, Role, SnapshotMeta, Term


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """Sizes are bytes, times are ticks. `random(n)` returns a number in [0, n)."""

    id: NodeId
    random: Callable[[int], int]
    election_ticks: int = 10
    heartbeat_ticks: int = 1
    max_append_bytes: int = 1 << 20
    max_apply_bytes: int = 1 << 20
    max_inflight: int = 256
    max_uncommitted_bytes: int = 64 << 20
    pre_vote: bool = True


@dataclass(frozen=True, slots=True)
class ReadState:
    """Answer to `read_index(context)`: reads are linearizable once `index` is applied."""

    context: int
    index: Index


# These may leave before anything is on disk: they say nothing about what this member will remember. A
# leader's appends run in parallel with its own fsync (section 10.2.1): it counts itself only when its own
# disk has them.
IMMEDIATE: frozenset[type[m.Message]] = frozenset(
    {
        m.AppendRequest,
        m.HeartbeatRequest,
        m.InstallSnapshot,
        m.TimeoutNow,
        m.PreVoteRequest,
        m.Proposal,
        m.ReadIndexRequest,
        m.ReadIndexReply,
        m.TransferRequest,
    }
)


class Raft:
    """Everything one member knows. No method here decides; see the module."""

    def __init__(self, config: RaftConfig, log: Log, hard_state: HardState, conf: ConfState) -> None:
        self.config, self.id = config, config.id
        self.log, self.conf = log, conf
        self.term, self.vote = hard_state.term, hard_state.vote
        self.durable = hard_state  # what the disk remembers
        self.leader, self.role = NOBODY, Role.FOLLOWER
        self.removed = False  # a committed change has taken this member out
        self.votes: dict[NodeId, bool] = {}
        self.progress: dict[NodeId, Progress] = {}  # leader only; holds this member too
        self.election_elapsed = self.heartbeat_elapsed = 0
        self.election_timeout = 0  # randomized anew in every term
        self.transfer_target = NOBODY
        self.pending_conf_index = Index(0)  # leader: no new change before this is applied
        self.uncommitted_bytes = 0
        self.pending_snapshot: SnapshotMeta | None = None  # received, not yet on disk
        # Reads (leader): rounds are numbered within the term; waiting reads are (round, requester, context,
        # index).
        self.read_round = 0
        self.read_acks: dict[NodeId, int] = {}
        self.reads_waiting: list[tuple[int, NodeId, int, Index]] = []
        self.reads_early: list[tuple[NodeId, int]] = []  # came before this term committed anything
        self.read_states: list[ReadState] = []
        # Asked for in this turn, done once by `ready`.
        self.append_wanted = self.heartbeat_wanted = False
        self.outbox: list[m.Message] = []
        self.held: list[m.Message] = []  # leave only after the next write
        self.reset(self.term)

    def send(self, message: m.Message) -> None:
        """Queue a message: now, or behind the next write to disk if it vouches for what is written there."""
        if type(message) in IMMEDIATE or (
            type(message) is m.HeartbeatReply and self.durable.term == message.term
        ):
            self.outbox.append(message)
        else:
            self.held.append(message)

    def reset(self, term: Term) -> None:
        """Forget everything that belongs to one term or role."""
        if term != self.term:
            self.term, self.vote = term, NOBODY
        self.leader = self.transfer_target = NOBODY
        self.votes.clear()
        self.progress.clear()
        self.election_elapsed = self.heartbeat_elapsed = 0
        self.randomize_timeout()
        self.read_round, self.uncommitted_bytes = 0, 0
        self.read_acks.clear()
        self.reads_waiting.clear()
        self.reads_early.clear()
        self.append_wanted = self.heartbeat_wanted = False

    def randomize_timeout(self) -> None:
        """Between one and two election timeouts (section 3.4)."""
        ticks = self.config.election_ticks
        self.election_timeout = ticks + self.config.random(ticks)

    def become_follower(self, term: Term, leader: NodeId) -> None:
        """Follow `leader`, or nobody yet."""
        self.reset(term)
        self.leader, self.role = leader, Role.FOLLOWER

    def hard_state(self) -> HardState:
        """What the next write must contain."""
        return HardState(self.term, self.vote, self.log.committed)

    def is_voter(self) -> bool:
        """Whether this member votes."""
        return self.id in self.conf.voters

    def peers(self) -> list[NodeId]:
        """Everyone else, in a fixed order."""
        return [node for node in sorted(self.conf.nodes()) if node != self.id]

    def track(self) -> None:
        """Leader: follow exactly the members of `conf`. A new member is probed from the end of the log."""
        for node in [node for node in self.progress if node not in self.conf.nodes()]:
            del self.progress[node]
        for node in self.conf.nodes():
            if node not in self.progress:
                fresh = Progress(Index(self.log.last + 1), self.config.max_inflight)
                fresh.recent_active = True  # counts as alive until the next check
                self.progress[node] = fresh
