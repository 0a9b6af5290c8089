"""What the machine is: processors, memory, disk, names. Reads /proc and the file system, decides nothing."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
}


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts that do not change while the kubelet runs. Memory and disk are bytes."""

    cpus: int
    memory: int
    disk: int
    inodes: int
    machine_id: str
    boot_id: str
    kernel: str
    os_image: str
    architecture: str


@dataclass(frozen=True, slots=True)
class Free:
    """What is left right now."""

    memory: int
    disk: int
    inodes: int
    pids: int
    max_pids: int
    image_disk: int = 0
    image_capacity: int = 0
    image_inodes: int = 0
    image_inode_capacity: int = 0
    """The file system of the images; capacity 0 when it is not known."""
    dedicated: bool = False
    """Whether that is another file system than the pods'."""


def _meminfo() -> dict[str, int]:
    pairs = (line.partition(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in pairs}


def _read(path: str, default: str = "") -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return default


def _os_image() -> str:
    for line in _read("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip().strip('"')
    return "Linux"


def inspect(root: Path) -> Machine:
    """Look at the machine; `root` is where pods keep their data."""
    root.mkdir(parents=True, exist_ok=True)
    return Machine(
        cpus=len(os.sched_getaffinity(0)),
        memory=_meminfo()["MemTotal"],
        disk=shutil.disk_usage(root).total,
        inodes=os.statvfs(root).f_files,
        machine_id=_read("/etc/machine-id"),
        boot_id=_read("/proc/sys/kernel/random/boot_id"),
        kernel=platform.release(),
        os_image=_os_image(),
        architecture=ARCHITECTURES.get(platform.machine(), platform.machine()),
    )


def free(root: Path, image_root: Path | None = None) -> Free:
    """What is left of memory, disk and process ids."""
    running = _read("/proc/loadavg", "0 0 0 0/0 0").split()[3].partition("/")[2]
    left = Free(
        memory=_meminfo()["MemAvailable"],
        disk=shutil.disk_usage(root).free,
        inodes=os.statvfs(root).f_favail,
        pids=int(running or 0),
        max_pids=int(_read("/proc/sys/kernel/pid_max", "4194304")),
    )
    if image_root is None or not image_root.exists():
        return left
    images, inodes = shutil.disk_usage(image_root), os.statvfs(image_root)
    return replace(
        left,
        image_disk=images.free,
        image_capacity=images.total,
        image_inodes=inodes.f_favail,
        image_inode_capacity=inodes.f_files,
        dedicated=image_root.stat().st_dev != root.stat().st_dev,
    )


def resolver(path: str) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Servers, searches and options of a resolv.conf; all empty when there is none."""
    found: Mapping[str, list[str]] = {"nameserver": [], "search": [], "options": []}
    for line in _read(path).splitlines() if path else ():
        words = line.partition("#")[0].split()
        if len(words) > 1 and words[0] in found:
            if words[0] == "search":
                found["search"].clear()
            found[words[0]].extend(words[1:])
    return tuple(found["nameserver"]), tuple(found["search"]), tuple(found["options"])
