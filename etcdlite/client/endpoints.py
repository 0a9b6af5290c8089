"""The members a client may talk to, one connection each, and which of them is in favour.

A frozen member accepts connections and answers nothing, and etcd punishes transport pings more often than
every 5 s. So liveness is probed by a call: a member that does not answer one within PROBE_TIMEOUT loses its
connection, which fails whatever was waiting on it, and the next member is in favour.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from componentbase import tlsutil
from componentbase.grpcwire.client import Channel, ClientStream
from componentbase.grpcwire.status import Code, RpcError
from etcdlite.pb import rpc_pb2

log = logging.getLogger(__name__)

PROBE_INTERVAL = 1.0
PROBE_TIMEOUT = 2.0
_HELD_UP = 0.5  # a timeout this much late says that this process did not run, and nothing of the member
_CONNECT_SECONDS = 2.0
_USER_AGENT = "etcdlite-client"


def read_credentials(
    ca: str | Path | None, cert: str | Path | None, key: str | Path | None
) -> ssl.SSLContext | None:
    """A context from PEM files; None (plain text) when no CA is given. Raises OSError."""
    if ca is None:
        return None
    return tlsutil.client_context(ca, cert, key)


def split_endpoint(endpoint: str) -> tuple[str, bool]:
    """`https://host:port` to (`host:port`, secure); a bare `host:port` is plain text, as in etcd's client."""
    if "://" not in endpoint:
        return endpoint, False
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https"):
        raise ValueError(f"endpoint {endpoint!r}: scheme must be http or https")
    return url.netloc, url.scheme == "https"


class Endpoint:
    """One member's address and the channel to it, which connects when first used."""

    def __init__(self, url: str, credentials: ssl.SSLContext | None) -> None:
        """Raises ValueError for a URL that names no host and port, or is https where there is no CA."""
        self.url = url
        target, secure = split_endpoint(url)
        if secure and credentials is None:
            raise ValueError(f"endpoint {url!r} is https, but no CA was given")
        parts = urlsplit(f"//{target}")
        if not parts.hostname or not parts.port:
            raise ValueError(f"endpoint {url!r} is not host:port")
        self._channel = Channel(
            parts.hostname,
            parts.port,
            tls=credentials if secure else None,
            user_agent=_USER_AGENT,
            connect_timeout=_CONNECT_SECONDS,
        )
        # A coroutine that takes and gives encoded messages. Raises RpcError.
        self.unary = self._channel.unary

    @property
    def open(self) -> bool:
        """Whether there is a connection."""
        return self._channel.connected

    async def stream(self, method: str, metadata: tuple[tuple[str, str], ...] = ()) -> ClientStream:
        """Begin a call of many messages. Raises RpcError."""
        return await self._channel.stream(method, metadata=metadata)

    def close(self) -> None:
        """Drop the connection; calls waiting on it end at once. The next call connects again."""
        self._channel.close()

    async def shut(self) -> None:
        """Drop the connection and wait until it is gone."""
        await self._channel.aclose()

    async def probe(self) -> bool:
        """Whether the member answers anything at all within PROBE_TIMEOUT."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        request = rpc_pb2.StatusRequest().SerializeToString()
        try:
            await self.unary("/etcdserverpb.Maintenance/Status", request, timeout=PROBE_TIMEOUT)
        except RpcError as error:
            if error.code is Code.DEADLINE_EXCEEDED:
                return loop.time() - begun > PROBE_TIMEOUT + _HELD_UP
            return error.code is not Code.UNAVAILABLE
        return True


class EndpointSet:
    """Picks the member to talk to, and moves on when it fails."""

    def __init__(self, urls: Sequence[str], credentials: ssl.SSLContext | None) -> None:
        if not urls:
            raise ValueError("at least one endpoint is needed")
        self._endpoints = [Endpoint(url, credentials) for url in urls]
        self._favourite = 0

    def __len__(self) -> int:
        return len(self._endpoints)

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._endpoints)

    def current(self) -> Endpoint:
        """The member in favour."""
        return self._endpoints[self._favourite]

    def find(self, url: str) -> Endpoint:
        """The member with this URL; KeyError if it is not one of ours."""
        for endpoint in self._endpoints:
            if endpoint.url == url:
                return endpoint
        raise KeyError(url)

    def failed(self, endpoint: Endpoint) -> None:
        """Move on, if `endpoint` is still the one in favour (another caller may have moved on already)."""
        if endpoint is self.current():
            self._favourite = (self._favourite + 1) % len(self._endpoints)
            if len(self._endpoints) > 1:
                log.info("etcd endpoint %s failed, now using %s", endpoint.url, self.current().url)

    async def watch_over(self) -> None:
        """Probe every member with an open connection, for ever."""
        while True:
            await asyncio.sleep(PROBE_INTERVAL)
            used = [endpoint for endpoint in self._endpoints if endpoint.open]
            answers = await asyncio.gather(*(endpoint.probe() for endpoint in used))
            for endpoint, alive in zip(used, answers, strict=True):
                if not alive:
                    self.failed(endpoint)
                    endpoint.close()

    async def close(self) -> None:
        """Close all connections."""
        for endpoint in self._endpoints:
            await endpoint.shut()
