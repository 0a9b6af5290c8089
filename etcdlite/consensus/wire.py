"""Bytes of messages between members, and of memberships. Decoding raises DecodeError or ValueError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError

from etcdlite.consensus.membership import ChangeKind, Member, MemberChange, Membership
from etcdlite.pb import raft_pb2 as pb
from etcdlite.raft import messages as m
from etcdlite.raft.types import EntryKind, Index, NodeId, SnapshotMeta, Term
from etcdlite.wal.codec import decode_entry, encode_entry

__all__ = ["DecodeError"]

# -- messages ------------------------------------------------------------------------------------------------


def _vote(x: Any) -> pb.VoteRequest:
    return pb.VoteRequest(
        last_index=x.last_index, last_term=x.last_term, transfer=getattr(x, "transfer", False)
    )


def _append(x: m.AppendRequest) -> pb.AppendRequest:
    return pb.AppendRequest(
        prev_index=x.prev_index,
        prev_term=x.prev_term,
        commit=x.commit,
        entries=[encode_entry(entry) for entry in x.entries],
    )


def _append_reply(x: m.AppendReply) -> pb.AppendReply:
    return pb.AppendReply(index=x.index, rejected=x.rejected, hint_index=x.hint_index, hint_term=x.hint_term)


def _snapshot(x: m.InstallSnapshot) -> pb.Snapshot:
    return pb.Snapshot(index=x.snapshot.index, term=x.snapshot.term, membership=x.snapshot.context)


_ENCODERS: dict[type[m.Message], tuple[str, Callable[[Any], Any]]] = {
    m.PreVoteRequest: ("pre_vote_request", _vote),
    m.PreVoteReply: ("pre_vote_reply", lambda x: pb.VoteReply(rejected=x.rejected)),
    m.VoteRequest: ("vote_request", _vote),
    m.VoteReply: ("vote_reply", lambda x: pb.VoteReply(rejected=x.rejected)),
    m.AppendRequest: ("append_request", _append),
    m.AppendReply: ("append_reply", _append_reply),
    m.HeartbeatRequest: (
        "heartbeat_request",
        lambda x: pb.HeartbeatRequest(commit=x.commit, read_round=x.read_round),
    ),
    m.HeartbeatReply: ("heartbeat_reply", lambda x: pb.HeartbeatReply(read_round=x.read_round)),
    m.InstallSnapshot: ("install_snapshot", _snapshot),
    m.TimeoutNow: ("timeout_now", lambda x: pb.TimeoutNow()),
    m.Proposal: ("proposal", lambda x: pb.Proposal(kind=x.kind, data=x.data)),
    m.ReadIndexRequest: ("read_index_request", lambda x: pb.ReadIndexRequest(context=x.context)),
    m.ReadIndexReply: ("read_index_reply", lambda x: pb.ReadIndexReply(context=x.context, index=x.index)),
    m.TransferRequest: ("transfer_request", lambda x: pb.TransferRequest(target=x.target)),
}


def encode_message(message: m.Message) -> bytes:
    """One message."""
    field, encode = _ENCODERS[type(message)]
    envelope = {"sender": message.sender, "to": message.to, "term": message.term, field: encode(message)}
    return pb.Message(**envelope).SerializeToString()


Head = tuple[NodeId, NodeId, Term]

_DECODERS: dict[str, Callable[[Head, Any], m.Message]] = {
    "pre_vote_request": lambda h, x: m.PreVoteRequest(*h, Index(x.last_index), Term(x.last_term)),
    "pre_vote_reply": lambda h, x: m.PreVoteReply(*h, x.rejected),
    "vote_request": lambda h, x: m.VoteRequest(*h, Index(x.last_index), Term(x.last_term), x.transfer),
    "vote_reply": lambda h, x: m.VoteReply(*h, x.rejected),
    "append_request": lambda h, x: m.AppendRequest(
        *h, Index(x.prev_index), Term(x.prev_term), Index(x.commit), [decode_entry(e) for e in x.entries]
    ),
    "append_reply": lambda h, x: m.AppendReply(
        *h, Index(x.index), x.rejected, Index(x.hint_index), Term(x.hint_term)
    ),
    "heartbeat_request": lambda h, x: m.HeartbeatRequest(*h, Index(x.commit), x.read_round),
    "heartbeat_reply": lambda h, x: m.HeartbeatReply(*h, x.read_round),
    "install_snapshot": lambda h, x: m.InstallSnapshot(*h, _snapshot_meta(x)),
    "timeout_now": lambda h, x: m.TimeoutNow(*h),
    "proposal": lambda h, x: m.Proposal(*h, EntryKind(x.kind), list(x.data)),
    "read_index_request": lambda h, x: m.ReadIndexRequest(*h, x.context),
    "read_index_reply": lambda h, x: m.ReadIndexReply(*h, x.context, Index(x.index)),
    "transfer_request": lambda h, x: m.TransferRequest(*h, NodeId(x.target)),
}


def decode_message(encoded: bytes) -> m.Message:
    """One message. Raises DecodeError or ValueError on anything `encode_message` did not make."""
    raw = pb.Message.FromString(encoded)
    field = raw.WhichOneof("body")
    if field is None:
        raise ValueError("a message of a kind this member does not know")
    message = _DECODERS[field]((NodeId(raw.sender), NodeId(raw.to), Term(raw.term)), getattr(raw, field))
    if isinstance(message, m.AppendRequest):
        for position, entry in enumerate(message.entries, message.prev_index + 1):
            if entry.index != position:
                raise ValueError(f"entry {entry.index} where {position} belongs")
    return message


def _snapshot_meta(raw: Any) -> SnapshotMeta:
    conf = decode_membership(raw.membership).conf_state()
    return SnapshotMeta(Index(raw.index), Term(raw.term), conf, raw.membership)


# -- memberships ---------------------------------------------------------------------------------------------


def _member(member: Member) -> pb.Member:
    return pb.Member(
        id=member.id,
        name=member.name,
        peer_urls=member.peer_urls,
        client_urls=member.client_urls,
        is_learner=member.is_learner,
    )


def _from_member(raw: pb.Member) -> Member:
    return Member(raw.id, raw.name, tuple(raw.peer_urls), tuple(raw.client_urls), raw.is_learner)


def encode_membership(membership: Membership) -> bytes:
    """Members by id, so that equal memberships have equal bytes."""
    members = [_member(membership.members[i]) for i in sorted(membership.members)]
    return pb.Membership(members=members, removed=sorted(membership.removed)).SerializeToString()


def decode_membership(encoded: bytes) -> Membership:
    """The membership."""
    return from_membership(pb.Membership.FromString(encoded))


def from_membership(raw: pb.Membership) -> Membership:
    """The membership."""
    return Membership({x.id: _from_member(x) for x in raw.members}, frozenset(raw.removed))


def encode_change(change: MemberChange) -> bytes:
    """One change of one member."""
    return pb.MemberChange(kind=change.kind, member=_member(change.member)).SerializeToString()


def decode_change(encoded: bytes) -> MemberChange:
    """One change of one member."""
    raw = pb.MemberChange.FromString(encoded)
    return MemberChange(ChangeKind(raw.kind), _from_member(raw.member))
