"""EtcdClient: the etcd v3 API for several members, with deadlines and failover.

Reads are repeated at other members until the deadline. A write is repeated only when it certainly was not
started; when its answer is lost, OutcomeUnknown says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from componentbase.backoff import Backoff
from componentbase.grpcwire.status import Code, RpcError
from etcdlite.client.endpoints import Endpoint, EndpointSet, read_credentials
from etcdlite.client.errors import NOT_STARTED, OutcomeUnknown, Unavailable, refused
from etcdlite.client.watch import Watch
from etcdlite.pb import rpc_pb2 as rpc


class _Message(Protocol):
    def SerializeToString(self) -> bytes: ...


ResponseT = TypeVar("ResponseT")

_TRY_ELSEWHERE = frozenset({Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED})


class EtcdClient:
    """A client of one cluster. Use it as an asynchronous context manager.

    `ca`, `cert` and `key` are PEM files; without `ca` the endpoints must be plain text. `timeout` (seconds)
    bounds every call, retries included; each method takes its own to replace it. Any method may raise
    Unavailable and RequestFailed; writes may raise OutcomeUnknown.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        ca: str | Path | None = None,
        cert: str | Path | None = None,
        key: str | Path | None = None,
        timeout: float = 5.0,
    ) -> None:
        self._urls = list(endpoints)
        self._files = (ca, cert, key)
        self._timeout = timeout
        self._endpoints: EndpointSet | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._endpoints = EndpointSet(self._urls, read_credentials(*self._files))
        self._tasks = await asyncio.TaskGroup().__aenter__()
        self._watcher = self._tasks.create_task(self._endpoints.watch_over(), name="etcd-endpoints")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
        if self._tasks is not None:
            await self._tasks.__aexit__(None, None, None)
        if self._endpoints is not None:
            await self._endpoints.close()

    # -- KV ----------------------------------------------------------------------------------------

    async def range(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        limit: int = 0,
        revision: int = 0,
        serializable: bool = False,
        keys_only: bool = False,
        count_only: bool = False,
        timeout: float | None = None,
        **options: Any,
    ) -> rpc.RangeResponse:
        """Read keys, sorted by key. `options` are the further fields of RangeRequest (sort_order, ...)."""
        request = rpc.RangeRequest(
            key=key,
            range_end=range_end,
            limit=limit,
            revision=revision,
            serializable=serializable,
            keys_only=keys_only,
            count_only=count_only,
            **options,
        )
        return await self._read("KV/Range", request, rpc.RangeResponse, timeout)

    async def put(
        self, key: bytes, value: bytes, *, lease: int = 0, prev_kv: bool = False, timeout: float | None = None
    ) -> rpc.PutResponse:
        """Store one value."""
        request = rpc.PutRequest(key=key, value=value, lease=lease, prev_kv=prev_kv)
        return await self._write("KV/Put", request, rpc.PutResponse, timeout)

    async def delete(
        self, key: bytes, range_end: bytes = b"", *, prev_kv: bool = False, timeout: float | None = None
    ) -> rpc.DeleteRangeResponse:
        """Delete a key, or the keys of a range."""
        request = rpc.DeleteRangeRequest(key=key, range_end=range_end, prev_kv=prev_kv)
        return await self._write("KV/DeleteRange", request, rpc.DeleteRangeResponse, timeout)

    async def txn(
        self,
        compare: Sequence[rpc.Compare],
        success: Sequence[rpc.RequestOp],
        failure: Sequence[rpc.RequestOp] = (),
        *,
        repeatable: bool = False,
        timeout: float | None = None,
    ) -> rpc.TxnResponse:
        """Compare and do one of two lists of operations, atomically.

        Say `repeatable` when the caller can tell from the answer whether an earlier attempt went through (a
        compare-and-swap that reads the key on failure): then a lost answer is followed by another attempt.
        A transaction that only reads is always repeatable.
        """
        request = rpc.TxnRequest(compare=compare, success=success, failure=failure)
        reads = all(op.WhichOneof("request") == "request_range" for op in (*success, *failure))
        if repeatable or reads:
            return await self._read("KV/Txn", request, rpc.TxnResponse, timeout)
        return await self._write("KV/Txn", request, rpc.TxnResponse, timeout)

    async def compact(
        self, revision: int, *, physical: bool = False, timeout: float | None = None
    ) -> rpc.CompactionResponse:
        """Forget what was overwritten or deleted before `revision`. Repeating it is harmless: Compacted."""
        request = rpc.CompactionRequest(revision=revision, physical=physical)
        return await self._read("KV/Compact", request, rpc.CompactionResponse, timeout)

    def watch(
        self,
        key: bytes,
        range_end: bytes = b"",
        *,
        start_revision: int = 0,
        prev_kv: bool = True,
        progress_notify: bool = False,
        filters: Sequence[rpc.WatchCreateRequest.FilterType] = (),
    ) -> Watch:
        """Follow the changes of a range from `start_revision` on (0: from now)."""
        create = rpc.WatchCreateRequest(
            key=key,
            range_end=range_end,
            start_revision=start_revision,
            prev_kv=prev_kv,
            progress_notify=progress_notify,
            filters=filters,
            fragment=True,
        )
        return Watch(self._members(), create, self._timeout)

    # -- leases ------------------------------------------------------------------------------------

    async def lease_grant(
        self, ttl: int, id: int = 0, *, timeout: float | None = None
    ) -> rpc.LeaseGrantResponse:
        """Create a lease of at least `ttl` seconds; id 0 lets the store choose."""
        request = rpc.LeaseGrantRequest(TTL=ttl, ID=id)
        return await self._write("Lease/LeaseGrant", request, rpc.LeaseGrantResponse, timeout)

    async def lease_revoke(self, id: int, *, timeout: float | None = None) -> rpc.LeaseRevokeResponse:
        """Delete a lease and its keys."""
        return await self._write(
            "Lease/LeaseRevoke", rpc.LeaseRevokeRequest(ID=id), rpc.LeaseRevokeResponse, timeout
        )

    async def lease_time_to_live(
        self, id: int, *, keys: bool = False, timeout: float | None = None
    ) -> rpc.LeaseTimeToLiveResponse:
        """What is left of a lease; TTL is -1 when it does not exist."""
        request = rpc.LeaseTimeToLiveRequest(ID=id, keys=keys)
        return await self._read("Lease/LeaseTimeToLive", request, rpc.LeaseTimeToLiveResponse, timeout)

    async def lease_leases(self, *, timeout: float | None = None) -> rpc.LeaseLeasesResponse:
        """All leases."""
        return await self._read(
            "Lease/LeaseLeases", rpc.LeaseLeasesRequest(), rpc.LeaseLeasesResponse, timeout
        )

    async def lease_keep_alive(self, id: int, *, timeout: float | None = None) -> rpc.LeaseKeepAliveResponse:
        """Renew a lease once. TTL 0 in the answer means that it is gone."""
        request = rpc.LeaseKeepAliveRequest(ID=id)

        async def once(endpoint: Endpoint, remaining: float) -> rpc.LeaseKeepAliveResponse:
            async with asyncio.timeout(remaining):
                call = await endpoint.stream("/etcdserverpb.Lease/LeaseKeepAlive")
                try:
                    await call.write(request.SerializeToString())
                    call.done_writing()
                    answer = await call.read()
                finally:
                    call.cancel()
            if answer is None:
                raise RpcError(Code.UNAVAILABLE, "the keep-alive stream ended without an answer")
            return rpc.LeaseKeepAliveResponse.FromString(answer)

        response: rpc.LeaseKeepAliveResponse = await self._attempts(once, timeout, repeatable=True)
        return response

    # -- cluster and maintenance -------------------------------------------------------------------

    async def status(
        self, endpoint: str | None = None, *, timeout: float | None = None
    ) -> rpc.StatusResponse:
        """Version, size, leader and raft indices of one member (of any, if no endpoint is named)."""
        request = rpc.StatusRequest()
        if endpoint is None:
            return await self._read("Maintenance/Status", request, rpc.StatusResponse, timeout)
        member, budget = self._members().find(endpoint), timeout or self._timeout
        try:
            encoded = await member.unary(
                "/etcdserverpb.Maintenance/Status", request.SerializeToString(), timeout=budget
            )
        except RpcError as error:
            if error.code in _TRY_ELSEWHERE or not error.answered:
                raise Unavailable(f"{endpoint}: {error.text}") from None
            raise refused(error.code, error.text) from None
        return rpc.StatusResponse.FromString(encoded)

    async def member_list(
        self, *, linearizable: bool = False, timeout: float | None = None
    ) -> rpc.MemberListResponse:
        """The members of the cluster."""
        request = rpc.MemberListRequest(linearizable=linearizable)
        return await self._read("Cluster/MemberList", request, rpc.MemberListResponse, timeout)

    # -- the two ways to call ----------------------------------------------------------------------

    async def _read(
        self, method: str, request: _Message, response: type[ResponseT], timeout: float | None
    ) -> ResponseT:
        answer: ResponseT = await self._call(method, request, response, timeout, repeatable=True)
        return answer

    async def _write(
        self, method: str, request: _Message, response: type[ResponseT], timeout: float | None
    ) -> ResponseT:
        answer: ResponseT = await self._call(method, request, response, timeout, repeatable=False)
        return answer

    async def _call(
        self, method: str, request: _Message, response: Any, timeout: float | None, *, repeatable: bool
    ) -> Any:
        encoded, path = request.SerializeToString(), f"/etcdserverpb.{method}"

        async def once(endpoint: Endpoint, remaining: float) -> bytes:
            return await endpoint.unary(path, encoded, timeout=remaining)

        return response.FromString(await self._attempts(once, timeout, repeatable=repeatable))

    async def _attempts(self, once: Any, timeout: float | None, *, repeatable: bool) -> Any:
        """Call `once(endpoint, seconds left)` until it answers, the deadline passes or a write may have
        happened.
        """
        members, loop = self._members(), asyncio.get_running_loop()
        deadline = loop.time() + (self._timeout if timeout is None else timeout)
        backoff: Backoff | None = None
        failures, reason = 0, "no attempt was made"
        while (remaining := deadline - loop.time()) > 0:
            endpoint = members.current()
            try:
                return await once(endpoint, remaining)
            except RpcError as error:
                sent, reason = _judge(error)
            except TimeoutError:
                sent, reason = True, "no answer in time"
            if sent and not repeatable:
                members.failed(endpoint)
                raise OutcomeUnknown(f"{endpoint.url}: {reason}")
            members.failed(endpoint)
            failures += 1
            if failures % len(members) == 0:
                backoff = backoff or Backoff(0.02, 0.5)
                await asyncio.sleep(min(backoff.next(), max(0.0, deadline - loop.time())))
        raise Unavailable(f"no member of {', '.join(self._urls)} answered: {reason}")

    def _members(self) -> EndpointSet:
        if self._endpoints is None:
            raise RuntimeError("EtcdClient is used outside its `async with` block")
        return self._endpoints


def _judge(error: RpcError) -> tuple[bool, str]:
    """Whether a failed call may have been carried out, and why it failed. Raises what the store refused."""
    text = error.text or error.code.name
    if not error.sent or text in NOT_STARTED:
        return False, text
    if error.answered and error.code not in _TRY_ELSEWHERE:
        raise refused(error.code, text) from None
    return True, text
