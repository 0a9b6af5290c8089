"""exec and attach: the client's protocol on one side, the runtime's streaming server on the other.

Both sides are reduced to five pipes (stdin, stdout, stderr, error, resize); one routine joins them. The
client's end of standard input ends the container's; the session ends when the runtime has told the outcome
on the error pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from componentbase.http.client import dial, read_refusal
from componentbase.streams.session import Session, SpdyStream
from componentbase.streams.websocket import ERROR, RESIZE, STDERR, STDIN, STDOUT, Channels
from componentbase.tasks import deadline

SPDY_PROTOCOL = "v4.channel.k8s.io"
STREAM_WAIT = 30.0  # seconds a client has to open its streams
QUEUE = 64
NUMBERS = {"stdin": STDIN, "stdout": STDOUT, "stderr": STDERR, "error": ERROR, "resize": RESIZE}
SUCCESS = b'{"metadata":{},"status":"Success"}'


class Pipe(Protocol):
    """One byte stream: read until b"", write, or end our half."""

    async def read(self) -> bytes: ...

    async def write(self, data: bytes) -> None: ...

    async def finish(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which pipes the client asked for."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool

    def names(self) -> list[str]:
        """The pipes in the order in which they are opened."""
        asked = {"stdin": self.stdin, "stdout": self.stdout, "stderr": self.stderr and not self.tty}
        return ["error", *(name for name, yes in asked.items() if yes), *(["resize"] if self.tty else [])]


class ChannelPipe:
    """One channel of a WebSocket."""

    def __init__(self, channels: Channels, number: int) -> None:
        self._channels, self._number = channels, number
        self.queue: asyncio.Queue[bytes] = asyncio.Queue(QUEUE)

    async def read(self) -> bytes:
        return await self.queue.get()

    async def write(self, data: bytes) -> None:
        await self._channels.send(self._number, data)

    async def finish(self) -> None:
        """Outputs have no end of their own: the socket's end is theirs."""


async def feed_channels(channels: Channels, pipes: Mapping[str, ChannelPipe]) -> None:
    """Deliver what the client sends until it goes; then end every pipe it feeds."""
    by_number = {NUMBERS[name]: pipe for name, pipe in pipes.items() if name in ("stdin", "resize")}
    with contextlib.suppress(ConnectionError):
        while (piece := await channels.receive()) is not None:
            number, payload = piece
            if number in by_number and (payload is None or payload):
                await by_number[number].queue.put(payload or b"")
    for pipe in by_number.values():
        await pipe.queue.put(b"")


async def accept_streams(session: Session, names: list[str]) -> dict[str, Pipe]:
    """The streams a SPDY client opens, by their type. Raises TimeoutError, ConnectionError."""
    found: dict[str, Pipe] = {}
    async with deadline(STREAM_WAIT, "wait for the client's streams"):
        while len(found) < len(names):
            stream = await session.accept()
            if stream is None:
                raise ConnectionResetError("client went before it opened its streams")
            found[stream.headers.get("streamtype", "")] = stream
    return found


async def open_runtime(
    url: str, names: list[str], group: asyncio.TaskGroup
) -> tuple[Session, dict[str, SpdyStream]]:
    """Connect to the runtime's streaming server and open the pipes there. Raises OSError, TimeoutError."""
    headers = {"Upgrade": "SPDY/3.1", "Connection": "Upgrade", "X-Stream-Protocol-Version": SPDY_PROTOCOL}
    status, answer, stream = await dial(url, headers=headers, method="POST")
    if status != 101:
        refusal = await read_refusal(status, answer, stream)
        raise ConnectionRefusedError(f"the runtime's streaming server: {refusal}")
    session = Session(stream, client=True)
    group.create_task(session.run(), name="runtime-session")
    return session, {name: await session.open({"streamtype": name}) for name in names}


async def join(client: Mapping[str, Pipe], runtime: Mapping[str, SpdyStream]) -> None:
    """Carry bytes both ways until the runtime has told the outcome."""
    async with asyncio.TaskGroup() as group:
        inputs = [
            group.create_task(_copy(client[name], runtime[name]), name=name)
            for name in ("stdin", "resize")
            if name in runtime and name in client
        ]
        outputs = [
            group.create_task(_copy(runtime[name], client[name]), name=name)
            for name in ("stdout", "stderr")
            if name in runtime and name in client
        ]
        outcome = await _all(runtime["error"])
        if outputs:
            await asyncio.wait(outputs)
        for task in inputs:
            task.cancel()
    with contextlib.suppress(ConnectionError):
        await client["error"].write(outcome or SUCCESS)
        await client["error"].finish()


async def _copy(source: Pipe, target: Pipe) -> None:
    """Copy to the end, and end the target; a side that is gone ends the copying only."""
    with contextlib.suppress(ConnectionError):
        while data := await source.read():
            await target.write(data)
        await target.finish()


async def _all(stream: SpdyStream) -> bytes:
    out = b""
    with contextlib.suppress(ConnectionError):
        while data := await stream.read():
            out += data
            if out.rstrip().endswith(b"}"):
                break
    return out
