"""What is in a member's files, a line each. Reads only; the member may even run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from etcdlite.consensus import wire
from etcdlite.mvcc.backend import Backend
from etcdlite.mvcc.revision import main_of
from etcdlite.pb import internal_pb2, kv_pb2
from etcdlite.raft.types import Entry, EntryKind
from etcdlite.wal import codec
from etcdlite.wal.log import SUFFIX
from etcdlite.wal.records import HEADER_BYTES, Record, RecordKind, read_records

_SECRET = frozenset({"password", "hashedPassword", "token"})


def dump_wal(data_dir: Path) -> Iterator[str]:
    """The records of a log, oldest first. Raises WalCorrupt where it is damaged, FileNotFoundError."""
    folder = data_dir / "member" / "wal"
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    if not paths:
        raise FileNotFoundError(f"{folder}: no log")
    chain: int | None = None
    for path in paths:
        data = path.read_bytes()
        if chain is None:
            length = int.from_bytes(data[:4], "little")
            chain = codec.decode_metadata(data[HEADER_BYTES : HEADER_BYTES + length])[1]
        yield f"segment {path.name}"
        end = 0
        for record in read_records(str(path), data, chain, last=path == paths[-1]):
            yield "  " + _record(record)
            chain, end = record.chain, record.end
        if end < len(data):
            yield f"  torn at offset {end}: {len(data) - end} bytes that were never acknowledged"


def _record(record: Record) -> str:
    match record.kind:
        case RecordKind.METADATA:
            metadata, _ = codec.decode_metadata(record.payload)
            return f"metadata member {metadata.member_id:x} of cluster {metadata.cluster_id:x}"
        case RecordKind.SNAPSHOT:
            meta = codec.decode_snapshot(record.payload)
            count = len(wire.decode_membership(meta.context).members)
            return f"marker   index {meta.index} term {meta.term}, {count} members"
        case RecordKind.HARD_STATE:
            state = codec.decode_hard_state(record.payload)
            return f"state    term {state.term} vote {state.vote:x} commit {state.commit}"
    entry = codec.decode_entry(record.payload)
    return f"entry    {entry.index} term {entry.term} {_entry(entry)}"


def _entry(entry: Entry) -> str:
    if entry.kind is not EntryKind.NORMAL:
        change = wire.decode_change(entry.data)
        urls = ",".join(change.member.peer_urls)
        return f"{change.kind.name.lower()} member {change.member.id:x} {change.member.name} {urls}".rstrip()
    if not entry.data:
        return "empty (a leader begins its term)"
    request = internal_pb2.InternalRaftRequest.FromString(entry.data)
    kind = request.WhichOneof("request") or "unknown"
    return f"{kind} {_fields(getattr(request, kind))}" if kind != "unknown" else kind


def _fields(message: kv_pb2.KeyValue) -> str:
    """The fields of a request; values by their length, secrets not at all."""
    shown: list[str] = []
    for field, value in message.ListFields():
        if field.name in _SECRET:
            shown.append(f"{field.name}=...")
        elif field.name == "value":
            shown.append(f"value={len(value)} bytes")
        elif field.message_type is not None:
            count = len(value) if field.is_repeated else 1
            shown.append(f"{field.name}={count}")
        else:
            shown.append(f"{field.name}={value!r}")
    return " ".join(shown)


def dump_database(data_dir: Path, *, prefix: bytes = b"", values: bool = False) -> Iterator[str]:
    """The database: its position, then every stored revision of the keys that begin with `prefix`. Raises
    DatabaseDamaged.
    """
    path = data_dir / "member" / "db"
    if not path.exists():
        raise FileNotFoundError(f"{path}: no database")
    with closing(Backend(path, map_bytes=path.stat().st_size + (1 << 20), readonly=True)) as backend:
        meta = backend.meta()
        yield (
            f"revision {meta.revision}, compacted {meta.compacted}, applied index {meta.applied_index}"
            f" of term {meta.applied_term}"
        )
        for row, value in backend.rows("lease"):
            yield f"lease {int.from_bytes(row, 'big', signed=True):x} ttl {int.from_bytes(value[:8], 'big')}"
        for row, _ in backend.rows("alarm"):
            yield f"alarm {row[8]} of member {int.from_bytes(row[:8], 'big'):x}"
        for at, encoded, is_tombstone in backend.scan(0):
            kv = kv_pb2.KeyValue.FromString(encoded)
            if not kv.key.startswith(prefix):
                continue
            line = f"{main_of(at)}.{at & 0xFFFF_FFFF} {kv.key.decode(errors='backslashreplace')}"
            if is_tombstone:
                yield f"{line} deleted"
                continue
            lease = f" lease {kv.lease:x}" if kv.lease else ""
            shown = kv.value.decode(errors="backslashreplace") if values else f"{len(kv.value)} bytes"
            yield f"{line} created {kv.create_revision} version {kv.version}{lease}: {shown}"
