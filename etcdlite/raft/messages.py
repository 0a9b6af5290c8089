"""What members say to each other. One type per message, one handler per type.

`term` is the sender's term, except in a pre-vote (the term it would campaign for) and in messages that are
only passed on to whoever leads (`ReadIndexRequest`, `TransferRequest`), where it is 0 and means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from etcdlite.raft.types import NO_INDEX, NO_TERM, Entry, EntryKind, Index, NodeId, SnapshotMeta, Term


@dataclass(slots=True)
class Message:
    """From `sender` to `to` in `term`."""

    sender: NodeId
    to: NodeId
    term: Term


@dataclass(slots=True)
class PreVoteRequest(Message):
    """Would you vote for me in `term`? Changes nobody's state (section 9.6)."""

    last_index: Index
    last_term: Term


@dataclass(slots=True)
class PreVoteReply(Message):
    """A granted one carries the term asked for, a rejected one the sender's own."""

    rejected: bool


@dataclass(slots=True)
class VoteRequest(Message):
    """RequestVote (Figure 3.1). `transfer`: the leader itself asked for it, so its lease is no objection."""

    last_index: Index
    last_term: Term
    transfer: bool = False


@dataclass(slots=True)
class VoteReply(Message):
    """Sent only when the vote is on disk."""

    rejected: bool


@dataclass(slots=True)
class AppendRequest(Message):
    """AppendEntries (Figure 3.1). `commit` is the leader's."""

    prev_index: Index
    prev_term: Term
    commit: Index
    entries: list[Entry] = field(default_factory=list)


@dataclass(slots=True)
class AppendReply(Message):
    """`index`: on disk and equal to the leader's log up to here; or, rejected, the `prev_index` refused.

    The hint is the place up to which the logs may agree: the last entry of the follower, at or below `index`,
    whose term is no greater than `prev_term` (section 5.3 of the Raft paper, end; one round trip per term at
    most).
    """

    index: Index
    rejected: bool = False
    hint_index: Index = NO_INDEX
    hint_term: Term = NO_TERM


@dataclass(slots=True)
class HeartbeatRequest(Message):
    """`commit` never exceeds what the receiver is known to hold; `read_round` is the read it confirms."""

    commit: Index
    read_round: int


@dataclass(slots=True)
class HeartbeatReply(Message):
    """Echoes the read round: at some time after that round began the sender still followed this leader."""

    read_round: int


@dataclass(slots=True)
class InstallSnapshot(Message):
    """The driver ships the state along with it; the core sees the message when the state has arrived."""

    snapshot: SnapshotMeta


@dataclass(slots=True)
class TimeoutNow(Message):
    """Campaign at once (section 3.10)."""


@dataclass(slots=True)
class Proposal(Message):
    """Entries a follower asks the leader of `term` to append: nobody else, so that it knows when they are
    lost.
    """

    kind: EntryKind
    data: list[bytes]


@dataclass(slots=True)
class ReadIndexRequest(Message):
    """A follower's question for a read index; `context` is the follower's own."""

    context: int


@dataclass(slots=True)
class ReadIndexReply(Message):
    """`index` was committed when the leader took the question, and it still led afterwards."""

    context: int
    index: Index


@dataclass(slots=True)
class TransferRequest(Message):
    """Asks the leader to hand over to `target`."""

    target: NodeId
