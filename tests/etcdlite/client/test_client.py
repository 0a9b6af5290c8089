"""The client on its own: endpoints, what is repeated, and what is called unknown.

The server here is a few lines of grpc.aio that fail in the way a test asks for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from componentbase.grpcwire.status import Code
from etcdlite.client import (
    Compacted,
    EtcdClient,
    OutcomeUnknown,
    RequestFailed,
    Unavailable,
    WatchBroken,
    compare_mod,
    op_get,
    op_put,
    prefix_end,
)
from etcdlite.client.endpoints import split_endpoint
from etcdlite.pb import kv_pb2
from etcdlite.pb import rpc_pb2 as rpc

CLOSED = "http://127.0.0.1:1"
Handle = Callable[[Any], Awaitable[None]]


class Member:
    """Answers everything with revision 5 unless told to fail; counts calls by method."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failures: dict[str, list[tuple[grpc.StatusCode, str]]] = {}
        self.watch: list[rpc.WatchResponse] = []
        self.url = ""

    async def unary(self, method: str, context: Any) -> bytes:
        self.calls.append(method)
        if self.failures.get(method):
            await context.abort(*self.failures[method].pop(0))
        return rpc.PutResponse(header=rpc.ResponseHeader(revision=5)).SerializeToString()

    async def stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        await anext(requests)
        for response in self.watch:
            yield response.SerializeToString()


@asynccontextmanager
async def serving(member: Member) -> AsyncIterator[Member]:
    def unary(method: str) -> Any:
        async def handle(_request: bytes, context: Any) -> bytes:
            return await member.unary(method, context)

        return grpc.unary_unary_rpc_method_handler(handle)

    server = grpc.aio.server()
    methods = {name: unary(name) for name in ("Range", "Put", "Txn", "DeleteRange")}
    watch: dict[str, Any] = {"Watch": grpc.stream_stream_rpc_method_handler(member.stream)}
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("etcdserverpb.KV", methods),
            grpc.method_handlers_generic_handler("etcdserverpb.Watch", watch),
        )
    )
    member.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield member
    finally:
        await server.stop(None)


def play(story: Callable[[EtcdClient, Member], Awaitable[None]], *before: str) -> None:
    async def main() -> None:
        async with serving(Member()) as member, EtcdClient([*before, member.url], timeout=2.0) as client:
            await story(client, member)

    asyncio.run(main())


def test_a_closed_endpoint_is_left_for_the_next() -> None:
    async def story(client: EtcdClient, member: Member) -> None:
        assert (await client.put(b"k", b"v")).header.revision == 5
        assert member.calls == ["Put"]

    play(story, CLOSED)


def test_nobody_there() -> None:
    async def main() -> None:
        async with EtcdClient([CLOSED], timeout=0.3) as client:
            for call in (client.put(b"k", b"v"), client.range(b"k")):
                with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
                    await call

    asyncio.run(main())


def test_a_write_whose_answer_is_lost_is_not_repeated() -> None:
    async def story(client: EtcdClient, member: Member) -> None:
        member.failures["Put"] = [(grpc.StatusCode.UNAVAILABLE, "etcdserver: request timed out")]
        with pytest.raises(OutcomeUnknown, match="request timed out"):
            await client.put(b"k", b"v")
        assert member.calls == ["Put"]

    play(story)


def test_a_member_that_stops_may_have_begun_the_write() -> None:
    """A member that ends says so to every write it holds, also to those it has sent to the others."""

    async def story(client: EtcdClient, member: Member) -> None:
        member.failures["Put"] = [(grpc.StatusCode.UNAVAILABLE, "etcdserver: server stopped")]
        with pytest.raises(OutcomeUnknown):
            await client.put(b"k", b"v")
        assert member.calls == ["Put"]

    play(story)


def test_a_write_that_was_not_started_is_repeated() -> None:
    async def story(client: EtcdClient, member: Member) -> None:
        member.failures["Put"] = [(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")] * 2
        await client.put(b"k", b"v")
        assert member.calls == ["Put"] * 3

    play(story)


def test_reads_are_repeated_and_so_are_transactions_that_say_so() -> None:
    async def story(client: EtcdClient, member: Member) -> None:
        lost = (grpc.StatusCode.UNAVAILABLE, "etcdserver: leader changed")
        member.failures = {"Range": [lost], "Txn": [lost]}
        await client.range(b"k")
        await client.txn([], [op_get(b"k")])  # reads only
        member.failures["Txn"] = [lost]
        await client.txn([compare_mod(b"k", 1)], [op_put(b"k", b"")], repeatable=True)
        member.failures["Txn"] = [lost]
        with pytest.raises(OutcomeUnknown):
            await client.txn([compare_mod(b"k", 1)], [op_put(b"k", b"")])
        assert member.calls == ["Range"] * 2 + ["Txn"] * 5

    play(story)


def test_refusals_are_typed() -> None:
    async def story(client: EtcdClient, member: Member) -> None:
        text = "etcdserver: mvcc: required revision has been compacted"
        member.failures["Range"] = [(grpc.StatusCode.OUT_OF_RANGE, text)]
        with pytest.raises(Compacted):
            await client.range(b"k", revision=1)
        member.failures["Put"] = [(grpc.StatusCode.RESOURCE_EXHAUSTED, "something new")]
        with pytest.raises(RequestFailed, match="something new") as caught:
            await client.put(b"k", b"v")
        assert caught.value.code is Code.RESOURCE_EXHAUSTED
        assert member.calls == ["Range", "Put"], "a refusal is not repeated"

    play(story)


def test_watch_joins_fragments_and_ends_clearly() -> None:
    async def story(client: EtcdClient, member: Member) -> None:
        event = kv_pb2.Event(kv=kv_pb2.KeyValue(key=b"k", mod_revision=6))
        header = rpc.ResponseHeader(revision=6)
        member.watch = [
            rpc.WatchResponse(header=header, created=True),
            rpc.WatchResponse(header=header, events=[event], fragment=True),
            rpc.WatchResponse(header=header, events=[event, event]),
            rpc.WatchResponse(header=header, watch_id=-1),
        ]
        async with client.watch(b"k") as watch:
            assert len((await anext(watch)).events) == 3
            assert (await anext(watch)).progress
            with pytest.raises(WatchBroken, match="stream ended"):
                await anext(watch)
            with pytest.raises(StopAsyncIteration):
                await anext(watch)

    play(story)


def test_watch_of_a_compacted_revision() -> None:
    async def story(client: EtcdClient, member: Member) -> None:
        member.watch = [rpc.WatchResponse(created=True), rpc.WatchResponse(canceled=True, compact_revision=9)]
        async with client.watch(b"k", start_revision=2) as watch:
            batches = [batch async for batch in watch]
        assert [batch.compacted for batch in batches] == [9]

    play(story)


def test_a_cancelled_caller_is_cancelled_and_nothing_else() -> None:
    async def story(client: EtcdClient, member: Member) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.0):
                await client.put(b"k", b"v")
        assert (await client.put(b"k", b"v")).header.revision == 5

    play(story)


@pytest.mark.parametrize(
    ("endpoint", "wanted"),
    [
        ("http://h:2379", ("h:2379", False)),
        ("https://[::1]:2379", ("[::1]:2379", True)),
        ("h:2379", ("h:2379", False)),
    ],
)
def test_endpoints(endpoint: str, wanted: tuple[str, bool]) -> None:
    assert split_endpoint(endpoint) == wanted


def test_endpoints_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="scheme"):
        split_endpoint("ftp://h")

    async def main(urls: list[str]) -> None:
        async with EtcdClient(urls):
            pass

    with pytest.raises(ValueError, match="no CA"):
        asyncio.run(main(["https://h:1"]))
    with pytest.raises(ValueError, match="at least one"):
        asyncio.run(main([]))


@pytest.mark.parametrize(
    ("prefix", "end"), [(b"/a", b"/b"), (b"a\xff", b"b"), (b"\xff\xff", b"\0"), (b"", b"\0")]
)
def test_prefix_end(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end
