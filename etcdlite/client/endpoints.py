"""The members a client may talk to, one channel each, and which of them is in favour.

A frozen member accepts connections and answers nothing, and etcd punishes transport pings more often than
every 5 s. So liveness is probed by a call: a member that does not answer one within PROBE_TIMEOUT loses its
channel, which fails whatever was waiting on it, and the next member is in favour.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import grpc.aio

from etcdlite.pb import rpc_pb2

log = logging.getLogger(__name__)

PROBE_INTERVAL = 1.0
PROBE_TIMEOUT = 2.0
_HELD_UP = 0.5  # a timeout this much late says that this process did not run, and nothing of the member

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 2_000),
)


def read_credentials(
    ca: str | Path | None, cert: str | Path | None, key: str | Path | None
) -> grpc.ChannelCredentials | None:
    """Credentials from PEM files; None (plain text) when no CA is given."""
    if ca is None:
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=Path(ca).read_bytes(),
        private_key=Path(key).read_bytes() if key else None,
        certificate_chain=Path(cert).read_bytes() if cert else None,
    )


def split_endpoint(endpoint: str) -> tuple[str, bool]:
    """`https://host:port` to (`host:port`, secure); a bare `host:port` is plain text, as in etcd's client."""
    if "://" not in endpoint:
        return endpoint, False
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https"):
        raise ValueError(f"endpoint {endpoint!r}: scheme must be http or https")
    return url.netloc, url.scheme == "https"


class Endpoint:
    """One member's address and its channel, opened when first used."""

    def __init__(self, url: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.url = url
        self._target, self._secure = split_endpoint(url)
        if self._secure and credentials is None:
            raise ValueError(f"endpoint {url!r} is https, but no CA was given")
        self._credentials = credentials
        self._channel: grpc.aio.Channel | None = None
        self._calls: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}

    @property
    def open(self) -> bool:
        """Whether a channel exists."""
        return self._channel is not None

    def channel(self) -> grpc.aio.Channel:
        """The channel, opened now if there is none."""
        if self._channel is None:
            if self._secure and self._credentials is not None:
                self._channel = grpc.aio.secure_channel(self._target, self._credentials, options=_OPTIONS)
            else:
                self._channel = grpc.aio.insecure_channel(self._target, options=_OPTIONS)
        return self._channel

    def unary(self, method: str) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
        """A callable for `method` that takes and gives encoded messages."""
        call = self._calls.get(method)
        if call is None:
            call = self._calls[method] = self.channel().unary_unary(method)
        return call

    async def close(self) -> None:
        """Close the channel; calls waiting on it end at once."""
        channel, self._channel = self._channel, None
        self._calls.clear()
        if channel is not None:
            await channel.close()

    async def probe(self) -> bool:
        """Whether the member answers anything at all within PROBE_TIMEOUT."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        request = rpc_pb2.StatusRequest().SerializeToString()
        try:
            await self.unary("/etcdserverpb.Maintenance/Status")(request, timeout=PROBE_TIMEOUT)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                return loop.time() - begun > PROBE_TIMEOUT + _HELD_UP
            return error.code() != grpc.StatusCode.UNAVAILABLE
        except asyncio.CancelledError:
            if cancelled_from_outside():
                raise
            return False
        return True


class EndpointSet:
    """Picks the member to talk to, and moves on when it fails."""

    def __init__(self, urls: Sequence[str], credentials: grpc.ChannelCredentials | None) -> None:
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
        """Probe every member with an open channel, for ever."""
        while True:
            await asyncio.sleep(PROBE_INTERVAL)
            used = [endpoint for endpoint in self._endpoints if endpoint.open]
            answers = await asyncio.gather(*(endpoint.probe() for endpoint in used))
            for endpoint, alive in zip(used, answers, strict=True):
                if not alive:
                    self.failed(endpoint)
                    await endpoint.close()

    async def close(self) -> None:
        """Close all channels."""
        for endpoint in self._endpoints:
            await endpoint.close()


def cancelled_from_outside() -> bool:
    """Tell a cancelled task from a call that ended because its channel was closed under it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
