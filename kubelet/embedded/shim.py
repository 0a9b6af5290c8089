"""The program that stays with one container: `shim <directory>`. Standard library only.

It starts the container's first process, writes what it prints to the log, serves whoever attaches, and
writes down how it ended. It outlives the kubelet, and the container does not outlive it.

Its socket takes one JSON line: {"signal": n}, {"reopen": true} or {"attach": true}; the first two are
answered by a line. After `attach` both sides send frames: one byte of channel, four of length, the data.
Channels: 0 standard input (empty: its end), 1 output, 2 errors, 4 the terminal's size as JSON.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import socket
import struct
import sys
import termios
import time
from typing import Any, NoReturn

from componentbase import linux
from kubelet.embedded import detach, process
from kubelet.embedded.crilog import Lines

SOCKET = "shim.sock"
HEAD = struct.Struct("!BI")
STDIN, STDOUT, STDERR, RESIZE = 0, 1, 2, 4
CHUNK = 64 * 1024
BACKLOG = 4 << 20
"""Bytes kept for a client that does not read; beyond them it is cut off: the container's log goes first."""
PR_SET_CHILD_SUBREAPER = 36


class Client:
    """One connection to the socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = b""
        self.pending = bytearray()
        self.attached = False


class Shim:
    """The life of one container."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.directory = str(spec["directory"])
        self.selector = selectors.DefaultSelector()
        self.clients: set[Client] = set()
        self.outputs: dict[int, tuple[int, Lines]] = {}
        self.input = -1
        self.unwritten = bytearray()
        self.input_ends = False
        self.ours: list[int] = []
        self.pid = 0
        self.log = -1

    # -- the container's standard descriptors

    def standard(self) -> tuple[int, int, int]:
        """Make the descriptors of the container; ours are registered."""
        if self.spec["tty"]:
            null = os.open("/dev/null", os.O_RDWR)
            self.ours = [null]
            return null, null, null
        out, out_theirs = os.pipe()
        err, err_theirs = os.pipe()
        self._output(out, STDOUT)
        self._output(err, STDERR)
        given = os.open("/dev/null", os.O_RDONLY)
        if self.spec["stdin"]:
            os.close(given)
            given, self.input = os.pipe()
            os.set_blocking(self.input, False)
        self.ours = [given, out_theirs, err_theirs]
        return given, out_theirs, err_theirs

    def _output(self, descriptor: int, channel: int) -> None:
        os.set_blocking(descriptor, False)
        self.outputs[descriptor] = (channel, Lines("stdout" if channel == STDOUT else "stderr"))
        self.selector.register(descriptor, selectors.EVENT_READ, "output")

    # -- life

    def start(self) -> str:
        """Start the container; why it did not start, or nothing."""
        process.enter_spaces({"pid": self.spec["spaces"]["pid"]})
        standard = self.standard()
        ours, theirs = socket.socketpair()

        def become(keep: set[int]) -> NoReturn:
            os.setsid()
            for number, descriptor in enumerate(standard):
                os.dup2(descriptor, number)
            process.become(self.spec, keep, theirs.fileno() if self.spec["tty"] else None)

        self.pid, problem = detach.first_process(become, set())
        for descriptor in self.ours:
            os.close(descriptor)
        theirs.close()
        with ours:
            if self.spec["tty"] and not problem:
                (self.input,) = socket.recv_fds(ours, 1, 1)[1]
                self._output(self.input, STDOUT)
        return problem

    def open_log(self) -> None:
        """(Re)open the log: after a rotation the old name means another file."""
        if self.log >= 0:
            os.close(self.log)
        path = self.spec["log"] or "/dev/null"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)

    def listen(self) -> None:
        """Open the socket; reached through the directory, since paths of sockets are short."""
        folder = os.open(self.directory, os.O_PATH | os.O_DIRECTORY)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(f"/proc/self/fd/{folder}/{SOCKET}")
        os.close(folder)
        listener.listen(16)
        listener.setblocking(False)
        self.selector.register(listener, selectors.EVENT_READ, "listener")

    def run(self) -> int:
        """Serve until the container has ended and all it printed is written; its wait status."""
        wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self.selector.register(wake, selectors.EVENT_READ, "wake")
        ended: int | None = None
        while ended is None:
            for key, events in self.selector.select():
                self._event(key, events, wake)
            ended = self._reap()
        # Its last words are in the pipes already; others that hold them open (exec) are not waited for.
        for descriptor in list(self.outputs):
            while descriptor in self.outputs and self._read_output(descriptor):
                pass
        return ended

    def _event(self, key: selectors.SelectorKey, events: int, wake: int) -> None:
        if key.data == "output":
            self._read_output(key.fd)
        elif key.data == "listener":
            with contextlib.suppress(OSError):
                self._accept(key.fileobj)  # type: ignore[arg-type]
        elif key.data == "wake":
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
        elif key.data == "input":
            self._write_input()
        elif isinstance(key.data, Client):
            self._client_event(key.data, events)

    def _reap(self) -> int | None:
        """Collect the dead; the container's wait status if it is among them."""
        found = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return found
            if pid == 0:
                return found
            if pid == self.pid:
                found = status

    # -- outputs and input

    def _read_output(self, descriptor: int) -> bool:
        """Read once; False when there is nothing more for now."""
        channel, lines = self.outputs[descriptor]
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # a terminal whose last user has gone
            data = b""
        now = time.time_ns()
        if not data:
            self._log(b"".join(lines.finish(now)))
            self.selector.unregister(descriptor)
            del self.outputs[descriptor]
            return False
        for client in [client for client in self.clients if client.attached]:
            self._send(client, HEAD.pack(channel, len(data)) + data)
        self._log(b"".join(lines.feed(data, now)))
        return True

    def _log(self, lines: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk must not end the container
            while lines:
                lines = lines[os.write(self.log, lines) :]

    def _write_input(self) -> None:
        try:
            while self.unwritten:
                del self.unwritten[: os.write(self.input, self.unwritten)]
        except BlockingIOError:
            self._watch_input(wanted=True)
            return
        except OSError:
            self.unwritten.clear()
        self._watch_input(wanted=False)
        if self.input_ends and self.input >= 0:
            os.close(self.input)
            self.input = -1

    def _watch_input(self, *, wanted: bool) -> None:
        if self.spec["tty"] or self.input < 0:
            return
        known = self.input in self.selector.get_map()
        if wanted and not known:
            self.selector.register(self.input, selectors.EVENT_WRITE, "input")
        elif known and not wanted:
            self.selector.unregister(self.input)

    # -- clients

    def _accept(self, listener: socket.socket) -> None:
        sock, _ = listener.accept()
        sock.setblocking(False)
        client = Client(sock)
        self.clients.add(client)
        self.selector.register(sock, selectors.EVENT_READ, client)

    def _client_event(self, client: Client, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._send(client, b"")
        if events & selectors.EVENT_READ and client in self.clients:
            try:
                data = client.sock.recv(CHUNK)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data:
                self._drop(client)
                return
            client.received += data
            self._frames(client) if client.attached else self._command(client)

    def _drop(self, client: Client) -> None:
        self.clients.discard(client)
        self.selector.unregister(client.sock)
        client.sock.close()
        if client.attached and self.spec["stdin_once"]:
            self._end_input()

    def _send(self, client: Client, data: bytes) -> None:
        client.pending += data
        try:
            while client.pending:
                del client.pending[: client.sock.send(client.pending)]
        except BlockingIOError:
            pass
        except OSError:
            client.pending.clear()
            self._drop(client)
            return
        if len(client.pending) > BACKLOG:
            self._drop(client)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.pending else 0)
        self.selector.modify(client.sock, events, client)

    def _command(self, client: Client) -> None:
        line, separator, client.received = client.received.partition(b"\n")
        if not separator:
            client.received = line
            return
        asked = json.loads(line)
        if "signal" in asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, asked["signal"])
        elif "reopen" in asked:
            self.open_log()
        client.attached = bool(asked.get("attach"))
        self._send(client, b"ok\n")
        if client.attached and client in self.clients:
            self._frames(client)

    def _frames(self, client: Client) -> None:
        while len(client.received) >= HEAD.size:
            channel, length = HEAD.unpack_from(client.received)
            if len(client.received) < HEAD.size + length:
                return
            payload = client.received[HEAD.size : HEAD.size + length]
            client.received = client.received[HEAD.size + length :]
            if channel == RESIZE and self.spec["tty"]:
                size = json.loads(payload)
                packed = struct.pack("HHHH", size["Height"], size["Width"], 0, 0)
                fcntl.ioctl(self.input, termios.TIOCSWINSZ, packed)
            elif channel == STDIN and self.input >= 0:
                self.unwritten += payload
                if not payload and self.spec["stdin_once"]:
                    self._end_input()
                self._write_input()

    def _end_input(self) -> None:
        if self.input >= 0 and not self.spec["tty"]:
            self.input_ends = True
            self._write_input()


def _live(spec: dict[str, Any], lock: int, report: int) -> int:
    shim = Shim(spec)
    # Orphans of the container's own tree fall to us, not to the host, when it shares the host's processes.
    linux.control(PR_SET_CHILD_SUBREAPER, 1)
    linux.set_process_name("embedded-shim")
    shim.open_log()
    problem = shim.start()
    directory = spec["directory"]
    if problem:
        _write_exit(directory, 128, "StartError", problem)
        os.write(report, f"{problem}\n".encode())
        return 1
    shim.listen()
    detach.write_whole(f"{directory}/{detach.STARTED}", {"pid": shim.pid, "at": time.time_ns()})
    os.write(report, detach.STARTED_LINE)
    os.close(report)
    status = os.waitstatus_to_exitcode(shim.run())
    code = status if status >= 0 else 128 - status
    oom = _out_of_memory(spec["memory_events"])
    _write_exit(directory, code, "OOMKilled" if oom else "Completed" if code == 0 else "Error", "")
    return 0


def _write_exit(directory: str, code: int, reason: str, message: str) -> None:
    ended = {"code": code, "reason": reason, "message": message, "at": time.time_ns()}
    detach.write_whole(f"{directory}/{detach.EXITED}", ended)


def _out_of_memory(file: str) -> bool:
    """Whether the kernel killed a process of this group for its memory (either cgroup version)."""
    try:
        with open(file) as lines:
            counts = dict(line.split() for line in lines)
    except (OSError, ValueError):
        return False
    return counts.get("oom_kill", "0") != "0"


def main() -> NoReturn:
    """Run with the container's directory as the only argument."""
    detach.detached(sys.argv[1], _live)
