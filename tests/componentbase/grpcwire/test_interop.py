"""Against grpcio (C core), both ways round, over mutual TLS; and our own two ends against each other."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from componentbase import tlsutil
from componentbase.grpcwire.client import Channel, _Dialled
from componentbase.grpcwire.connection import Limits
from componentbase.grpcwire.keepalive import Keepalive
from componentbase.grpcwire.server import Call, Method, Server, StreamCall, Streaming, Unary
from componentbase.grpcwire.status import Code, RpcError
from pki import ca, certs
from tests.ports import free_port

SIZES = (0, 1, 100, 16_379, 16_380, 70_000, 1_000_000)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pki")
    authority = ca.ensure_authority(folder, "ca", "ca", now=ca.utc_now())
    for name in ("server", "client"):
        usages = frozenset({certs.Usage.SERVER, certs.Usage.CLIENT})
        profile = certs.Profile(
            common_name=f"the {name}", ips=("127.0.0.1",), dns=("localhost",), usages=usages
        )
        ca.ensure_leaf(folder, name, profile, authority, now=ca.utc_now())
    return folder


async def echo(message: bytes, call: Call) -> bytes:
    return message


async def whoami(message: bytes, call: Call) -> bytes:
    said = dict(call.metadata)
    return f"{call.common_name} {said.get('x-a')} {said.get('x-bin')!r}".encode()


async def fail(message: bytes, call: Call) -> bytes:
    raise RpcError(Code.FAILED_PRECONDITION, "no: 100 % ünmöglich\n")


async def bug(message: bytes, call: Call) -> bytes:
    raise ZeroDivisionError


async def hang(message: bytes, call: Call) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError


async def mirror(call: StreamCall) -> None:
    while (message := await call.read()) is not None:
        await call.write(message)


async def count(call: StreamCall) -> None:
    number = int(await call.read() or b"0")
    for each in range(number):
        await call.write(b"%d" % each)
    raise RpcError(Code.ABORTED, "enough")


METHODS: dict[str, Method] = {
    "/t.T/Echo": Unary(echo),
    "/t.T/WhoAmI": Unary(whoami),
    "/t.T/Fail": Unary(fail),
    "/t.T/Bug": Unary(bug),
    "/t.T/Hang": Unary(hang),
    "/t.T/Mirror": Streaming(mirror),
    "/t.T/Count": Streaming(count),
}


@contextlib.asynccontextmanager
async def ours(pki: Path, **options: Any) -> AsyncIterator[tuple[Server, int]]:
    context = tlsutil.server_context(pki / "server.pem", pki / "server-key.pem", pki / "ca.pem", True)
    async with Server(METHODS, **options) as server:
        yield server, await server.listen("127.0.0.1", 0, context)


@contextlib.asynccontextmanager
async def theirs(pki: Path) -> AsyncIterator[int]:
    """A server of grpcio with the same methods, as far as the tests need them."""

    async def call_echo(request: bytes, context: Any) -> bytes:
        return request

    async def call_fail(request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no: 100 % ünmöglich\n")
        raise AssertionError

    async def call_hang(request: bytes, context: Any) -> bytes:
        await asyncio.sleep(3600)
        return b""

    async def call_mirror(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for each in requests:
            yield each

    async def call_whoami(request: bytes, context: Any) -> bytes:
        said = dict(context.invocation_metadata())
        name = context.auth_context()["x509_common_name"][0].decode()
        return f"{name} {said.get('x-a')} {said.get('x-bin')!r}".encode()

    async def call_count(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for each in range(int(request)):
            yield b"%d" % each
        await context.abort(grpc.StatusCode.ABORTED, "enough")

    server = grpc.aio.server(options=(("grpc.max_receive_message_length", -1),))
    methods: dict[str, Any] = {
        "Echo": grpc.unary_unary_rpc_method_handler(call_echo),
        "Fail": grpc.unary_unary_rpc_method_handler(call_fail),
        "Hang": grpc.unary_unary_rpc_method_handler(call_hang),
        "WhoAmI": grpc.unary_unary_rpc_method_handler(call_whoami),
        "Mirror": grpc.stream_stream_rpc_method_handler(call_mirror),
        "Count": grpc.unary_stream_rpc_method_handler(call_count),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", methods),))
    pair = ((pki / "server-key.pem").read_bytes(), (pki / "server.pem").read_bytes())
    credentials = grpc.ssl_server_credentials([pair], (pki / "ca.pem").read_bytes(), True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


def their_channel(pki: Path, port: int) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(
        (pki / "ca.pem").read_bytes(),
        (pki / "client-key.pem").read_bytes(),
        (pki / "client.pem").read_bytes(),
    )
    options = (("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0))
    return grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options)


def our_channel(pki: Path, port: int, **options: Any) -> Channel:
    context = tlsutil.client_context(pki / "ca.pem", pki / "client.pem", pki / "client-key.pem")
    return Channel("127.0.0.1", port, tls=context, **options)


# -- grpcio's client, our server


def test_unary_calls_of_grpcio(pki: Path) -> None:
    async def main() -> None:
        async with ours(pki) as (_, port), their_channel(pki, port) as channel:
            call = channel.unary_unary("/t.T/Echo")
            for size in SIZES:
                assert await call(b"x" * size, timeout=60) == b"x" * size
            answers = await asyncio.gather(*(call(b"%d" % n, timeout=60) for n in range(300)))
            assert answers == [b"%d" % n for n in range(300)]
            who = channel.unary_unary("/t.T/WhoAmI")
            metadata = (("x-a", "b"), ("x-bin", b"\0\xff"))
            assert await who(b"", metadata=metadata, timeout=60) == b"the client b b'\\x00\\xff'"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("path", "options", "code", "text"),
    [
        ("/t.T/Fail", {}, grpc.StatusCode.FAILED_PRECONDITION, "no: 100 % ünmöglich\n"),
        ("/t.T/Bug", {}, grpc.StatusCode.UNKNOWN, "ZeroDivisionError"),
        ("/t.T/None", {}, grpc.StatusCode.UNIMPLEMENTED, "unknown method None for service t.T"),
        ("/u.U/Echo", {}, grpc.StatusCode.UNIMPLEMENTED, "unknown service u.U"),
        ("/t.T/Hang", {"timeout": 0.3}, grpc.StatusCode.DEADLINE_EXCEEDED, ""),
        ("/t.T/Echo", {"compression": grpc.Compression.Gzip}, grpc.StatusCode.UNIMPLEMENTED, "gzip"),
    ],
)
def test_failures_seen_by_grpcio(
    pki: Path, path: str, options: dict[str, Any], code: grpc.StatusCode, text: str
) -> None:
    async def main() -> None:
        async with ours(pki) as (_, port), their_channel(pki, port) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(path)(b"x" * 100, **{"timeout": 60, **options})
            assert caught.value.code() is code
            assert text in (caught.value.details() or "")

    asyncio.run(main())


def test_a_message_over_the_limit(pki: Path) -> None:
    async def main() -> None:
        limits = Limits(max_message=1000)
        async with ours(pki, limits=limits) as (_, port), their_channel(pki, port) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/t.T/Echo")(b"x" * 1001, timeout=60)
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert caught.value.details() == "grpc: received message larger than max (1001 vs. 1000)"

    asyncio.run(main())


def test_streams_of_grpcio(pki: Path) -> None:
    async def main() -> None:
        async with ours(pki) as (server, port), their_channel(pki, port) as channel:
            call = channel.stream_stream("/t.T/Mirror")(timeout=60)
            for size in SIZES:
                await call.write(b"y" * size)
                assert await call.read() == b"y" * size
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            counting = channel.unary_stream("/t.T/Count")(b"1000", timeout=60)
            assert [int(await counting.read()) for _ in range(1000)] == list(range(1000))
            with pytest.raises(grpc.aio.AioRpcError, match="enough"):
                await counting.read()
            endless = channel.stream_stream("/t.T/Mirror")()
            await endless.write(b"z")
            assert await endless.read() == b"z"
            endless.cancel()
            await _until(lambda: not any(each.core.streams for each in server.connections))

    asyncio.run(main())


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 -- nothing tells of it
            await asyncio.sleep(0.01)


# -- our client


@contextlib.asynccontextmanager
async def served_by(kind: str, pki: Path) -> AsyncIterator[int]:
    if kind == "grpcio":
        async with theirs(pki) as port:
            yield port
    else:
        async with ours(pki) as (_, port):
            yield port


@pytest.fixture(params=["grpcio", "ours"])
def play(request: pytest.FixtureRequest, pki: Path) -> Callable[[Callable[[Channel], Awaitable[None]]], None]:
    def run(story: Callable[[Channel], Awaitable[None]]) -> None:
        async def main() -> None:
            async with served_by(request.param, pki) as port:
                channel = our_channel(pki, port)
                try:
                    await story(channel)
                finally:
                    channel.close()

        asyncio.run(main())

    return run


def test_our_unary_calls(play: Any) -> None:
    async def story(channel: Channel) -> None:
        for size in SIZES:
            assert await channel.unary("/t.T/Echo", b"x" * size, timeout=60) == b"x" * size
        answers = await asyncio.gather(
            *(channel.unary("/t.T/Echo", b"%d" % n, timeout=60) for n in range(300))
        )
        assert answers == [b"%d" % n for n in range(300)]
        metadata = (("x-a", "b"), ("x-bin", b"\0\xff"))
        who = await channel.unary("/t.T/WhoAmI", b"", timeout=60, metadata=metadata)
        assert who == b"the client b b'\\x00\\xff'"

    play(story)


def test_failures_we_see(play: Any) -> None:
    async def story(channel: Channel) -> None:
        for path, code, text in (
            ("/t.T/Fail", Code.FAILED_PRECONDITION, "no: 100 % ünmöglich\n"),
            ("/t.T/None", Code.UNIMPLEMENTED, ""),
        ):
            with pytest.raises(RpcError) as caught:
                await channel.unary(path, b"", timeout=60)
            assert caught.value.code is code
            assert text in caught.value.text
        with pytest.raises(RpcError) as caught:
            await channel.unary("/t.T/Hang", b"", timeout=0.2)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await channel.unary("/t.T/Hang", b"", timeout=60)
        assert await channel.unary("/t.T/Echo", b"still", timeout=60) == b"still"

    play(story)


def test_our_streams(play: Any) -> None:
    async def story(channel: Channel) -> None:
        call = await channel.stream("/t.T/Mirror")
        for size in SIZES:
            await call.write(b"y" * size)
            assert await call.read() == b"y" * size
        call.done_writing()
        assert await call.read() is None
        counting = await channel.stream("/t.T/Count")
        await counting.write(b"1000")
        counting.done_writing()
        assert [await counting.read() for _ in range(1000)] == [b"%d" % n for n in range(1000)]
        with pytest.raises(RpcError, match="enough"):
            await counting.read()
        short = await channel.stream("/t.T/Mirror", timeout=0.2)
        with pytest.raises(RpcError) as caught:
            await short.read()
        assert caught.value.code is Code.DEADLINE_EXCEEDED

    play(story)


def test_nobody_there_was_not_sent(pki: Path) -> None:
    async def main() -> None:
        channel = our_channel(pki, free_port())
        with pytest.raises(RpcError, match="failed to connect") as caught:
            await channel.unary("/t.T/Echo", b"", timeout=60)
        assert caught.value.code is Code.UNAVAILABLE
        assert not caught.value.sent

    asyncio.run(main())


def test_a_server_that_stops_lets_calls_end(pki: Path) -> None:
    """Graceful: the stream under way ends by itself, a new call finds no server and was not sent."""

    async def main() -> None:
        stopping = asyncio.Event()

        async def serve(port: asyncio.Future[int]) -> None:
            async with ours(pki, grace=30.0) as (_, number):
                port.set_result(number)
                await stopping.wait()

        async with asyncio.TaskGroup() as tasks:
            port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            tasks.create_task(serve(port))
            channel = our_channel(pki, await port)
            call = await channel.stream("/t.T/Mirror")
            await call.write(b"1")
            assert await call.read() == b"1"
            stopping.set()
            await _until(lambda: not channel.connected)
            with pytest.raises(RpcError) as caught:
                await channel.unary("/t.T/Echo", b"", timeout=60)
            assert not caught.value.sent
            await call.write(b"2")
            assert await call.read() == b"2"
            call.done_writing()
            assert await call.read() is None

    asyncio.run(main())


def test_a_dead_connection_fails_calls_that_were_sent(pki: Path) -> None:
    async def main() -> None:
        async with ours(pki) as (server, port):
            channel = our_channel(pki, port)
            async with asyncio.TaskGroup() as tasks:
                waiting = tasks.create_task(_outcome(channel.unary("/t.T/Hang", b"", timeout=60)))
                await _until(lambda: any(each.core.streams for each in server.connections))
                for connection in list(server.connections):
                    connection.abort()
            error = waiting.result()
            assert error.code is Code.UNAVAILABLE
            assert error.sent
            assert await channel.unary("/t.T/Echo", b"again", timeout=60) == b"again"
            channel.close()

    asyncio.run(main())


async def _outcome(call: Awaitable[bytes]) -> RpcError:
    with pytest.raises(RpcError) as caught:
        await call
    return caught.value


def test_who_pings_too_often_is_sent_away_and_learns(pki: Path) -> None:
    async def main() -> None:
        async with ours(pki, keepalive=Keepalive(min_time=3600.0)) as (_, port):
            channel = our_channel(pki, port, keepalive=Keepalive(interval=0.05, timeout=30.0))
            call = await channel.stream("/t.T/Mirror")
            with pytest.raises(RpcError, match=r"too_many_pings|connection closed|going away"):
                await call.read()
            channel.close()

    asyncio.run(main())


def test_a_client_that_never_reads_costs_a_bound(pki: Path) -> None:
    """It asks for 400 MB and reads nothing: what is kept for it stays far below that, and others are
    served.
    """

    async def main() -> None:
        async with ours(pki) as (server, port):
            slow = our_channel(pki, port, limits=Limits(stream_window=65_535, connection_window=65_535))
            call = await slow.stream("/t.T/Mirror")
            slow_connection = slow._connection
            assert slow_connection is not None
            slow_connection.core.consumed = lambda stream, size: None  # type: ignore[method-assign]

            async def ask() -> None:
                for _ in range(400):
                    await call.write(b"x" * 1_000_000)

            async with asyncio.TaskGroup() as tasks:
                asking = tasks.create_task(ask())
                quick = our_channel(pki, port)
                for _ in range(50):
                    assert await quick.unary("/t.T/Echo", b"q", timeout=60) == b"q"
                    kept = sum(each.core.unsent + each.core.buffered for each in server.connections)
                    assert kept < 8_000_000
                assert not asking.done()
                asking.cancel()
            quick.close()
            slow.close()

    asyncio.run(main())


def test_requests_under_way_are_bounded_together(pki: Path) -> None:
    """Twenty calls of 100 KB hang at a server that keeps a million bytes: the rest is refused by name."""

    async def main() -> None:
        limits = Limits(max_buffered=1_000_000)
        async with ours(pki, limits=limits) as (server, port):
            channel = our_channel(pki, port)
            async with asyncio.TaskGroup() as tasks:
                calls = [
                    tasks.create_task(_outcome(channel.unary("/t.T/Hang", b"x" * 100_000, timeout=60)))
                    for _ in range(20)
                ]
                await _until(lambda: sum(call.done() for call in calls) >= 10)
                assert {call.result().code for call in calls if call.done()} == {Code.RESOURCE_EXHAUSTED}
                assert all(each.core.buffered <= 1_100_000 for each in server.connections)
                channel.close()
            assert not any(each.core.buffered for each in server.connections)

    asyncio.run(main())


def test_a_connection_without_calls_is_kept_and_one_without_a_greeting_is_not(
    pki: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("componentbase.grpcwire.server._GREETING_SECONDS", 0.5)

    async def main() -> None:
        async with ours(pki) as (server, port):
            idle = our_channel(pki, port)
            await idle.connect(60)
            kept = set(server.connections)
            tls = tlsutil.client_context(pki / "ca.pem", pki / "client.pem", pki / "client-key.pem")
            tls.set_alpn_protocols(["h2"])
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
            async with asyncio.timeout(60):
                with contextlib.suppress(ConnectionError):
                    await reader.read()  # its SETTINGS, then the end
            writer.close()
            assert set(server.connections) == kept
            assert idle.connected
            idle.close()

    asyncio.run(main())


def test_a_connection_lost_before_anybody_waited_for_its_greeting_says_so() -> None:
    """asyncio may deliver the loss before `create_connection` returns; the wait must fail then, not pass."""

    async def main() -> None:
        connection = _Dialled(Keepalive(), Limits())
        connection.connection_lost(ConnectionResetError("reset"))
        with pytest.raises(ConnectionError, match="reset"):
            await connection.greeted()
        unasked = _Dialled(Keepalive(), Limits())
        unasked.connection_lost(None)
        del unasked
        gc.collect()  # an exception that nobody saw would be reported here, which fails the test

    asyncio.run(main())
