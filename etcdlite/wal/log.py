"""The write-ahead log: segments of chained records, synced before anything that depends on them is said.

Durable order, and why any crash in between is harmless:

* A batch is one write and one sync. Before the sync nobody was told; a torn batch is cut at the next open.
* A new segment is written under a temporary name, synced, renamed, and its folder synced, before its first
  batch.
  It repeats metadata, snapshot marker and hard state, so the segments before it may go.
* Segments are removed, oldest first, only when a marker that makes them needless is synced.
* The very first segment appears by that same rename: a log exists whole or not at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from etcdlite.raft.types import Entry, HardState, Index, SnapshotMeta
from etcdlite.wal import codec
from etcdlite.wal.codec import Metadata
from etcdlite.wal.disk import Disk, File
from etcdlite.wal.records import HEADER_BYTES, Record, RecordKind, WalCorrupt, put_record, read_records

SUFFIX = ".wal"
_TEMPORARY = ".tmp"
_HEAD_BYTES = 4096  # more than the first record of a segment ever is


@dataclass(slots=True)
class Recovered:
    """What the log says after a restart. `entries` follow `snapshot.index` without a gap."""

    metadata: Metadata
    snapshot: SnapshotMeta = field(default_factory=SnapshotMeta)
    hard_state: HardState = field(default_factory=HardState)
    entries: list[Entry] = field(default_factory=list)

    def take_entry(self, entry: Entry) -> None:
        """An entry replaces everything from its index on. Raises ValueError if it would leave a hole."""
        first = self.entries[0].index if self.entries else entry.index
        position = entry.index - first
        if position > len(self.entries):
            raise ValueError(
                f"entry {entry.index} does not follow entries {first} to {self.entries[-1].index}"
            )
        # Below `first`: what it followed is in a segment that has been purged; `check` looks at the outcome.
        del self.entries[max(position, 0) :]
        self.entries.append(entry)

    def take_snapshot(self, meta: SnapshotMeta) -> None:
        """A marker within the log drops what it covers; one that the log lacks replaces the log."""
        if meta.index <= self.snapshot.index:
            return  # repeated at the head of a segment
        self.snapshot = meta
        position = meta.index - self.entries[0].index if self.entries else -1
        if position >= 0:
            same = position < len(self.entries) and self.entries[position].term == meta.term
            del self.entries[: position + 1 if same else len(self.entries)]

    def check(self) -> None:
        """Raises ValueError if the parts contradict each other."""
        if self.entries and self.entries[0].index <= self.snapshot.index:
            del self.entries[: self.snapshot.index + 1 - self.entries[0].index]
        if self.entries and self.entries[0].index != self.snapshot.index + 1:
            raise ValueError(f"entries {self.snapshot.index + 1} to {self.entries[0].index - 1} are missing")
        last = self.snapshot.index + len(self.entries)
        if self.hard_state.commit > last:
            raise ValueError(f"commit index {self.hard_state.commit} is beyond the last entry {last}")


@dataclass(slots=True)
class _Segment:
    """`last_index`: the greatest index of any entry in it."""

    path: str
    last_index: int = 0


class Wal:
    """The log, open for appending. One thread at a time; every method blocks on the disk."""

    def __init__(self, disk: Disk, folder: str, recovered: Recovered, segment_bytes: int) -> None:
        self._disk, self._folder, self._segment_bytes = disk, folder, segment_bytes
        self._metadata = recovered.metadata
        self._snapshot, self._hard_state = recovered.snapshot, recovered.hard_state
        self._segments: list[_Segment] = []
        self._file: File | None = None
        self._size = self._chain = self._sequence = 0

    # -- opening ---------------------------------------------------------------------------------------------

    @staticmethod
    def exists(disk: Disk, folder: str) -> bool:
        """Whether there is a log in `folder`; makes the folder if need be."""
        disk.make_folder(folder)
        return any(name.endswith(SUFFIX) for name in disk.list(folder))

    @staticmethod
    def owner(disk: Disk, folder: str) -> Metadata | None:
        """Whose log is in `folder`, by the head of its first segment; None if there is none. Raises
        WalCorrupt.
        """
        if not Wal.exists(disk, folder):
            return None
        path = f"{folder}/{next(name for name in disk.list(folder) if name.endswith(SUFFIX))}"
        chunks = disk.read_chunks(path, _HEAD_BYTES)
        head = next(chunks, b"")
        length = int.from_bytes(head[:4], "little")
        try:
            return codec.decode_metadata(head[HEADER_BYTES : HEADER_BYTES + length])[0]
        except (codec.DecodeError, ValueError) as reason:
            raise WalCorrupt(path, 0, f"unreadable head: {reason}") from reason

    @classmethod
    def create(
        cls, disk: Disk, folder: str, metadata: Metadata, *, first: Recovered, segment_bytes: int
    ) -> None:
        """Make a log that holds `first`. It appears whole or not at all; open it next."""
        wal = cls(disk, folder, Recovered(metadata, first.snapshot, first.hard_state), segment_bytes)
        wal._cut(first.entries)
        wal.close()

    @classmethod
    def open(cls, disk: Disk, folder: str, *, segment_bytes: int) -> tuple[Wal, Recovered]:
        """Read everything, cut a torn tail, and go on behind it. Raises WalCorrupt."""
        names = disk.list(folder)
        for name in names:
            if name.endswith(_TEMPORARY):
                disk.remove(f"{folder}/{name}")
        paths = [f"{folder}/{name}" for name in names if name.endswith(SUFFIX)]
        numbers = [_sequence_of(path) for path in paths]
        for path, number, expected in zip(
            paths, numbers, range(numbers[0], numbers[0] + len(numbers)), strict=True
        ):
            if number != expected:
                raise WalCorrupt(path, 0, f"segment {expected} is missing")
        reader = _Reader(disk)
        for path in paths:
            reader.read_segment(path, last=path == paths[-1])
        recovered = reader.finish(paths[-1])
        wal = cls(disk, folder, recovered, segment_bytes)
        wal._segments, wal._sequence = reader.segments, numbers[-1] + 1
        wal._chain, wal._size = reader.chain, reader.size
        wal._file = disk.append_to(paths[-1])
        return wal, recovered

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    # -- appending -------------------------------------------------------------------------------------------

    def append(
        self, entries: Sequence[Entry], hard_state: HardState | None, snapshot: SnapshotMeta | None
    ) -> None:
        """Write one batch; it is durable when this returns.

        `snapshot` comes before the entries and drops all it covers. A failure leaves the log unusable.
        """
        assert self._file is not None, "the log is closed"
        buffer = bytearray()
        chain = self._chain
        if snapshot is not None:
            self._snapshot = snapshot
            chain = put_record(buffer, RecordKind.SNAPSHOT, codec.encode_snapshot(snapshot), chain)
        for entry in entries:
            chain = put_record(buffer, RecordKind.ENTRY, codec.encode_entry(entry), chain)
        if hard_state is not None:
            self._hard_state = hard_state
            chain = put_record(buffer, RecordKind.HARD_STATE, codec.encode_hard_state(hard_state), chain)
        self._file.write(buffer)
        self._file.sync()
        self._chain = chain
        self._size += len(buffer)
        if entries:
            segment = self._segments[-1]
            segment.last_index = max(segment.last_index, entries[-1].index)
        if self._size >= self._segment_bytes:
            self._cut([])

    def purge(self) -> int:
        """Remove segments that the newest marker covers; return how many. Never the last."""
        removed = 0
        while len(self._segments) > 1 and self._segments[0].last_index <= self._snapshot.index:
            self._disk.remove(self._segments[0].path)
            # One by one, so that what a crash leaves is always a run of segments without a hole.
            self._disk.sync_dir(self._folder)
            del self._segments[0]
            removed += 1
        return removed

    def _cut(self, entries: Sequence[Entry]) -> None:
        """Begin a new segment."""
        path = f"{self._folder}/{self._sequence:016x}{SUFFIX}"
        buffer = bytearray()
        chain = put_record(
            buffer, RecordKind.METADATA, codec.encode_metadata(self._metadata, self._chain), self._chain
        )
        chain = put_record(buffer, RecordKind.SNAPSHOT, codec.encode_snapshot(self._snapshot), chain)
        for entry in entries:
            chain = put_record(buffer, RecordKind.ENTRY, codec.encode_entry(entry), chain)
        chain = put_record(buffer, RecordKind.HARD_STATE, codec.encode_hard_state(self._hard_state), chain)
        file = self._disk.create(path + _TEMPORARY)
        try:
            file.write(buffer)
            file.sync()
            self._disk.rename(path + _TEMPORARY, path)
            self._disk.sync_dir(self._folder)
        except BaseException:
            file.close()
            raise
        self.close()
        self._file, self._chain, self._size = file, chain, len(buffer)
        self._segments.append(_Segment(path, entries[-1].index if entries else 0))
        self._sequence += 1


class _Reader:
    """Replays segments in order."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.recovered: Recovered | None = None
        self.segments: list[_Segment] = []
        self.chain = self.size = 0

    def read_segment(self, path: str, *, last: bool) -> None:
        """Take in one segment; cut a torn tail off the last."""
        data = self._disk.read(path)
        first = not self.segments
        if first:
            self.chain = _chain_of(path, data)
        self.segments.append(_Segment(path))
        offset = 0
        for record in read_records(path, data, self.chain, last=last):
            try:
                self._take(record, at_head=offset == 0)
            except (codec.DecodeError, ValueError) as reason:
                raise WalCorrupt(path, offset, str(reason)) from reason
            offset, self.chain = record.end, record.chain
        if offset == 0:
            raise WalCorrupt(path, 0, "segment has no head")
        if offset < len(data):
            self._disk.truncate(path, offset)
        self.size = offset

    def _take(self, record: Record, *, at_head: bool) -> None:
        if at_head != (record.kind is RecordKind.METADATA):
            raise ValueError("metadata belongs at the head of a segment, and only there")
        if record.kind is RecordKind.METADATA:
            metadata, _ = codec.decode_metadata(record.payload)
            if self.recovered is None:
                self.recovered = Recovered(metadata)
            elif self.recovered.metadata != metadata:
                raise ValueError("segment belongs to another member")
            return
        assert self.recovered is not None
        if record.kind is RecordKind.ENTRY:
            entry = codec.decode_entry(record.payload)
            self.recovered.take_entry(entry)
            self.segments[-1].last_index = max(self.segments[-1].last_index, entry.index)
        elif record.kind is RecordKind.HARD_STATE:
            self.recovered.hard_state = codec.decode_hard_state(record.payload)
        else:
            self.recovered.take_snapshot(codec.decode_snapshot(record.payload))

    def finish(self, path: str) -> Recovered:
        """The result. Raises WalCorrupt if it contradicts itself."""
        assert self.recovered is not None
        try:
            self.recovered.check()
        except ValueError as reason:
            raise WalCorrupt(path, self.size, str(reason)) from reason
        return self.recovered


def _sequence_of(path: str) -> int:
    with contextlib.suppress(ValueError):
        return int(path.rsplit("/", 1)[-1].removesuffix(SUFFIX), 16)
    raise WalCorrupt(path, 0, "not a segment's name")


def _chain_of(path: str, data: bytes) -> int:
    """The chain that the first segment left begins with, as its own head tells; the head's checksum covers
    it.
    """
    length = int.from_bytes(data[:4], "little")
    try:
        return codec.decode_metadata(data[HEADER_BYTES : HEADER_BYTES + length])[1]
    except (codec.DecodeError, ValueError) as reason:
        raise WalCorrupt(path, 0, f"unreadable head: {reason}") from reason


def last_index(recovered: Recovered) -> Index:
    """Index of the last entry, or of the snapshot."""
    return Index(recovered.snapshot.index + len(recovered.entries))
