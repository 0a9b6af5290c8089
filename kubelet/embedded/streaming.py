"""The streaming server: what exec and attach are answered with. SPDY/3.1 on loopback, as containerd has it.

An address is good for one connection and a short time; it cannot be guessed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import socket
import struct
import termios
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from componentbase.http.server import serve
from componentbase.http.stream import RawStream
from componentbase.streams.session import Session
from componentbase.tasks import Background
from kubelet.cri.pb import api_pb2 as pb
from kubelet.embedded.programs import ShimGone, dial_shim, program, specification
from kubelet.embedded.shim import HEAD, RESIZE, STDERR, STDIN, STDOUT
from kubelet.server.remote import SPDY_PROTOCOL, SUCCESS, Pipe, Wanted, accept_streams

VALID = 60.0  # seconds between asking for an address and using it
OFFERS = 1000
TERMINAL_WAIT = 30.0  # seconds until a command has made its terminal
CHUNK = 32 * 1024
HEADERS = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n"
    f"X-Stream-Protocol-Version: {SPDY_PROTOCOL}\r\n\r\n"
).encode()

Pipes = Mapping[str, Pipe]
Work = Callable[[Pipes], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Offer:
    """What a connection to an address will do; `work` returns the outcome, a Status as JSON."""

    wanted: Wanted
    work: Work
    until: float


def exit_status(code: int) -> bytes:
    """The outcome of a command as kubectl reads it."""
    if code == 0:
        return SUCCESS
    status = {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }
    return json.dumps(status).encode()


def failure(message: str) -> bytes:
    """The outcome of what could not be done."""
    status = {"metadata": {}, "status": "Failure", "reason": "InternalError", "message": message, "code": 500}
    return json.dumps(status).encode()


class StreamServer:
    """Serves offers."""

    def __init__(self) -> None:
        self._offers: dict[str, Offer] = {}
        self._port = 0

    async def start(self, tasks: Background) -> None:
        """Listen on a free port of loopback, as a task of `tasks`."""
        listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        tasks.spawn("streams", serve(self._app, on_listening=listening.set_result, shutdown_grace=0.5))
        async with asyncio.timeout(10):
            self._port = await listening

    def offer_command(self, request: pb.ExecRequest, document: dict[str, object]) -> str:
        """An address at which a command will run."""
        wanted = Wanted(request.stdin, request.stdout, request.stderr, request.tty)
        run = _run_in_terminal if request.tty else _run_with_pipes
        return self._offer(wanted, lambda pipes: run(document, pipes))

    def offer_attach(self, request: pb.AttachRequest, directory: Path) -> str:
        """An address that is the container's own input and output."""
        wanted = Wanted(request.stdin, request.stdout, request.stderr, request.tty)
        return self._offer(wanted, lambda pipes: _attach(directory, pipes))

    def _offer(self, wanted: Wanted, work: Work) -> str:
        now = time.monotonic()
        self._offers = {token: offer for token, offer in self._offers.items() if offer.until > now}
        while len(self._offers) >= OFFERS:
            del self._offers[next(iter(self._offers))]
        token = secrets.token_urlsafe(16)
        self._offers[token] = Offer(wanted, work, now + VALID)
        return f"http://127.0.0.1:{self._port}/{token}"

    async def _app(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        offer = self._offers.pop(scope["path"].strip("/"), None)
        take = scope["extensions"].get("hardway.upgrade")
        if offer is None or take is None or offer.until < time.monotonic():
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b"no such stream\n"})
            return
        stream: RawStream = await take(HEADERS)
        session = Session(stream, client=False)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(session.run(), name="session")
            work = group.create_task(_serve(session, offer), name="work")
            # A client that goes ends the command.
            await asyncio.wait([running, work], return_when=asyncio.FIRST_COMPLETED)
            work.cancel()
            session.close()
            running.cancel()


async def _serve(session: Session, offer: Offer) -> None:
    with contextlib.suppress(ConnectionError, TimeoutError):
        pipes = await accept_streams(session, offer.wanted.names())
        try:
            outcome = await offer.work(pipes)
        except (OSError, ShimGone) as error:
            outcome = failure(str(error))
        for name in ("stdout", "stderr"):
            if name in pipes:
                await pipes[name].finish()
        await pipes["error"].write(outcome)
        await pipes["error"].finish()
        # The client hangs up once it has read everything; it may be slow, but not for ever.
        await asyncio.sleep(5)


async def _spawn(document: dict[str, object], *more: int, **standard: Any) -> asyncio.subprocess.Process:
    descriptor = specification(document)
    try:
        return await asyncio.create_subprocess_exec(
            *program("enter", str(descriptor)), pass_fds=(descriptor, *more), **standard
        )
    finally:
        os.close(descriptor)


async def _run_with_pipes(document: dict[str, object], pipes: Pipes) -> bytes:
    pipe, none = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await _spawn(
        document,
        stdin=pipe if "stdin" in pipes else none,
        stdout=pipe if "stdout" in pipes else none,
        stderr=pipe if "stderr" in pipes else none,
    )
    try:
        async with asyncio.TaskGroup() as group:
            feeding = None
            if process.stdin is not None:
                feeding = group.create_task(_feed(pipes["stdin"], process.stdin))
            for name, reader in (("stdout", process.stdout), ("stderr", process.stderr)):
                if reader is not None:
                    group.create_task(_drain(reader, pipes[name]))
            code = await process.wait()
            if feeding is not None:
                feeding.cancel()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return exit_status(code)


async def _feed(source: Pipe, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read():
            target.write(data)
            await target.drain()
    target.close()


async def _drain(source: asyncio.StreamReader, target: Pipe) -> None:
    """To the end, also when the client has stopped listening: the command must not hang on a full pipe."""
    gone = False
    while data := await source.read(CHUNK):
        if not gone:
            try:
                await target.write(data)
            except ConnectionError:
                gone = True


class Terminal:
    """Our end of a terminal, without blocking the loop."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        os.set_blocking(descriptor, False)

    async def read(self) -> bytes:
        """What it prints; empty when its last user has gone."""
        while True:
            try:
                return os.read(self.descriptor, CHUNK)
            except BlockingIOError:
                await self._ready(asyncio.get_running_loop().add_reader, "remove_reader")
            except OSError:  # EIO
                return b""

    async def write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self.descriptor, data) :]
            except BlockingIOError:
                await self._ready(asyncio.get_running_loop().add_writer, "remove_writer")

    async def _ready(self, add: Callable[..., None], remove: str) -> None:
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[None] = loop.create_future()

        def ready() -> None:
            if not waiting.done():
                waiting.set_result(None)

        add(self.descriptor, ready)
        try:
            await waiting
        finally:
            getattr(loop, remove)(self.descriptor)

    def resize(self, said: bytes) -> None:
        size = json.loads(said)
        packed = struct.pack("HHHH", size["Height"], size["Width"], 0, 0)
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, packed)


async def _run_in_terminal(document: dict[str, object], pipes: Pipes) -> bytes:
    none = asyncio.subprocess.DEVNULL
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            given = {**document, "terminal": theirs.fileno()}
            process = await _spawn(given, theirs.fileno(), stdin=none, stdout=none, stderr=none)
        terminal = await _receive(ours)
    if terminal is None:
        return exit_status(await process.wait())
    try:
        async with asyncio.TaskGroup() as group:
            inputs = [group.create_task(_resize(pipes["resize"], terminal.resize))]
            if "stdin" in pipes:
                inputs.append(group.create_task(_type(pipes["stdin"], terminal)))
            with contextlib.suppress(ConnectionError):
                while data := await terminal.read():
                    if "stdout" in pipes:
                        await pipes["stdout"].write(data)
            code = await process.wait()
            for task in inputs:
                task.cancel()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(terminal.descriptor)
    return exit_status(code)


async def _receive(sock: socket.socket) -> Terminal | None:
    """Our end of the terminal that the command made for itself; None when it ended before."""
    sock.settimeout(TERMINAL_WAIT)
    try:
        descriptors = (await asyncio.to_thread(socket.recv_fds, sock, 1, 1))[1]
    except TimeoutError:
        return None
    return Terminal(descriptors[0]) if descriptors else None


async def _type(source: Pipe, terminal: Terminal) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read():
            await terminal.write(data)


async def _resize(source: Pipe, resize: Callable[[bytes], None]) -> None:
    """Each message is one size, possibly several at once, a line each."""
    with contextlib.suppress(ConnectionError):
        while data := await source.read():
            for line in data.splitlines():
                with contextlib.suppress(ValueError, KeyError, OSError):
                    resize(line)


async def _attach(directory: Path, pipes: Pipes) -> bytes:
    reader, writer = await dial_shim(directory, {"attach": True})

    def frame(channel: int, data: bytes) -> None:
        writer.write(HEAD.pack(channel, len(data)) + data)

    async def feed() -> None:
        with contextlib.suppress(ConnectionError):
            while data := await pipes["stdin"].read():
                frame(STDIN, data)
                await writer.drain()
            frame(STDIN, b"")

    try:
        async with asyncio.TaskGroup() as group:
            inputs = [group.create_task(feed())] if "stdin" in pipes else []
            if "resize" in pipes:
                sizes = _resize(pipes["resize"], lambda line: frame(RESIZE, line))
                inputs.append(group.create_task(sizes))
            await _deliver(reader, pipes)
            for task in inputs:
                task.cancel()
    finally:
        writer.close()
    return SUCCESS


async def _deliver(reader: asyncio.StreamReader, pipes: Pipes) -> None:
    names = {STDOUT: "stdout", STDERR: "stderr"}
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            channel, length = HEAD.unpack(await reader.readexactly(HEAD.size))
            data = await reader.readexactly(length)
            if names[channel] in pipes:
                await pipes[names[channel]].write(data)
