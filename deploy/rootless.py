"""The lab of a user without root: a machine of its own, made of a user namespace.

    user, mount, PID, IPC    of the lab's own: in there the user is root, and /run is empty
    network                  the machine's: the balancer listens on its loopback like anybody's program
    control groups           none: nothing is delegated, so nothing is limited

Its first process, the *holder*, is pid 1 of the PID namespace: when it ends, everything in there ends. Each
command of the user enters what the holder holds and goes on as if it were root. The holder ends with the
last host.

The handle of a running lab is the lock on `<state>/rootless.lock`: who holds it is the holder, by the
kernel's own word (fcntl(2), F_GETLK); no number in a file could be trusted after the process has died.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from componentbase import linux

LOCK = "rootless.lock"
WHO = "HARDWAY_ROOTLESS"  # inside: the number of the user outside
START_TIMEOUT = 20.0
# struct flock of 64-bit Linux: type, whence, start, length, process.
_FLOCK = struct.Struct("hhqqi4x")

# Settings that forbid user namespaces, with the value that does.
SETTINGS = (
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
    ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)


class RootlessError(Exception):
    """A lab without root cannot be had here; says what forbids it and what would help."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """The users (or groups) that a user may be besides himself: `/etc/subuid`, `/etc/subgid`."""

    start: int
    count: int


def inside() -> bool:
    """Is this process in a lab without root?"""
    return WHO in os.environ


def wanted() -> bool:
    """Has this process to enter one first?"""
    return os.geteuid() != 0 and not inside()


def forbidding(read: Callable[[str], str | None]) -> list[str]:
    """The settings of this kernel that forbid user namespaces: the commands that would allow them. Pure."""
    return [
        f"sysctl -w {remedy}"
        for path, value, remedy in SETTINGS
        if (found := read(path)) is not None and found.strip() == value
    ]


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text()
    except OSError:
        return None


def forbidden() -> str | None:
    """Why there can be no lab without root on this machine; None when there can."""
    uid, gid = os.geteuid(), os.getegid()  # in a user namespace without a map one is nobody
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            linux.unshare(linux.CLONE_NEWUSER)
            _write_maps(uid, gid)
            linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWNET)
            linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
            linux.mount("tmpfs", "/tmp", "tmpfs")
        except OSError as error:
            code = error.errno or 1
        finally:
            os._exit(min(code, 255))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 0:
        return None
    remedies = forbidding(_read)
    advice = " and ".join(remedies) or (
        "no setting known to us says why: a container or a security module around this shell may"
    )
    return f"the kernel forbids user namespaces to users without root ({os.strerror(code)}): {advice}"


def parse_ranges(text: str, user: str, uid: int) -> Ranges | None:
    """The first range of a user in the text of subuid(5). Pure."""
    for line in text.splitlines():
        name, _, numbers = line.partition(":")
        start, _, count = numbers.partition(":")
        if name in (user, str(uid)) and start.isdigit() and count.isdigit() and int(count) > 0:
            return Ranges(int(start), int(count))
    return None


def _ranges() -> tuple[Ranges, Ranges] | None:
    """What newuidmap and newgidmap would give us, if they are there."""
    if shutil.which("newuidmap") is None or shutil.which("newgidmap") is None:
        return None
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = ""
    found = [parse_ranges(_read(f"/etc/{name}") or "", user, os.getuid()) for name in ("subuid", "subgid")]
    return (found[0], found[1]) if found[0] and found[1] else None


def _write_maps(uid: int, gid: int) -> None:
    """Without help from outside: root in here is the one user out there, and nobody else exists."""
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1\n")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1\n")


def _map_ranges(pid: int, ranges: tuple[Ranges, Ranges]) -> None:
    """With help: root in here is the user, and as many others exist as were given to him."""
    own = (os.getuid(), os.getgid())
    for program, me, more in zip(("newuidmap", "newgidmap"), own, ranges, strict=True):
        numbers = [0, me, 1, 1, more.start, more.count]
        done = subprocess.run(
            [program, str(pid), *map(str, numbers)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RootlessError(f"{program}: {done.stderr.strip()}")


class Handle:
    """The lab without root of one state directory, seen from outside."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.path = state / LOCK

    def holder(self) -> int:
        """The number of the holder, 0 when there is none."""
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return 0
        try:
            asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
        finally:
            os.close(descriptor)
        return 0 if kind == fcntl.F_UNLCK else int(pid)

    @contextlib.contextmanager
    def using(self) -> Iterator[int]:
        """Be one of those who use the lab: its holder, started if need be, lives meanwhile. The last one
        out of a lab without hosts ends it. Raises RootlessError.
        """
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if not self.holder() else fcntl.LOCK_SH)
            pid = self.holder() or self._start()
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            try:
                yield pid
            finally:
                self._end_if_unused(descriptor, pid)
        finally:
            os.close(descriptor)

    def _end_if_unused(self, descriptor: int, pid: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        # Hosts are the holder's children: who started them is gone.
        children = (_read(f"/proc/{pid}/task/{pid}/children") or "").split()
        if not any(_lives(child) for child in children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + START_TIMEOUT
            while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                time.sleep(0.01)

    def _start(self) -> int:
        """Fork the holder; its number."""
        ranges = _ranges()
        reading, writing = os.pipe()
        going, go = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            os.close(go)
            _between(self.path, ranges is not None, writing, going)
        os.close(writing)
        os.close(going)
        try:
            with os.fdopen(reading, "rb", buffering=0) as report:
                if report.read(1) == b"u" and ranges is not None:
                    _map_ranges(pid, ranges)
                os.write(go, b"g")
                problem = report.read(4000).decode(errors="replace")
        except BrokenPipeError:
            problem = "its first process died"
        finally:
            os.close(go)
            os.waitpid(pid, 0)
        found = self.holder()
        if problem != "ready" or not found:
            raise RootlessError(f"no lab without root: {problem or 'its first process died'}")
        return found


def _lives(pid: str) -> bool:
    """Whether a process has not ended; one that nobody has collected yet has."""
    about = _read(f"/proc/{pid}/stat")
    return about is not None and about.rpartition(")")[2].split()[0] not in ("Z", "X")


def _between(lock: Path, mapped: bool, report: int, going: int) -> None:
    """Between the user's command and the holder: make the namespaces, fork the holder into them, go."""
    try:
        os.setsid()
        uid, gid = os.geteuid(), os.getegid()
        linux.unshare(linux.CLONE_NEWUSER)
        os.write(report, b"u")
        os.read(going, 1)
        if not mapped:
            _write_maps(uid, gid)
        linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWIPC)
        if os.fork() == 0:
            _hold(lock, report)
    except BaseException as error:
        os.write(report, f"{error}".encode()[:4000])
    finally:
        os._exit(0)


def _hold(lock: Path, report: int) -> None:
    """The life of the holder: collect the dead, until killed."""
    try:
        linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        linux.mount("proc", "/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
        linux.mount("tmpfs", "/run", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755")
        # Before the lock is taken: closing any descriptor of a file gives up the process' locks on it.
        for number in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - numbers, not paths
            if number > 2 and number != report:
                with contextlib.suppress(OSError):
                    os.close(number)
        held = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        linux.set_process_name("hardway-rootless")
        null = os.open("/dev/null", os.O_RDWR)
        os.chdir("/")
        os.write(report, b"ready")
        for number in (0, 1, 2):
            os.dup2(null, number)
        os.close(report)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        while True:
            signal.sigwaitinfo({signal.SIGCHLD})
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(report, f"{error}".encode()[:4000])
    finally:
        os._exit(1)


def _enter(pid: int) -> None:
    """Join what the holder holds; a child forked afterwards is in its PID namespace. Raises OSError."""
    kinds = ("user", "mnt", "ipc", "pid")
    descriptors = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]
    here = Path.cwd()
    for descriptor in descriptors:
        linux.setns(descriptor)
        os.close(descriptor)
    os.chdir(here)  # entering a mount namespace ends in its root


def run(state: Path, action: Callable[[], int]) -> int:
    """Do `action` as root of the lab without root of `state`; its result. Raises RootlessError."""
    if not Handle(state).holder() and (problem := forbidden()):
        raise RootlessError(problem)
    with Handle(state).using() as holder:
        sys.stdout.flush()
        sys.stderr.flush()
        outer = os.getuid()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _enter(holder)
                os.environ[WHO] = str(outer)
                code = _in_there(action)
            except OSError as error:
                print(f"hardway: the lab without root cannot be entered: {error}", file=sys.stderr)
            finally:
                os._exit(code)
        return _wait(pid)


def _in_there(action: Callable[[], int]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = action()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return _wait(pid)


def _wait(pid: int) -> int:
    """Wait for a child, whom interrupts of the terminal reach as well: it says what becomes of them."""
    while True:
        try:
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF
        except KeyboardInterrupt:
            continue


def user_outside() -> str:
    """Who the user is in the machine's eyes."""
    return os.environ.get(WHO, str(os.getuid()))
