"""The database file: LMDB, one write transaction for many revisions.

Everything a batch holds, the applied log index included, becomes durable together or not at all: LMDB writes
new pages beside the old ones, syncs them, then switches one meta page and syncs again. So the file is
consistent at any moment a process or the machine may stop, and replaying the log from the stored index is
exact.

Each value carries a CRC32C over its key and itself, because LMDB does not notice a page that the disk
changed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import google_crc32c
import lmdb

from etcdlite.mvcc.errors import DatabaseDamaged, DatabaseReplaced
from etcdlite.mvcc.revision import KEY_BYTES, Revision, from_key, to_key

TOMBSTONE: Final = b"t"
# Small tables: read whole at the start, written row by row. Their order is that of the snapshot's format.
TABLES: Final = ("lease", "alarm", "auth", "auth_user", "auth_role")
_META_FIELDS: Final = ("applied_index", "applied_term", "revision", "compacted", "compacted_physically")
_CHUNK_BYTES: Final = 64 * 1024
_SNAPSHOT_MAGIC: Final = b"etcdlite-snapshot-1\n"
_SECTOR: Final = (
    512  # etcdctl takes a snapshot for complete when its size is a multiple of 512 plus a SHA-256
)

_DAMAGE: Final = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.InvalidError,
    lmdb.BadTxnError,
)


@dataclass(frozen=True, slots=True)
class Meta:
    """Where the state machine stands; written with the data of the same batch."""

    applied_index: int = 0
    applied_term: int = 0
    revision: int = 1
    compacted: int = 0  # reads below are refused
    compacted_physically: int = 0  # what they would have needed is deleted


@dataclass(slots=True)
class Batch:
    """What one commit makes durable."""

    puts: dict[int, tuple[bytes, bool]] = field(default_factory=dict)  # revision -> (KeyValue, is tombstone)
    deletes: list[tuple[Revision, bool]] = field(default_factory=list)
    rows: dict[tuple[str, bytes], bytes | None] = field(default_factory=dict)

    def then(self, later: Batch) -> Batch:
        """Both as one: what is left is what the later one says."""
        return Batch(self.puts | later.puts, self.deletes + later.deletes, self.rows | later.rows)


def _seal(key: bytes, value: bytes) -> bytes:
    crc: int = google_crc32c.extend(google_crc32c.value(key), value)
    return crc.to_bytes(4, "big") + value


def _unseal(key: bytes, sealed: bytes) -> bytes:
    value = sealed[4:]
    if google_crc32c.extend(google_crc32c.value(key), value) != int.from_bytes(sealed[:4], "big"):
        raise DatabaseDamaged(f"database: checksum mismatch at key {key.hex()}")
    return value


class Backend:
    """One open database file. `commit` may run in another thread; one writer at a time."""

    def __init__(self, path: Path, *, map_bytes: int, readonly: bool = False) -> None:
        """Open or create. Raises DatabaseDamaged when the file is not a database of ours."""
        self.path = path
        self._map_bytes, self._readonly = map_bytes, readonly
        self._open()

    def _open(self) -> None:
        try:
            self._env = lmdb.open(
                str(self.path),
                subdir=False,
                map_size=self._map_bytes,
                max_dbs=16,
                max_readers=512,
                mode=0o600,
                readonly=self._readonly,
            )
            self._make_whole()
            create = not self._readonly
            self._revisions = self._env.open_db(b"key", create=create)
            self._meta = self._env.open_db(b"meta", create=create)
            self._tables = {name: self._env.open_db(name.encode(), create=create) for name in TABLES}
        except lmdb.Error as error:
            raise DatabaseDamaged(f"database {self.path.name}: {error}") from error
        self._env.reader_check()

    def _make_whole(self) -> None:
        """Give the file the length that it says it has: a mapped page that is not there kills the process.

        Pages at the end that were used and freed within one transaction were never written, so a file may be
        shorter than it says and whole. What was cut off a longer one reads as zeros now, and is noticed.
        """
        wanted = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        length = self.path.stat().st_size
        if length < wanted and self._readonly:
            raise DatabaseDamaged(f"database {self.path.name}: {length} bytes long, should be {wanted}")
        if length < wanted:
            os.truncate(self.path, wanted)

    @contextmanager
    def _transaction(self, database: Any = None) -> Iterator[Any]:
        """A read transaction. Raises DatabaseDamaged where the file's pages contradict each other."""
        try:
            with self._env.begin(db=database) as txn:
                yield txn
        except _DAMAGE as error:
            raise DatabaseDamaged(f"database {self.path.name}: {error}") from error

    def unmap(self) -> None:
        """Open the file anew: what was read of it leaves the process's memory, not the page cache. For use
        after everything has been read once, with no transaction open.
        """
        self._env.close()
        self._open()

    def close(self) -> None:
        """Close the file. Nothing is flushed that was not committed."""
        self._env.close()

    # -- reading

    def meta(self) -> Meta:
        """The position stored with the data."""
        with self._transaction(self._meta) as txn:
            return self._read_meta(txn)

    def _read_meta(self, txn: Any) -> Meta:
        values: dict[str, int] = {}
        for name in _META_FIELDS:
            stored = txn.get(name.encode(), db=self._meta)
            if stored is not None:
                values[name] = int.from_bytes(_unseal(name.encode(), stored), "big")
        return Meta(**values)

    def get(self, at: int) -> bytes | None:
        """The encoded KeyValue of a put."""
        key = to_key(at)
        with self._transaction(self._revisions) as txn:
            sealed = txn.get(key)
        return None if sealed is None else _unseal(key, sealed)

    def get_many(self, revisions: Iterable[int]) -> Iterator[bytes | None]:
        """The encoded KeyValues of several puts, from one consistent state."""
        with self._transaction(self._revisions) as txn:
            for each in revisions:
                key = to_key(each)
                sealed = txn.get(key)
                yield None if sealed is None else _unseal(key, sealed)

    def scan(self, start: int) -> Iterator[tuple[Revision, bytes, bool]]:
        """All revisions from `start` on: (revision, KeyValue, is tombstone)."""
        with self._transaction(self._revisions) as txn, txn.cursor() as cursor:
            if not cursor.set_range(to_key(start)):
                return
            for key, sealed in cursor:
                yield from_key(key), _unseal(key, sealed), len(key) > KEY_BYTES

    @contextmanager
    def reading(self) -> Iterator[tuple[Meta, Iterator[tuple[bytes, bytes]]]]:
        """One consistent state, whatever is committed meanwhile: its position, and every revision's key with
        its KeyValue, in order. Raises DatabaseReplaced, DatabaseDamaged.
        """
        try:
            with self._transaction(self._revisions) as txn, txn.cursor() as cursor:
                yield self._read_meta(txn), ((key, _unseal(key, sealed)) for key, sealed in cursor)
        except lmdb.Error as reason:
            raise DatabaseReplaced(str(reason)) from reason

    def rows(self, table: str) -> list[tuple[bytes, bytes]]:
        """A small table."""
        with self._transaction(self._tables[table]) as txn, txn.cursor() as cursor:
            return [(key, _unseal(key, sealed)) for key, sealed in cursor]

    def size(self) -> int:
        """Bytes of the file that are, or once were, in use."""
        return (int(self._env.info()["last_pgno"]) + 1) * int(self._env.stat()["psize"])

    def size_in_use(self) -> int:
        """Bytes of the file that hold data (free pages left out)."""
        total = 0
        with self._env.begin() as txn:
            for database in (None, self._revisions, self._meta, *self._tables.values()):
                stat = self._env.stat() if database is None else txn.stat(database)
                total += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
        return total * int(self._env.stat()["psize"])

    # -- writing

    def commit(self, batch: Batch, meta: Meta) -> None:
        """Make the batch durable: on return it survives a power cut. Runs off the loop."""
        with self._env.begin(write=True) as txn:
            with txn.cursor(db=self._revisions) as cursor:
                for at, (encoded, is_tombstone) in batch.puts.items():
                    key = to_key(at) + TOMBSTONE if is_tombstone else to_key(at)
                    cursor.put(key, _seal(key, encoded), append=False)
            for at, is_tombstone in batch.deletes:
                txn.delete(to_key(at) + TOMBSTONE if is_tombstone else to_key(at), db=self._revisions)
            for (table, row), value in batch.rows.items():
                if value is None:
                    txn.delete(row, db=self._tables[table])
                else:
                    txn.put(row, _seal(row, value), db=self._tables[table])
            for name in _META_FIELDS:
                value = int(getattr(meta, name)).to_bytes(8, "big")
                txn.put(name.encode(), _seal(name.encode(), value), db=self._meta)

    def copy_compacted(self, target: Path) -> None:
        """Write a copy without free pages. Runs off the loop, while nothing commits."""
        target.unlink(missing_ok=True)
        target.touch(mode=0o600)
        with target.open("r+b") as copy:
            self._env.copyfd(copy.fileno(), compact=True)
            os.fsync(copy.fileno())

    def replace_by(self, source: Path) -> None:
        """Make `source` this database, atomically: a crash leaves the old file or the new one."""
        self._env.close()
        source.replace(self.path)
        sync_directory(self.path.parent)
        self._open()

    # -- snapshots

    def snapshot(self) -> tuple[Meta, Iterator[bytes]]:
        """A consistent copy as a stream: the state at the returned Meta, whatever is committed meanwhile."""
        txn = self._env.begin()
        return self._read_meta(txn), _snapshot_chunks(txn, self._databases())

    def snapshot_bytes(self) -> int:
        """The exact length of a snapshot taken now."""
        with self._env.begin() as txn:
            length = sum(len(record) for record in _records(txn, self._databases())) + len(_SNAPSHOT_MAGIC)
        return length + -length % _SECTOR + hashlib.sha256().digest_size

    def _databases(self) -> list[tuple[bytes, Any]]:
        named = [(name.encode(), database) for name, database in self._tables.items()]
        return [(b"key", self._revisions), (b"meta", self._meta), *named]

    def install(self, chunks: Iterator[bytes]) -> None:
        """Replace everything by a snapshot; durable on return. Raises DatabaseDamaged and keeps the old state
        when the stream is not a whole snapshot.
        """
        fresh = self.path.with_name(self.path.name + ".tmp")
        fresh.unlink(missing_ok=True)
        target = lmdb.open(
            str(fresh), subdir=False, map_size=self._map_bytes, max_dbs=16, lock=False, mode=0o600
        )
        try:
            _load_snapshot(target, chunks)
        finally:
            target.close()
        self.replace_by(fresh)


def sync_directory(path: Path) -> None:
    """Make renames in a directory durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _records(txn: Any, databases: list[tuple[bytes, Any]]) -> Iterator[bytes]:
    """Database number, key length, value length, key, value; a zero record ends the stream."""
    for number, (_, database) in enumerate(databases, start=1):
        with txn.cursor(db=database) as cursor:
            for key, value in cursor:
                lengths = len(key).to_bytes(2, "big") + len(value).to_bytes(4, "big")
                yield b"".join((bytes((number,)), lengths, key, value))
    yield b"\0"


def _snapshot_chunks(txn: Any, databases: list[tuple[bytes, Any]]) -> Iterator[bytes]:
    digest, buffer, length = hashlib.sha256(), bytearray(_SNAPSHOT_MAGIC), 0
    try:
        for record in _records(txn, databases):
            buffer += record
            if len(buffer) >= _CHUNK_BYTES:
                digest.update(buffer)
                length += len(buffer)
                yield bytes(buffer)
                buffer.clear()
        buffer += bytes(-(length + len(buffer)) % _SECTOR)
        digest.update(buffer)
        yield bytes(buffer) + digest.digest()
    finally:
        txn.abort()


class _Reader:
    """Reads exact counts from a stream of chunks, hashing all but the trailing digest."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._buffer = bytearray()
        self._position = 0
        self.digest = hashlib.sha256()

    def take(self, count: int) -> bytes:
        while len(self._buffer) - self._position < count:
            self._refill()
        taken = bytes(self._buffer[self._position : self._position + count])
        self._position += count
        return taken

    def _refill(self) -> None:
        self.digest.update(self._buffer[: self._position])
        del self._buffer[: self._position]
        self._position = 0
        more = next(self._chunks, None)
        if more is None:
            raise DatabaseDamaged("snapshot: the stream ends early")
        self._buffer += more

    def verify(self) -> None:
        """Check the padding and the digest that follow the last record."""
        rest = self._buffer[self._position :] + b"".join(self._chunks)
        size = self.digest.digest_size
        self.digest.update(self._buffer[: self._position])
        self.digest.update(rest[:-size])
        if (
            len(rest) - size not in range(_SECTOR)
            or any(rest[:-size])
            or rest[-size:] != self.digest.digest()
        ):
            raise DatabaseDamaged("snapshot: checksum mismatch")


def _load_snapshot(target: Any, chunks: Iterator[bytes]) -> None:
    reader = _Reader(chunks)
    if reader.take(len(_SNAPSHOT_MAGIC)) != _SNAPSHOT_MAGIC:
        raise DatabaseDamaged("snapshot: not a snapshot of this version")
    names = [b"key", b"meta", *(name.encode() for name in TABLES)]
    databases = [target.open_db(name) for name in names]
    with target.begin(write=True) as txn:
        while number := reader.take(1)[0]:
            if number > len(databases):
                raise DatabaseDamaged(f"snapshot: unknown table {number}")
            lengths = reader.take(6)
            key = reader.take(int.from_bytes(lengths[:2], "big"))
            value = reader.take(int.from_bytes(lengths[2:], "big"))
            _unseal(key, value)
            txn.put(key, value, db=databases[number - 1])
        reader.verify()
