"""Raising one host: a process that becomes pid 1 of fresh namespaces, and the file tree it sees.

The tree is the machine's own with these parts replaced, all by mounts that only this host has and that the
kernel takes away with its last process:

    /etc        overlay: the machine's below, `<state>/hosts/<host>/etc` above
    /var/lib    `<state>/hosts/<host>/var-lib`
    /var/log    `<state>/hosts/<host>/var-log`
    /run, /tmp  empty at every start, as after a reboot
    /proc       of the host's own PID namespace

What the daemons need of the machine (the Python environment, the source tree) stays reachable under its own
path, even where that path lies below a replaced part.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import shlex
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from componentbase import linux
from deploy import cgroups, namespaces, network, systemd
from deploy.control import INIT_SOCKET, PROGRAMS, Control, HostDown
from deploy.state import State
from deploy.supervisor import Supervisor, say
from deploy.topology import Host, Topology
from deploy.units import ROUTER_NETNS, Unit

REPLACED = ("/var/lib", "/var/log", "/run", "/tmp", "/etc", "/proc")
IMAGES = "/run/hardway/images"
START_TIMEOUT = 20.0
END_GRACE = 7.0  # seconds for a host's units to end


class HostError(Exception):
    """A host could not be raised; says which and why."""


@dataclass(frozen=True, kw_only=True)
class HostPlan:
    """All that is needed to raise one host. `files` is path on the host -> (content, mode); `sockets` are
    open ones that its units inherit, by the variable that tells them the descriptor."""

    host: Host
    units: tuple[Unit, ...]
    files: Mapping[str, tuple[bytes, int]]
    sockets: Mapping[str, socket.socket] = field(default_factory=dict)


def interpreter_paths() -> list[Path]:
    """What Python needs to import anything that this process can import."""
    candidates = [Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable)]
    candidates += [Path(entry) for entry in sys.path if entry]
    candidates.append(Path(__file__).resolve().parent.parent)
    return _outermost(path.resolve() for path in candidates if path.exists())


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Drop what lies inside another path of the list."""
    result: list[Path] = []
    for path in sorted(set(paths), key=lambda path: len(path.parts)):
        if not any(path.is_relative_to(kept) for kept in result):
            result.append(path)
    return result


def hidden(paths: Iterable[Path], replaced: Sequence[str] = REPLACED) -> list[Path]:
    """Which of `paths` lie below a replaced part of the tree and have to be brought back."""
    return [path for path in paths if any(path.is_relative_to(top) for top in replaced if top != "/etc")]


def write_files(root: Path, files: Mapping[str, tuple[bytes, int]]) -> None:
    """Put a host's files below `root`; one that is already so is not touched."""
    for name, (content, mode) in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if path.read_bytes() == content and path.stat().st_mode & 0o777 == mode:
                continue
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        temporary.replace(path)


def prepare(state: State, plan: HostPlan) -> None:
    """Make the host's directories and write its files where its /etc will find them."""
    base = state.host(plan.host.name)
    # Above the machine's /etc, of which root of a user namespace could change nothing, cni/net.d is ours.
    for name in ("etc/cni/net.d", "etc-work", "systemd", "var-lib", "var-log"):
        (base / name).mkdir(parents=True, exist_ok=True)
    etc = {name.removeprefix("/etc"): entry for name, entry in plan.files.items()}
    write_files(base / "etc", etc)


def _mount_tree(state: State, plan: HostPlan) -> None:
    """Build the host's view of the file tree. Sources are opened before anything is hidden."""
    base = state.host(plan.host.name)
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    data = f"lowerdir=/etc,upperdir={base / 'etc'},workdir={base / 'etc-work'}"
    kept = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in hidden(interpreter_paths())}
    sources = {
        target: os.open(source, os.O_PATH | os.O_CLOEXEC)
        for target, source in (
            ("/var/lib", base / "var-lib"),
            ("/var/log", base / "var-log"),
            (IMAGES, state.images),
            # The machine's own services must not show through: a host has those that were put there.
            (systemd.DIRECTORY, base / "systemd"),
            (INIT_SOCKET, state.socket(plan.host.name)),
        )
    }
    router = (
        os.open(state.router_netns, os.O_RDONLY | os.O_CLOEXEC) if plan.host.role == "controller" else None
    )
    linux.mount("overlay", "/etc", "overlay", data=data)
    linux.mount("tmpfs", "/run", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
    linux.mount("tmpfs", "/tmp", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777")
    linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    Path("/run/lock").mkdir()
    Path(IMAGES).mkdir(parents=True)
    for target, descriptor in sources.items():
        _make_place(Path(target), descriptor)
        linux.bind(f"/proc/self/fd/{descriptor}", target)
    for path, descriptor in kept.items():
        _make_place(path, descriptor)
        linux.bind(f"/proc/self/fd/{descriptor}", path)
    if router is not None:
        Path(ROUTER_NETNS).touch(mode=0o600)
        linux.mount(f"/proc/self/fd/{router}", ROUTER_NETNS, flags=linux.MS_BIND)
        os.close(router)
    for descriptor in (*sources.values(), *kept.values()):
        os.close(descriptor)
    _write_programs()


def _write_programs() -> None:
    """`systemctl` of a host: the few commands of it that its supervisor obeys."""
    path = Path(PROGRAMS) / "systemctl"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m deploy.systemd.systemctl "$@"\n')
    path.chmod(0o755)


def _hide_unified(groups: cgroups.Hierarchies) -> None:
    """On a machine with cgroup version 2 beside version 1: show a named hierarchy of version 1 in its place.

    crun refuses such a machine when the unified hierarchy has any controller, even one nobody uses; and
    it wants to make its groups there. What version 2 would tell is nothing that the lab needs.
    """
    named = next((root for root in groups.others if not _is_unified(root)), None)
    unified = next((root for root in groups.others if _is_unified(root)), None)
    if groups.version == 1 and named is not None and unified is not None:
        linux.bind(named, unified)


def _is_unified(root: Path) -> bool:
    return (root / "cgroup.controllers").exists()


def _make_place(path: Path, descriptor: int) -> None:
    """An empty place of the right kind for a bind mount."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112 - a magic link, not a path
        path.mkdir(exist_ok=True)
    else:
        path.touch(exist_ok=True)


def _close_all_but(keep: set[int]) -> None:
    limit = min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 16)
    previous = 2
    for descriptor in sorted(keep | {limit}):
        if descriptor > previous + 1:
            os.closerange(previous + 1, descriptor)
        previous = max(previous, descriptor)


def _raise_limits() -> None:
    """Daemons and containers share the machine's default of 1,024 files only where nobody asks for more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 20), hard))


def _pid_one(
    state: State, plan: HostPlan, listener: socket.socket, report: int, groups: cgroups.Hierarchies
) -> int:
    """The life of a host, from inside its namespaces."""
    keep = {listener.fileno(), report, *(sock.fileno() for sock in plan.sockets.values())}
    _close_all_but(keep)
    os.chdir("/")
    cgroups.join(groups, state.host_cgroup(plan.host.name))
    _mount_tree(state, plan)
    if plan.host.role == "worker":
        _hide_unified(groups)
    linux.sethostname(plan.host.name)
    linux.set_process_name("hardway-init")
    network.set_sysctls(network.HOST_SYSCTLS)
    _raise_limits()
    _redirect("/var/log/supervisor.log")
    os.write(report, b"ready\n")
    # The parent plugs the cable in now and answers by closing its end: no daemon starts without a network.
    _wait_for_go(report)
    os.close(report)
    say(f"host {plan.host.name} is up")
    descriptors = {variable: sock.fileno() for variable, sock in plan.sockets.items()}
    Supervisor(plan.host.name, plan.units, listener, descriptors=descriptors).run()
    return 0


def _redirect(log_path: str) -> None:
    """Standard input from nowhere, output to the log: by descriptor for what is executed, and by fresh
    objects for what is forked, since the parent's may have been anything."""
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open("/dev/null", os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(null)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - lives as long as the process
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115


def _wait_for_go(report: int) -> None:
    with socket.socket(fileno=os.dup(report)) as channel:
        channel.settimeout(START_TIMEOUT)
        if channel.recv(16) != b"go\n":
            raise HostError("the parent gave up")


def _child(state: State, plan: HostPlan, report: int, groups: cgroups.Hierarchies) -> NoReturn:
    """Between the parent and pid 1: enters fresh namespaces, forks pid 1, tells its pid and goes."""
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        path = state.socket(plan.host.name)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(os.fspath(path))
        path.chmod(0o600)
        linux.unshare(namespaces.HOST_NAMESPACES)
        pid = os.fork()
        if pid == 0:
            # SO_PEERCRED reports who called listen(2): that must be pid 1.
            listener.listen(16)
            code = _pid_one(state, plan, listener, report, groups)
        else:
            os.write(report, f"pid {pid}\n".encode())
            code = 0
    except BaseException as error:
        traceback.print_exc()
        with contextlib.suppress(OSError):
            os.write(report, f"error {error}\n".encode())
    finally:
        os._exit(code)


@dataclass
class Raising:
    """A host on its way up: the parent's end of the conversation with it."""

    plan: HostPlan
    channel: socket.socket
    pid: int = 0

    def await_ready(self, deadline: float) -> int:
        """Wait until the host's namespaces and mounts stand; return its pid 1. Raises HostError."""
        lines = b""
        while b"ready\n" not in lines or b"pid " not in lines:
            self.channel.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                chunk = self.channel.recv(4096)
            except TimeoutError:
                raise HostError(
                    f"host {self.plan.host.name}: namespaces and mounts were not ready in time"
                ) from None
            lines += chunk
            if not chunk or b"error " in lines:
                reason = lines.rpartition(b"error ")[2].decode(errors="replace").strip()
                raise HostError(f"host {self.plan.host.name}: {reason or 'its first process died'}")
        self.pid = next(int(line[4:]) for line in lines.splitlines() if line.startswith(b"pid "))
        return self.pid

    def go(self) -> None:
        """Let the host start its units."""
        self.channel.sendall(b"go\n")
        self.channel.close()


def begin(state: State, plan: HostPlan, groups: cgroups.Hierarchies) -> Raising:
    """Fork the host's first process. To be called from a single thread, with everything warm imported."""
    prepare(state, plan)
    cgroups.make(groups, state.host_cgroup(plan.host.name))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _child(state, plan, theirs.detach(), groups)
    theirs.close()
    os.waitpid(pid, 0)
    return Raising(plan, ours)


def raise_hosts(
    state: State,
    topology: Topology,
    plans: Sequence[HostPlan],
    groups: cgroups.Hierarchies,
    *,
    on_up: Callable[[str], None] = lambda name: None,
) -> None:
    """Bring up `plans`, all at once. Raises HostError, NetworkError."""
    raising = [begin(state, plan, groups) for plan in plans]
    deadline = time.monotonic() + START_TIMEOUT
    for one in raising:
        pid = one.await_ready(deadline)
        network.connect_host(state.router_netns, one.plan.host, topology.network, pid)
        one.go()
        on_up(one.plan.host.name)


def _wait_exit(descriptor: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))


def end_hosts(state: State, names: Iterable[str], *, grace: float = END_GRACE) -> list[str]:
    """Shut hosts down, all at once: politely, then by killing pid 1, which no process of the host survives.

    Returns the names of those that were up.
    """
    descriptors: dict[str, int] = {}
    pids: list[int] = []
    for name in names:
        try:
            pid = Control(name, state.socket(name)).pid()
            pids.append(pid)
            descriptors[name] = os.pidfd_open(pid)
            signal.pidfd_send_signal(descriptors[name], signal.SIGTERM)
        except (HostDown, ProcessLookupError):
            continue
    deadline = time.monotonic() + grace
    for descriptor in descriptors.values():
        if not _wait_exit(descriptor, deadline):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            cgroups.thaw(cgroups.find(), state.cgroup)
    deadline = time.monotonic() + grace
    for name, descriptor in descriptors.items():
        if not _wait_exit(descriptor, deadline):
            raise HostError(f"host {name}: its first process survives SIGKILL")
        os.close(descriptor)
    _wait_reaped(pids)
    return list(descriptors)


def _wait_reaped(pids: Iterable[int], timeout: float = 2.0) -> None:
    """Let the machine's own pid 1 collect the dead, so that the process list is as it was. Only waited for a
    while: a machine whose pid 1 collects nobody has its own reasons."""
    deadline = time.monotonic() + timeout
    for pid in pids:
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
