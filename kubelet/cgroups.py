"""The pods' cgroups: one for all pods, one a quality-of-service tier, one a pod, with what each may use.

    <root>/kubepods                    what the node offers to pods
    <root>/kubepods/{burstable,besteffort}
    <root>/kubepods[/tier]/pod<uid>    the sum of the pod's containers; the runtime makes theirs below

Figures are pure and in version 1 terms (shares, quota of a 100 ms period, bytes); `files` says them in the
words of the mounted version. Everything here that touches the file system blocks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubelet.pods import resources

TIERS = ("", "burstable", "besteffort")
MOUNT = Path("/sys/fs/cgroup")
UNLIMITED = -1


@dataclass(frozen=True, slots=True)
class Figures:
    """What a group may use: CPU weight in shares, microseconds of CPU in each 100 ms, bytes; -1: no limit."""

    shares: int = 2
    quota: int = UNLIMITED
    memory: int = UNLIMITED


def of_pod(spec: Mapping[str, Any]) -> Figures:
    """A pod's own figures: requests add up, and limits bind only when every container has one."""
    quota = resources.pod_limit(spec, "cpu")
    memory = resources.pod_limit(spec, "memory")
    return Figures(
        shares=resources.cpu_shares(resources.pod_request(spec, "cpu")),
        quota=UNLIMITED if quota is None else max(1000, quota * resources.CPU_PERIOD // 1000),
        memory=UNLIMITED if memory is None else -(-memory // 1000),
    )


def widest(one: Figures, other: Figures) -> Figures:
    """The least figures that hold both."""

    def larger(a: int, b: int) -> int:
        return UNLIMITED if UNLIMITED in (a, b) else max(a, b)

    return Figures(
        max(one.shares, other.shares), larger(one.quota, other.quota), larger(one.memory, other.memory)
    )


def of_tiers(pods: Iterable[Mapping[str, Any]], allocatable: Mapping[str, str]) -> dict[str, Figures]:
    """The figures above the pods. Burstable pods weigh what they request together; best effort least."""
    burstable = sum(
        resources.pod_request(pod["spec"], "cpu")
        for pod in pods
        if resources.qos_class(pod["spec"]) == resources.BURSTABLE
    )
    everything = Figures(
        shares=resources.cpu_shares(resources.milli(allocatable["cpu"])),
        memory=resources.whole(allocatable["memory"]),
    )
    return {"": everything, "burstable": Figures(resources.cpu_shares(burstable)), "besteffort": Figures()}


def files(figures: Figures, version: int) -> dict[str, str]:
    """The control files that say this. KEP-2254 maps shares to weights: [2, 262144] onto [1, 10000]."""
    if version == 1:
        return {
            "cpu.shares": str(figures.shares),
            "cpu.cfs_period_us": str(resources.CPU_PERIOD),
            "cpu.cfs_quota_us": str(figures.quota),
            "memory.limit_in_bytes": str(figures.memory),
        }
    quota = "max" if figures.quota == UNLIMITED else str(figures.quota)
    return {
        "cpu.weight": str(1 + (figures.shares - 2) * 9999 // 262_142),
        "cpu.max": f"{quota} {resources.CPU_PERIOD}",
        "memory.max": "max" if figures.memory == UNLIMITED else str(figures.memory),
    }


def version(mount: Path = MOUNT) -> int:
    """2 when the unified hierarchy has the controllers."""
    return 2 if (mount / "cgroup.controllers").exists() else 1


def hierarchies(mount: Path = MOUNT) -> list[Path]:
    """Every mounted hierarchy: one directory a controller in version 1, the mount itself in version 2."""
    if version(mount) == 2:
        return [mount]
    return [entry for entry in mount.iterdir() if entry.is_dir() and not entry.is_symlink()]


def apply(path: str, figures: Figures, mount: Path = MOUNT) -> None:
    """Make the group `path` if need be and give it these figures. Raises OSError naming the file."""
    wanted = files(figures, version(mount))
    controllers = [mount] if version(mount) == 2 else [mount / name for name in ("cpu", "memory")]
    for hierarchy in controllers:
        if not hierarchy.is_dir():
            continue
        directory = _make(hierarchy, path, version(mount))
        for name, value in wanted.items():
            file = directory / name
            if file.exists() and file.read_text().strip() != value:
                file.write_text(value)


def _make(hierarchy: Path, path: str, version: int) -> Path:
    directory = hierarchy
    for part in Path(path.lstrip("/")).parts:
        if version == 2:
            # A controller that cannot be handed down must not take the others with it.
            for name in ("cpu", "memory", "pids"):
                with contextlib.suppress(OSError):
                    (directory / "cgroup.subtree_control").write_text(f"+{name}")
        directory /= part
        directory.mkdir(exist_ok=True)
    return directory


def sweep(root: str, keep: Iterable[str], mount: Path = MOUNT) -> None:
    """Remove the cgroups of pods that are not in `keep`; one that still has processes stays. Blocking."""
    known = set(keep)
    for hierarchy in hierarchies(mount):
        for tier in TIERS:
            parent = hierarchy / root.strip("/") / "kubepods" / tier
            with contextlib.suppress(OSError):
                for entry in parent.glob("pod*"):
                    if entry.name.removeprefix("pod") not in known:
                        _remove(entry)


def _remove(directory: Path) -> None:
    for child in directory.iterdir():
        if child.is_dir():
            _remove(child)
    with contextlib.suppress(OSError):
        directory.rmdir()
