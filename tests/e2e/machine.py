"""What a cluster could leave behind on the machine, as values that can be compared."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path


def _run(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30).stdout


def _daemons() -> frozenset[str]:
    """Command lines of processes that belong to a lab: in another namespace than this process, or known by
    name.
    """
    own = {kind: str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("net", "pid", "mnt")}
    found: set[str] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            elsewhere = any(str((entry / "ns" / kind).readlink()) != inode for kind, inode in own.items())
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        known = ("containerd", "haproxy", "hardway", "-m deploy")
        if elsewhere or any(word in command for word in known):
            found.add(f"{command} [{'elsewhere' if elsewhere else 'here'}]")
    return frozenset(found)


def _cgroups() -> frozenset[str]:
    # One that goes meanwhile is passed over.
    return frozenset(folder for folder, _, _ in os.walk("/sys/fs/cgroup"))


def _mounts() -> frozenset[str]:
    return frozenset(
        line.split(" - ")[0].split(" ", 3)[3].split(" ")[1] + " " + line.split(" - ")[1].split(" ")[0]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
    )


@dataclass(frozen=True)
class Machine:
    """A snapshot. Equal before and after means that nothing was left behind."""

    namespaces: str
    links: frozenset[str]
    routes: str
    mounts: frozenset[str]
    cgroups: frozenset[str]
    processes: frozenset[str]
    packet_filter: str
    listeners: frozenset[str]

    @classmethod
    def look(cls) -> Machine:
        links = frozenset(line.split(":")[1].strip() for line in _run("ip", "-o", "link").splitlines())
        sockets = frozenset(line.split()[3] for line in _run("ss", "-Htln").splitlines())
        return cls(
            namespaces=_run("ip", "netns", "list"),
            links=links,
            routes=_run("ip", "route", "show", "table", "all"),
            mounts=_mounts(),
            cgroups=_cgroups(),
            processes=_daemons(),
            packet_filter=_run("nft", "list", "ruleset"),
            listeners=sockets,
        )
