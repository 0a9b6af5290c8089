"""A disk in memory that loses what was not synced, for tests and simulation.

A crash keeps of every file what was synced and a random part of the rest, possibly with sectors of zeros in
it, and of the folders' changes since their sync a random run of the first ones (journalling file systems keep
their order).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from etcdlite.wal.records import SECTOR


class Crash(BaseException):
    """The machine has lost power in the middle of an operation. Not an Exception: nothing may handle it."""


class _Inode:
    __slots__ = ("content", "synced")

    def __init__(self) -> None:
        self.content = bytearray()
        self.synced = 0


class MemoryFile:
    """`File` of a MemoryDisk."""

    def __init__(self, disk: MemoryDisk, inode: _Inode) -> None:
        self._disk, self._inode = disk, inode

    def write(self, data: bytes | bytearray) -> None:
        """Append; not durable yet."""
        self._disk.step()
        self._inode.content += data

    def sync(self) -> None:
        """Make it durable; a crash right before loses it, one right after does not."""
        self._disk.step()
        self._inode.synced = len(self._inode.content)
        self._disk.step()

    def close(self) -> None:
        """Nothing to give back."""


class MemoryDisk:
    """`Disk` in memory. `crash_after` counts operations down to a Crash; negative: never."""

    def __init__(self) -> None:
        self._names: dict[str, _Inode] = {}
        self._durable: dict[str, _Inode] = {}
        self._pending: list[tuple[str, Callable[[dict[str, _Inode]], object]]] = []
        self._folders: set[str] = set()
        self.crash_after = -1

    def step(self) -> None:
        """One more operation."""
        if self.crash_after == 0:
            raise Crash
        self.crash_after -= 1

    def crash(self, rng: random.Random) -> None:
        """Power is lost: forget what was not durable."""
        for _, change in self._pending[: rng.randint(0, len(self._pending))]:
            change(self._durable)
        self._pending.clear()
        self._names = dict(self._durable)
        for inode in self._names.values():
            self._tear(inode, rng)
        self.crash_after = -1

    @staticmethod
    def _tear(inode: _Inode, rng: random.Random) -> None:
        keep = rng.randint(inode.synced, len(inode.content))
        torn = inode.content[:keep]
        if keep > inode.synced and rng.random() < 0.3:  # the length reached the disk, some sectors did not
            start = max(inode.synced, rng.randint(inode.synced, keep) // SECTOR * SECTOR)
            torn[start:] = bytes(keep - start)
        inode.content, inode.synced = torn, keep

    def _change(self, path: str, change: Callable[[dict[str, _Inode]], object]) -> None:
        self.step()
        change(self._names)
        self._pending.append((path.rpartition("/")[0], change))

    def make_folder(self, path: str) -> None:
        """Folders just are."""
        self._folders.add(path)

    def list(self, path: str) -> list[str]:
        """Names, sorted."""
        prefix = path + "/"
        return sorted(name.removeprefix(prefix) for name in self._names if name.startswith(prefix))

    def read(self, path: str) -> bytes:
        """The whole content."""
        return bytes(self._find(path).content)

    def read_chunks(self, path: str, size: int) -> Iterator[bytes]:
        """The content in pieces."""
        data = self.read(path)
        for start in range(0, len(data), size):
            yield data[start : start + size]

    def create(self, path: str) -> MemoryFile:
        """An empty file."""
        inode = _Inode()
        self._change(path, lambda names: names.__setitem__(path, inode))
        return MemoryFile(self, inode)

    def append_to(self, path: str) -> MemoryFile:
        """An existing file."""
        return MemoryFile(self, self._find(path))

    def truncate(self, path: str, size: int) -> None:
        """Cut, durably."""
        self.step()
        inode = self._find(path)
        del inode.content[size:]
        inode.synced = size

    def rename(self, old: str, new: str) -> None:
        """Rename, replacing."""
        inode = self._find(old)

        def change(names: dict[str, _Inode]) -> None:
            names.pop(old, None)
            names[new] = inode

        self._change(new, change)

    def remove(self, path: str) -> None:
        """Remove."""
        self._find(path)
        self._change(path, lambda names: names.pop(path, None))

    def sync_dir(self, path: str) -> None:
        """Make the names in `path` durable."""
        self.step()
        for folder, change in self._pending:
            if folder == path:
                change(self._durable)
        self._pending = [item for item in self._pending if item[0] != path]

    def put(self, path: str, content: bytes) -> None:
        """A file that has always been there (tests damage files with it)."""
        inode = _Inode()
        inode.content, inode.synced = bytearray(content), len(content)
        self._names[path] = self._durable[path] = inode

    def _find(self, path: str) -> _Inode:
        try:
            return self._names[path]
        except KeyError:
            raise FileNotFoundError(path) from None
