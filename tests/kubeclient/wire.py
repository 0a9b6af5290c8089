"""A server that says what a test tells it to, byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

from kubeclient.http1.message import Request
from kubeclient.http1.pool import Pool

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """One accepted connection, from the server's side."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number
        self._reader = reader
        self.writer = writer

    async def request(self) -> bytes:
        """The next request, whole. Raises IncompleteReadError when the client leaves."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return head + await self._reader.readexactly(length)

    async def gone(self) -> None:
        """Wait until the client has closed."""
        with contextlib.suppress(OSError):
            while await self._reader.read(65536):
                pass


class Wire:
    """What the server saw: `heads` has the first line of every request with its connection's number."""

    def __init__(self, serve: Callable[[Wire, Peer], Awaitable[None]]) -> None:
        self._serve = serve
        self.peers: list[Peer] = []
        self.heads: list[tuple[int, str]] = []
        self.left = 0
        self.port = 0

    async def next(self, peer: Peer) -> bytes:
        data = await peer.request()
        self.heads.append((peer.number, data.partition(b"\r\n")[0].decode()))
        return data

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(len(self.peers) + 1, reader, writer)
        self.peers.append(peer)
        try:
            await self._serve(self, peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left += 1
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def wired(
    serve: Callable[[Wire, Peer], Awaitable[None]], limit: int = 64, tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Wire, Pool]]:
    wire = Wire(serve)
    server = await asyncio.start_server(wire.accept, "127.0.0.1", 0, ssl=tls)
    wire.port = server.sockets[0].getsockname()[1]
    pool = Pool(f"http://127.0.0.1:{wire.port}", limit=limit)
    try:
        yield wire, pool
    finally:
        await pool.aclose()
        for peer in wire.peers:
            peer.writer.close()
        server.close()


def get(path: str = "/a", timeout: float = 20.0, stream: bool = False) -> Request:
    return Request("GET", path.encode(), [(b"Host", b"x")], timeout=timeout, stream=stream)


def post(path: str = "/a", body: bytes = b"{}", timeout: float = 20.0) -> Request:
    return Request("POST", path.encode(), [(b"Host", b"x")], body, timeout=timeout)
