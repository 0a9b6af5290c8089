"""The pods' parent cgroups: the runtime makes them with the first container, and nobody but us removes
them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

TIERS = ("", "burstable", "besteffort")
MOUNT = Path("/sys/fs/cgroup")


def hierarchies(mount: Path = MOUNT) -> list[Path]:
    """Every mounted hierarchy: one directory a controller in version 1, the mount itself in version 2."""
    if (mount / "cgroup.controllers").exists():
        return [mount]
    return [entry for entry in mount.iterdir() if entry.is_dir() and not entry.is_symlink()]


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
