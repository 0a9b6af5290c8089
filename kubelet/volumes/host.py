"""Volumes on the machine itself: hostPath with its type checks, emptyDir on disk or in memory. Blocking
calls.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kubelet.pods.resources import whole
from kubelet.volumes.payload import VolumeError

_libc = ctypes.CDLL(None, use_errno=True)
MNT_DETACH = 2
MOUNTS = Path("/proc/self/mountinfo")

_KINDS = {
    "Directory": (stat.S_ISDIR, "is not a directory"),
    "File": (stat.S_ISREG, "is not a file"),
    "Socket": (stat.S_ISSOCK, "is not a socket"),
    "CharDevice": (stat.S_ISCHR, "is not a character device"),
    "BlockDevice": (stat.S_ISBLK, "is not a block device"),
}


def check_host_path(source: Mapping[str, Any]) -> Path:
    """The path of a hostPath volume, created when its type asks for it; raises `VolumeError`."""
    path, kind = Path(source["path"]), source.get("type", "") or ""
    if kind == "":
        return path
    if kind == "DirectoryOrCreate":
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        kind = "Directory"
    elif kind == "FileOrCreate":
        if not path.exists():
            path.touch(mode=0o644)
        kind = "File"
    if kind not in _KINDS:
        raise VolumeError(f"hostPath type {kind!r} is not supported")
    test, complaint = _KINDS[kind]
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise VolumeError(f"hostPath type check failed: {path} {complaint}") from error
    if not test(mode):
        raise VolumeError(f"hostPath type check failed: {path} {complaint}")
    return path


def check_local(source: Mapping[str, Any], group: int | None) -> Path:
    """The directory of a local volume, handed to the pod's fsGroup if it has one; raises `VolumeError`."""
    path = Path(source["path"])
    if not path.exists():
        raise VolumeError(f'path "{path}" does not exist')
    if not path.is_dir():
        raise VolumeError(f'path "{path}" is a block device or file, only directories are supported')
    if group is not None and path.stat().st_gid != group:
        _hand_to(path, group)
    return path


def _hand_to(root: Path, group: int) -> None:
    """Everything below belongs to the group and is writable for it; new files inherit it. The root comes
    last, so that a crash half-way is followed by another attempt.
    """
    for directory, folders, names in os.walk(root, topdown=False):
        for name in [*folders, *names]:
            place = Path(directory) / name
            if not place.is_symlink():
                _hand_one(place, group)
    _hand_one(root, group)


def _hand_one(place: Path, group: int) -> None:
    os.chown(place, -1, group)
    extra = 0o2770 if place.is_dir() else 0o660
    place.chmod(stat.S_IMODE(place.stat().st_mode) | extra)


def make_empty_dir(path: Path, source: Mapping[str, Any], group: int | None) -> None:
    """Create an emptyDir, on tmpfs when its medium is Memory; idempotent."""
    medium = source.get("medium", "") or ""
    if medium not in ("", "Memory"):
        raise VolumeError(f"emptyDir medium {medium!r} is not supported")
    path.mkdir(parents=True, exist_ok=True)
    if medium == "Memory" and not os.path.ismount(path):
        limit = source.get("sizeLimit")
        mount_tmpfs(path, whole(limit) if limit is not None else 0)
    path.chmod(0o777 if group is None else 0o2777)
    if group is not None:
        os.chown(path, -1, group)


def mount_tmpfs(path: Path, size: int) -> None:
    """Mount a tmpfs of at most `size` bytes (0: the kernel's default of half the memory)."""
    options = f"size={size}".encode() if size else b""
    if _libc.mount(b"tmpfs", str(path).encode(), b"tmpfs", 0, options) != 0:
        raise OSError(ctypes.get_errno(), f"mount tmpfs on {path}")


def unmount(path: Path) -> None:
    """Detach whatever is mounted there; nothing mounted is fine."""
    if _libc.umount2(str(path).encode(), MNT_DETACH) != 0 and ctypes.get_errno() not in (22, 2):
        raise OSError(ctypes.get_errno(), f"umount {path}")


def remove_tree(root: Path) -> None:
    """Delete a pod's directory: every mount below it is detached first, and none is ever entered."""
    if not root.exists():
        return
    prefix = f"{root}/"
    with MOUNTS.open() as table:
        below = [line.split()[4] for line in table]
    for place in sorted((place for place in below if place.startswith(prefix)), reverse=True):
        unmount(Path(place))
    with MOUNTS.open() as table:
        if any(line.split()[4].startswith(prefix) for line in table):
            raise OSError(f"{root}: something is still mounted below")
    shutil.rmtree(root)
