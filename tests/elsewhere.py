"""Being on another machine than this one, as far as its files and its user go.

A mount namespace in which things are missing, or in which a user without root can reach the interpreter that
runs the tests, wherever it lies. Needs root, changes nothing of the machine.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from componentbase import linux

ROOT = Path(__file__).resolve().parent.parent
USER = 12345
"""Of nobody: it has no name, no home and no ranges in /etc/subuid."""


def interpreter() -> list[Path]:
    """What a user needs to run Python and the sources."""
    return [Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT]


def closed_ancestor(path: Path) -> Path | None:
    """The outermost directory on the way to `path` that others may not pass."""
    return next((each for each in reversed(path.parents) if not each.stat().st_mode & 0o001), None)


def open_ways(paths: Sequence[Path]) -> None:
    """In a mount namespace of our own: let everybody reach `paths`, and nothing beside them."""
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    closed: dict[Path, list[tuple[Path, int]]] = {}
    for path in paths:
        barrier = closed_ancestor(path)
        if barrier is not None:
            closed.setdefault(barrier, []).append((path, os.open(path, os.O_PATH | os.O_CLOEXEC)))
    for barrier, ways in closed.items():
        linux.mount("tmpfs", barrier, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
        for path, descriptor in sorted(ways):
            if not path.exists():
                path.mkdir(parents=True)
                linux.bind(f"/proc/self/fd/{descriptor}", path)
            os.close(descriptor)


@contextlib.contextmanager
def machine(*, absent: Sequence[Path] = (), reachable: Sequence[Path] = ()) -> Iterator[list[str]]:
    """A machine without `absent` (programs and folders), on which users reach the interpreter and
    `reachable`: the command line that goes in front of one that shall run there.
    """
    ready, tell = os.pipe()
    wait, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(end)
            linux.unshare(linux.CLONE_NEWNS)
            open_ways([*interpreter(), *reachable])
            for path in absent:
                if path.is_dir():
                    linux.mount("tmpfs", path, "tmpfs")
                elif path.exists():
                    linux.mount("/dev/null", path, flags=linux.MS_BIND)
            os.write(tell, b"r")
            os.read(wait, 1)
            code = 0
        finally:
            os._exit(code)
    os.close(tell)
    os.close(wait)
    try:
        assert os.read(ready, 1) == b"r", "the other machine could not be made"
        yield ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "env", "-C", str(ROOT)]
    finally:
        os.close(ready)
        os.close(end)
        os.waitpid(pid, 0)


def as_user(home: Path) -> list[str]:
    """What goes in front of a command line that shall be a user's without root."""
    user = [f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all"]
    return ["setpriv", *user, "env", f"HOME={home}", "PYTHONDONTWRITEBYTECODE=1"]


def run(argv: Sequence[str], timeout: float = 60) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
