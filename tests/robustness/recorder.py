"""A client that writes down what it asks, when, and what it is told."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from deploy.judge.history import Batch, Call, Event, Lease, Renewal, Watch
from deploy.judge.model import Answer, Compare, Delete, Get, KeyValue, Op, Put, Request, Response, Revoke
from etcdlite.client import EtcdClient, EtcdError, OutcomeUnknown, RequestFailed, WatchBatch
from etcdlite.pb import kv_pb2
from etcdlite.pb import rpc_pb2 as rpc

_TARGETS = {
    "value": (rpc.Compare.VALUE, "value"),
    "version": (rpc.Compare.VERSION, "version"),
    "create": (rpc.Compare.CREATE, "create_revision"),
    "mod": (rpc.Compare.MOD, "mod_revision"),
}
_RELATIONS = {
    "=": rpc.Compare.EQUAL,
    "!=": rpc.Compare.NOT_EQUAL,
    "<": rpc.Compare.LESS,
    ">": rpc.Compare.GREATER,
}


def key_value(found: kv_pb2.KeyValue) -> KeyValue:
    """A key as the judge writes it."""
    return KeyValue(
        found.key.decode(),
        found.value.decode(),
        found.create_revision,
        found.mod_revision,
        found.version,
        found.lease,
    )


def event(seen: kv_pb2.Event) -> Event:
    """A change as the judge writes it."""
    deleted = seen.type == kv_pb2.Event.DELETE
    previous = key_value(seen.prev_kv) if seen.HasField("prev_kv") else None
    return Event(
        seen.kv.mod_revision, seen.kv.key.decode(), None if deleted else key_value(seen.kv), previous
    )


@dataclass
class Journal:
    """All that is written down in a round."""

    calls: list[Call] = field(default_factory=list)
    watches: list[OpenWatch] = field(default_factory=list)
    leases: dict[int, OpenLease] = field(default_factory=dict)
    acknowledged_at: list[float] = field(default_factory=list)  # of writes
    trouble: list[str] = field(default_factory=list)  # what no promise covers, but must not be


@dataclass
class OpenLease:
    """A lease that is still being written down."""

    id: int
    renewals: list[Renewal] = field(default_factory=list)
    revoking: float | None = None

    def closed(self) -> Lease:
        return Lease(id=self.id, renewals=tuple(self.renewals), revoking=self.revoking)


@dataclass
class OpenWatch:
    """A watch that is still being written down; `next` is where to resume."""

    name: str
    key: str
    end: str
    start: int
    next: int
    batches: list[Batch] = field(default_factory=list)

    def take(self, batch: WatchBatch) -> None:
        """One response."""
        events = tuple(event(seen) for seen in batch.events)
        self.batches.append(Batch(time.monotonic(), batch.revision, events))
        reached = events[-1].revision if events else batch.revision
        self.next = max(self.next, reached + 1)

    def closed(self, complete: int = 0) -> Watch:
        return Watch(
            name=self.name,
            key=self.key,
            end=self.end,
            start=self.start,
            batches=tuple(self.batches),
            previous=True,
            complete=complete,
        )


class Recorder:
    """One client of one member (or, with several URLs, of whichever answers)."""

    def __init__(self, name: str, client: EtcdClient, journal: Journal) -> None:
        self.name, self.client, self.journal = name, client, journal

    async def do(self, request: Request) -> Response | None:
        """Carry a request out and write it down; what was answered, or None."""
        invoked = time.monotonic()
        try:
            response = await self._send(request)
        except OutcomeUnknown:
            self._write_down(Call(client=self.name, request=request, invoked=invoked))
            return None
        except (EtcdError, RequestFailed) as error:
            refused = f"{type(error).__name__}: {error}"[:120]
            self._write_down(
                Call(
                    client=self.name,
                    request=request,
                    invoked=invoked,
                    returned=time.monotonic(),
                    refused=refused,
                )
            )
            return None
        except BaseException:  # cancelled at the end of the round: it may still take effect
            self._write_down(Call(client=self.name, request=request, invoked=invoked))
            raise
        returned = time.monotonic()
        self._write_down(
            Call(client=self.name, request=request, invoked=invoked, returned=returned, response=response)
        )
        if request.may_write:
            self.journal.acknowledged_at.append(returned)
        return response

    def _write_down(self, call: Call) -> None:
        self.journal.calls.append(call)

    async def _send(self, request: Request) -> Response:
        if len(request.success) == 1 and not request.compares and not request.failure:
            op = request.success[0]
            if isinstance(op, Put):
                put = await self.client.put(op.key.encode(), op.value.encode(), lease=op.lease)
                return Response(put.header.revision, (None,))
            if isinstance(op, Get):
                found = await self.client.range(
                    op.key.encode(),
                    op.end.encode(),
                    revision=op.revision,
                    serializable=request.serializable,
                )
                return Response(found.header.revision, (tuple(key_value(kv) for kv in found.kvs),))
            if isinstance(op, Delete):
                gone = await self.client.delete(op.key.encode(), op.end.encode())
                return Response(gone.header.revision, (gone.deleted,))
            revoked = await self.client.lease_revoke(op.lease)
            return Response(revoked.header.revision, (None,))
        answer = await self.client.txn(
            [_compare(one) for one in request.compares],
            [_operation(op) for op in request.success],
            [_operation(op) for op in request.failure],
        )
        return Response(
            answer.header.revision, tuple(_answer(one) for one in answer.responses), answer.succeeded
        )

    # -- leases

    async def grant(self, ttl: int) -> OpenLease | None:
        """A lease, or None if it is not known to be there."""
        lease = OpenLease(random.getrandbits(62) | 1)
        self.journal.leases[lease.id] = lease
        invoked = time.monotonic()
        try:
            granted = await self.client.lease_grant(ttl, id=lease.id)
        except EtcdError:
            return None
        lease.renewals.append(Renewal(invoked, time.monotonic(), granted.TTL))
        return lease

    async def renew(self, lease: OpenLease) -> bool:
        """Keep it alive; whether it is known to be."""
        invoked = time.monotonic()
        try:
            answer = await self.client.lease_keep_alive(lease.id)
        except EtcdError:
            return False
        if answer.TTL > 0:
            lease.renewals.append(Renewal(invoked, time.monotonic(), answer.TTL))
        return answer.TTL > 0

    async def revoke(self, lease: OpenLease) -> Response | None:
        """End it."""
        lease.revoking = min(lease.revoking or time.monotonic(), time.monotonic())
        return await self.do(Request((Revoke(lease.id),)))


def _compare(one: Compare) -> rpc.Compare:
    target, name = _TARGETS[one.target]
    operand: Any = one.operand.encode() if isinstance(one.operand, str) else one.operand
    return rpc.Compare(
        key=one.key.encode(), target=target, result=_RELATIONS[one.relation], **{name: operand}
    )


def _operation(op: Op) -> rpc.RequestOp:
    if isinstance(op, Put):
        return rpc.RequestOp(
            request_put=rpc.PutRequest(key=op.key.encode(), value=op.value.encode(), lease=op.lease)
        )
    if isinstance(op, Get):
        return rpc.RequestOp(
            request_range=rpc.RangeRequest(
                key=op.key.encode(), range_end=op.end.encode(), revision=op.revision
            )
        )
    assert isinstance(op, Delete), "a lease is not revoked in a transaction"
    return rpc.RequestOp(
        request_delete_range=rpc.DeleteRangeRequest(key=op.key.encode(), range_end=op.end.encode())
    )


def _answer(answer: rpc.ResponseOp) -> Answer:
    kind = answer.WhichOneof("response")
    if kind == "response_put":
        return None
    if kind == "response_range":
        return tuple(key_value(kv) for kv in answer.response_range.kvs)
    return answer.response_delete_range.deleted


def values(found: Sequence[kv_pb2.KeyValue]) -> tuple[KeyValue, ...]:
    """Many keys."""
    return tuple(key_value(kv) for kv in found)
