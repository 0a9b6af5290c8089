"""The store on etcd v3: keys below /registry/, every write a compare-and-swap transaction on the key's mod
revision.

A write whose answer is lost is never repeated blindly: see `_swap`. What stays unknown is reported as such,
and the client sees a 504.

The watch covers every key, not only /registry/: then every revision the store makes reaches this server as
an event, and the cache's progress needs no protocol beyond the watch itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from apiserver.storage.interface import (
    PREFIX,
    Batch,
    Change,
    Compacted,
    FutureRevision,
    KeyExists,
    Page,
    RevisionMismatch,
    StorageError,
    Stored,
    Unavailable,
    Undecodable,
    WriteOutcomeUnknown,
)
from apiserver.storage.transform import PLAIN, Transformer
from etcdlite import client as etcd
from etcdlite.pb import kv_pb2, rpc_pb2

T = TypeVar("T")

DEADLINE = 10.0
ATTEMPT = 3.0
RETRY_PAUSE = 0.05
LEASE_REUSE_SECONDS = 60.0
SHARED_LEASE_TTL = 300
ALL_KEYS = b"\0"
COMPACT_KEY = b"compact_rev_key"


class EtcdStore:
    """`transformer_of` gives the encryption of a storage key; `clock` (seconds, monotonic) ages event
    leases.
    """

    def __init__(
        self,
        client: etcd.EtcdClient,
        transformer_of: Callable[[str], Transformer],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._transformer_of = transformer_of
        self._clock = clock
        self._leases: dict[int, tuple[int, float]] = {}

    async def current_revision(self) -> int:
        answer = await self._read(self._client.range(PREFIX.encode(), count_only=True))
        return int(answer.header.revision)

    async def get(self, key: str, *, revision: int = 0) -> tuple[Stored | None, int]:
        answer = await self._read(self._client.range(key.encode(), revision=revision))
        found = self._open(answer.kvs[0]) if answer.kvs else None
        return found, revision or int(answer.header.revision)

    async def is_stale(self, key: str) -> bool:
        transformer = self._transformer_of(key)
        if transformer is PLAIN:
            return False
        answer = await self._read(self._client.range(key.encode()))
        return bool(answer.kvs) and transformer.is_stale(bytes(answer.kvs[0].value))

    async def list(self, prefix: str, *, start: str = "", limit: int = 0, revision: int = 0) -> Page:
        request = self._client.range(
            (start or prefix).encode(), prefix_end(prefix.encode()), limit=limit, revision=revision
        )
        answer = await self._read(request)
        items = [self._open(kv) for kv in answer.kvs]
        return Page(items, revision or int(answer.header.revision), int(answer.count))

    async def create(self, key: str, value: bytes, *, ttl: int = 0) -> Stored:
        sealed = self._transformer_of(key).to_storage(key, value)
        lease = await self._lease(ttl) if ttl else 0
        put = etcd.op_put(key.encode(), sealed, lease=lease)
        answer = await self._swap(key, 0, put, sealed)
        if isinstance(answer, RevisionMismatch):
            raise KeyExists(key)
        return Stored(key, value, answer.revision)

    async def update(self, key: str, value: bytes, expected: int, *, ttl: int = 0) -> Stored:
        sealed = self._transformer_of(key).to_storage(key, value)
        lease = await self._lease(ttl) if ttl else 0
        answer = await self._swap(key, expected, etcd.op_put(key.encode(), sealed, lease=lease), sealed)
        if isinstance(answer, RevisionMismatch):
            raise answer
        return Stored(key, value, answer.revision)

    async def delete(self, key: str, expected: int) -> int:
        answer = await self._swap(key, expected, etcd.op_delete(key.encode()), None)
        if isinstance(answer, RevisionMismatch):
            raise answer
        return answer.revision

    async def watch(self, start: int) -> AsyncIterator[Batch]:
        try:
            async with self._client.watch(ALL_KEYS, ALL_KEYS, start_revision=start, prev_kv=False) as batches:
                async for batch in batches:
                    if batch.compacted:
                        raise Compacted(batch.compacted)
                    # The revision in the header may be ahead of the events delivered so far; theirs never is.
                    if batch.events:
                        changes = [self._change(event) for event in batch.events]
                        yield Batch(changes[-1].revision, changes)
        except etcd.EtcdError as error:
            raise translate(error) from error

    async def compact(self, revision: int) -> None:
        """Let the store forget history up to `revision`; done already is as good."""
        with contextlib.suppress(Compacted):
            await self._read(self._client.compact(revision))

    async def compaction_turn(self, seen_turn: int) -> tuple[int, int]:
        """Try to take the turn after `seen_turn`; the newest turn and the store's revision
        (storage/compactor.py).
        """
        revision = str(await self.current_revision()).encode()
        answer = await self._read(
            self._client.txn(
                [etcd.compare_version(COMPACT_KEY, seen_turn)],
                [etcd.op_put(COMPACT_KEY, revision)],
                [etcd.op_get(COMPACT_KEY)],
            )
        )
        if answer.succeeded:
            return seen_turn + 1, int(revision)
        return int(answer.responses[0].response_range.kvs[0].version), int(revision)

    async def _read(self, request: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(DEADLINE):
                return await request
        except TimeoutError:
            raise Unavailable("the store did not answer in time") from None
        except etcd.EtcdError as error:
            raise translate(error) from error

    async def _swap(
        self, key: str, expected: int, change: rpc_pb2.RequestOp, sealed: bytes | None
    ) -> Stored | RevisionMismatch:
        """Make one change if the key is still at `expected`; else what is there now.

        `sealed` is what a put writes (None: a deletion). When an answer is lost, the same swap is sent
        again: at most one of several equal swaps succeeds, and a later one that fails shows what the
        earlier one left. Only after such a loss does finding our own outcome mean that it is ours; two
        writers may well write equal bytes.
        """
        raw = key.encode()
        compare, otherwise = [etcd.compare_mod(raw, expected)], [etcd.op_get(raw)]
        deadline, lost = self._clock() + DEADLINE, False
        while True:
            try:
                timeout = max(min(ATTEMPT, deadline - self._clock()), 0.1)
                answer = await self._client.txn(compare, [change], otherwise, timeout=timeout)
            except etcd.OutcomeUnknown as error:
                lost = True
                if self._clock() >= deadline:
                    raise WriteOutcomeUnknown(f"the write of {key}: {error}") from None
                await asyncio.sleep(RETRY_PAUSE)
                continue
            except etcd.EtcdError as error:
                if lost:
                    raise WriteOutcomeUnknown(f"the write of {key}: {error}") from None
                raise translate(error) from error
            if answer.succeeded:
                return Stored(key, b"", int(answer.header.revision))
            kvs = answer.responses[0].response_range.kvs
            found = kvs[0] if kvs else None
            if lost and _is_outcome(found, sealed, expected):
                return Stored(key, b"", int(found.mod_revision if found else answer.header.revision))
            return RevisionMismatch(self._open(found) if found else None)

    async def _lease(self, ttl: int) -> int:
        """A lease for keys that expire; long-lived keys written within a minute share one, which lives that
        much longer.
        """
        if ttl < SHARED_LEASE_TTL:
            return int((await self._read(self._client.lease_grant(ttl))).ID)
        now = self._clock()
        lease, made = self._leases.get(ttl, (0, 0.0))
        if not lease or now - made > LEASE_REUSE_SECONDS:
            answer = await self._read(self._client.lease_grant(ttl + int(LEASE_REUSE_SECONDS)))
            lease = int(answer.ID)
            self._leases[ttl] = (lease, now)
        return lease

    def _open(self, kv: kv_pb2.KeyValue) -> Stored:
        key = kv.key.decode()
        return Stored(key, self._transformer_of(key).from_storage(key, kv.value), int(kv.mod_revision))

    def _change(self, event: kv_pb2.Event) -> Change:
        key = event.kv.key.decode(errors="replace")
        revision = int(event.kv.mod_revision)
        if event.type == kv_pb2.Event.DELETE or not key.startswith(PREFIX):
            return Change(key, None, revision)
        try:
            return Change(key, self._transformer_of(key).from_storage(key, event.kv.value), revision)
        except Undecodable:
            return Change(key, b"", revision)


def _is_outcome(found: kv_pb2.KeyValue | None, sealed: bytes | None, expected: int) -> bool:
    """Whether the key looks as our change would have left it."""
    if found is None or sealed is None:
        return found is None and sealed is None
    return found.value == sealed and found.mod_revision > expected


def prefix_end(prefix: bytes) -> bytes:
    """The first key after everything that starts with `prefix` (which must not end in 0xff)."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def translate(error: etcd.EtcdError) -> StorageError:
    """The one map from the client's errors to the store's."""
    if isinstance(error, etcd.Compacted):
        return Compacted(0)
    if isinstance(error, etcd.FutureRevision):
        return FutureRevision(str(error))
    if isinstance(error, etcd.OutcomeUnknown):
        return WriteOutcomeUnknown(str(error))
    return Unavailable(str(error))
