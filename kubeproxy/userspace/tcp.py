"""TCP connections, each relayed to an endpoint by two pumps."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
from collections import Counter

from componentbase import metrics
from componentbase.tasks import Background, all_of
from kubeproxy.userspace.compiler import Front, Route
from kubeproxy.userspace.director import Director

log = logging.getLogger(__name__)

CONNECT_TIMEOUT = 5.0
"""Seconds an endpoint may take to answer before the next is tried."""
ATTEMPTS = 4
"""Endpoints that are tried for one client."""
BUFFER = 65536
"""Bytes at which a stream of asyncio stops its sender (reading: at twice that). So a slow end slows the other
down, and no more than some four of these wait in each direction."""
MAX_CONNECTIONS = 4096
BACKLOG = 512

_open = metrics.gauge("hardway_userspace_connections", "TCP connections that are being relayed.")
_failed = metrics.counter(
    "hardway_userspace_failed_connections_total", "Connections reset for want of an endpoint.", ["reason"]
)


class Relays:
    """All connections of the node. They outlive the listener they came through, as translated ones do."""

    def __init__(self, director: Director, background: Background, limit: int = MAX_CONNECTIONS) -> None:
        self._director, self._background, self._limit = director, background, limit
        self._by_address: Counter[str] = Counter()

    @property
    def addresses(self) -> frozenset[str]:
        """Those of this node that connections go through."""
        return frozenset(self._by_address)

    def accept(
        self, front: Front, route: Route, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if self._by_address.total() >= self._limit:
            _failed.labels("limit").inc()
            reset(writer)
            return
        self._by_address[front.ip] += 1
        _open.inc()
        self._background.spawn(route.title, self._serve(front, route, reader, writer))

    async def _serve(
        self, front: Front, route: Route, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await self._relay(route, reader, writer)
        finally:
            writer.close()
            _open.dec()
            self._by_address[front.ip] -= 1
            if not self._by_address[front.ip]:
                del self._by_address[front.ip]

    async def _relay(self, route: Route, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        there = await self._connect(route, peer[0]) if peer else None
        if there is None:
            _failed.labels("endpoint").inc()
            reset(writer)
            return
        far_reader, far_writer = there
        try:
            keep_alive(writer, far_writer)
            await all_of((_pump(reader, far_writer), _pump(far_reader, writer)))
        except OSError:
            reset(writer)
            reset(far_writer)
        finally:
            far_writer.close()

    async def _connect(
        self, route: Route, client: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for endpoint in self._director.order(route, client)[:ATTEMPTS]:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT):
                    there = await asyncio.open_connection(endpoint.ip, endpoint.port, limit=BUFFER)
            except (OSError, TimeoutError) as error:
                self._director.refused(route, client)
                log.info("%s: %s:%d: %s", route.title, endpoint.ip, endpoint.port, error or "no answer")
                continue
            self._director.reached(route, client, endpoint)
            return there
        return None


class TcpListener:
    """Listens on one front. `route` may change under it: connections that are open stay where they are."""

    def __init__(self, front: Front, route: Route, relays: Relays) -> None:
        self.front, self.route = front, route
        self._relays = relays
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Raises OSError."""
        self._server = await asyncio.start_server(
            self._accepted, self.front.ip, self.front.port, limit=BUFFER, backlog=BACKLOG
        )

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    def reroute(self, route: Route) -> None:
        self.route = route

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._relays.accept(self.front, self.route, reader, writer)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """All bytes of one direction, and then its end, while the other direction goes on."""
    while data := await reader.read(BUFFER):
        writer.write(data)
        await writer.drain()
    if not writer.is_closing():
        writer.write_eof()


def keep_alive(*writers: asyncio.StreamWriter) -> None:
    """A peer that vanished without a word is noticed by the kernel; an idle one may stay for ever."""
    for writer in writers:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close by RST: the client must not take it for an orderly end."""
    with contextlib.suppress(OSError):
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()
