"""Replace the content of a directory in one step, while processes read it.

The layout is Kubernetes': real files lie in a directory named by time, `..data` is a symbolic link to it,
and every visible name is a link through `..data`. One rename of the link changes all files at once; a crash
at any point leaves either the old content or the new, and litter that the next write removes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

DATA = "..data"


@dataclass(frozen=True, slots=True)
class File:
    """Content and permission bits of one file."""

    content: bytes
    mode: int = 0o644


def check_path(path: str) -> None:
    """Refuse a path that could leave the volume; raises ValueError."""
    parts = PurePosixPath(path).parts
    if not path or path.startswith("/") or ".." in parts or parts[0].startswith(".."):
        raise ValueError(f"invalid path {path!r} in volume")


def read(target: Path) -> dict[str, File]:
    """What the directory holds now."""
    root = target / DATA
    found: dict[str, File] = {}
    for where, _, names in os.walk(root):
        for name in names:
            path = Path(where) / name
            mode = path.stat().st_mode & 0o7777
            found[str(path.relative_to(root))] = File(path.read_bytes(), mode)
    return found


def write(
    target: Path, files: Mapping[str, File], *, group: int | None = None, owner: int | None = None
) -> bool:
    """Make `files` the content of `target`; returns whether anything changed. Raises OSError, ValueError."""
    for path in files:
        check_path(path)
    target.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    if (target / DATA).is_symlink() and read(target) == dict(files):
        return False
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=target))
    fresh.chmod(0o755)
    for path, file in files.items():
        place = fresh / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.content)
        place.chmod(file.mode)
        if group is not None or owner is not None:
            os.chown(place, -1 if owner is None else owner, -1 if group is None else group)
    before = str((target / DATA).readlink()) if (target / DATA).is_symlink() else None
    swap = target / "..data_tmp"
    swap.symlink_to(fresh.name)
    swap.rename(target / DATA)
    _link(target, {PurePosixPath(path).parts[0] for path in files})
    if before:
        shutil.rmtree(target / before, ignore_errors=True)
    return True


def _link(target: Path, wanted: set[str]) -> None:
    for name in wanted:
        with contextlib.suppress(FileExistsError):
            (target / name).symlink_to(f"{DATA}/{name}")
    for entry in target.iterdir():
        if not entry.name.startswith("..") and entry.name not in wanted:
            entry.unlink(missing_ok=True)


def _sweep(target: Path) -> None:
    """Remove what a crash between two steps left."""
    current = str((target / DATA).readlink()) if (target / DATA).is_symlink() else ""
    for entry in target.iterdir():
        if entry.name == "..data_tmp":
            entry.unlink()
        elif entry.name.startswith("..") and entry.name not in (DATA, current):
            shutil.rmtree(entry, ignore_errors=True)
