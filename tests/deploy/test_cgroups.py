"""cgroups: which mounts count, in each of the three layouts that exist."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.cgroups import Hierarchies, find, kill, parse_mounts, remove

V1 = """\
tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,relatime,xattr,name=systemd 0 0
"""
UNIFIED = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n"
V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime 0 0\n"
CONTROLLERS = (Path("/sys/fs/cgroup/cpu,cpuacct"), Path("/sys/fs/cgroup/memory"))
NAMED, HYBRID = Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup/unified")


@pytest.mark.parametrize(
    ("mounts", "found"),
    [
        (V1, Hierarchies(1, CONTROLLERS, (NAMED,))),
        (V1 + UNIFIED, Hierarchies(1, CONTROLLERS, (NAMED, HYBRID))),
        (V2, Hierarchies(2, (Path("/sys/fs/cgroup"),))),
        ("proc /proc proc rw 0 0\n", Hierarchies(2, ())),
    ],
    ids=["version 1", "hybrid", "version 2", "none"],
)
def test_layouts(mounts: str, found: Hierarchies) -> None:
    assert parse_mounts(mounts) == found


@pytest.fixture
def frozen() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A process that a container runtime left frozen, below a group of ours."""
    found = find()
    freezer = next((root for root in found.roots if root.name == "freezer"), None)
    if os.geteuid() != 0 or freezer is None:
        pytest.skip("needs root and the freezer of version 1")
    path = f"/hardway-test-{os.getpid()}/host"
    inner = freezer / path.lstrip("/") / "kubepods"
    inner.mkdir(parents=True)
    process = subprocess.Popen(["sleep", "1000"])
    (inner / "cgroup.procs").write_text(str(process.pid))
    (inner / "freezer.state").write_text("FROZEN")
    try:
        yield path, process
    finally:
        if inner.exists():
            (inner / "freezer.state").write_text("THAWED")
        process.kill()
        process.wait()
        remove(found, path)


def test_what_is_frozen_dies_too(frozen: tuple[str, subprocess.Popen[bytes]]) -> None:
    path, process = frozen
    assert kill(find(), path) == 1
    assert process.wait(60) == -9
    assert remove(find(), path) == []
