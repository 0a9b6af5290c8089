"""What this machine lacks for a lab, and the command that helps: `hardway doctor`, and the first step of
`up`."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from componentbase import linux
from deploy import cgroups, namespaces, packages, rootless
from deploy.configs import Machine
from deploy.topology import Topology

CAP_SYS_RESOURCE = 24
# Instances of inotify used by one worker's containerd, kubelet and shims, with some room.
INOTIFY_PER_WORKER = 16
INOTIFY_FILE = Path("/proc/sys/fs/inotify/max_user_instances")
MEMORY_NEEDED = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One check. A finding that is not `ok` stops `up` if it is `fatal`; `remedy` is a command or an
    advice."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    fatal: bool = True


def has_capability(number: int) -> bool:
    """Is a capability in this process' effective set?"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def machine() -> Machine:
    """The facts on which rendered files depend."""
    return Machine(
        restrict_oom=not has_capability(CAP_SYS_RESOURCE),
        limits=bool(cgroups.find().roots),
        python=str(Path(sys.executable).parent),
    )


def in_child(action: Callable[[], None]) -> str:
    """Run `action` in a forked child; the empty string if it succeeded, else its error."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            action()
        except BaseException as error:
            os.write(write, str(error).encode()[:4000] or b"failed")
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        text = pipe.read().decode(errors="replace")
    os.waitpid(pid, 0)
    return text


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding(
        "python", sys.version_info >= (3, 11), f"{version} at {sys.executable}", "use Python 3.11 or newer"
    )


def _root() -> Finding:
    if rootless.inside():
        detail = f"not needed: root of a user namespace, outside uid {rootless.user_outside()}"
        return Finding("root", True, detail)
    root = os.geteuid() == 0
    detail = "running as root" if root else f"running as uid {os.geteuid()}"
    return Finding("root", root, detail, "run it with sudo")


def _namespaces() -> Finding:
    error = in_child(lambda: linux.unshare(namespaces.HOST_NAMESPACES))
    advice = "the kernel or the container around this shell forbids namespaces: use a machine of your own"
    return Finding("namespaces", not error, error or "network, mount, UTS, IPC and PID can be made", advice)


def _overlay(state: Path) -> Finding:
    """Overlayfs refuses some file systems as its upper layer (overlayfs itself, NFS)."""
    existing = next(path for path in (state, *state.parents) if path.exists())

    def attempt() -> None:
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        with tempfile.TemporaryDirectory(dir=existing, prefix=".hardway-") as name:
            base = Path(name)
            for part in ("lower", "upper", "work", "merged"):
                (base / part).mkdir()
            data = f"lowerdir={base / 'lower'},upperdir={base / 'upper'},workdir={base / 'work'}"
            linux.mount("overlay", base / "merged", "overlay", data=data)
            try:
                (base / "merged" / "probe").touch()
            finally:
                linux.unmount(base / "merged")

    error = in_child(attempt)
    return Finding(
        "overlayfs", not error, error or f"works on {existing}", "choose --state on ext4, xfs or btrfs"
    )


def _cgroups(topology: Topology) -> Finding:
    found = cgroups.find()
    if not found.roots and topology.runtime == "embedded":
        detail = "none that this user may write: pods run without limits on CPU and memory"
        return Finding("cgroups", False, detail, "run it as root to have limits", fatal=False)
    detail = f"version {found.version}: {', '.join(path.name or 'unified' for path in found.roots)}"
    return Finding("cgroups", bool(found.roots), detail, "mount cgroup2 on /sys/fs/cgroup")


def _packages(topology: Topology) -> Finding:
    runtime, mode = topology.runtime, topology.network.proxy_mode
    absent = packages.missing(runtime=runtime, proxy_mode=mode)
    if not absent:
        return Finding("packages", True, f"{len(packages.needed(runtime, mode))} present")
    detail = "absent: " + ", ".join(f"{package.name} ({package.purpose})" for package in absent)
    return Finding(
        "packages",
        False,
        detail,
        "hardway install-packages    (or: apt-get install "
        + " ".join(package.name for package in absent)
        + ")",
    )


def inotify_used() -> int:
    """How many inotify instances the processes of this machine hold."""
    used = 0
    for directory in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            used += sum(str(entry.readlink()) == "anon_inode:inotify" for entry in directory.iterdir())
    return used


def _inotify(topology: Topology) -> Finding:
    if not INOTIFY_FILE.exists():
        return Finding("inotify", True, "no limit known", fatal=False)
    limit, used = int(INOTIFY_FILE.read_text()), inotify_used()
    needed = INOTIFY_PER_WORKER * len(topology.by_role("worker"))
    detail = f"{used} of {limit} instances in use, {needed} wanted (all hosts share the machine's limit)"
    return Finding(
        "inotify",
        limit - used >= needed,
        detail,
        f"sysctl -w fs.inotify.max_user_instances={limit * 4}",
        fatal=False,
    )


def _memory() -> Finding:
    fields = dict(
        line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines() if ":" in line
    )
    available = int(fields.get("MemAvailable", "0 kB").split()[0]) * 1024
    detail = f"{available >> 20} MiB available, {MEMORY_NEEDED >> 20} MiB wanted"
    return Finding("memory", available >= MEMORY_NEEDED, detail, "end something else", fatal=False)


def port_free(address: str, port: int) -> bool:
    """Could we listen there?"""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, port))
        except OSError:
            return False
    return True


def _port(topology: Topology) -> Finding:
    address, port = topology.outside
    free = port_free(address, port)
    detail = f"{address}:{port} is {'free' if free else 'in use by another program'}"
    return Finding("port", free, detail, f"see `ss -ltnp sport = :{port}`, or set `outside:` in the topology")


def capability_note() -> Finding:
    """Not needed, but it changes how containers are set up."""
    has = has_capability(CAP_SYS_RESOURCE)
    detail = "present" if has else "missing: containerd is told to restrict oom_score_adj"
    return Finding("CAP_SYS_RESOURCE", True, detail, fatal=False)


def examine(topology: Topology, state: Path, *, cluster_up: bool) -> Iterator[Finding]:
    """All checks, in an order in which later ones make sense. The port is looked at only while no cluster
    holds it."""
    yield _python()
    root = _root()
    yield root
    yield _packages(topology)
    yield _cgroups(topology)
    if root.ok:
        yield _namespaces()
        yield _overlay(state)
    yield capability_note()
    yield _inotify(topology)
    yield _memory()
    if not cluster_up:
        yield _port(topology)


def render(findings: list[Finding]) -> str:
    """The findings as text: a mark, what was found, and for each trouble what helps."""
    lines: list[str] = []
    for finding in findings:
        mark = "ok  " if finding.ok else ("FAIL" if finding.fatal else "warn")
        lines.append(f"{mark}  {finding.name:<17} {finding.detail}")
        if not finding.ok and finding.remedy:
            lines.append(f"      {'':<17} -> {finding.remedy}")
    return "\n".join(lines)


def single_threaded() -> int:
    """How many threads this process has: more than one makes forking unsafe."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - a count, not paths
