"""Bytes on the wire: what is sent is received, and nonsense is refused with the two errors promised."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcdlite.consensus import wire
from etcdlite.consensus.frames import MAX_FRAME, FrameReader, FrameTooLarge, frame
from etcdlite.consensus.membership import ChangeKind, Member, MemberChange, Membership
from etcdlite.raft import messages as m
from etcdlite.raft.types import Entry, EntryKind, Index, NodeId, SnapshotMeta, Term

HEAD = (NodeId(2**64 - 1), NodeId(3), Term(9))
MEMBERS = Membership(
    {5: Member(5, "a", ("http://a:1",), ("http://a:2", "http://b:2")), 9: Member(9, is_learner=True)},
    frozenset({7}),
)
ENCODED = wire.encode_membership(MEMBERS)
MESSAGES: list[m.Message] = [
    m.PreVoteRequest(*HEAD, Index(4), Term(3)),
    m.PreVoteReply(*HEAD, True),
    m.VoteRequest(*HEAD, Index(4), Term(3), True),
    m.VoteReply(*HEAD, False),
    m.AppendRequest(*HEAD, Index(4), Term(3), Index(2), [Entry(Term(9), Index(5), EntryKind.NORMAL, b"\0x")]),
    m.AppendReply(*HEAD, Index(4), True, Index(2), Term(1)),
    m.HeartbeatRequest(*HEAD, Index(4), 2**40),
    m.HeartbeatReply(*HEAD, 2**40),
    m.InstallSnapshot(*HEAD, SnapshotMeta(Index(4), Term(3), MEMBERS.conf_state(), ENCODED)),
    m.TimeoutNow(*HEAD),
    m.Proposal(*HEAD, EntryKind.CONF_CHANGE, [b"a", b""]),
    m.ReadIndexRequest(*HEAD, 2**64 - 1),
    m.ReadIndexReply(*HEAD, 2**64 - 1, Index(4)),
    m.TransferRequest(*HEAD, NodeId(8)),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_come_back(message: m.Message) -> None:
    assert wire.decode_message(wire.encode_message(message)) == message


def test_every_message_has_its_place_on_the_wire() -> None:
    assert {type(message) for message in MESSAGES} == set(m.Message.__subclasses__())


def test_an_entry_is_encoded_once() -> None:
    entry = Entry(Term(9), Index(5), EntryKind.NORMAL, b"data")
    message = m.AppendRequest(*HEAD, Index(4), Term(3), Index(2), [entry])
    received = wire.decode_message(wire.encode_message(message))
    assert isinstance(received, m.AppendRequest)
    assert entry.encoded is not None and received.entries[0].encoded == entry.encoded


@settings(deadline=None)
@given(st.sampled_from(MESSAGES), st.data())
def test_damaged_messages_raise_only_what_is_promised(message: m.Message, data: st.DataObject) -> None:
    encoded = bytearray(wire.encode_message(message))
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(wire.DecodeError, ValueError):
        wire.decode_message(bytes(encoded))


def test_entries_that_do_not_follow_are_refused() -> None:
    message = m.AppendRequest(
        *HEAD, Index(4), Term(3), Index(2), [Entry(Term(9), Index(7), EntryKind.NORMAL, b"")]
    )
    with pytest.raises(ValueError, match="entry 7 where 5 belongs"):
        wire.decode_message(wire.encode_message(message))


def test_an_unknown_kind_of_message_is_refused() -> None:
    with pytest.raises(ValueError, match="does not know"):
        wire.decode_message(b"")


def test_memberships_and_changes_come_back() -> None:
    assert wire.decode_membership(ENCODED) == MEMBERS
    change = MemberChange(ChangeKind.ADD_LEARNER, MEMBERS.members[9])
    assert wire.decode_change(wire.encode_change(change)) == change


@settings(deadline=None)
@given(st.lists(st.binary(max_size=50), max_size=8), st.data())
def test_frames_survive_any_cutting(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(map(frame, payloads))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader, found = FrameReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:end])
    assert found == payloads


def test_a_frame_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(FrameTooLarge):
        FrameReader().feed((MAX_FRAME + 1).to_bytes(4, "big"))
