"""Ports for servers of tests."""

from __future__ import annotations

import contextlib
import random
import socket

# Below the range from which the kernel takes ports for outgoing connections, so that none of those can be in
# the way by the time the server binds.
LOWEST, HIGHEST = 15_000, 32_000


def free_port() -> int:
    """A port of loopback that nothing used a moment ago, neither over TCP nor over UDP."""
    while True:
        port = random.randrange(LOWEST, HIGHEST)
        with (
            socket.socket(type=socket.SOCK_STREAM) as stream,
            socket.socket(type=socket.SOCK_DGRAM) as datagram,
            contextlib.suppress(OSError),
        ):
            stream.bind(("127.0.0.1", port))
            datagram.bind(("127.0.0.1", port))
            return port
