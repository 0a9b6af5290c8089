"""What a container sees as its file tree: the image below a layer of its own, the mounts it was given, and
the kernel's file systems.

Called in the container's first process, in a mount namespace that nobody else has: the kernel takes every
mount away with the container's last process. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import Any

from componentbase import linux

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
OWN = ("pts", "shm", "mqueue", "ptmx", "fd", "stdin", "stdout", "stderr")
# Flags of a mount that a remount may not drop in a user namespace (mount_namespaces(7), "locked").
_KEPT = {os.ST_NOSUID: linux.MS_NOSUID, os.ST_NODEV: linux.MS_NODEV, os.ST_NOEXEC: linux.MS_NOEXEC}
_KEPT |= {os.ST_NOATIME: 1024, os.ST_NODIRATIME: 2048, os.ST_RELATIME: 1 << 21}
_QUIET = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC


def build(tree: dict[str, Any]) -> None:
    """Mount the tree and make it the root. `tree` is the part `root` of a process specification.

    Raises OSError naming the mount that failed.
    """
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_SLAVE)
    merged = tree["merged"]
    _image(tree)
    _kernel(merged, tree)
    for each in tree["mounts"]:
        _given(merged, each)
    for path in tree["masked"]:
        _mask(merged + path)
    for path in tree["readonly_paths"]:
        if os.path.exists(merged + path):
            linux.mount(merged + path, merged + path, flags=linux.MS_BIND | linux.MS_REC)
            _remount_readonly(merged + path)
    if tree["readonly"]:
        _remount_readonly(merged)
    _pivot(merged)


def _image(tree: dict[str, Any]) -> None:
    """The image with a layer above it. Where overlayfs cannot be had, the layer is a copy of the image."""
    merged, upper = tree["merged"], tree["upper"]
    for path in (merged, upper, tree["work"]):
        os.makedirs(path, exist_ok=True)
    data = f"lowerdir={tree['image']},upperdir={upper},workdir={tree['work']}"
    for options in (data, f"{data},userxattr"):
        with contextlib.suppress(OSError):
            linux.mount("overlay", merged, "overlay", linux.MS_NODEV, options)
            return
    copied = f"{upper}.copied"
    if not os.path.exists(copied):
        shutil.copytree(tree["image"], upper, symlinks=True, dirs_exist_ok=True)
        with open(copied, "w"):
            pass
    linux.mount(upper, merged, flags=linux.MS_BIND)


def _kernel(merged: str, tree: dict[str, Any]) -> None:
    """/proc, /dev and /sys."""
    _directory(f"{merged}/proc")
    if tree["own_processes"]:
        linux.mount("proc", f"{merged}/proc", "proc", _QUIET)
    else:
        linux.mount("/proc", f"{merged}/proc", flags=linux.MS_BIND | linux.MS_REC)
    _directory(f"{merged}/sys")
    try:
        linux.mount("sysfs", f"{merged}/sys", "sysfs", _QUIET | linux.MS_RDONLY)
    except OSError:
        # Only the owner of the network namespace may mount it anew; the host's is the next best.
        linux.mount("/sys", f"{merged}/sys", flags=linux.MS_BIND | linux.MS_REC)
        _remount_readonly(f"{merged}/sys")
    _devices(f"{merged}/dev", tree)


def _devices(dev: str, tree: dict[str, Any]) -> None:
    _directory(dev)
    linux.mount("tmpfs", dev, "tmpfs", linux.MS_NOSUID, "mode=755,size=65536k")
    for name in os.listdir("/dev") if tree["all_devices"] else DEVICES:
        if os.path.exists(f"/dev/{name}") and name not in OWN:
            (_directory if os.path.isdir(f"/dev/{name}") else _file)(f"{dev}/{name}")
            linux.mount(f"/dev/{name}", f"{dev}/{name}", flags=linux.MS_BIND)
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(f"{dev}/{name}")
    linux.mount(
        "devpts",
        f"{dev}/pts",
        "devpts",
        linux.MS_NOSUID | linux.MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=0620",
    )
    linux.mount("shm", f"{dev}/shm", "tmpfs", _QUIET, "mode=1777,size=65536k")
    with contextlib.suppress(OSError):  # a kernel without message queues
        linux.mount("mqueue", f"{dev}/mqueue", "mqueue", _QUIET)
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0"}
    for name, target in {**links, "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}.items():
        os.symlink(target, f"{dev}/{name}")


def _given(merged: str, given: dict[str, Any]) -> None:
    """One mount of the pod: a volume, a managed file."""
    source, target = given["source"], inside(merged, given["target"])
    if not os.path.exists(source):
        raise FileNotFoundError(2, f"mount source {source} does not exist")
    if os.path.isdir(source):
        _directory(target)
    else:
        _file(target)
    linux.mount(source, target, flags=linux.MS_BIND | linux.MS_REC)
    linux.mount("none", target, flags=given["propagation"] | linux.MS_REC)
    if given["readonly"]:
        _remount_readonly(target)


def inside(merged: str, path: str) -> str:
    """Where `path` of the container is seen from here: its symbolic links mean the container's tree, never
    the host's.
    """
    done = merged
    parts = [part for part in path.split("/") if part not in ("", ".")]
    links = 0
    while parts:
        part = parts.pop(0)
        if part == "..":
            done = merged if done == merged else os.path.dirname(done)
            continue
        step = f"{done}/{part}"
        if not os.path.islink(step):
            done = step
            continue
        links += 1
        if links > 40:
            raise OSError(40, f"too many symbolic links in {path}")
        to = os.readlink(step)
        done = merged if to.startswith("/") else done
        parts = [each for each in to.split("/") if each not in ("", ".")] + parts
    return done


def _mask(path: str) -> None:
    if os.path.isdir(path):
        linux.mount("tmpfs", path, "tmpfs", linux.MS_RDONLY, "size=0k")
    elif os.path.exists(path):
        linux.mount("/dev/null", path, flags=linux.MS_BIND)


def _remount_readonly(path: str) -> None:
    held = os.statvfs(path).f_flag
    kept = sum(flag for seen, flag in _KEPT.items() if held & seen)
    linux.mount("none", path, flags=linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | kept)


def _directory(path: str) -> None:
    if not os.path.isdir(path):
        os.makedirs(path, exist_ok=True)


def _file(path: str) -> None:
    if not os.path.exists(path):
        _directory(os.path.dirname(path))
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))


def _pivot(merged: str) -> None:
    """The old root is stacked over the new one and then let go (pivot_root(2), "pivot_root(".", ".")")."""
    os.chdir(merged)
    linux.pivot_root(".", ".")
    linux.unmount(".", linux.MNT_DETACH)
    os.chdir("/")
