"""The client port, seen from the wire: nonsense, slow readers, who a certificate says one is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from componentbase import tlsutil
from componentbase.grpcwire.client import Channel, ClientStream
from componentbase.grpcwire.status import Code, RpcError
from etcdlite.client import EtcdClient
from etcdlite.pb import health_pb2
from etcdlite.pb import rpc_pb2 as rpc
from tests.etcdlite.server.members import running
from tests.etcdlite.server.test_tls import make_pki, server_flags

PUT, WATCH = "/etcdserverpb.KV/Put", "/etcdserverpb.Watch/Watch"


@contextlib.asynccontextmanager
async def channel_to(url: str) -> AsyncIterator[Channel]:
    parts = urlsplit(url)
    channel = Channel(parts.hostname or "", parts.port or 0, connect_timeout=60.0)
    try:
        yield channel
    finally:
        await channel.aclose()


def play(url: str, story: Callable[[Channel], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(100), channel_to(url) as channel:
            await story(channel)

    asyncio.run(main())


async def refusal(call: Awaitable[object]) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await call
    return caught.value


async def watch(channel: Channel, key: bytes) -> ClientStream:
    stream = await channel.stream(WATCH)
    create = rpc.WatchCreateRequest(key=key, range_end=key + b"\xff")
    await stream.write(rpc.WatchRequest(create_request=create).SerializeToString())
    assert rpc.WatchResponse.FromString(await stream.read() or b"").created
    return stream


def test_nonsense_is_refused_by_name(store: str) -> None:
    async def story(channel: Channel) -> None:
        bad = await refusal(channel.unary(PUT, b"\xff\xff\xff", timeout=60))
        assert bad.code is Code.INTERNAL
        assert bad.text.startswith("grpc: ")
        unknown = await refusal(channel.unary("/etcdserverpb.KV/Push", b"", timeout=60))
        assert (unknown.code, unknown.text) == (
            Code.UNIMPLEMENTED,
            "unknown method Push for service etcdserverpb.KV",
        )
        nobody = await refusal(channel.unary("/x.Y/Z", b"", timeout=60))
        assert (nobody.code, nobody.text) == (Code.UNIMPLEMENTED, "unknown service x.Y")
        large = await refusal(channel.unary(PUT, b"x" * 3_000_000, timeout=60))
        assert large.code is Code.RESOURCE_EXHAUSTED
        assert "received message larger than max (3000000 vs. " in large.text
        health = await channel.unary("/grpc.health.v1.Health/Check", b"", timeout=60)
        assert health_pb2.HealthCheckResponse.FromString(health).status == 1

    play(store, story)


def test_a_broken_watch_request_ends_its_stream_alone(store: str) -> None:
    async def story(channel: Channel) -> None:
        good, bad = await watch(channel, b"/good"), await channel.stream(WATCH)
        await bad.write(b"\xff\xff\xff")
        with pytest.raises(RpcError):
            while await bad.read() is not None:
                pass
        put = rpc.PutRequest(key=b"/good/1", value=b"v")
        await channel.unary(PUT, put.SerializeToString(), timeout=60)
        seen = rpc.WatchResponse.FromString(await good.read() or b"")
        assert seen.events[0].kv.value == b"v"

    play(store, story)


def test_a_watcher_that_does_not_read_misses_nothing_and_holds_up_nobody(store: str) -> None:
    """20 MB of events wait for it while another watcher of the same connection is served at once."""
    count, size = 400, 50_000

    async def story(channel: Channel) -> None:
        async with channel_to(store) as other:
            slow, quick = await watch(other, b"/slow"), await watch(other, b"/quick")
            for number in range(count):
                put = rpc.PutRequest(key=b"/slow/%d" % number, value=b"s" * size)
                await channel.unary(PUT, put.SerializeToString(), timeout=60)
            last = rpc.PutRequest(key=b"/quick", value=b"q")
            await channel.unary(PUT, last.SerializeToString(), timeout=60)
            seen = rpc.WatchResponse.FromString(await quick.read() or b"")
            assert seen.events[0].kv.value == b"q"
            keys: list[bytes] = []
            while len(keys) < count:
                answer = rpc.WatchResponse.FromString(await slow.read() or b"")
                keys += [event.kv.key for event in answer.events]
            assert keys == [b"/slow/%d" % number for number in range(count)]

    play(store, story)


def test_many_watchers_are_told_in_order(store: str) -> None:
    async def story(channel: Channel) -> None:
        streams = [await watch(channel, b"/many") for _ in range(50)]
        for number in range(20):
            put = rpc.PutRequest(key=b"/many", value=b"%d" % number)
            await channel.unary(PUT, put.SerializeToString(), timeout=60)
        for stream in streams:
            values: list[bytes] = []
            while len(values) < 20:
                answer = rpc.WatchResponse.FromString(await stream.read() or b"")
                values += [event.kv.value for event in answer.events]
            assert values == [b"%d" % number for number in range(20)]
            stream.cancel()

    play(store, story)


@pytest.mark.parametrize("kind", ["etcdlite", "etcd"])
def test_the_certificate_says_who_asks(tmp_path: Path, kind: str) -> None:
    pki = make_pki(tmp_path)

    async def main(url: str) -> None:
        tls = tlsutil.client_context(pki / "ca.pem", pki / "client.pem", pki / "client-key.pem")
        parts = urlsplit(url)
        channel = Channel(parts.hostname or "", parts.port or 0, tls=tls, connect_timeout=60.0)

        async def auth(method: str, request: rpc.AuthUserAddRequest | object) -> None:
            data = request.SerializeToString()  # type: ignore[union-attr]
            await channel.unary(f"/etcdserverpb.Auth/{method}", data, timeout=60)

        await auth("UserAdd", rpc.AuthUserAddRequest(name="root", password="p"))
        await auth("UserGrantRole", rpc.AuthUserGrantRoleRequest(user="root", role="root"))
        await auth("UserAdd", rpc.AuthUserAddRequest(name="client", password="p"))
        await auth("AuthEnable", rpc.AuthEnableRequest())
        denied = await refusal(channel.unary(PUT, rpc.PutRequest(key=b"k").SerializeToString(), timeout=60))
        assert (denied.code, denied.text) == (Code.PERMISSION_DENIED, "etcdserver: permission denied")
        await channel.aclose()

    with running(kind, tmp_path, extra=[*server_flags(pki), "--client-cert-auth"], scheme="https") as one:
        asyncio.run(main(one.client_url))


def test_the_client_knows_a_dead_member_before_it_sends(tmp_path: Path) -> None:
    """Nothing is in flight and the member is killed: the next write was certainly not sent."""
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    with running("etcdlite", tmp_path / "a") as first, running("etcdlite", tmp_path / "b") as second:

        async def main() -> None:
            async with EtcdClient([first.client_url, second.client_url], timeout=60.0) as client:
                await client.put(b"k", b"1")
                first.stop(9)
                await client.put(b"k", b"2")  # OutcomeUnknown would say that it may have been sent

        asyncio.run(main())
