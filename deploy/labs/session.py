"""A shell on a host, typed into by machine: as a reader's terminal, it keeps variables and functions between
commands.

Each block is evaluated in one `bash` with its input from nowhere; a trap notes the first command that fails,
and what a block printed ends where a line with a random mark says so.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import selectors
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PREAMBLE = """set -E; trap '__failed="${__failed:-$? $BASH_COMMAND}"' ERR\n"""


class SessionLost(Exception):
    """The shell ended or did not answer in time."""


@dataclass(frozen=True)
class Outcome:
    """What a block printed, and the first command that failed (with its exit code), if any."""

    output: str
    failed: str


class Session:
    """One shell, in a process group of its own."""

    def __init__(self, argv: Sequence[str], *, environment: Mapping[str, str], directory: str = "/") -> None:
        self._process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=directory,
            start_new_session=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self._type(PREAMBLE)

    def _type(self, text: str) -> None:
        try:
            self._stdin.write(text.encode())
            self._stdin.flush()
        except BrokenPipeError as error:
            raise SessionLost("the shell has ended") from error

    def run(self, text: str, *, timeout: float) -> Outcome:
        """Type one block and wait for it, for at most `timeout` seconds. Raises SessionLost."""
        mark = f"done-{secrets.token_hex(8)}"
        code = base64.b64encode(text.encode()).decode()
        self._type(
            f'__failed=\n{{ eval "$(printf %s {code} | base64 -d)"; }} </dev/null 2>&1\n'
            f'printf "\\n%s %s\\n" {mark} "$(printf %s "$__failed" | base64 -w0)"\n'
        )
        output, end = self._read(mark, time.monotonic() + timeout)
        return Outcome(output, base64.b64decode(end).decode(errors="replace"))

    def _read(self, mark: str, deadline: float) -> tuple[str, str]:
        received = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise SessionLost(f"not finished in time; it printed {_tail(received)!r}")
                if not selector.select(left):
                    continue
                chunk = os.read(self._stdout.fileno(), 1 << 16)
                if not chunk:
                    raise SessionLost(f"the shell ended; it printed {_tail(received)!r}")
                received += chunk
                head, found, rest = received.partition(f"\n{mark} ".encode())
                if found and b"\n" in rest:
                    return head.decode(errors="replace"), rest.partition(b"\n")[0].decode()

    def abandon(self) -> None:
        """Kill the shell and what of it is in its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """End the shell; background jobs of it go on, as they do when a terminal is left with `disown`."""
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._stdout.close()


def _tail(text: bytes) -> str:
    return text.decode(errors="replace").strip()[-400:]
