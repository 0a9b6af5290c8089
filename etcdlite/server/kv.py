"""Services KV and Lease."""

from __future__ import annotations

from collections.abc import AsyncIterator

from etcdlite.auth import guard
from etcdlite.mvcc import txn, wire
from etcdlite.mvcc.errors import CorruptionAlarm, LeaseNotFound
from etcdlite.pb import internal_pb2
from etcdlite.pb import rpc_pb2 as rpc
from etcdlite.server import validate
from etcdlite.server.context import Member

Request = internal_pb2.InternalRaftRequest


class KV:
    """etcdserverpb.KV. Every method takes a message and gives an encoded answer."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._machine = member.machine
        self._requests = member.requests

    async def range(self, request: rpc.RangeRequest) -> bytes:
        """Read; linearizable unless `serializable`."""
        validate.check_range(request)
        if not request.serializable:
            await self._requests.confirm()
        guard.check_range(self._machine.auth, self._member.caller(), request)
        if self._machine.has_alarm(rpc.CORRUPT):
            raise CorruptionAlarm
        view = self._machine.store.view()
        return self._member.header(view.main) + txn.evaluate_range(view, request)

    async def put(self, request: rpc.PutRequest) -> bytes:
        """Set a key."""
        validate.check_put(request)
        self._member.check_space(request.ByteSize())
        return await self._write(Request(put=request))

    async def delete_range(self, request: rpc.DeleteRangeRequest) -> bytes:
        """Delete keys."""
        validate.check_delete(request)
        return await self._write(Request(delete_range=request))

    async def txn(self, request: rpc.TxnRequest) -> bytes:
        """Compare, then do one of two lists of operations. One that cannot change anything stays out of the
        log.
        """
        validate.check_txn(request, self._member.settings.max_txn_ops)
        if not txn.is_read_only(request):
            if txn.may_put(request):
                self._member.check_space(request.ByteSize())
            return await self._write(Request(txn=request))
        if not _all_serializable(request):
            await self._requests.confirm()
        guard.check_txn(self._machine.auth, self._member.caller(), request, self._machine.lessor.keys_of)
        if self._machine.has_alarm(rpc.CORRUPT):
            raise CorruptionAlarm
        with self._machine.store.write() as write:  # sees what is there; changes nothing
            branch = txn.decide(write, request)
            txn.check_branch(write, self._machine.lessor, branch)
            return self._member.header() + txn.apply_branch(write, branch)

    async def compact(self, request: rpc.CompactionRequest) -> bytes:
        """Forget history below a revision."""
        answer = await self._write(Request(compaction=request))
        if request.physical:
            await self._machine.wait_compacted()
        return answer

    async def _write(self, request: Request) -> bytes:
        applied = await self._requests.submit(request)
        return self._member.header(applied.revision) + applied.body


def _all_serializable(request: rpc.TxnRequest) -> bool:
    """Whether every read says so; comparisons alone do not make a transaction linearizable (as in etcd)."""
    for op in (*request.success, *request.failure):
        if op.WhichOneof("request") == "request_txn":
            if not _all_serializable(op.request_txn):
                return False
        elif not op.request_range.serializable:
            return False
    return True


class Lease:
    """etcdserverpb.Lease."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._machine = member.machine
        self._requests = member.requests

    async def grant(self, request: rpc.LeaseGrantRequest) -> bytes:
        """Create a lease; id 0 lets this member choose a positive one."""
        self._member.check_space(0)
        if not request.ID:
            request.ID = self._requests.new_id() & 0x7FFF_FFFF_FFFF_FFFF
        applied = await self._requests.submit(Request(lease_grant=request))
        return self._member.header(applied.revision) + applied.body

    async def revoke(self, request: rpc.LeaseRevokeRequest) -> bytes:
        """Delete a lease and its keys."""
        applied = await self._requests.submit(Request(lease_revoke=request))
        return self._member.header(applied.revision) + applied.body

    async def keep_alive(self, requests: AsyncIterator[rpc.LeaseKeepAliveRequest]) -> AsyncIterator[bytes]:
        """Renew leases, in order; an unknown one is answered with TTL 0."""
        async for request in requests:
            renewal = rpc.LeaseCheckpointRequest(checkpoints=[rpc.LeaseCheckpoint(ID=request.ID)])
            try:
                body = (await self._requests.submit(Request(lease_checkpoint=renewal))).body
            except LeaseNotFound:
                body = wire.number(2, request.ID)
            yield self._member.header() + body

    async def time_to_live(self, request: rpc.LeaseTimeToLiveRequest) -> bytes:
        """What is left of a lease, by this member's clock; TTL -1 if there is none."""
        await self._requests.confirm()
        answer = rpc.LeaseTimeToLiveResponse(header=self._member.response_header(), ID=request.ID, TTL=-1)
        if self._machine.lessor.exists(request.ID):
            lease = self._machine.lessor.get(request.ID)
            answer.TTL, answer.grantedTTL = lease.remaining(self._machine.monotonic()), lease.ttl
            if request.keys:
                for key in lease.keys:
                    self._machine.auth.check_read(self._member.caller(), key)
                answer.keys.extend(sorted(lease.keys))
        return answer.SerializeToString()

    async def leases(self, request: rpc.LeaseLeasesRequest) -> bytes:
        """All leases."""
        await self._requests.confirm()
        statuses = [rpc.LeaseStatus(ID=id) for id in self._machine.lessor.ids()]
        header = self._member.response_header()
        return rpc.LeaseLeasesResponse(header=header, leases=statuses).SerializeToString()
