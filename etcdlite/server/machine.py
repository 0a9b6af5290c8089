"""The replicated state machine: log entries in, revisions, leases and alarms out.

`apply` is a function of the log alone, so all members agree. It only changes memory; `run` flushes to the
database in the background, applied index and data together, and consensus keeps the log above `durable_index`
until then. After a crash the entries above the flushed index are applied again, on exactly the state they met
the first time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from etcdlite.auth import apply as auth_apply
from etcdlite.auth import guard
from etcdlite.auth.store import AuthStore
from etcdlite.consensus.statemachine import Entry, SnapshotSource
from etcdlite.lease.lessor import Lease, Lessor
from etcdlite.mvcc import txn, wire
from etcdlite.mvcc.backend import Backend
from etcdlite.mvcc.errors import CorruptionAlarm, NoSpace, StoreError
from etcdlite.mvcc.store import Changes, Store
from etcdlite.mvcc.watch import WatchHub
from etcdlite.pb import internal_pb2
from etcdlite.pb import rpc_pb2 as rpc

log = logging.getLogger(__name__)

FLUSH_INTERVAL: Final = 0.25  # seconds between two commits under load
FLUSH_AT: Final = 10_000  # changes that bring the next commit forward
COMPACT_KEYS: Final = 256  # keys compacted between two turns of the loop


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a request: the store's revision after it, and its answer (no header) or its error."""

    revision: int
    body: bytes = b""
    error: StoreError | None = None


class Machine:
    """Implements consensus.statemachine.StateMachine over the store."""

    def __init__(
        self,
        path: Path,
        *,
        quota_bytes: int,
        minimum_lease_ttl: int,
        on_applied: Callable[[int, Applied], None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the database at `path` and load it. `on_applied` gets each request's id and outcome."""
        self.quota_bytes = quota_bytes
        self.monotonic = monotonic
        self._on_applied = on_applied
        self.backend = Backend(path, map_bytes=2 * quota_bytes + (1 << 30))
        self.lessor = Lessor(minimum_lease_ttl)
        self.hub = WatchHub()
        self.alarms: set[tuple[int, int]] = set()
        self.auth = AuthStore(lambda table, row, value: self.store.put_row(table, row, value))
        self._index = 0  # of the entry being applied
        self._load_tables()
        self.store = Store(self.backend, self.lessor, self._changed)
        self._dirty, self._full, self._compacting = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._flushing = asyncio.Lock()
        self._compacted = asyncio.Condition()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="store-flush")
        self.unsynced = asyncio.Event()  # watchers have fallen behind, or have begun in the past
        self.refused_for_space = asyncio.Event()  # a request found no room: time for the alarm
        self._used_bytes = self.backend.size_in_use()  # when last flushed
        self.counts = {"put": 0, "txn": 0, "delete": 0}  # applied since the start, for metrics
        self.leader_changes = 0

    def _load_tables(self) -> None:
        self.lessor.clear()
        leases = (
            (
                int.from_bytes(k, "big", signed=True),
                int.from_bytes(v[:8], "big"),
                int.from_bytes(v[8:], "big"),
            )
            for k, v in self.backend.rows("lease")
        )
        self.lessor.restore(leases, self.monotonic())
        self.alarms = {(int.from_bytes(key[:8], "big"), key[8]) for key, _ in self.backend.rows("alarm")}
        self.auth.restore(self.backend.rows)

    # -- consensus.statemachine.StateMachine

    @property
    def applied_index(self) -> int:
        """Index of the last applied entry."""
        return self.store.applied_index

    @property
    def durable_index(self) -> int:
        """Index up to which the database on disk has everything."""
        return self.store.durable_index

    def apply(self, entries: Sequence[Entry]) -> None:
        """Apply committed entries in order; those applied before are skipped."""
        for entry in entries:
            if entry.index <= self.store.applied_index:
                continue
            if entry.data:
                self._index = entry.index
                self._apply_one(internal_pb2.InternalRaftRequest.FromString(entry.data))
            self.store.applied(entry.index, entry.term)
        self._dirty.set()
        if self.store.pending >= FLUSH_AT:
            self._full.set()

    def snapshot_reader(self) -> SnapshotSource:
        """The state as last flushed: its index may be below `applied_index`, never below `durable_index`."""
        meta, chunks = self.backend.snapshot()
        return SnapshotSource(meta.applied_index, meta.applied_term, chunks)

    def install_snapshot(self, index: int, term: int, chunks: Iterator[bytes]) -> None:
        """Replace everything; durable on return. Watchers go on from where they were, through history."""
        seen = self.store.revision
        self.backend.install(chunks)
        self._load_tables()
        self.store.load()
        if self.store.applied_index < index:
            self.store.applied(index, term)
        self.hub.restart(seen)
        self.unsynced.set()
        self._dirty.set()

    # -- one request

    def _apply_one(self, request: internal_pb2.InternalRaftRequest) -> None:
        kind = request.WhichOneof("request")
        try:
            body = self._dispatch(kind, request)
            outcome = Applied(self.store.revision, body)
        except StoreError as error:
            outcome = Applied(self.store.revision, error=error)
        self._on_applied(request.id, outcome)

    def _dispatch(self, kind: str | None, request: internal_pb2.InternalRaftRequest) -> bytes:
        if kind != "alarm" and self.has_alarm(rpc.CORRUPT):
            raise CorruptionAlarm
        guard.check_applied(self.auth, kind, request, self.lessor.keys_of)
        if kind is not None and kind.startswith("auth"):
            auth_apply.apply(self.auth, kind, request, self.monotonic())
            return b""
        match kind:
            case "put":
                return self._put(request.put)
            case "txn":
                return self._txn(request.txn)
            case "delete_range":
                self.counts["delete"] += 1
                with self.store.write() as write:
                    return txn.apply_delete(write, request.delete_range)
            case "compaction":
                self.store.compact(request.compaction.revision)
                self._compacting.set()
                return b""
            case "lease_grant":
                return self._grant(request.lease_grant)
            case "lease_revoke":
                return self._revoke(request.lease_revoke.ID, request)
            case "lease_checkpoint":
                return self._renew(request.lease_checkpoint.checkpoints[0].ID)
            case "alarm":
                return self._alarm(request.alarm)
        raise RuntimeError(f"the log holds a request this version does not know: {kind}")

    def _put(self, request: rpc.PutRequest) -> bytes:
        self._refuse_without_space()
        self.counts["put"] += 1
        txn.check_put(self.store.view(), self.lessor, request)
        with self.store.write() as write:
            return txn.apply_put(write, request)

    def _txn(self, request: rpc.TxnRequest) -> bytes:
        self.counts["txn"] += 1
        if self.alarms and txn.may_put(request):
            self._refuse_without_space()
        view = self.store.view()
        branch = txn.decide(view, request)
        txn.check_branch(view, self.lessor, branch)
        with self.store.write() as write:
            return txn.apply_branch(write, branch)

    def _grant(self, request: rpc.LeaseGrantRequest) -> bytes:
        self._refuse_without_space()
        lease = self.lessor.grant(request.ID, request.TTL, self.monotonic(), self._index)
        self._keep(lease)
        return wire.number(2, lease.id) + wire.number(3, lease.ttl)

    def _revoke(self, id: int, request: internal_pb2.InternalRaftRequest) -> bytes:
        if request.internal and self.lessor.get(id).renewed != request.lease_renewed:
            return b""  # it was renewed after its end had been decided
        keys = self.lessor.revoke(id)
        self.store.put_row("lease", id.to_bytes(8, "big", signed=True), None)
        with self.store.write() as write:
            for key in keys:
                found = write.find(key)
                if found is not None:
                    write.delete(found)
        return b""

    def _renew(self, id: int) -> bytes:
        lease = self.lessor.renew(id, self.monotonic(), self._index)
        self._keep(lease)
        return wire.number(2, id) + wire.number(3, lease.ttl)

    def _keep(self, lease: Lease) -> None:
        """All that members must agree on of a lease goes to the database."""
        row = lease.ttl.to_bytes(8, "big") + lease.renewed.to_bytes(8, "big")
        self.store.put_row("lease", lease.id.to_bytes(8, "big", signed=True), row)

    def _alarm(self, request: rpc.AlarmRequest) -> bytes:
        wanted = {(request.memberID, int(request.alarm))}
        if request.action == rpc.AlarmRequest.ACTIVATE:
            self.alarms |= wanted
            changed = wanted
        else:
            changed = {
                (member, alarm)
                for member, alarm in self.alarms
                if request.memberID in (0, member) and request.alarm in (rpc.NONE, alarm)
            }
            self.alarms -= changed
        for member, alarm in changed:
            row = member.to_bytes(8, "big") + bytes((alarm,))
            self.store.put_row("alarm", row, b"" if (member, alarm) in self.alarms else None)
        members = [rpc.AlarmMember(memberID=m, alarm=rpc.AlarmType.Name(a)) for m, a in sorted(changed)]
        return rpc.AlarmResponse(alarms=members).SerializeToString()

    def has_alarm(self, alarm: int) -> bool:
        """Whether any member has raised it."""
        return bool(self.alarms) and any(raised == alarm for _, raised in self.alarms)

    def has_space(self, cost: int) -> bool:
        """Whether `cost` bytes more keep this member's database within its quota."""
        return self._used_bytes + self.store.pending_bytes + cost <= self.quota_bytes

    def _refuse_without_space(self) -> None:
        if self.has_alarm(rpc.NOSPACE):
            raise NoSpace

    def _changed(self, changes: Changes) -> None:
        if self.hub.notify(self.store, changes):
            self.unsynced.set()

    # -- the background

    async def run(self) -> None:
        """Flush and compact until cancelled; what is applied by then is flushed before this returns."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._flush_forever(), name="flush")
                tasks.create_task(self._compact_forever(), name="compact")
        finally:
            self._executor.shutdown(wait=True)
            self._flush_now()
            self.backend.close()

    async def _flush_forever(self) -> None:
        while True:
            await self._dirty.wait()
            try:
                async with asyncio.timeout(FLUSH_INTERVAL):
                    await self._full.wait()
            except TimeoutError:
                pass
            await self.flush()

    async def flush(self) -> None:
        """Make everything applied so far durable in the database."""
        async with self._flushing:
            self._dirty.clear()
            self._full.clear()
            taken = self.store.begin_flush()
            if taken is None:
                return
            loop = asyncio.get_running_loop()
            await asyncio.shield(loop.run_in_executor(self._executor, self.backend.commit, *taken))
            self.store.end_flush(taken[1])
            self._used_bytes = self.backend.size_in_use()

    def _flush_now(self) -> None:
        taken = self.store.begin_flush()
        if taken is not None:
            self.backend.commit(*taken)
            self.store.end_flush(taken[1])

    async def _compact_forever(self) -> None:
        if self.store.compacting:
            self._compacting.set()
        while True:
            await self._compacting.wait()
            self._compacting.clear()
            while self.store.compact_some(COMPACT_KEYS):
                self._dirty.set()
                await asyncio.sleep(0)
            async with self._compacted:
                self._compacted.notify_all()

    async def wait_compacted(self) -> None:
        """Wait until compaction has deleted what it can and that is durable."""
        async with self._compacted:
            await self._compacted.wait_for(lambda: not self.store.compacting)
        await self.flush()

    async def defragment(self) -> None:
        """Rewrite the database file without its free pages. Applying goes on meanwhile, flushing does not."""
        await self.flush()
        target = self.backend.path.with_name(self.backend.path.name + ".tmp")
        async with self._flushing:
            loop = asyncio.get_running_loop()
            await asyncio.shield(loop.run_in_executor(self._executor, self.backend.copy_compacted, target))
            self.backend.replace_by(target)
            self._used_bytes = self.backend.size_in_use()
