"""DNS over UDP and TCP: one query in, one answer out, each query on its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import NamedTuple, cast

from clusterdns import measures, wire
from clusterdns.cache import Cache
from clusterdns.forward import Forwarder, NoUpstream
from clusterdns.records import Answer, Records, Status
from componentbase.tasks import Background

log = logging.getLogger(__name__)

TCP_IDLE = 10.0
MAX_TCP_CONNECTIONS = 500
MAX_FORWARDED = 1000
MAX_MEMO = 10_000
"""Answers from records that are kept until anything changes."""
_TRANSFERS = frozenset({"AXFR", "IXFR"})


class Reply(NamedTuple):
    """An answer and what is counted about it: the zone and type asked for, the plugin CoreDNS would name."""

    data: bytes
    zone: str
    type: str
    rcode: str
    plugin: str


class Resolver:
    """Decides who answers a query: the cluster's records, the cache, or an upstream server.

    `version` grows when records may have changed; answers made from them are kept until then.
    """

    def __init__(
        self,
        records: Records,
        forwarder: Forwarder,
        *,
        domain: str,
        ready: Callable[[], bool],
        serial: int = 1,
        version: Callable[[], int] | None = None,
        cache: Cache | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._records = records
        self._forwarder = forwarder
        self._zone = domain.strip(".").lower() + "."
        self._domain = f".{self._zone}"
        self._ready = ready
        self._serial = serial
        self._version = version
        self._memo: dict[bytes, Reply] = {}
        self._memo_version = -1
        self._cache = Cache() if cache is None else cache
        self._clock = clock

    def handle(self, data: bytes, *, tcp: bool) -> Reply | wire.Query | None:
        """The answer, if it can be given at once; the query, when an upstream has to be asked; None, when it
        deserves no answer.
        """
        key = (b"t" if tcp else b"u") + data[2:]
        known = self._remembered(key)
        if known is not None:
            return known._replace(data=data[:2] + known.data[2:])
        try:
            query = wire.parse(data)
        except wire.BadQuery as error:
            return self._reply(error.reply, ".", "other", "") if error.reply else None
        answer = self._records.resolve(query.name, query.type, serial=self._serial)
        ours = ("." + query.name.lower()).endswith(self._domain)
        zone = self._zone if ours else "."
        if (refusal := self._refusal(query, ours)) is not None:
            return self._reply(wire.pack(wire.failure(query, refusal)), zone, query.type, "")
        if answer.status is Status.NOT_OURS:
            return self._foreign(data, query, tcp=tcp)
        answer, elsewhere = self._records.follow(answer, query.type)
        if elsewhere and self._forwarder.available:
            return query
        packed = wire.pack(wire.respond(query, answer), None if tcp else query.udp_size)
        reply = self._reply(packed, zone, query.type, "kubernetes")
        if self._version is not None and len(self._memo) < MAX_MEMO:
            self._memo[key] = reply
        return reply

    def _remembered(self, key: bytes) -> Reply | None:
        """An answer that was made from the very records that are there now."""
        if self._version is None or self._version() != self._memo_version:
            self._memo.clear()
            self._memo_version = self._version() if self._version is not None else -1
        return self._memo.get(key)

    def _refusal(self, query: wire.Query, ours: bool) -> str | None:
        """Our own probe came back, a whole zone is asked for, or nothing is known yet: before the first list
        "no such name" would be a lie that clients remember.
        """
        if self._forwarder.noticed(query.name) or query.type in _TRANSFERS:
            return "REFUSED"
        return "SERVFAIL" if ours and not self._ready() else None

    def _foreign(self, data: bytes, query: wire.Query, *, tcp: bool) -> Reply | wire.Query:
        if not self._forwarder.available:
            return self._reply(wire.pack(wire.failure(query, "REFUSED")), ".", query.type, "")
        found = self._cache.get(data, self._clock())
        if found is None:
            measures.cache_misses.labels(measures.SERVER, ".", "").inc()
            return query
        answer, kind = found
        measures.cache_hits.labels(measures.SERVER, kind, ".", "").inc()
        return self._reply(_fitting(query, answer, tcp=tcp), ".", query.type, "cache")

    def _reply(self, data: bytes, zone: str, kind: str, plugin: str) -> Reply:
        return Reply(data, zone, kind, wire.rcode_of(data), plugin)

    async def forward(self, data: bytes, query: wire.Query, *, tcp: bool) -> Reply:
        """An upstream's answer; SERVFAIL when there is none."""
        try:
            answer = self._records.resolve(query.name, query.type, serial=self._serial)
            if answer.status is not Status.NOT_OURS:
                packed = await self._complete(query, answer, None if tcp else query.udp_size)
                return self._reply(packed, self._zone, query.type, "kubernetes")
            found = await self._forwarder.ask(data, tcp=tcp)
        except (NoUpstream, wire.BadQuery) as error:
            log.debug("not forwarded: %s", error, extra={"name": query.name})
            return self._reply(wire.pack(wire.failure(query, "SERVFAIL")), ".", query.type, "forward")
        if self._cache.put(data, found, self._clock()):
            for kind, size in zip(("success", "denial"), self._cache.sizes, strict=True):
                measures.cache_entries.labels(measures.SERVER, kind, ".", "").set(size)
        return self._reply(_fitting(query, found, tcp=tcp), ".", query.type, "forward")

    async def _complete(self, query: wire.Query, answer: Answer, limit: int | None) -> bytes:
        """The answer with what its CNAME leads to, outside of the cluster. Raises NoUpstream, BadQuery."""
        answer, elsewhere = self._records.follow(answer, query.type)
        if not elsewhere:
            return wire.pack(wire.respond(query, answer), limit)
        asked = wire.question(elsewhere, query.type)
        now = self._clock()
        if known := self._cache.get(asked, now):
            rest = known[0]
        else:
            rest = await self._forwarder.ask(asked)
            self._cache.put(asked, rest, now)
        return wire.pack(wire.completed(query, answer, rest), limit)


def _fitting(query: wire.Query, answer: bytes, *, tcp: bool) -> bytes:
    return answer if tcp or len(answer) <= query.udp_size else wire.truncated(query)


def _finish(started: float, reply: Reply, proto: str, asked: int) -> None:
    """Count a query that has been answered."""
    request = measures.request(reply.zone, proto, reply.type)
    request.total.inc()
    request.size.observe(asked)
    response = measures.response(reply.zone, proto, reply.rcode, reply.plugin)
    response.total.inc()
    response.size.observe(len(reply.data))
    response.seconds.observe(time.monotonic() - started)


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
        handled = self._resolver.handle(data, tcp=False)
        if isinstance(handled, Reply):
            self._send(handled, len(data), addr, started)
        elif handled is not None and len(self._background) < MAX_FORWARDED:
            self._background.spawn("forward", self._forward(data, handled, addr, started))

    async def _forward(self, data: bytes, query: wire.Query, addr: tuple[str, int], started: float) -> None:
        self._send(await self._resolver.forward(data, query, tcp=False), len(data), addr, started)

    def _send(self, reply: Reply, asked: int, addr: tuple[str, int], started: float) -> None:
        if self._transport is not None:
            self._transport.sendto(reply.data, addr)
            _finish(started, reply, "udp", asked)

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
            handled = self._resolver.handle(data, tcp=True)
            if handled is None:
                return
            reply = (
                handled
                if isinstance(handled, Reply)
                else await self._resolver.forward(data, handled, tcp=True)
            )
            writer.write(len(reply.data).to_bytes(2, "big") + reply.data)
            async with asyncio.timeout(TCP_IDLE):
                await writer.drain()
            _finish(started, reply, "tcp", len(data))


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
