"""Bytes of what goes into the log: entries, hard state, snapshot heads, segment heads.

Decoding raises DecodeError (of protobuf) or ValueError on bytes that no encoder made.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from etcdlite.pb import raft_pb2 as pb
from etcdlite.raft.types import Entry, EntryKind, HardState, Index, NodeId, SnapshotMeta, Term

__all__ = ["DecodeError", "Metadata"]

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Metadata:
    """Whose log it is."""

    cluster_id: int
    member_id: int


def encode_entry(entry: Entry) -> bytes:
    """The entry's bytes, on disk and on the wire; made once and kept on the entry."""
    encoded = entry.encoded
    if encoded is None:
        encoded = pb.Entry(
            term=entry.term, index=entry.index, kind=entry.kind, data=entry.data
        ).SerializeToString()
        entry.encoded = encoded
    return encoded


def decode_entry(encoded: bytes) -> Entry:
    """The entry, which keeps `encoded`."""
    raw = pb.Entry.FromString(encoded)
    return Entry(Term(raw.term), Index(raw.index), EntryKind(raw.kind), raw.data, encoded)


def encode_hard_state(state: HardState) -> bytes:
    """Term, vote, commit."""
    return pb.HardState(term=state.term, vote=state.vote, commit=state.commit).SerializeToString()


def decode_hard_state(encoded: bytes) -> HardState:
    """Term, vote, commit."""
    raw = pb.HardState.FromString(encoded)
    return HardState(Term(raw.term), NodeId(raw.vote), Index(raw.commit))


def encode_snapshot(meta: SnapshotMeta) -> bytes:
    """Index, term and membership. `conf` is not stored: it follows from the membership in `context`."""
    return pb.Snapshot(index=meta.index, term=meta.term, membership=meta.context).SerializeToString()


def decode_snapshot(encoded: bytes) -> SnapshotMeta:
    """A meta without `conf`, which who knows the membership's encoding fills in."""
    raw = pb.Snapshot.FromString(encoded)
    return SnapshotMeta(Index(raw.index), Term(raw.term), context=raw.membership)


def encode_metadata(metadata: Metadata, chain: int) -> bytes:
    """Head of a segment; `chain` is the checksum the segment before ended with."""
    return pb.Metadata(
        version=FORMAT, cluster_id=metadata.cluster_id, member_id=metadata.member_id, chain=chain
    ).SerializeToString()


def decode_metadata(encoded: bytes) -> tuple[Metadata, int]:
    """Metadata and chain. Raises ValueError for a format this code does not know."""
    raw = pb.Metadata.FromString(encoded)
    if raw.version != FORMAT:
        raise ValueError(f"format version {raw.version} is not supported (this is {FORMAT})")
    return Metadata(raw.cluster_id, raw.member_id), raw.chain
