"""The disk as the log sees it: a port, and the real one behind it.

Paths are relative to the port's root and use `/`. What is durable, and when:

* a file's content after `File.sync`;
* a file's name (creation, renaming, removal) after `sync_dir` of the folder that holds it.

Anything else may or may not survive a crash, in part or whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class File(Protocol):
    """A file open for appending."""

    def write(self, data: bytes | bytearray) -> None:
        """Append all of `data`."""

    def sync(self) -> None:
        """Make everything written durable."""

    def close(self) -> None:
        """Give the handle back; syncs nothing."""


class Disk(Protocol):
    """A folder. Errors are OSError; every one of them is fatal to the log."""

    def make_folder(self, path: str) -> None:
        """Create `path` and what is missing above it, durably."""

    def list(self, path: str) -> list[str]:
        """Names in the folder, sorted."""

    def read(self, path: str) -> bytes:
        """The whole content."""

    def read_chunks(self, path: str, size: int) -> Iterator[bytes]:
        """The content in pieces of at most `size` bytes."""

    def create(self, path: str) -> File:
        """An empty file for appending; an old one of that name is emptied."""

    def append_to(self, path: str) -> File:
        """An existing file for appending."""

    def truncate(self, path: str, size: int) -> None:
        """Cut the file to `size` bytes, durably."""

    def rename(self, old: str, new: str) -> None:
        """Give the file another name, replacing what has it."""

    def remove(self, path: str) -> None:
        """Remove the file."""

    def sync_dir(self, path: str) -> None:
        """Make the names in the folder durable."""


class PosixFile:
    """`File` on a descriptor."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes | bytearray) -> None:
        """Append all of `data`."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def sync(self) -> None:
        """fdatasync: the data, and as much of the inode as it takes to read the data back."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


class PosixDisk:
    """`Disk` on a folder of the file system. Files are 0600 and folders 0700, as etcd makes them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def make_folder(self, path: str) -> None:
        """Create the folder and every missing parent, each synced into its own parent."""
        target = self.root / path
        missing = [p for p in (target, *target.parents) if not p.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o700)
            self._sync(folder.parent)

    def list(self, path: str) -> list[str]:
        """Names, sorted."""
        return sorted(entry.name for entry in (self.root / path).iterdir())

    def read(self, path: str) -> bytes:
        """The whole content."""
        return (self.root / path).read_bytes()

    def read_chunks(self, path: str, size: int) -> Iterator[bytes]:
        """The content in pieces."""
        with (self.root / path).open("rb") as file:
            while chunk := file.read(size):
                yield chunk

    def create(self, path: str) -> PosixFile:
        """An empty file."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        return PosixFile(os.open(self.root / path, flags, 0o600))

    def append_to(self, path: str) -> PosixFile:
        """An existing file."""
        return PosixFile(os.open(self.root / path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))

    def truncate(self, path: str, size: int) -> None:
        """Cut and sync."""
        fd = os.open(self.root / path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, old: str, new: str) -> None:
        """Rename, replacing."""
        (self.root / old).replace(self.root / new)

    def remove(self, path: str) -> None:
        """Unlink."""
        (self.root / path).unlink()

    def sync_dir(self, path: str) -> None:
        """fsync of the folder."""
        self._sync(self.root / path)

    @staticmethod
    def _sync(folder: Path) -> None:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
