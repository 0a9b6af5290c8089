"""Snapshot files: the state of another member, received and kept until the state machine has it.

    magic | head length u32 | head | { length u32 | checksum u32 | chunk }* | 0 u32 | checksum u32

Checksums are CRC32C, chained from the head on, so that a missing, doubled or damaged chunk shows. A file is
written under a temporary name, synced and renamed: under its final name it is whole.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from google_crc32c import extend as _extend
from google_crc32c import value as _value

from etcdlite.raft.types import Index, SnapshotMeta, Term
from etcdlite.wal import codec
from etcdlite.wal.disk import Disk
from etcdlite.wal.records import WalCorrupt

SUFFIX = ".snap"
_TEMPORARY = ".part"
_MAGIC = b"HWSNAP1\n"
_LENGTH = struct.Struct("<I")
_CHUNK = struct.Struct("<II")
_READ = 1 << 20


class SnapshotWriter:
    """One file in the making. Exactly one of `commit` and `abort` ends it."""

    def __init__(self, disk: Disk, folder: str, meta: SnapshotMeta) -> None:
        self._disk, self._folder, self.meta = disk, folder, meta
        self._path = f"{folder}/{_name(meta.index, meta.term)}"
        self._file = disk.create(self._path + _TEMPORARY)
        head = codec.encode_snapshot(meta)
        self._chain = _value(head)
        self._file.write(_MAGIC + _LENGTH.pack(len(head)) + head)

    def write(self, chunk: bytes) -> None:
        """Append one chunk; an empty one is nothing."""
        if chunk:
            self._chain = _extend(self._chain, chunk)
            self._file.write(_CHUNK.pack(len(chunk), self._chain) + chunk)

    def commit(self) -> None:
        """Make the file durable under its name."""
        self._file.write(_CHUNK.pack(0, self._chain))
        self._file.sync()
        self._file.close()
        self._disk.rename(self._path + _TEMPORARY, self._path)
        self._disk.sync_dir(self._folder)

    def abort(self) -> None:
        """Remove what was written."""
        self._file.close()
        self._disk.remove(self._path + _TEMPORARY)


class SnapshotStore:
    """The folder of snapshot files. It may hold other files too; they are left alone."""

    def __init__(self, disk: Disk, folder: str) -> None:
        self._disk, self._folder = disk, folder
        disk.make_folder(folder)

    def writer(self, meta: SnapshotMeta) -> SnapshotWriter:
        """Begin to write the snapshot `meta`."""
        return SnapshotWriter(self._disk, self._folder, meta)

    def has(self, index: Index, term: Term) -> bool:
        """Whether that snapshot is here, whole."""
        return _name(index, term) in self._disk.list(self._folder)

    def read(self, index: Index, term: Term) -> Iterator[bytes]:
        """Its chunks. Raises WalCorrupt, at the latest at the end: use nothing before that."""
        path = f"{self._folder}/{_name(index, term)}"
        reader = _Reader(path, self._disk.read_chunks(path, _READ))
        try:
            yield from reader.chunks()
        finally:
            reader.close()

    def verify(self, index: Index, term: Term) -> None:
        """Read the file once for its checksums. Raises WalCorrupt."""
        for _ in self.read(index, term):
            pass

    def purge(self, upto: Index | None = None) -> None:
        """Remove snapshots up to `upto` that the state machine has outgrown; without it all, whole or not."""
        for name in self._disk.list(self._folder):
            if upto is None:
                gone = name.endswith((SUFFIX, SUFFIX + _TEMPORARY))
            else:
                gone = name.endswith(SUFFIX) and int(name.removesuffix(SUFFIX).rpartition("-")[2], 16) <= upto
            if gone:
                self._disk.remove(f"{self._folder}/{name}")


class _Reader:
    """Takes the format apart."""

    def __init__(self, path: str, source: Iterator[bytes]) -> None:
        self._path, self._source = path, source
        self._buffer, self._offset = b"", 0

    def close(self) -> None:
        close = getattr(self._source, "close", None)
        if close is not None:
            close()

    def chunks(self) -> Iterator[bytes]:
        if self._take(len(_MAGIC)) != _MAGIC:
            raise WalCorrupt(self._path, 0, "not a snapshot file")
        (length,) = _LENGTH.unpack(self._take(_LENGTH.size))
        chain = _value(self._take(length))
        while True:
            start = self._offset
            length, checksum = _CHUNK.unpack(self._take(_CHUNK.size))
            chunk = self._take(length)
            chain = _extend(chain, chunk)
            if chain != checksum:
                raise WalCorrupt(self._path, start, "bad checksum")
            if not length:
                break
            yield chunk
        if self._buffer or next(self._source, b""):
            raise WalCorrupt(self._path, self._offset, "bytes after the end")

    def _take(self, size: int) -> bytes:
        parts, have = [self._buffer], len(self._buffer)
        while have < size:
            piece = next(self._source, b"")
            if not piece:
                raise WalCorrupt(self._path, self._offset, "file ends too early")
            parts.append(piece)
            have += len(piece)
        data = b"".join(parts)
        self._buffer = data[size:]
        self._offset += size
        return data[:size]


def _name(index: Index, term: Term) -> str:
    return f"{term:016x}-{index:016x}{SUFFIX}"
