"""Full disks and damaged files.

A directory can only be filled where it lies on a filesystem of bounded size that is not the machine's own.
`small_disk` makes one: memory under a name, seen only in the mount namespace it is made in; a path below
`/proc/<pid>/root` leads there from outside.
"""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

from deploy.faults.fault import Fault, FaultError

FILLER = ".filler"
SMALLEST = 4096
TIMEOUT = 60.0


def full(directory: str | Path, *, leave: int = 0) -> Fault:
    """Leave no more than `leave` bytes free on the filesystem of `directory`; undone, the filler is gone.

    Raises FaultError when that is the machine's own filesystem.
    """
    filler = Path(directory) / FILLER

    def apply() -> None:
        if Path(directory).stat().st_dev in (Path("/").stat().st_dev, Path("/tmp").stat().st_dev):
            raise FaultError(f"{directory} lies on the machine's own disk; put it on a small_disk to fill it")
        with filler.open("wb") as file:
            _fill(file.fileno())
            if leave:
                file.truncate(max(0, file.seek(0, os.SEEK_END) - leave))

    return Fault(f"full disk {directory}", apply, lambda: filler.unlink(missing_ok=True))


def _fill(descriptor: int) -> None:
    """Grow a file until not a page more can be had."""
    size, step = 0, 1 << 26
    while step >= SMALLEST:
        try:
            os.posix_fallocate(descriptor, size, step)
            size += step
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            step //= 2


def small_disk(directory: str, megabytes: int, *, pid: int) -> Fault:
    """Put what `directory` holds on a disk of `megabytes`, in the mount namespace of `pid`.

    Whoever uses the directory must be stopped while this is applied and while it is undone; undoing brings
    what the directory then holds back to where it was.
    """

    def inside(script: str) -> None:
        argv = ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "--", "sh", "-ec", script, "sh", directory]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        if done.returncode != 0:
            raise FaultError(f"small disk at {directory}: {done.stderr.strip()}")

    def apply() -> None:
        inside(
            'mkdir "$1.small" && '
            f'mount -t tmpfs -o size={megabytes}m,mode=700 tmpfs "$1.small" && '
            'cp -a "$1/." "$1.small/" && mount --move "$1.small" "$1" && rmdir "$1.small"'
        )

    def undo() -> None:
        if Path(f"/proc/{pid}").exists():
            inside(
                'if [ -d "$1.small" ]; then umount "$1.small" || true; rmdir "$1.small"; exit 0; fi; '
                'mkdir "$1.small" && mount --move "$1" "$1.small" && '
                'find "$1" -mindepth 1 -delete && cp -a "$1.small/." "$1/" && '
                'umount "$1.small" && rmdir "$1.small"'
            )

    return Fault(f"small disk of {megabytes} MiB at {directory}", apply, undo)


def cut_tail(file: str | Path, count: int) -> None:
    """Take the last `count` bytes off a file of a stopped program, as a crash of the machine may."""
    size = Path(file).stat().st_size
    os.truncate(file, max(0, size - count))


def flip_byte(file: str | Path, offset: int, *, mask: int = 0xFF) -> None:
    """Invert bits of one byte; a negative offset counts from the end."""
    with Path(file).open("r+b") as stream:
        stream.seek(offset, os.SEEK_END if offset < 0 else os.SEEK_SET)
        byte = stream.read(1)
        if not byte:
            raise FaultError(f"{file} has no byte at {offset}")
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ mask]))
