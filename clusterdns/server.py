"""DNS over UDP and TCP: one query in, one answer out, each query on its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import cast

from clusterdns import wire
from clusterdns.forward import Forwarder, NoUpstream
from clusterdns.records import Records, Status
from componentbase import metrics
from componentbase.tasks import Background

log = logging.getLogger(__name__)

TCP_IDLE = 10.0
MAX_TCP_CONNECTIONS = 500
MAX_FORWARDED = 1000

_requests = metrics.counter("coredns_dns_requests_total", "DNS requests made.", ["proto", "type"])
_responses = metrics.counter("coredns_dns_responses_total", "Responses sent, by rcode.", ["rcode"])
_duration = metrics.histogram("coredns_dns_request_duration_seconds", "Time each request took.")
_TYPES = frozenset({"A", "AAAA", "CNAME", "MX", "NS", "PTR", "SOA", "SRV", "TXT", "HTTPS", "SVCB", "ANY"})


class Resolver:
    """Decides who answers a query: the cluster's records, or an upstream server."""

    def __init__(
        self,
        records: Records,
        forwarder: Forwarder,
        *,
        domain: str,
        ready: Callable[[], bool],
        serial: int = 1,
    ) -> None:
        self._records = records
        self._forwarder = forwarder
        self._domain = "." + domain.strip(".").lower() + "."
        self._ready = ready
        self._serial = serial

    def _answer(self, query: wire.Query, *, tcp: bool) -> bytes | None:
        """The answer, if it can be given at once; None when an upstream has to be asked."""
        limit = None if tcp else query.udp_size
        if self._forwarder.noticed(query.name):
            return wire.pack(wire.failure(query, "REFUSED"))
        # Before the first list nothing is known; "no such name" would be a lie that clients remember.
        if not self._ready() and ("." + query.name.lower()).endswith(self._domain):
            return wire.pack(wire.failure(query, "SERVFAIL"))
        answer = self._records.resolve(query.name, query.type, serial=self._serial)
        if answer.status is Status.NOT_OURS:
            if self._forwarder.available:
                return None
            return wire.pack(wire.failure(query, "REFUSED"))
        return wire.pack(wire.respond(query, answer), limit)

    async def forward(self, data: bytes, query: wire.Query, *, tcp: bool) -> bytes:
        """An upstream's answer; SERVFAIL when there is none."""
        try:
            answer = await self._forwarder.ask(data, tcp=tcp)
        except NoUpstream as error:
            log.debug("not forwarded: %s", error, extra={"name": query.name})
            return wire.pack(wire.failure(query, "SERVFAIL"))
        if tcp or len(answer) <= query.udp_size:
            return answer
        short = wire.failure(query, "NOERROR")
        short.header.tc = 1
        return wire.pack(short)

    def handle(self, data: bytes, *, tcp: bool) -> tuple[wire.Query | None, bytes | None]:
        """Parse and answer. (None, None): drop it; (query, None): forward it."""
        try:
            query = wire.parse(data)
        except wire.BadQuery as error:
            return None, error.reply
        _requests.labels("tcp" if tcp else "udp", query.type if query.type in _TYPES else "other").inc()
        return query, self._answer(query, tcp=tcp)


def _finish(started: float, answer: bytes) -> None:
    _responses.labels(wire.rcode_of(answer)).inc()
    _duration.observe(time.monotonic() - started)


class _Udp(asyncio.DatagramProtocol):
    """Cluster names are answered in the callback itself; only forwarded queries cost a task."""

    def __init__(self, resolver: Resolver, background: Background) -> None:
        self._resolver = resolver
        self._background = background
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        started = time.monotonic()
        query, answer = self._resolver.handle(data, tcp=False)
        if answer is not None:
            self._send(answer, addr, started)
        elif query is not None and len(self._background) < MAX_FORWARDED:
            self._background.spawn("forward", self._forward(data, query, addr, started))

    async def _forward(self, data: bytes, query: wire.Query, addr: tuple[str, int], started: float) -> None:
        self._send(await self._resolver.forward(data, query, tcp=False), addr, started)

    def _send(self, answer: bytes, addr: tuple[str, int], started: float) -> None:
        if self._transport is not None:
            self._transport.sendto(answer, addr)
            _finish(started, answer)

    def error_received(self, exc: Exception) -> None:
        log.debug("a client is gone: %s", exc)


class _Tcp:
    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Queries one after another on a connection, until it is idle for too long."""
        self._open += 1
        try:
            if self._open <= MAX_TCP_CONNECTIONS:
                await self._converse(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open -= 1
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            async with asyncio.timeout(TCP_IDLE):
                size = int.from_bytes(await reader.readexactly(2), "big")
                data = await reader.readexactly(size)
            started = time.monotonic()
            query, answer = self._resolver.handle(data, tcp=True)
            if answer is None:
                if query is None:
                    return
                answer = await self._resolver.forward(data, query, tcp=True)
            writer.write(len(answer).to_bytes(2, "big") + answer)
            async with asyncio.timeout(TCP_IDLE):
                await writer.drain()
            _finish(started, answer)


async def serve(
    resolver: Resolver, host: str, port: int, *, on_listening: Callable[[int], None] | None = None
) -> None:
    """Answer on UDP and TCP `host`:`port` until cancelled. Raises OSError when the address cannot be had."""
    loop = asyncio.get_running_loop()
    async with Background("dns") as background:
        listener = await asyncio.start_server(_Tcp(resolver).serve, host, port)
        port = listener.sockets[0].getsockname()[1]
        try:
            udp, _ = await loop.create_datagram_endpoint(
                lambda: _Udp(resolver, background), local_addr=(host, port)
            )
        except OSError:
            listener.close()
            raise
        if on_listening is not None:
            on_listening(port)
        try:
            await asyncio.Event().wait()
        finally:
            udp.close()
            listener.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await listener.wait_closed()
