"""How the `hardway` command talks to a host's supervisor: one JSON line each way over a unix socket."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# On a host: its own end of the supervisor's socket, and the programs that speak to it.
INIT_SOCKET = "/run/hardway/init.sock"
PROGRAMS = "/run/hardway/bin"
TIMEOUT = 5.0
LIMIT = 1 << 20
QUEUE_POLL = 0.01


class HostDown(Exception):
    """No supervisor listens: the host is not up."""


class Refused(Exception):
    """The supervisor refused a command and said why."""


@dataclass(frozen=True)
class Control:
    """The command line into one host."""

    host: str
    path: Path

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(TIMEOUT)
        try:
            self._knock(connection)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            connection.close()
            raise HostDown(f"host {self.host} is not up") from error
        except TimeoutError as error:
            connection.close()
            raise HostDown(f"the supervisor of host {self.host} does not accept commands") from error
        return connection

    def _knock(self, connection: socket.socket) -> None:
        """Connect. A queue that is full refuses a socket with a timeout at once (connect(2), EAGAIN): then it
        is on us to wait, as long as for anything else."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                return connection.connect(os.fspath(self.path))
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError from None
                time.sleep(QUEUE_POLL)

    def pid(self) -> int:
        """The host's pid 1 as the caller's PID namespace numbers it. Raises HostDown."""
        with self._connect() as connection:
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", credentials)[0])

    def is_up(self) -> bool:
        """Does a supervisor listen?"""
        try:
            self._connect().close()
        except HostDown:
            return False
        return True

    def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Give one command and return the answer. Raises HostDown, Refused."""
        with self._connect() as connection, connection.makefile("rwb") as stream:
            try:
                stream.write(json.dumps({"command": command, **arguments}).encode() + b"\n")
                stream.flush()
                line = stream.readline(LIMIT)
            except (TimeoutError, ConnectionError) as error:
                raise HostDown(f"the supervisor of host {self.host} did not answer {command!r}") from error
        if not line:
            raise HostDown(f"the supervisor of host {self.host} ended while answering {command!r}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Refused(f"{self.host}: {answer['error']}")
        return answer
