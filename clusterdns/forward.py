"""Names that are not the cluster's: ask the upstream servers.

Every query leaves from a fresh socket with a fresh random id, and only an answer that repeats id and
question, from the server asked, is believed (RFC 5452).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import time
from pathlib import Path

from dnslib import DNSRecord

from clusterdns import measures, wire

log = logging.getLogger(__name__)

TIMEOUT = 2.0
MAX_IN_FLIGHT = 1000
PORT = 53

Upstream = tuple[str, int]


class NoUpstream(Exception):
    """Nobody answered, or there is nobody to ask."""


def parse_upstream(text: str) -> Upstream:
    """`1.2.3.4`, `1.2.3.4:5353` or `[::1]:53`. Raises ValueError."""
    host, _, port = text.rpartition(":") if text.count(":") == 1 or "]" in text else (text, "", "")
    host = host.strip("[]")
    ipaddress.ip_address(host)
    return host, int(port) if port else PORT


def from_resolv_conf(path: Path) -> list[Upstream]:
    """The name servers of a resolv.conf; none when there is no such file."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        log.warning("no upstream servers: %s", error)
        return []
    words = [line.split() for line in lines]
    return [(each[1].partition("%")[0], PORT) for each in words if len(each) >= 2 and each[0] == "nameserver"]


class _Exchange(asyncio.DatagramProtocol):
    def __init__(self, question: bytes, identity: bytes, answer: asyncio.Future[bytes]) -> None:
        self._question = question
        self._identity = identity
        self._answer = answer

    def datagram_received(self, data: bytes, addr: object) -> None:
        # Anything else may be forged: keep waiting for the real one.
        if self._answer.done() or len(data) < 12 or data[:2] != self._identity or not data[2] & 0x80:
            return
        if data[12 : 12 + len(self._question)].lower() == self._question.lower():
            self._answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self._answer.done():
            self._answer.set_exception(NoUpstream(str(exc)))


class Forwarder:
    """Asks the upstreams in their order; the one that answered last is asked first."""

    def __init__(self, upstreams: list[Upstream]) -> None:
        self._upstreams = list(upstreams)
        self._slots = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._probe = ""

    @property
    def available(self) -> bool:
        return bool(self._upstreams)

    async def ask(self, query: bytes, *, tcp: bool = False) -> bytes:
        """The upstream's answer to `query`, under the query's own id. Raises NoUpstream."""
        if self._slots.locked():
            measures.rejected.inc()
            raise NoUpstream("too many queries are being forwarded")
        async with self._slots:
            reason = "no upstream server is configured"
            for upstream in list(self._upstreams):
                started = time.monotonic()
                try:
                    async with asyncio.timeout(TIMEOUT):
                        answer = await self._exchange(upstream, query, tcp)
                except (NoUpstream, OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                    reason = f"{upstream[0]}: {error or type(error).__name__}"
                    continue
                self._prefer(upstream)
                to = f"{upstream[0]}:{upstream[1]}"
                seconds = measures.upstream_seconds.labels("forward", to, wire.rcode_of(answer))
                seconds.observe(time.monotonic() - started)
                return query[:2] + answer[2:]
        raise NoUpstream(reason)

    def _prefer(self, upstream: Upstream) -> None:
        if self._upstreams and self._upstreams[0] != upstream and upstream in self._upstreams:
            self._upstreams.remove(upstream)
            self._upstreams.insert(0, upstream)

    async def _exchange(self, upstream: Upstream, query: bytes, tcp: bool) -> bytes:
        identity = secrets.token_bytes(2)
        message = identity + query[2:]
        if tcp:
            return await _over_tcp(upstream, message)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Exchange(_question(query), identity, future), remote_addr=upstream
        )
        try:
            transport.sendto(message)
            answer = await future
        finally:
            transport.close()
        return await _over_tcp(upstream, message) if answer[2] & 0x02 else answer

    # -- loops
    # ------------------------------------------------------------------------------------------------

    async def probe_loop(self, domain: str) -> None:
        """Ask upstream for a name nobody else knows; if `noticed` sees it, upstream asks us, and is
        dropped.
        """
        if not self._upstreams:
            return
        self._probe = f"{secrets.randbits(60)}.{secrets.randbits(60)}.{domain.strip('.')}."
        try:
            await self.ask(bytes(DNSRecord.question(self._probe, "HINFO").pack()))
        except NoUpstream as error:
            log.warning("no upstream server answered: %s", error)

    def noticed(self, name: str) -> bool:
        """Whether a query that arrived is our own probe; then nothing is forwarded any more."""
        if not self._probe or name.lower() != self._probe:
            return False
        if self._upstreams:
            log.error(
                "the upstream servers forward to this one: forwarding is off", extra={"to": self._upstreams}
            )
            self._upstreams.clear()
        return True


async def _over_tcp(upstream: Upstream, message: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*upstream)
    try:
        writer.write(len(message).to_bytes(2, "big") + message)
        size = int.from_bytes(await reader.readexactly(2), "big")
        answer = await reader.readexactly(size)
    finally:
        writer.close()
    if answer[:2] != message[:2]:
        raise NoUpstream("the answer is to another question")
    return answer


def _question(query: bytes) -> bytes:
    """The encoded name, type and class of the first question."""
    position = 12
    while position < len(query) and query[position]:
        position += query[position] + 1
    return query[12 : position + 5]
