"""Services Election and Lock: who comes first below a key prefix holds it, the others wait in line.

A contender's key is `<name>/<lease in hex>`; the one with the lowest create revision holds the lock or leads.
Each waits for the key just before its own to be deleted, so nobody wakes in vain (etcd's client concurrency
package, which its own two services call).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

from etcdlite.mvcc.watch import Delivery, Outbox, Watcher
from etcdlite.pb import kv_pb2
from etcdlite.pb import rpc_pb2 as rpc
from etcdlite.pb import v3election_pb2 as election
from etcdlite.pb import v3lock_pb2 as locking
from etcdlite.server import errors
from etcdlite.server.context import Member
from etcdlite.server.kv import KV, Lease

_SESSION_SECONDS: Final = 60  # of the lease made for a request without one
_GIVE_UP_SECONDS: Final = 5.0


class Line:
    """The contenders below a prefix, through this member's own KV service (so its rules and users hold)."""

    def __init__(self, member: Member) -> None:
        self._hub, self._store = member.machine.hub, member.machine
        self.kv, self._lease = KV(member), Lease(member)

    async def session(self, lease: int) -> int:
        """The lease itself, or a new one for 0."""
        if lease:
            return lease
        granted = await self._lease.grant(rpc.LeaseGrantRequest(TTL=_SESSION_SECONDS))
        return rpc.LeaseGrantResponse.FromString(granted).ID

    async def enter(self, name: bytes, lease: int, value: bytes) -> tuple[bytes, int, rpc.TxnResponse]:
        """Stand in line: the key, its create revision, and the answer of the transaction that saw to it."""
        key = b"%s/%x" % (name, lease)
        absent = rpc.Compare(key=key, target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=0)
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease))
        get = rpc.RequestOp(request_range=rpc.RangeRequest(key=key))
        request = rpc.TxnRequest(compare=[absent], success=[put], failure=[get])
        answer = rpc.TxnResponse.FromString(await self.kv.txn(request))
        if answer.succeeded:
            return key, answer.header.revision, answer
        return key, answer.responses[0].response_range.kvs[0].create_revision, answer

    async def wait_turn(self, name: bytes, key: bytes, created: int) -> rpc.RangeResponse:
        """Wait until nobody below the name is older. A caller that goes away leaves the line."""
        prefix = name + b"/"
        before = rpc.RangeRequest(
            key=prefix,
            range_end=_prefix_end(prefix),
            max_create_revision=created - 1,
            sort_order=rpc.RangeRequest.DESCEND,
            sort_target=rpc.RangeRequest.CREATE,
            limit=1,
        )
        try:
            while True:
                found = rpc.RangeResponse.FromString(await self.kv.range(before))
                if not found.kvs:
                    return found
                await self._deleted(found.kvs[0].key, found.header.revision + 1)
        except asyncio.CancelledError:
            async with asyncio.timeout(_GIVE_UP_SECONDS):
                await self.kv.txn(changed_if(key, created, delete_op(key)))
            raise

    async def _deleted(self, key: bytes, start: int) -> None:
        with self.watching(key, b"", start, no_put=True) as (outbox, ready):
            while not outbox.deliveries:
                ready.clear()
                await ready.wait()

    @contextmanager
    def watching(
        self, key: bytes, range_end: bytes, start: int, *, no_put: bool = False
    ) -> Iterator[tuple[Outbox, asyncio.Event]]:
        """A watch of this member's own; the event is set when the outbox stops being empty."""
        ready = asyncio.Event()
        outbox = Outbox(ready.set)
        watcher = Watcher(id=0, key=key, range_end=range_end, next=start, outbox=outbox, no_put=no_put)
        self._hub.add(watcher, self._store.store.revision)
        if not watcher.synced:
            self._store.unsynced.set()
        try:
            yield outbox, ready
        finally:
            self._hub.remove(watcher)


def changed_if(key: bytes, created: int, op: rpc.RequestOp) -> rpc.TxnRequest:
    """Do `op` if the key is still the one created at that revision."""
    same = rpc.Compare(key=key, target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=created)
    return rpc.TxnRequest(compare=[same], success=[op])


def delete_op(key: bytes) -> rpc.RequestOp:
    """Delete one key."""
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))


def _prefix_end(prefix: bytes) -> bytes:
    return prefix[:-1] + bytes((prefix[-1] + 1,))  # prefixes end in "/"


class Election:
    """v3electionpb.Election."""

    def __init__(self, member: Member) -> None:
        self._line = Line(member)

    async def campaign(self, request: election.CampaignRequest) -> bytes:
        """Returns when the caller leads."""
        lease = await self._line.session(request.lease)
        key, created, entered = await self._line.enter(request.name, lease, request.value)
        leader = election.LeaderKey(name=request.name, key=key, rev=created, lease=lease)
        if not entered.succeeded and entered.responses[0].response_range.kvs[0].value != request.value:
            await self._put(leader, request.value)
        await self._line.wait_turn(request.name, key, created)
        return election.CampaignResponse(header=entered.header, leader=leader).SerializeToString()

    async def proclaim(self, request: election.ProclaimRequest) -> bytes:
        """The leader says something else. Raises MissingLeaderKey, NotElected."""
        _check_leader(request)
        header = await self._put(request.leader, request.value)
        return election.ProclaimResponse(header=header).SerializeToString()

    async def _put(self, leader: election.LeaderKey, value: bytes) -> rpc.ResponseHeader:
        put = rpc.RequestOp(request_put=rpc.PutRequest(key=leader.key, value=value, lease=leader.lease))
        answer = await self._line.kv.txn(changed_if(leader.key, leader.rev, put))
        decoded = rpc.TxnResponse.FromString(answer)
        if not decoded.succeeded:
            raise errors.NotElected
        return decoded.header

    async def leader(self, request: election.LeaderRequest) -> bytes:
        """Who leads and what it says. Raises NoElectionLeader."""
        found = await self._first(request.name)
        if not found.kvs:
            raise errors.NoElectionLeader
        return election.LeaderResponse(header=found.header, kv=found.kvs[0]).SerializeToString()

    async def _first(self, name: bytes) -> rpc.RangeResponse:
        prefix = name + b"/"
        request = rpc.RangeRequest(
            key=prefix,
            range_end=_prefix_end(prefix),
            sort_order=rpc.RangeRequest.ASCEND,
            sort_target=rpc.RangeRequest.CREATE,
            limit=1,
        )
        return rpc.RangeResponse.FromString(await self._line.kv.range(request))

    async def observe(self, request: election.LeaderRequest) -> AsyncIterator[bytes]:
        """Everything the leaders say, one after the other."""
        prefix = request.name + b"/"
        said: tuple[bytes, int] | None = None
        revision = (await self._first(request.name)).header.revision
        with self._line.watching(prefix, _prefix_end(prefix), revision + 1) as (outbox, ready):
            while True:
                found = await self._first(request.name)
                if found.kvs and (found.kvs[0].key, found.kvs[0].mod_revision) != said:
                    said = found.kvs[0].key, found.kvs[0].mod_revision
                    yield election.LeaderResponse(header=found.header, kv=found.kvs[0]).SerializeToString()
                while not outbox.deliveries:
                    ready.clear()
                    await ready.wait()
                for update in _values_of(outbox, said):
                    said = update.key, update.mod_revision
                    yield election.LeaderResponse(header=found.header, kv=update).SerializeToString()

    async def resign(self, request: election.ResignRequest) -> bytes:
        """Leave; the next in line leads. Raises MissingLeaderKey."""
        _check_leader(request)
        leader = request.leader
        answer = await self._line.kv.txn(changed_if(leader.key, leader.rev, delete_op(leader.key)))
        header = rpc.TxnResponse.FromString(answer).header
        return election.ResignResponse(header=header).SerializeToString()


def _values_of(outbox: Outbox, leader: tuple[bytes, int] | None) -> Iterator[kv_pb2.KeyValue]:
    """What the present leader has said since, oldest first, so that no proclamation is left out."""
    while outbox.deliveries:
        delivery = outbox.deliveries.popleft()
        if not isinstance(delivery, Delivery):
            continue
        for encoded in delivery.events:
            event = kv_pb2.Event.FromString(encoded)
            if leader is None or event.kv.key != leader[0] or event.type != kv_pb2.Event.PUT:
                continue
            if event.kv.mod_revision > leader[1]:
                yield event.kv


def _check_leader(request: election.ProclaimRequest | election.ResignRequest) -> None:
    if not request.HasField("leader"):
        raise errors.MissingLeaderKey


class Lock:
    """v3lockpb.Lock."""

    def __init__(self, member: Member) -> None:
        self._line = Line(member)

    async def lock(self, request: locking.LockRequest) -> bytes:
        """Returns when the caller holds the lock, until unlock or the lease's end. Raises SessionExpired."""
        lease = await self._line.session(request.lease)
        key, created, _ = await self._line.enter(request.name, lease, b"")
        await self._line.wait_turn(request.name, key, created)
        own = rpc.RangeResponse.FromString(await self._line.kv.range(rpc.RangeRequest(key=key)))
        if not own.kvs or own.kvs[0].create_revision != created:
            raise errors.SessionExpired
        return locking.LockResponse(header=own.header, key=key).SerializeToString()

    async def unlock(self, request: locking.UnlockRequest) -> bytes:
        """Give the lock back."""
        answer = await self._line.kv.delete_range(rpc.DeleteRangeRequest(key=request.key))
        header = rpc.DeleteRangeResponse.FromString(answer).header
        return locking.UnlockResponse(header=header).SerializeToString()
