"""The store: index in memory, values in the database, and between them the changes not yet flushed.

Writes go to a buffer and are visible at once; `flush` makes them durable in batches, off the loop. Durability
of an acknowledged write is the log's business meanwhile: `durable` says from which index the log must be
kept.

Reading looks into the open buffer, then into the batch being flushed, then into the database. A batch leaves
memory only after its commit, so every value is always in at least one of the three.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from etcdlite.mvcc.backend import Backend, Batch, Meta
from etcdlite.mvcc.errors import Compacted, DatabaseDamaged, FutureRevision
from etcdlite.mvcc.index import Found, Life, TreeIndex
from etcdlite.mvcc.revision import Revision, last_of, main_of, revision
from etcdlite.pb import kv_pb2


class LeaseBook(Protocol):
    """What the store tells the lessor: which keys live as long as which lease."""

    def attach(self, lease: int, key: bytes) -> None:
        """The key now belongs to this lease."""

    def release(self, key: bytes) -> None:
        """The key belongs to no lease (any more)."""


class Change(NamedTuple):
    """One key's change inside a revision. `encoded` is a KeyValue; after a delete it has key and mod_revision
    only.
    """

    at: Revision
    key: bytes
    encoded: bytes
    is_delete: bool


@dataclass(frozen=True, slots=True)
class Changes:
    """All changes of one main revision, in order."""

    revision: int
    changes: Sequence[Change] = field(repr=False)


class View:
    """The store at one revision; what reading needs and nothing else."""

    def __init__(self, store: Store, main: int) -> None:
        self._store = store
        self.main = main
        self._at = last_of(main)

    def find(self, key: bytes) -> Found | None:
        """One key, without its value."""
        return self._store.index.get(key, self._at)

    def scan(self, key: bytes, range_end: bytes) -> Iterator[Found]:
        """The keys of a range in order, without their values."""
        return self._store.index.scan(key, range_end, self._at)

    def count(self, key: bytes, range_end: bytes) -> int:
        """How many keys a range has."""
        return self._store.index.count(key, range_end, self._at)

    def value(self, found: Found) -> bytes:
        """The encoded KeyValue of a found key."""
        return self._store.value(found.modified)

    def values(self, found: Sequence[Found]) -> list[bytes]:
        """The encoded KeyValues of many."""
        return self._store.values([each.modified for each in found])

    def at(self, main: int) -> View:
        """The store at another revision; 0 is this view itself. Raises Compacted, FutureRevision."""
        if main == 0:
            return self
        self.check(main)
        return View(self._store, main)

    def check(self, main: int) -> None:
        """Whether revision `main` can be read. Raises Compacted, FutureRevision."""
        if main > self._store.revision:
            raise FutureRevision
        if 0 < main < self._store.compacted:
            raise Compacted


class Write(View):
    """A write transaction; its own changes are visible to it. Nothing it does can fail half-way: what may be
    refused is checked before the first change.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store, store.revision + 1)
        self._leases = store.leases
        self.changes: list[Change] = []

    @property
    def visible_revision(self) -> int:
        """The store's revision as this transaction leaves it, so far."""
        return self.main if self.changes else self.main - 1

    def put(self, key: bytes, value: bytes, lease: int) -> None:
        """Set a key."""
        at = revision(self.main, len(self.changes))
        self._leases.release(key)
        created, version = self._store.index.put(key, at)
        encoded = kv_pb2.KeyValue(
            key=key,
            value=value,
            create_revision=created,
            mod_revision=self.main,
            version=version,
            lease=lease,
        ).SerializeToString()
        self._record(Change(at, key, encoded, False))
        if lease:
            self._leases.attach(lease, key)

    def delete(self, found: Found) -> None:
        """Delete a key that exists."""
        at = revision(self.main, len(self.changes))
        self._leases.release(found.key)
        self._store.index.tombstone(found.key, at)
        encoded = kv_pb2.KeyValue(key=found.key, mod_revision=self.main).SerializeToString()
        self._record(Change(at, found.key, encoded, True))

    def _record(self, change: Change) -> None:
        self.changes.append(change)
        self._store.record(change)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.changes:
            self._store.finish(Changes(self.main, tuple(self.changes)))


@contextmanager
def _no_collections() -> Iterator[None]:
    """While an index is built all objects stay; the collector would walk them again and again, in vain."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Compaction:
    """A compaction under way: the keys that were there when it began, taken a few at a time."""

    def __init__(self, main: int, keys: list[bytes]) -> None:
        self.main = main
        self._keys = keys
        self._position = 0

    def next(self, count: int) -> list[bytes]:
        """The next keys; empty at the end."""
        taken = self._keys[self._position : self._position + count]
        self._position += count
        return taken


class Store:
    """The key space of one member. All methods run on the loop's thread; only `backend.commit` does not."""

    def __init__(self, backend: Backend, leases: LeaseBook, on_changes: Callable[[Changes], None]) -> None:
        """Build the index from the database. Raises DatabaseDamaged."""
        self.backend = backend
        self.leases = leases
        self._on_changes = on_changes
        self.load()

    def load(self) -> None:
        """(Re)build everything in memory from the database, which has just been opened or replaced."""
        meta = self.backend.meta()
        self.index = TreeIndex()
        self.revision, self.compacted = meta.revision, meta.compacted
        self.applied_index, self.applied_term = meta.applied_index, meta.applied_term
        self.durable_index = meta.applied_index
        self._compacted_physically = meta.compacted_physically
        self._open, self._flushing, self._dirty, self._begun = Batch(), Batch(), False, False
        self.pending_bytes = self._flushing_bytes = 0  # of values that are not in the database yet
        with _no_collections():
            self.index.restore(self._stored())
        self.backend.unmap()
        self._compaction: Compaction | None = None
        if self._compacted_physically < self.compacted:
            self._compaction = Compaction(self.compacted, self.index.keys())

    def _stored(self) -> Iterator[tuple[Revision, bytes, Life | None]]:
        """What the database has, for the index; the lessor is told of attachments on the way."""
        head, leased = last_of(self.revision), set[bytes]()
        for at, encoded, is_tombstone in self.backend.scan(0):
            if at > head:
                raise DatabaseDamaged(f"database: revision {main_of(at)} is above its head {self.revision}")
            kv = kv_pb2.KeyValue.FromString(encoded)
            key = kv.key
            if key in leased:
                self.leases.release(key)
                leased.discard(key)
            if kv.lease:
                self.leases.attach(kv.lease, key)
                leased.add(key)
            yield at, key, None if is_tombstone else Life(kv.create_revision, kv.version)

    # -- reading

    def view(self) -> View:
        """The store as it is now."""
        return View(self, self.revision)

    def value(self, at: Revision) -> bytes:
        """The encoded KeyValue put at a revision that the index knows."""
        held = self._open.puts.get(at) or self._flushing.puts.get(at)
        encoded = held[0] if held is not None else self.backend.get(at)
        if encoded is None:
            raise DatabaseDamaged(f"database: revision {main_of(at)} of the index has no value")
        return encoded

    def values(self, revisions: Sequence[Revision]) -> list[bytes]:
        """The same for many, with one look into the database."""
        found: dict[int, bytes] = {}
        missing: list[Revision] = []
        for at in revisions:
            held = self._open.puts.get(at) or self._flushing.puts.get(at)
            if held is None:
                missing.append(at)
            else:
                found[at] = held[0]
        for at, encoded in zip(missing, self.backend.get_many(missing), strict=True) if missing else ():
            if encoded is None:
                raise DatabaseDamaged(f"database: revision {main_of(at)} of the index has no value")
            found[at] = encoded
        return [found[at] for at in revisions]

    def history(self, start: int, limit: int) -> list[Changes]:
        """What happened from main revision `start` on: whole revisions, at least one if there is any, and no
        more than begin within the first `limit` changes. `start` must not be below `compacted`.
        """
        out: list[Changes] = []
        count = 0
        for main, group in groupby(self._scan(revision(start)), key=lambda change: main_of(change.at)):
            if count >= limit:
                break
            changes = tuple(group)
            count += len(changes)
            out.append(Changes(main, changes))
        return out

    def _scan(self, start: Revision) -> Iterator[Change]:
        last: int = start - 1
        for at, encoded, is_tombstone in self.backend.scan(start):
            last = at
            yield Change(at, kv_pb2.KeyValue.FromString(encoded).key, encoded, is_tombstone)
        for batch in (self._flushing, self._open):
            for buffered, (encoded, is_tombstone) in batch.puts.items():
                if buffered > last:
                    last = buffered
                    yield Change(
                        Revision(buffered), kv_pb2.KeyValue.FromString(encoded).key, encoded, is_tombstone
                    )

    def previous(self, change: Change) -> bytes | None:
        """The KeyValue that a change replaced, None if there was none or it is compacted."""
        before = main_of(change.at) - 1
        if before < self.compacted:
            return None
        found = self.index.get(change.key, last_of(before))
        return None if found is None else self.value(found.modified)

    # -- writing

    def write(self) -> Write:
        """Begin a write transaction; leaving its `with` block makes a revision, if anything changed."""
        return Write(self)

    def record(self, change: Change) -> None:
        """Keep one change for the next flush."""
        self._open.puts[change.at] = (change.encoded, change.is_delete)
        self.pending_bytes += len(change.encoded)

    def finish(self, changes: Changes) -> None:
        """A write transaction is complete."""
        self.revision = changes.revision
        self._dirty = True
        self._on_changes(changes)

    def put_row(self, table: str, row: bytes, value: bytes | None) -> None:
        """Set or (None) delete a row of a small table."""
        self._open.rows[table, row] = value
        self._dirty = True

    def applied(self, index: int, term: int) -> None:
        """Everything up to this entry of the log is in."""
        self.applied_index, self.applied_term = index, term
        self._dirty = True

    # -- compaction

    def compact(self, main: int) -> None:
        """Refuse reads below `main` from now on; `compact_some` deletes what they needed. Raises Compacted,
        FutureRevision.
        """
        if main <= self.compacted:
            raise Compacted
        if main > self.revision:
            raise FutureRevision
        self.compacted = main
        self._compaction = Compaction(main, self.index.keys())
        self._dirty = True

    def compact_some(self, keys: int) -> bool:
        """Do a part of the work; return whether there is more."""
        run = self._compaction
        if run is None:
            return False
        taken = run.next(keys)
        for key in taken:
            for at, is_tombstone in self.index.compact_key(key, run.main):
                if self._open.puts.pop(at, None) is None:
                    self._open.deletes.append((at, is_tombstone))
        if not taken:
            self._compacted_physically, self._compaction = run.main, None
        self._dirty = True
        return bool(taken)

    @property
    def compacting(self) -> bool:
        """Whether `compact_some` has work."""
        return self._compaction is not None

    # -- flushing

    @property
    def pending(self) -> int:
        """Changes that wait for the next flush."""
        return len(self._open.puts) + len(self._open.deletes) + len(self._open.rows)

    def begin_flush(self) -> tuple[Batch, Meta] | None:
        """What `backend.commit` should make durable now; None if nothing is new. One flush at a time.

        A flush that was begun and has not ended is part of this one: nobody knows if the file has it, but the
        applied index that goes with this batch says so. (To write it twice changes nothing.)
        """
        if not self._dirty and not self._begun:
            return None
        self._flushing, self._open = self._flushing.then(self._open), Batch()
        self._dirty, self._begun = False, True
        self._flushing_bytes = self.pending_bytes
        return self._flushing, Meta(
            applied_index=self.applied_index,
            applied_term=self.applied_term,
            revision=self.revision,
            compacted=self.compacted,
            compacted_physically=self._compacted_physically,
        )

    def end_flush(self, meta: Meta) -> None:
        """The commit has returned."""
        self._flushing, self._begun = Batch(), False
        self.pending_bytes -= self._flushing_bytes
        self.durable_index = meta.applied_index
