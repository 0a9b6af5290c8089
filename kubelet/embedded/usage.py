"""What a container may use and what it uses: by its control group, or by counting its processes. Blocking."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kubelet import cgroups
from kubelet.cri.pb import api_pb2 as pb
from kubelet.pods.resources import CPU_PERIOD

# The hierarchies of version 1 that limit or count what a container uses.
CONTROLLERS = ("cpu", "cpuacct", "memory", "pids")
TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU time in nanoseconds, memory in bytes."""

    cpu: int
    memory: int


@dataclass(frozen=True, slots=True)
class Group:
    """A container's own control group, `path` below each hierarchy."""

    path: str
    mount: Path = cgroups.MOUNT

    def directories(self) -> Iterator[Path]:
        if cgroups.version(self.mount) == 2:
            yield self.mount / self.path.lstrip("/")
            return
        for name in CONTROLLERS:
            if (self.mount / name).is_dir():
                yield self.mount / name / self.path.lstrip("/")

    def make(self, resources: pb.LinuxContainerResources) -> list[str]:
        """Make it with these limits; the files that take its processes. Raises OSError."""
        self.limit(resources)
        for directory in self.directories():
            directory.mkdir(parents=True, exist_ok=True)
        return [str(directory / "cgroup.procs") for directory in self.directories()]

    def limit(self, resources: pb.LinuxContainerResources) -> None:
        """Set the limits. Raises OSError."""
        period = resources.cpu_period or CPU_PERIOD
        quota = resources.cpu_quota * CPU_PERIOD // period
        figures = cgroups.Figures(
            shares=resources.cpu_shares or 2,
            quota=quota if quota > 0 else cgroups.UNLIMITED,
            memory=resources.memory_limit_in_bytes or cgroups.UNLIMITED,
        )
        cgroups.apply(self.path, figures, self.mount)

    def events(self) -> str:
        """The file that counts kills for memory."""
        if cgroups.version(self.mount) == 2:
            return str(self.mount / self.path.lstrip("/") / "memory.events")
        return str(self.mount / "memory" / self.path.lstrip("/") / "memory.oom_control")

    def usage(self) -> Usage:
        """What is used now. Raises OSError when the group is gone."""
        place = self.path.lstrip("/")
        if cgroups.version(self.mount) == 2:
            cpu = _fields(self.mount / place / "cpu.stat")["usage_usec"] * 1000
            memory = self.mount / place
            held = int((memory / "memory.current").read_text())
            return Usage(cpu, max(0, held - _fields(memory / "memory.stat").get("inactive_file", 0)))
        cpu = int((self.mount / "cpuacct" / place / "cpuacct.usage").read_text())
        memory = self.mount / "memory" / place
        held = int((memory / "memory.usage_in_bytes").read_text())
        return Usage(cpu, max(0, held - _fields(memory / "memory.stat").get("total_inactive_file", 0)))

    def remove(self) -> None:
        for directory in self.directories():
            with contextlib.suppress(OSError):
                directory.rmdir()


def _fields(path: Path) -> dict[str, int]:
    return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}


def by_processes() -> dict[str, Usage]:
    """Without control groups: what the processes of each mount namespace use, by that namespace.

    Every container has a mount namespace of its own. Resident memory counts shared pages for each process.
    """
    found: dict[str, Usage] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError):
            space = str((entry / "ns" / "mnt").readlink())
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            ticks = sum(int(field) for field in fields[11:15])
            pages = int((entry / "statm").read_text().split()[1])
            before = found.get(space, Usage(0, 0))
            found[space] = Usage(before.cpu + ticks * TICK, before.memory + pages * PAGE)
    return found
