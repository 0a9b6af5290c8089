"""Container logs: the CRI line format, reading by tail, time and size, following, rotation.

A line is `<RFC 3339 nano> <stdout|stderr> <F|P> <text>`; P marks a piece whose rest follows. The filter is
pure: lines in, bytes out; around it are blocking reads in threads and a loop that polls (inotify instances
are few and shared).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

BLOCK = 128 * 1024
POLL = 0.1  # seconds between looks at a file that is followed


class LogError(Exception):
    """The log cannot be read; the text is told to the client."""


@dataclass(frozen=True, slots=True)
class LogOptions:
    """PodLogOptions as they matter here. `since` is seconds since the epoch."""

    follow: bool = False
    tail: int | None = None
    since: float | None = None
    timestamps: bool = False
    limit: int | None = None
    streams: tuple[str, ...] = ("stdout", "stderr")


class Filter:
    """Turns log lines into what the client asked for; `done` once the byte limit is reached."""

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._left = options.limit
        self._fresh = True
        self.done = False

    def feed(self, line: bytes) -> bytes:
        """One line without its newline; what of it is to be sent."""
        parts = line.split(b" ", 3)
        if len(parts) < 4 or parts[2][:1] not in (b"F", b"P"):
            return b""
        stamp, stream, tag, text = parts
        if stream.decode("ascii", "replace") not in self._options.streams:
            return b""
        if self._options.since is not None and _epoch(stamp) < self._options.since:
            return b""
        out = text if tag[:1] == b"P" else text + b"\n"
        if self._options.timestamps and self._fresh:
            out = stamp + b" " + out
        self._fresh = tag[:1] != b"P"
        return self._cut(out)

    def _cut(self, out: bytes) -> bytes:
        if self._left is None:
            return out
        out = out[: self._left]
        self._left -= len(out)
        self.done = self._left <= 0
        return out


def _epoch(stamp: bytes) -> float:
    """Seconds of an RFC 3339 time with nanoseconds; 0 for what is none."""
    text = stamp.decode("ascii", "replace")
    head, dot, rest = text.partition(".")
    digits = "".join(c for c in rest[:9] if c.isdigit())
    zone = rest[len(digits) :] if dot else ""
    try:
        whole = datetime.fromisoformat((head + zone).replace("Z", "+00:00"))
    except ValueError:
        return 0.0
    whole = whole if whole.tzinfo else whole.replace(tzinfo=UTC)
    return whole.timestamp() + (float(f"0.{digits}") if digits else 0.0)


def parse_time(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time; raises ValueError."""
    seconds = _epoch(text.encode())
    if seconds == 0.0:
        raise ValueError(f"{text!r} is not an RFC 3339 time")
    return seconds


def tail_offset(path: Path, lines: int) -> int:
    """Where the last `lines` lines begin (blocking)."""
    with path.open("rb") as file:
        end = position = file.seek(0, os.SEEK_END)
        if lines <= 0:
            return end
        found = 0
        while position > 0:
            size = min(BLOCK, position)
            position -= size
            file.seek(position)
            block = file.read(size)
            at = len(block)
            while (at := block.rfind(b"\n", 0, at)) >= 0:
                # The newline that ends the file ends its last line; it separates nothing.
                if position + at + 1 < end:
                    found += 1
                    if found == lines:
                        return position + at + 1
    return 0


async def read_log(path: Path, options: LogOptions, running: Callable[[], bool]) -> AsyncIterator[bytes]:
    """What the client asked for, piece by piece; while following, until `running` says no and all is read.

    Raises `LogError` when there is no such file.
    """
    try:
        offset = 0 if options.tail is None else await asyncio.to_thread(tail_offset, path, options.tail)
        file = await asyncio.to_thread(path.open, "rb", 0)
    except OSError as error:
        raise LogError(f"failed to try resolving symlinks in path {str(path)!r}: {error.strerror}") from error
    selected, rest = Filter(options), b""
    try:
        file.seek(offset)
        while not selected.done:
            alive = running()
            block = await asyncio.to_thread(file.read, BLOCK)
            if block:
                *lines, rest = (rest + block).split(b"\n")
                out = b"".join(selected.feed(line) for line in lines if not selected.done)
                if out:
                    yield out
                continue
            moved = await asyncio.to_thread(_moved, file.fileno(), path)
            if moved:
                file.close()
                file, rest = await asyncio.to_thread(path.open, "rb", 0), b""
            elif not options.follow or not alive:
                return
            else:
                await asyncio.sleep(POLL)
    finally:
        file.close()


def _moved(descriptor: int, path: Path) -> bool:
    """Whether the path is another file by now: the log was rotated."""
    with contextlib.suppress(OSError):
        return path.stat().st_ino != os.fstat(descriptor).st_ino
    return False


def oversized(path: Path, limit: int) -> bool:
    """Whether a log has grown beyond `limit` bytes (blocking)."""
    try:
        return path.stat().st_size > limit
    except OSError:
        return False


def rotate(path: Path, keep: int) -> None:
    """Set the file aside under a name with the time, and drop the oldest beyond `keep` in all. Blocking.

    The runtime must then be told to reopen its log.
    """
    moment = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    path.rename(path.with_name(f"{path.name}.{moment}"))
    aside = sorted(entry for entry in path.parent.iterdir() if entry.name.startswith(f"{path.name}."))
    for entry in aside[: max(0, len(aside) - (keep - 1))]:
        entry.unlink()
