"""Sessions and WebSockets over pipes in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from componentbase.streams import websocket
from componentbase.streams.session import QUEUE, Session
from componentbase.streams.websocket import Channels, HandshakeError, Tunnel, WebSocket, handshake


class Wire:
    """One end of a byte stream in memory; `other` is the opposite end."""

    def __init__(self) -> None:
        self.inbox: asyncio.Queue[bytes] = asyncio.Queue()
        self.other: Wire | None = None
        self.closed = False

    async def read(self) -> bytes:
        return b"" if self.closed else await self.inbox.get()

    async def write(self, data: bytes) -> None:
        if self.closed or self.other is None or self.other.closed:
            raise ConnectionResetError("closed")
        self.other.inbox.put_nowait(data)

    def close(self) -> None:
        if not self.closed and self.other is not None:
            self.other.inbox.put_nowait(b"")
            self.inbox.put_nowait(b"")
        self.closed = True


def wires() -> tuple[Wire, Wire]:
    left, right = Wire(), Wire()
    left.other, right.other = right, left
    return left, right


def talk(dialogue: Callable[[Session, Session], Awaitable[None]]) -> None:
    async def both() -> None:
        left, right = wires()
        client, server = Session(left, client=True), Session(right, client=False)
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            group.create_task(client.run())
            group.create_task(server.run())
            await dialogue(client, server)
            client.close()
            server.close()

    asyncio.run(both())


def test_both_directions_and_half_close() -> None:
    async def dialogue(client: Session, server: Session) -> None:
        mine = await client.open({"streamtype": "data"})
        theirs = await server.accept()
        assert theirs is not None
        await mine.replied.wait()
        await mine.write(b"question")
        await mine.finish()
        assert (await theirs.read(), await theirs.read()) == (b"question", b"")
        await theirs.write(b"answer")
        await theirs.finish()
        assert (await mine.read(), await mine.read()) == (b"answer", b"")
        with pytest.raises(ConnectionResetError):
            await mine.write(b"too late")

    talk(dialogue)


def test_a_reset_ends_both_sides() -> None:
    async def dialogue(client: Session, server: Session) -> None:
        mine = await client.open({})
        theirs = await server.accept()
        assert theirs is not None
        await mine.reset()
        with pytest.raises(ConnectionResetError):
            await theirs.read()

    talk(dialogue)


def test_the_end_of_the_connection_frees_every_reader() -> None:
    async def dialogue(client: Session, server: Session) -> None:
        mine = await client.open({})
        server.close()
        with pytest.raises(ConnectionResetError):
            await mine.read()
        assert await client.accept() is None

    talk(dialogue)


def test_a_reader_that_is_slow_holds_the_writer_back_but_loses_nothing() -> None:
    async def dialogue(client: Session, server: Session) -> None:
        mine = await client.open({})
        theirs = await server.accept()
        assert theirs is not None
        for number in range(3 * QUEUE):
            await mine.write(b"%d," % number)
        await mine.finish()
        got = b""
        while piece := await theirs.read():
            got += piece
        assert got == b"".join(b"%d," % number for number in range(3 * QUEUE))

    talk(dialogue)


def request(**changes: str) -> dict[str, str]:
    headers = {
        "upgrade": "websocket",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        "sec-websocket-version": "13",
        "sec-websocket-protocol": "v5.channel.k8s.io, v4.channel.k8s.io",
    }
    return {**headers, **{name.replace("_", "-"): value for name, value in changes.items()}}


def test_handshake_of_the_rfc() -> None:
    head, chosen = handshake(request(), (websocket.V4, websocket.V5))
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
    assert chosen == websocket.V5


@pytest.mark.parametrize(
    "headers",
    [
        request(upgrade="h2c"),
        request(sec_websocket_version="8"),
        request(sec_websocket_protocol="base64.channel.k8s.io"),
    ],
)
def test_handshakes_that_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(HandshakeError):
        handshake(headers, (websocket.V5,))


def sockets() -> tuple[WebSocket, WebSocket]:
    left, right = wires()
    return WebSocket(left, client=True), WebSocket(right, client=False)


def test_channels_and_the_close_signal_of_v5() -> None:
    async def dialogue() -> None:
        left, right = sockets()
        client, server = Channels(left, websocket.V5), Channels(right, websocket.V5)
        await client.send(0, b"input")
        await client.close_channel(0)
        assert await server.receive() == (0, b"input")
        assert await server.receive() == (0, None)
        await server.send(1, b"")
        assert await client.receive() == (1, b"")
        await left.close()
        assert await server.receive() is None

    asyncio.run(asyncio.wait_for(dialogue(), 5))


def test_v4_has_no_close_signal() -> None:
    async def dialogue() -> None:
        left, right = sockets()
        client, server = Channels(left, websocket.V4), Channels(right, websocket.V4)
        await client.close_channel(0)
        await client.send(255, b"x")
        assert await server.receive() == (255, b"x")

    asyncio.run(asyncio.wait_for(dialogue(), 5))


def test_a_session_through_a_tunnel() -> None:
    async def dialogue() -> None:
        left, right = sockets()
        client, server = Session(Tunnel(left), client=True), Session(Tunnel(right), client=False)
        async with asyncio.TaskGroup() as group:
            group.create_task(client.run())
            group.create_task(server.run())
            mine = await client.open({"port": "80"})
            theirs = await server.accept()
            assert theirs is not None
            await theirs.write(b"x" * 100_000)
            await theirs.finish()
            size = 0
            while piece := await mine.read():
                size += len(piece)
            assert size == 100_000
            client.close()
            server.close()

    asyncio.run(asyncio.wait_for(dialogue(), 5))
