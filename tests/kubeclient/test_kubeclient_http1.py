"""The connection and the pool against a server that misbehaves on demand."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from componentbase import tlsutil
from kubeclient.http1.message import Answer, ConnectionFailed, NotSent, Request
from kubeclient.http1.pool import Pool
from tests.kubeclient.loops import eventually, on_loop
from tests.kubeclient.wire import OK, Peer, Wire, get, post, wired


async def polite(wire: Wire, peer: Peer) -> None:
    while True:
        await wire.next(peer)
        peer.writer.write(OK)


def replying(*parts: bytes, close: bool = False) -> object:
    """A server that gives this to every request, part by part, each in a packet of its own."""

    async def serve(wire: Wire, peer: Peer) -> None:
        while True:
            await wire.next(peer)
            for part in parts:
                peer.writer.write(part)
                await peer.writer.drain()
                await asyncio.sleep(0)
            if close:
                return

    return serve


def bytewise(data: bytes) -> tuple[bytes, ...]:
    return tuple(data[at : at + 1] for at in range(len(data)))


def asked(serve: object, request: Request) -> Answer:
    found: list[Answer] = []

    async def test() -> None:
        async with wired(serve) as (_, pool):  # type: ignore[arg-type]
            answer = await pool.send(request)
            await answer.read()
            found.append(answer)

    on_loop(test)
    return found[0]


def test_requests_one_after_another_share_a_connection() -> None:
    async def test() -> None:
        async with wired(polite) as (wire, pool):
            for path in ("/a", "/b", "/c"):
                answer = await pool.send(get(path))
                assert (answer.status, answer.content) == (200, b"ok")
            assert wire.heads == [(1, f"GET /{name} HTTP/1.1") for name in "abc"]

    on_loop(test)


def test_a_second_burst_opens_no_connection() -> None:
    async def test() -> None:
        async with wired(polite, limit=48) as (wire, pool):
            for _ in range(3):
                await asyncio.gather(*(pool.send(get()) for _ in range(48)))
            assert len(wire.peers) == 48 and not wire.left

    on_loop(test)


CHUNKED = b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    ("parts", "close", "status", "content"),
    [
        ((CHUNKED,), False, 201, b"hello world"),
        (bytewise(CHUNKED), False, 201, b"hello world"),
        (bytewise(OK), False, 200, b"ok"),
        ((b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"to the ", b"end"), True, 200, b"to the end"),
        ((b"HTTP/1.1 204 No Content\r\n\r\n",), False, 204, b""),
        ((b"HTTP/1.1 100 Continue\r\n\r\n", OK), False, 200, b"ok"),
        ((b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,), False, 200, b"ok"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bodies(parts: tuple[bytes, ...], close: bool, status: int, content: bytes, stream: bool) -> None:
    answer = asked(replying(*parts, close=close), get(stream=stream))
    assert (answer.status, answer.content) == (status, content)
    assert "link" not in answer.headers


def test_a_head_has_no_body() -> None:
    request = Request("HEAD", b"/a", [(b"Host", b"x")])
    answer = asked(replying(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"), request)
    assert (answer.status, answer.content, answer.headers["content-length"]) == (200, b"", "500")


def test_headers_that_repeat_are_joined() -> None:
    head = b"HTTP/1.1 200 OK\r\nWarning: one\r\nWARNING: two\r\nContent-Length: 0\r\n\r\n"
    assert asked(replying(head), get()).headers["warning"] == "one, two"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        b"",
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_breaks_off_is_no_answer(answer: bytes, stream: bool) -> None:
    async def test() -> None:
        async with wired(replying(answer, close=True)) as (wire, pool):  # type: ignore[arg-type]
            with pytest.raises(ConnectionFailed):
                await (await pool.send(get(stream=stream))).read()
            assert len(wire.heads) == 1

    on_loop(test)


def test_a_head_without_end() -> None:
    line = b"X-Long: " + b"x" * 60_000 + b"\r\n"
    with pytest.raises(ConnectionFailed, match="head is too large"):
        asked(replying(b"HTTP/1.1 200 OK\r\n", *[line] * 40), get())


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"],
)
def test_a_connection_that_ends_is_not_used_again(head: bytes) -> None:
    async def test() -> None:
        async with wired(replying(head, close=True)) as (wire, pool):  # type: ignore[arg-type]
            for _ in range(2):
                assert (await pool.send(post())).status == 200
            assert [number for number, _ in wire.heads] == [1, 2]

    on_loop(test)


async def fickle(wire: Wire, peer: Peer) -> None:
    """Answers one request and hangs up on the second without a word, on its first connection."""
    await wire.next(peer)
    peer.writer.write(OK)
    await wire.next(peer)
    if peer.number > 1:
        peer.writer.write(OK)


def test_a_read_that_met_a_closing_connection_is_sent_on_another() -> None:
    async def test() -> None:
        async with wired(fickle) as (wire, pool):
            await pool.send(get("/a"))
            assert (await pool.send(get("/b"))).content == b"ok"
            assert wire.heads[1:] == [(1, "GET /b HTTP/1.1"), (2, "GET /b HTTP/1.1")]

    on_loop(test)


def test_a_write_that_met_a_closing_connection_is_not() -> None:
    async def test() -> None:
        async with wired(fickle) as (wire, pool):
            await pool.send(get("/a"))
            with pytest.raises(ConnectionFailed) as caught:
                await pool.send(post("/b"))
            assert not isinstance(caught.value, NotSent)
            assert len(wire.heads) == 2

    on_loop(test)


def test_a_connection_closed_while_idle_is_seen_before_a_write() -> None:
    async def once(wire: Wire, peer: Peer) -> None:
        await wire.next(peer)
        peer.writer.write(OK)

    async def test() -> None:
        async with wired(once) as (wire, pool):
            await pool.send(get("/a"))
            await eventually(lambda: not pool._open)
            assert (await pool.send(post("/b"))).status == 200
            assert [number for number, _ in wire.heads] == [1, 2]

    on_loop(test)


def test_an_answer_nobody_asked_for_ends_the_connection() -> None:
    async def chatty(wire: Wire, peer: Peer) -> None:
        await wire.next(peer)
        peer.writer.write(OK)
        await peer.writer.drain()
        if peer.number == 1:
            await asyncio.sleep(0.02)
            peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await peer.gone()

    async def test() -> None:
        async with wired(chatty) as (wire, pool):
            await pool.send(get("/a"))
            await eventually(lambda: not pool._open)
            assert (await pool.send(post("/b"))).content == b"ok"
            assert wire.heads[-1][0] == 2

    on_loop(test)


async def silent(wire: Wire, peer: Peer) -> None:
    await wire.next(peer)
    await peer.gone()
    wire.left += 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_says_nothing(stream: bool) -> None:
    async def test() -> None:
        async with wired(silent) as (wire, pool):
            with pytest.raises(ConnectionFailed, match=r"nothing heard for 0\.05s"):
                await pool.send(get(timeout=0.05, stream=stream))
            await eventually(lambda: wire.left == 1)

    on_loop(test)


def test_a_stream_that_falls_silent() -> None:
    async def test() -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
        async with wired(replying(head)) as (_, pool):  # type: ignore[arg-type]
            answer = await pool.send(get(timeout=0.05, stream=True))
            with pytest.raises(ConnectionFailed, match=r"nothing heard for 0\.05s"):
                await answer.read()

    on_loop(test)


def test_a_cancelled_request_takes_its_connection_with_it() -> None:
    async def slow_first(wire: Wire, peer: Peer) -> None:
        await wire.next(peer)
        if peer.number > 1:
            peer.writer.write(OK)
        await peer.gone()
        wire.left += 1

    async def test() -> None:
        async with wired(slow_first) as (wire, pool):
            async with asyncio.TaskGroup() as group:
                task = group.create_task(pool.send(get("/a")))
                await eventually(lambda: len(wire.heads) == 1)
                task.cancel()
            await eventually(lambda: wire.left == 1)
            assert (await pool.send(get("/b"))).content == b"ok"
            assert wire.heads[-1] == (2, "GET /b HTTP/1.1")

    on_loop(test)


def test_no_more_connections_than_allowed_and_first_come_first_served() -> None:
    release = asyncio.Event()

    async def held(wire: Wire, peer: Peer) -> None:
        while True:
            await wire.next(peer)
            await release.wait()
            peer.writer.write(OK)

    async def test() -> None:
        async with wired(held, limit=2) as (wire, pool), asyncio.TaskGroup() as group:
            tasks = [group.create_task(pool.send(get(f"/{n}"))) for n in range(7)]
            await eventually(lambda: len(wire.heads) == 2)
            with pytest.raises(NotSent, match="no free connection"):
                await pool.send(post("/late", timeout=0.05))
            release.set()
            await asyncio.gather(*tasks)
            assert len(wire.peers) == 2
            order = [head.split()[1] for _, head in wire.heads]
            assert (set(order[:2]), order[2:]) == ({"/0", "/1"}, ["/2", "/3", "/4", "/5", "/6"])

    on_loop(test)


def test_a_reader_that_pauses_slows_the_server_down() -> None:
    piece, count = b"10000\r\n" + b"x" * 65536 + b"\r\n", 1024
    sent = [0]

    async def flood(wire: Wire, peer: Peer) -> None:
        await wire.next(peer)
        peer.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(count):
            peer.writer.write(piece)
            await peer.writer.drain()
            sent[0] += 1
        peer.writer.write(b"0\r\n\r\n")

    async def test() -> None:
        async with wired(flood) as (_, pool):
            answer = await pool.send(get(stream=True, timeout=5))
            before = -1
            while before != sent[0]:
                before = sent[0]
                await asyncio.sleep(0.1)
            assert sent[0] < count // 2
            assert len(await answer.read()) == count * 65536

    on_loop(test)


def test_a_finished_stream_gives_its_connection_back_and_a_left_one_ends_it() -> None:
    async def test() -> None:
        async with wired(replying(CHUNKED)) as (wire, pool):  # type: ignore[arg-type]
            await (await pool.send(get("/a", stream=True))).read()
            answer = await pool.send(get("/b", stream=True))
            assert answer.stream is not None
            await answer.stream.aclose()
            await answer.stream.aclose()
            await pool.send(get("/c"))
            assert [number for number, _ in wire.heads][:2] == [1, 1]

    async def unfinished() -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
        async with wired(replying(head)) as (wire, pool):  # type: ignore[arg-type]
            answer = await pool.send(get("/a", stream=True))
            assert answer.stream is not None
            await answer.stream.aclose()
            await eventually(lambda: wire.left == 1)

    on_loop(test)
    on_loop(unfinished)


def test_streams_take_no_place_of_requests() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"

    async def both(wire: Wire, peer: Peer) -> None:
        while True:
            request = await wire.next(peer)
            peer.writer.write(head if b"/watch" in request else OK)

    async def test() -> None:
        async with wired(both, limit=1) as (_, pool):
            streams = [await pool.send(get("/watch", stream=True)) for _ in range(3)]
            assert (await pool.send(post())).content == b"ok"
            for answer in streams:
                assert answer.stream is not None
                await answer.stream.aclose()

    on_loop(test)


def test_what_is_refused_at_the_last_moment_never_leaves() -> None:
    def refuse() -> None:
        raise ConnectionFailed("no longer")

    async def test() -> None:
        async with wired(polite) as (wire, pool):
            request = post()
            request.before_write = refuse
            with pytest.raises(ConnectionFailed, match="no longer"):
                await pool.send(request)
            assert (await pool.send(post("/b"))).content == b"ok"
            assert wire.heads == [(1, "POST /b HTTP/1.1")]

    on_loop(test)


@pytest.mark.parametrize(
    "request_",
    [
        Request("GET", b"/a b"),
        Request("GET", b"/a\r\nX: y"),
        Request("GET", b""),
        Request("GET", b"/a", [(b"X", b"a\r\nY: b")]),
        Request("GET", b"/a", [(b"X", b"a\nb")]),
        Request("GET", b"/a", [(b"X\r", b"a")]),
    ],
)
def test_nothing_smuggles_a_second_request(request_: Request) -> None:
    with pytest.raises(ValueError, match=r"target|line break"):
        request_.encode()


def test_the_bytes_of_a_request() -> None:
    assert get("/x?y=1").encode() == b"GET /x?y=1 HTTP/1.1\r\nHost: x\r\n\r\n"
    assert post("/x", b"{}").encode() == b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    assert Request("DELETE", b"/x").encode().endswith(b"Content-Length: 0\r\n\r\n")


def test_closing_ends_what_is_under_way() -> None:
    async def failing(pool: Pool) -> None:
        with pytest.raises(ConnectionFailed):
            await pool.send(post("/a"))

    async def test() -> None:
        async with wired(silent) as (wire, pool), asyncio.TaskGroup() as group:
            task = group.create_task(failing(pool))
            await eventually(lambda: len(wire.heads) == 1)
            await pool.aclose()
            await task
            with pytest.raises(NotSent, match="closed"):
                await pool.send(get("/b"))

    on_loop(test)


def test_over_tls_and_not_with_a_stranger(tmp_path: Path) -> None:
    from pki.selfsigned import serving_pair

    certificate, key = serving_pair("127.0.0.1")
    server = tlsutil.server_context(certificate, key)

    async def test() -> None:
        async with wired(polite, tls=server) as (wire, _):
            url = f"https://127.0.0.1:{wire.port}"
            trusting = Pool(url, tlsutil.client_context(None, insecure=True))
            for _ in range(2):
                assert (await trusting.send(post())).content == b"ok"
            await trusting.aclose()
            assert [number for number, _ in wire.heads] == [1, 1]
            with pytest.raises(NotSent, match=r"(?i)certificate"):
                await Pool(url, tlsutil.client_context(None)).send(post())

    on_loop(test)


@pytest.mark.parametrize("server", ["ftp://x", "x:6443", "", "https://"])
def test_what_is_no_server(server: str) -> None:
    with pytest.raises(ValueError, match="not the URL of a server"):
        Pool(server)
