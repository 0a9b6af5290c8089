"""One watch on one stream.

The caller owns reconnection: when a stream ends by itself, iteration raises WatchBroken, and the watch is
resumed by a new one from the revision after the last batch. Fragments are joined here, so a batch never
splits a revision.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from componentbase.grpcwire.client import ClientStream
from componentbase.grpcwire.status import Code, RpcError
from etcdlite.client.endpoints import Endpoint, EndpointSet
from etcdlite.client.errors import WatchBroken, refused
from etcdlite.pb import kv_pb2
from etcdlite.pb import rpc_pb2 as rpc

# The member ends the stream when it has no leader, instead of staying silent (clientv3.WithRequireLeader).
_REQUIRE_LEADER = (("hasleader", "true"),)


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """What one response says.

    `events` are complete for each revision in them, in order. With `progress` there are none: everything up
    to `revision` has been delivered. `compacted` is not 0 in the last batch of a watch that asked for less
    than that revision.
    """

    revision: int
    events: Sequence[kv_pb2.Event] = ()
    progress: bool = False
    compacted: int = 0


class Watch:
    """An asynchronous iterator of batches. Close it, or use it as an asynchronous context manager."""

    def __init__(self, endpoints: EndpointSet, create: rpc.WatchCreateRequest, created_within: float) -> None:
        self._endpoints = endpoints
        self._create = create
        self._created_within = created_within
        self._endpoint: Endpoint | None = None
        self._call: ClientStream | None = None
        self._done = False

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Start the watch and wait until the member has registered it: no later change can be missed.

        Raises WatchBroken, or RequestFailed when it is refused. Does nothing the second time.
        """
        if self._call is not None:
            return
        self._endpoint = self._endpoints.current()
        try:
            async with asyncio.timeout(self._created_within):
                try:
                    self._call = await self._endpoint.stream("/etcdserverpb.Watch/Watch", _REQUIRE_LEADER)
                except RpcError as error:
                    raise self._failure(error.text) from None
                await self._write(rpc.WatchRequest(create_request=self._create))
                first = await self._read()
        except TimeoutError:
            self._broken()
            raise WatchBroken(f"{self._endpoint.url}: not created in {self._created_within} s") from None
        if first.canceled and not first.compact_revision:
            await self.aclose()
            raise refused(Code.INVALID_ARGUMENT, first.cancel_reason)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> WatchBatch:
        if self._done:
            raise StopAsyncIteration
        await self.open()
        response = await self._read_joined()
        if response.canceled:
            return self._ended(response)
        return WatchBatch(
            revision=response.header.revision,
            events=response.events,
            progress=not response.events,
        )

    async def request_progress(self) -> None:
        """Ask for a progress batch; the answer arrives through iteration."""
        await self.open()
        await self._write(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))

    async def aclose(self) -> None:
        """End the watch. Safe to repeat."""
        self._done = True
        if self._call is not None:
            self._call.cancel()

    def _ended(self, response: rpc.WatchResponse) -> WatchBatch:
        self._broken(endpoint_failed=False)
        if response.compact_revision:
            return WatchBatch(revision=response.header.revision, compacted=response.compact_revision)
        raise WatchBroken(f"cancelled by the member: {response.cancel_reason or 'no reason given'}")

    async def _read_joined(self) -> rpc.WatchResponse:
        response = await self._read()
        while response.fragment:
            more = await self._read()
            response.events.extend(more.events)
            response.fragment = more.fragment
        return response

    async def _read(self) -> rpc.WatchResponse:
        assert self._call is not None
        try:
            message = await self._call.read()
        except RpcError as error:
            raise self._failure(error.text or error.code.name) from None
        if message is None:
            raise self._failure("stream ended")
        return rpc.WatchResponse.FromString(message)

    async def _write(self, request: rpc.WatchRequest) -> None:
        assert self._call is not None
        try:
            await self._call.write(request.SerializeToString())
        except RpcError as error:
            raise self._failure(error.text) from None

    def _failure(self, text: str) -> WatchBroken:
        where = self._endpoint.url if self._endpoint else "?"
        self._broken()
        return WatchBroken(f"{where}: {text}")

    def _broken(self, *, endpoint_failed: bool = True) -> None:
        self._done = True
        if self._call is not None:
            self._call.cancel()
        if endpoint_failed and self._endpoint is not None:
            self._endpoints.failed(self._endpoint)
