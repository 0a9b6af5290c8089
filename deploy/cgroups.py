"""One cgroup a host, `/hardway/<cluster>/<host>`, in every hierarchy: version 1 (one mount a controller) or
2 (unified).

They account for a host's memory and CPU, give the kubelet a root for its pods, and list what is left of a
cluster even when everything else about it is forgotten.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
# The daemons' own group: version 2 allows processes in leaves only, and the pods' groups are its siblings.
DAEMONS = "system"


@dataclass(frozen=True)
class Hierarchies:
    """The cgroup mounts of this machine. `version` is 2 only when the unified hierarchy has the controllers.

    `roots` have controllers. `others` have none (version 1's named ones, version 2 beside version 1), but
    container runtimes make their groups there too.
    """

    version: int
    roots: tuple[Path, ...]
    others: tuple[Path, ...] = ()

    @property
    def everywhere(self) -> tuple[Path, ...]:
        """All of them: where to look for what is left."""
        return (*self.roots, *self.others)


def parse_mounts(mounts: str) -> Hierarchies:
    """Find the hierarchies in the text of /proc/self/mounts. A version 2 mount beside version 1 controllers
    (the "hybrid" layout) carries no controllers."""
    legacy: list[Path] = []
    named: list[Path] = []
    unified: list[Path] = []
    for line in mounts.splitlines():
        _, target, kind, options = line.split()[:4]
        if kind == "cgroup":
            (named if "name=" in options else legacy).append(Path(target))
        elif kind == "cgroup2":
            unified.append(Path(target))
    if legacy:
        return Hierarchies(1, tuple(legacy), (*named, *unified))
    return Hierarchies(2, tuple(unified[:1]), tuple(named))


def find() -> Hierarchies:
    """The hierarchies mounted here that we may make groups in: none for a user without root."""
    found = parse_mounts(Path("/proc/self/mounts").read_text())
    writable = [tuple(r for r in part if os.access(r, os.W_OK)) for part in (found.roots, found.others)]
    return Hierarchies(found.version, *writable)


def _enable_controllers(directory: Path) -> None:
    """Version 2: hand every controller of this group down to its children."""
    names = (directory / "cgroup.controllers").read_text().split()
    for name in names:
        # One that cannot be delegated (cpu under real-time tasks) must not take the others with it.
        with contextlib.suppress(OSError):
            (directory / "cgroup.subtree_control").write_text(f"+{name}")


def _copy_cpuset(directory: Path) -> None:
    """Version 1: a new cpuset is empty, and an empty one takes no process."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        file = directory / name
        if file.exists() and not file.read_text().strip():
            file.write_text((directory.parent / name).read_text())


def make(hierarchies: Hierarchies, path: str) -> None:
    """Make the group `path` and a group for the daemons in it, in every hierarchy. What exists is kept."""
    for root in hierarchies.roots:
        directory = root
        for part in [*Path(path.lstrip("/")).parts, DAEMONS]:
            if hierarchies.version == 2:
                _enable_controllers(directory)
            directory = directory / part
            directory.mkdir(exist_ok=True)
            if hierarchies.version == 1:
                _copy_cpuset(directory)


def join(hierarchies: Hierarchies, path: str) -> None:
    """Move the calling process into the daemons' group below `path`; its children are born there."""
    for root in hierarchies.roots:
        (root / path.lstrip("/") / DAEMONS / "cgroup.procs").write_text(str(os.getpid()))


def processes(hierarchies: Hierarchies, path: str) -> set[int]:
    """Every process at or below `path`."""
    found: set[int] = set()
    for root in hierarchies.everywhere:
        for directory, _, _ in os.walk(root / path.lstrip("/")):
            with contextlib.suppress(OSError):
                found.update(int(pid) for pid in (Path(directory) / "cgroup.procs").read_text().split())
    return found


def kill(hierarchies: Hierarchies, path: str) -> int:
    """SIGKILL whatever is left at or below `path`; return how many were found."""
    found = processes(hierarchies, path)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    thaw(hierarchies, path)
    return len(found)


def thaw(hierarchies: Hierarchies, path: str) -> None:
    """Let go of what is frozen at or below `path`.

    In version 1 a frozen process does not even die of SIGKILL, nor does the pid 1 of its namespace; and a
    container runtime that is killed while it freezes a container leaves it so.
    """
    for root in hierarchies.roots:
        for directory, _, _ in os.walk(root / path.lstrip("/")):
            with contextlib.suppress(OSError):
                (Path(directory) / "freezer.state").write_text("THAWED")


def _remove_tree(directory: Path) -> bool:
    """Remove a group and all below it, deepest first; False while some are still busy."""
    gone = True
    for path, _, _ in os.walk(directory, topdown=False):
        try:
            Path(path).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            gone = False
    return gone


def remove(hierarchies: Hierarchies, path: str, *, timeout: float = 10.0) -> list[str]:
    """Remove the group `path` everywhere, waiting up to `timeout` seconds for dying processes to leave it.

    Its parent is removed as well when it is empty. Returns the groups that could not be removed.
    """
    deadline = time.monotonic() + timeout
    left = [root / path.lstrip("/") for root in hierarchies.everywhere]
    while left:
        left = [directory for directory in left if not _remove_tree(directory)]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    for root in hierarchies.everywhere:
        with contextlib.suppress(OSError):
            (root / path.lstrip("/")).parent.rmdir()
    return [str(directory) for directory in left]
