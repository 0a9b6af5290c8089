"""Requests that leave HTTP: exec, attach and port-forward over WebSocket or SPDY."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any

import orjson

from componentbase.http.stream import RawStream
from componentbase.streams.session import Session
from componentbase.streams.websocket import (
    TUNNEL,
    V4,
    V5,
    Channels,
    HandshakeError,
    Tunnel,
    WebSocket,
    handshake,
)
from componentbase.tasks import Background
from kubelet.cri.pb import api_pb2 as pb
from kubelet.cri.port import Runtime
from kubelet.server import portforward
from kubelet.server.remote import (
    NUMBERS,
    SPDY_PROTOCOL,
    ChannelPipe,
    Pipe,
    Wanted,
    accept_streams,
    feed_channels,
    join,
    open_runtime,
)

log = logging.getLogger(__name__)

Query = Mapping[str, list[str]]
PORTFORWARD_SPDY = "portforward.k8s.io"


class Refused(Exception):
    """The request cannot be answered as asked; `status` is HTTP's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def wanted_pipes(query: Query, tty: bool | None = None) -> Wanted:
    """The kubelet's own parameters: input, output, error, tty; what the apiserver passes on may use stdin
    and so on.
    """

    def flag(*names: str) -> bool:
        return any(query.get(name, [""])[0] in ("1", "true") for name in names)

    terminal = flag("tty") if tty is None else tty
    wanted = Wanted(flag("input", "stdin"), flag("output", "stdout"), flag("error", "stderr"), terminal)
    if not (wanted.stdin or wanted.stdout or wanted.stderr):
        raise Refused(400, "you must specify at least 1 of stdin, stdout, stderr")
    return wanted


class Streams:
    """Takes connections over and joins them with the runtime."""

    def __init__(self, runtime: Runtime, tasks: Background) -> None:
        self._runtime = runtime
        self._tasks = tasks

    async def execute(
        self, scope: dict[str, Any], headers: Mapping[str, str], container_id: str, query: Query
    ) -> None:
        wanted = wanted_pipes(query)
        command = query.get("command", [])
        if not command:
            raise Refused(400, "you must specify a command")
        url = await self._runtime.exec_url(
            pb.ExecRequest(
                container_id=container_id,
                cmd=command,
                tty=wanted.tty,
                stdin=wanted.stdin,
                stdout=wanted.stdout,
                stderr=wanted.stderr and not wanted.tty,
            )
        )
        await self._remote(scope, headers, url, wanted)

    async def attach(
        self, scope: dict[str, Any], headers: Mapping[str, str], container_id: str, query: Query, tty: bool
    ) -> None:
        wanted = wanted_pipes(query, tty)
        url = await self._runtime.attach_url(
            pb.AttachRequest(
                container_id=container_id,
                tty=wanted.tty,
                stdin=wanted.stdin,
                stdout=wanted.stdout,
                stderr=wanted.stderr and not wanted.tty,
            )
        )
        await self._remote(scope, headers, url, wanted)

    async def _remote(
        self, scope: dict[str, Any], headers: Mapping[str, str], url: str, wanted: Wanted
    ) -> None:
        if headers.get("upgrade", "").lower() == "websocket":
            head, protocol = _handshake(headers, (V5, V4))
            stream = await _take(scope, head)
            await self._remote_websocket(Channels(WebSocket(stream, client=False), protocol), url, wanted)
        else:
            stream = await _take(scope, _spdy_head(headers, SPDY_PROTOCOL))
            await self._remote_spdy(Session(stream, client=False), url, wanted)

    async def _remote_websocket(self, channels: Channels, url: str, wanted: Wanted) -> None:
        pipes = {name: ChannelPipe(channels, NUMBERS[name]) for name in wanted.names()}
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(feed_channels(channels, pipes), name="client")
            try:
                await self._join(url, wanted, pipes, feeding, group)
            except ConnectionError as error:
                log.info("streaming session ended: %s", error)
            finally:
                feeding.cancel()
                await channels.socket.close()

    async def _remote_spdy(self, client: Session, url: str, wanted: Wanted) -> None:
        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(client.run(), name="client")
            try:
                pipes = await accept_streams(client, wanted.names())
                await self._join(url, wanted, pipes, feeding, group)
            except (ConnectionError, TimeoutError) as error:
                log.info("streaming session ended: %s", error)
            finally:
                client.close()
                feeding.cancel()

    async def _join(
        self,
        url: str,
        wanted: Wanted,
        pipes: Mapping[str, Pipe],
        client: asyncio.Task[None],
        group: asyncio.TaskGroup,
    ) -> None:
        """Join client and runtime; when the client goes, the runtime's side is closed, which ends the
        command.
        """
        try:
            session, remote = await open_runtime(url, wanted.names(), group)
        except (OSError, TimeoutError) as error:
            status = {"status": "Failure", "message": str(error), "reason": "InternalError", "code": 500}
            with contextlib.suppress(ConnectionError):
                await pipes["error"].write(orjson.dumps({"metadata": {}, **status}))
            return
        # Clients take a first, empty message as the sign that the session stands; sent any earlier it could
        # meet a client that has not made its streams yet.
        first = next(name for name in ("stdout", "stderr", "error") if name in pipes)
        if isinstance(pipes[first], ChannelPipe):
            await pipes[first].write(b"")
        joined = group.create_task(join(pipes, remote), name="join")
        await asyncio.wait([joined, client], return_when=asyncio.FIRST_COMPLETED)
        session.close()
        if not joined.done():
            joined.cancel()

    async def port_forward(
        self, scope: dict[str, Any], headers: Mapping[str, str], sandbox_id: str, query: Query
    ) -> None:
        space = await portforward.namespace_of(self._runtime, sandbox_id)

        async def reach(port: int) -> RawStream:
            return await portforward.connect(space, port)

        if headers.get("upgrade", "").lower() == "websocket":
            head, protocol = _handshake(headers, (TUNNEL, V4))
            socket = WebSocket(await _take(scope, head), client=False)
            if protocol == V4:
                ports = [
                    int(part)
                    for text in query.get("ports", query.get("port", []))
                    for part in text.split(",")
                ]
                await portforward.serve_channels(Channels(socket, protocol), ports, reach, self._tasks)
                await socket.close()
                return
            session = Session(Tunnel(socket), client=False)
        else:
            stream = await _take(scope, _spdy_head(headers, PORTFORWARD_SPDY))
            session = Session(stream, client=False)
        async with asyncio.TaskGroup() as group:
            group.create_task(session.run(), name="client")
            await portforward.serve_session(session, reach, self._tasks)


def _handshake(headers: Mapping[str, str], supported: tuple[str, ...]) -> tuple[bytes, str]:
    try:
        return handshake(headers, supported)
    except HandshakeError as error:
        raise Refused(400, str(error)) from error


def _spdy_head(headers: Mapping[str, str], protocol: str) -> bytes:
    """The head of a 101 answer to a SPDY client. Raises `Refused`."""
    if not headers.get("upgrade", "").lower().startswith("spdy/3.1"):
        raise Refused(400, "Upgrade request required")
    offered = [name.strip() for name in headers.get("x-stream-protocol-version", "").split(",")]
    if protocol not in offered:
        raise Refused(
            403, f"unable to negotiate protocol: client supports {offered}, server supports [{protocol}]"
        )
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n"
        f"X-Stream-Protocol-Version: {protocol}\r\n\r\n"
    ).encode()


async def _take(scope: dict[str, Any], head: bytes) -> RawStream:
    take = scope["extensions"].get("hardway.upgrade")
    if take is None:
        raise Refused(400, "Upgrade request required")
    stream: RawStream = await take(head)
    return stream
