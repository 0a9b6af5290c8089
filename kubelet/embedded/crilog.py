"""The kubelet's log format (CRI): `<RFC 3339 with nanoseconds> <stream> <P|F> <text>`. Pure, standard library
only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

LINE_LIMIT = 16 * 1024
"""Bytes of one line; what is longer is told in parts (P) of which the last is full (F)."""


def stamp(nanoseconds: int) -> bytes:
    """The moment in UTC."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode() + b".%09dZ" % rest


class Lines:
    """Cuts one output stream into log lines."""

    def __init__(self, stream: str) -> None:
        self._prefix = f" {stream} ".encode()
        self._rest = b""

    def feed(self, data: bytes, now: int) -> Iterator[bytes]:
        """The lines that `data` completes; `now` is in nanoseconds since the epoch."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            yield from self._line(line, now)
        while len(self._rest) >= LINE_LIMIT:
            part, self._rest = self._rest[:LINE_LIMIT], self._rest[LINE_LIMIT:]
            yield stamp(now) + self._prefix + b"P " + part + b"\n"

    def finish(self, now: int) -> Iterator[bytes]:
        """What was left without an end of line."""
        if self._rest:
            rest, self._rest = self._rest, b""
            yield from self._line(rest, now)

    def _line(self, line: bytes, now: int) -> Iterator[bytes]:
        while len(line) > LINE_LIMIT:
            part, line = line[:LINE_LIMIT], line[LINE_LIMIT:]
            yield stamp(now) + self._prefix + b"P " + part + b"\n"
        yield stamp(now) + self._prefix + b"F " + line + b"\n"
