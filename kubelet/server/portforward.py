"""port-forward: connections into a pod's network namespace, carried by pairs of streams.

A client opens, for each connection it accepts, an error stream and a data stream with the same `requestid`.
The socket is made by a thread that has entered the sandbox's namespace: a socket stays in the namespace it
was made in, so everything after that is ordinary asyncio.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

import orjson

from componentbase.http.stream import RawStream
from componentbase.streams.session import Session, SpdyStream
from componentbase.streams.websocket import Channels
from componentbase.tasks import Background
from kubelet.cri.port import Runtime
from kubelet.server.remote import ChannelPipe, Pipe

log = logging.getLogger(__name__)

CLONE_NEWNET = 0x40000000
CONNECT_TIMEOUT = 10.0
IDLE_PAIR = 30.0
_libc = ctypes.CDLL(None, use_errno=True)

Connect = Callable[[int], Awaitable[RawStream]]


async def namespace_of(runtime: Runtime, sandbox_id: str) -> str:
    """The path of a sandbox's network namespace; empty when it is the host's. Raises `RuntimeFailure`."""
    answer = await runtime.sandbox_status(sandbox_id, verbose=True)
    info = orjson.loads(answer.info.get("info") or b"{}")
    spaces = ((info.get("runtimeSpec") or {}).get("linux") or {}).get("namespaces") or []
    own = next((space for space in spaces if space.get("type") == "network"), None)
    if own is None:
        return ""
    return str(own.get("path") or f"/proc/{info.get('pid')}/ns/net")


def _socket_in(path: str, family: int, result: Future[socket.socket]) -> None:
    """Runs on a thread of its own, which ends inside the namespace: no other code ever runs there."""
    try:
        with open(path, "rb") as space:  # noqa: PTH123
            if _libc.setns(space.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns {path}")
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setblocking(False)
        result.set_result(made)
    except OSError as error:
        result.set_exception(error)


async def connect(path: str, port: int) -> RawStream:
    """Connect to a port on the loopback of a namespace, IPv4 then IPv6. Raises OSError, TimeoutError."""
    loop = asyncio.get_running_loop()
    problem: OSError = OSError(f"port {port}")
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        made: Future[socket.socket] = Future()
        where = path or f"/proc/{os.getpid()}/ns/net"
        threading.Thread(target=_socket_in, args=(where, family, made), daemon=True).start()
        end = await asyncio.wrap_future(made)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await loop.sock_connect(end, (host, port))
                _, stream = await loop.create_connection(RawStream, sock=end)
            return stream
        except OSError as error:
            end.close()
            problem = error
    raise problem


async def serve_session(session: Session, reach: Connect, tasks: Background) -> None:
    """Serve the pairs of one client until it goes."""
    waiting: dict[str, SpdyStream] = {}
    while (stream := await session.accept()) is not None:
        kind, request = stream.headers.get("streamtype"), stream.headers.get("requestid", "")
        port = stream.headers.get("port", "")
        if kind not in ("error", "data") or not port.isdigit():
            await stream.reset()
        elif kind == "error":
            waiting[request] = stream
            if len(waiting) > 256:
                await waiting.pop(next(iter(waiting))).reset()
        elif request in waiting:
            tasks.spawn(f"forward/{port}", _forward(waiting.pop(request), stream, int(port), reach))
        else:
            await stream.reset()


async def _forward(error: SpdyStream, data: SpdyStream, port: int, reach: Connect) -> None:
    try:
        await carry(data, port, reach)
    except (OSError, TimeoutError) as problem:
        with contextlib.suppress(ConnectionError):
            await error.write(f"error forwarding port {port} to pod: {problem}".encode())
    finally:
        for stream in (data, error):
            with contextlib.suppress(ConnectionError):
                await stream.finish()


async def carry(data: Pipe, port: int, reach: Connect) -> None:
    """One connection, both ways, until both ends are done. Raises OSError when it cannot be made."""
    remote = await reach(port)
    try:
        async with asyncio.TaskGroup() as group:
            up = group.create_task(_upwards(data, remote))
            with contextlib.suppress(ConnectionError):
                while answer := await remote.read():
                    await data.write(answer)
                await data.finish()
            up.cancel()
    finally:
        remote.close()


async def _upwards(data: Pipe, remote: RawStream) -> None:
    with contextlib.suppress(ConnectionError):
        while asked := await data.read():
            await remote.write(asked)
        remote.write_eof()


async def serve_channels(channels: Channels, ports: list[int], reach: Connect, tasks: Background) -> None:
    """The older WebSocket form: for port i, channel 2i carries data and 2i+1 errors, each begun by the port
    number.
    """
    pipes = {2 * index: ChannelPipe(channels, 2 * index) for index in range(len(ports))}
    for index, port in enumerate(ports):
        for channel in (2 * index, 2 * index + 1):
            await channels.send(channel, struct.pack("<H", port))
        tasks.spawn(f"forward/{port}", _forward_channel(channels, index, port, pipes[2 * index], reach))
    with contextlib.suppress(ConnectionError):
        while (piece := await channels.receive()) is not None:
            number, payload = piece
            if number in pipes and payload:
                await pipes[number].queue.put(payload)
    for pipe in pipes.values():
        await pipe.queue.put(b"")


async def _forward_channel(
    channels: Channels, index: int, port: int, pipe: ChannelPipe, reach: Connect
) -> None:
    try:
        await carry(pipe, port, reach)
    except (OSError, TimeoutError) as problem:
        with contextlib.suppress(ConnectionError):
            await channels.send(2 * index + 1, f"error forwarding port {port} to pod: {problem}".encode())
