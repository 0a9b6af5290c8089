"""Members that lie, each in one way: what the judge must catch. Nothing of this exists in the store itself.

python -m tests.robustness.broken NAME <etcdlite's flags>
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from etcdlite import app
from etcdlite.lease.lessor import Lease, Lessor
from etcdlite.mvcc.store import Changes, Write
from etcdlite.mvcc.watch import Event, Watcher, WatchHub
from etcdlite.server import machine
from etcdlite.server.requests import Requests
from etcdlite.wal.disk import PosixDisk, PosixFile

EVERY = 40  # events between two lies
LATE_SECONDS = 0.1


def stale_reads() -> None:
    """A linearizable read is answered at once, from whatever this member has applied."""

    async def confirm(self: Requests) -> None:
        return

    Requests.confirm = confirm  # type: ignore[method-assign]


class HeldFile(PosixFile):
    """A file on a disk that keeps nothing which was not synced: until then it is in this process only."""

    __slots__ = ("_held", "_lock")

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._held = bytearray()
        self._lock = threading.Lock()

    def write(self, data: bytes | bytearray) -> None:
        with self._lock:
            self._held += data

    def sync(self) -> None:
        self.flush()
        super().sync()

    def flush(self) -> None:
        """To the disk, for good."""
        with self._lock:
            if self._held:
                super().write(self._held)
                self._held.clear()

    def close(self) -> None:
        self.flush()
        super().close()


class LateFile(HeldFile):
    """Says that it has synced, and does so a moment later."""

    __slots__ = ("_end",)

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._end = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while not self._end.wait(LATE_SECONDS):
            self.flush()

    def sync(self) -> None:
        time.sleep(0)

    def close(self) -> None:
        self._end.set()
        super().close()


def _on_files(kind: type[HeldFile]) -> None:
    create, append = PosixDisk.create, PosixDisk.append_to

    def take(file: PosixFile) -> PosixFile:
        return kind(file._fd)

    PosixDisk.create = lambda self, path: take(create(self, path))  # type: ignore[method-assign]
    PosixDisk.append_to = lambda self, path: take(append(self, path))  # type: ignore[method-assign]


def volatile() -> None:
    """Not broken: an honest store on a disk that loses whatever was not synced. It must pass."""
    _on_files(HeldFile)


def early_ack() -> None:
    """Entries count as durable before they are on the disk, which loses them when the power fails.

    The database is left behind: a member whose state is ahead of its log would notice by itself.
    """
    machine.FLUSH_INTERVAL = 3600.0  # type: ignore[misc]
    _on_files(LateFile)


def _deliver(times: Callable[[int], int]) -> None:
    deliver, count = WatchHub._deliver, 0

    def lie(self: WatchHub, watcher: Watcher, revision: int, events: list[Event]) -> None:
        nonlocal count
        count += 1
        for _ in range(times(count)):
            deliver(self, watcher, revision, events)

    WatchHub._deliver = lie  # type: ignore[method-assign]


def duplicate_event() -> None:
    """Now and then a watcher is told something twice."""
    _deliver(lambda count: 2 if count % EVERY == 0 else 1)


def skipped_event() -> None:
    """Now and then a watcher is not told something."""
    _deliver(lambda count: 0 if count % EVERY == 0 else 1)


def split_txn() -> None:
    """Each change of a transaction becomes a revision of its own."""
    put, delete = Write.put, Write.delete

    def end_revision(self: Write) -> None:
        if self.changes:
            self._store.finish(Changes(self.main, tuple(self.changes)))
            self.main += 1
            self.changes = []

    def split_put(self: Write, key: bytes, value: bytes, lease: int) -> None:
        end_revision(self)
        put(self, key, value, lease)

    def split_delete(self: Write, found: Any) -> None:
        end_revision(self)
        delete(self, found)

    Write.put, Write.delete = split_put, split_delete  # type: ignore[method-assign]


def deaf_lease() -> None:
    """A renewal is acknowledged and forgotten."""

    def renew(self: Lessor, id: int, now: float, index: int) -> Lease:
        return self.get(id)

    Lessor.renew = renew  # type: ignore[method-assign]


HONEST = {"volatile": volatile}
BROKEN = {
    "stale-reads": stale_reads,
    "early-ack": early_ack,
    "duplicate-event": duplicate_event,
    "skipped-event": skipped_event,
    "split-txn": split_txn,
    "deaf-lease": deaf_lease,
}
STORES = HONEST | BROKEN


def main() -> int:
    """Be a member of the named kind."""
    STORES[sys.argv[1]]()
    return app.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
