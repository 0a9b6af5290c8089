r"""Serve an ASGI application over HTTP/1.1 and TLS, with two things uvicorn does not give.

The client's certificate, read once per connection, is in every request's scope:

    scope["extensions"]["tls"] = {"peer_cert_der": bytes | None}

with "peer_cert_error" beside it when the context reports certificates that do not verify (see `tlsutil`).

A request that asks for an upgrade arrives as a plain HTTP request whose scope carries a way to take the
connection:

    head = b"HTTP/1.1 101 Switching Protocols\r\n...\r\n\r\n"
    stream = await scope["extensions"]["hardway.upgrade"](head)

An application that does not call it answers like any other, and the connection goes on as HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from componentbase import tlsutil
from componentbase.http.stream import RawStream

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

log = logging.getLogger(__name__)

Take = Callable[[bytes], Awaitable[RawStream]]

MAX_HEADER_BYTES = 1 << 20
"""Go's DefaultMaxHeaderBytes: a request head larger than this ends the connection."""
KEEP_ALIVE = 90
"""Seconds an idle connection is kept, as kube-apiserver's IdleTimeout; clients must give up earlier."""
HANDSHAKE_TIMEOUT = 10.0
_EARLY_LIMIT = 64 * 1024
_CLOSING_TURNS = 25


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with peer certificates, raw takeover and a bound on heads."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        self._tls = tlsutil.peer(tls) if tls is not None else {"peer_cert_der": None}
        self._head_bytes = 0
        # Bytes behind the head of an upgrade request: the tunnel's first, or the next request's.
        self._early: bytearray | None = None
        self._taken: RawStream | None = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0
        self._extensions: dict[Any, Any] = {"tls": self._tls}
        self.scope["extensions"] = self._extensions

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > MAX_HEADER_BYTES:
            raise ValueError("request head too large")
        super().on_header(name, value)

    def _should_upgrade(self) -> bool:
        # uvicorn would leave the request to its WebSocket protocol; here every upgrade reaches the
        # application.
        return False

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade() and self._get_upgrade() is not None:
            self._early = bytearray()
            self._extensions["hardway.upgrade"] = self._take
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._early is not None:
            self._keep_early(data)
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as pause:
            if self._early is not None:
                self._keep_early(data[pause.args[0] :])
            elif rest := data[pause.args[0] :]:
                self.data_received(rest)
        except httptools.HttpParserError as error:
            log.debug("invalid HTTP request", extra={"client": self.client, "error": error})
            self.send_400_response("Invalid HTTP request received.")

    def _keep_early(self, data: bytes) -> None:
        assert self._early is not None
        self._early += data
        if len(self._early) > _EARLY_LIMIT:
            self.flow.pause_reading()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._early is not None and self.cycle.response_complete:
            # The application declined: the bytes behind the request are the next request.
            early, self._early = bytes(self._early), None
            if early and not self.transport.is_closing():
                self.data_received(early)

    async def _take(self, head: bytes) -> RawStream:
        """Write `head` and hand the connection over. Raises ConnectionError when the client has left."""
        cycle = self.cycle
        if self._early is None or cycle.response_started:
            raise RuntimeError("the connection has been taken or answered already")
        if cycle.disconnected or self.transport.is_closing():
            raise ConnectionResetError("the client closed the connection before the upgrade")
        cycle.response_started = cycle.response_complete = True
        self._taken = stream = RawStream(self.connections.discard)
        early, self._early = bytes(self._early), None
        self.connections.discard(self)
        self.connections.add(stream)  # type: ignore[arg-type]
        self.transport.set_protocol(stream)
        self.transport.write(head)
        stream.attach(self.transport, early)
        self.flow.resume_reading()
        return stream

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        async def quiet_when_cancelled(
            scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
        ) -> None:
            try:
                await app(scope, receive, send)
            except asyncio.CancelledError:
                # Only the end of the server cancels a request; uvicorn would report it as a bug of the
                # application.
                cycle.disconnected = True
                self.transport.abort()
            except ConnectionError as error:
                # The peer of a tunnel left while it was written to.
                if self._taken is None:
                    raise
                log.debug("tunnel broke", extra={"client": self.client, "error": error})
                self._taken.abort()

        super()._start_asgi_task(cycle, quiet_when_cancelled)


def listen(host: str, port: int) -> socket.socket:
    """A bound, listening TCP socket. Raises OSError that names the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setblocking(False)
        sock.bind((host, port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    return sock


class Connections:
    """HTTP/1.1 on connections that somebody else accepts, and the requests under way on them."""

    def __init__(self, app: Any, keep_alive: int = KEEP_ALIVE) -> None:
        self._config, self._state = _config(app, keep_alive), ServerState()

    def protocol(self) -> asyncio.Protocol:
        """For one new connection."""
        loop = asyncio.get_running_loop()
        return Protocol(config=self._config, server_state=self._state, app_state={}, _loop=loop)

    async def run(self) -> None:
        """Keep the Date of answers right, until cancelled."""
        await _refresh_date(self._state)

    async def end(self, grace: float = 5.0) -> None:
        """Close idle connections, give requests `grace` seconds, then cancel them."""
        await _drain(self._state, grace)


async def serve(
    app: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    sock: socket.socket | None = None,
    ssl_context: ssl.SSLContext | None = None,
    shutdown_grace: float = 5.0,
    keep_alive: int = KEEP_ALIVE,
    on_listening: Callable[[int], None] | None = None,
) -> None:
    """Serve `app` until cancelled, on `host`:`port` or on a socket that is bound already.

    Cancellation stops listening, closes idle connections, gives requests `shutdown_grace` seconds, then
    cancels them. `on_listening` is called with the port once connections are accepted. Raises OSError when
    the address is taken. ASGI lifespan events are not sent: what a daemon owns, its `main` opens and
    closes.
    """
    sock = sock if sock is not None else listen(host, port)
    connections = Connections(app, keep_alive)
    server = await asyncio.get_running_loop().create_server(
        connections.protocol,
        sock=sock,
        backlog=2048,
        ssl=ssl_context,
        ssl_handshake_timeout=HANDSHAKE_TIMEOUT if ssl_context else None,
    )
    try:
        if on_listening is not None:
            on_listening(sock.getsockname()[1])
        await connections.run()
    finally:
        server.close()
        await connections.end(shutdown_grace)


def _config(app: Any, keep_alive: int) -> Config:
    config = Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=keep_alive,
    )
    config.load()
    return config


async def _refresh_date(state: ServerState) -> None:
    while True:
        state.default_headers = [(b"date", formatdate(time.time(), usegmt=True).encode("ascii"))]
        await asyncio.sleep(1.0)


async def _drain(state: ServerState, grace: float) -> None:
    for connection in list(state.connections):
        connection.shutdown()
    running = list(state.tasks)
    if running:
        _, late = await asyncio.wait(running, timeout=grace)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=grace)
    # Closing takes a few turns of the loop, over TLS also an answer of the peer.
    for _ in range(_CLOSING_TURNS):
        if not state.connections:
            break
        await asyncio.sleep(0.01)
    for connection in list(state.connections):
        connection.transport.abort()
    await asyncio.sleep(0)
