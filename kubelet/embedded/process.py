"""How a process becomes a container's: namespaces, groups, identity, program. Standard library only.

A process specification is the JSON that `kubelet.embedded.spec` writes:

    spaces    {"net"|"ipc"|"uts"|"pid": path of a namespace to enter, "" for a fresh one, null for the host's}
    hostname  of a fresh UTS namespace         sysctls  of the fresh namespaces
    cgroups   files to write the process' number to
    root      see `root.build`
    process   argv, env, cwd, uid, gid, groups, capabilities (kept numbers), no_new_privs, oom_score_adj,
              watched (dies with the process that started it)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import termios
from typing import Any, NoReturn

from componentbase import linux
from kubelet.embedded import detach, root

SPACES = {
    "net": linux.CLONE_NEWNET,
    "ipc": linux.CLONE_NEWIPC,
    "uts": linux.CLONE_NEWUTS,
    "pid": linux.CLONE_NEWPID,
}
LAST_CAPABILITY = 63
COMMAND_NOT_FOUND = 127
NOT_EXECUTABLE = 126
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_TIOCGPTN = 0x80045430  # ioctl_tty(2)
_TIOCSPTLCK = 0x40045431


class CannotStart(Exception):
    """The program cannot be run in there; the text is for the container's status."""


def join_groups(files: list[str]) -> None:
    """Move this process into its control groups. One that is gone means that the pod is being removed."""
    for name in files:
        with open(name, "w") as file:
            file.write("0")  # the writer itself, in whatever PID namespace


def enter_spaces(spaces: dict[str, str | None]) -> None:
    """Enter or make the namespaces; that of processes holds for children only."""
    fresh = 0
    for kind, flag in SPACES.items():
        path = spaces.get(kind)
        if path:
            linux.join(path)
        elif path == "":
            fresh |= flag
    if fresh:
        linux.unshare(fresh)


def prepare_spaces(spec: dict[str, Any]) -> None:
    """Give fresh namespaces what they need: a name, a loopback that is up, sysctls."""
    if spec["spaces"].get("uts") == "" and spec["hostname"]:
        linux.sethostname(spec["hostname"])
    if spec["spaces"].get("net") == "":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))
    for name, value in spec["sysctls"].items():
        with open("/proc/sys/" + name.replace(".", "/"), "w") as file:
            file.write(value)


def new_terminal(channel: int, uid: int | None) -> None:
    """Make a terminal of the container's own (its /dev/pts), be controlled by it, and send our end of it
    through the socket `channel`.
    """
    ours = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(ours, _TIOCSPTLCK, struct.pack("i", 0))
    (number,) = struct.unpack("i", fcntl.ioctl(ours, _TIOCGPTN, bytes(4)))
    theirs = os.open(f"/dev/pts/{number}", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    if uid is not None:
        os.fchown(theirs, uid, -1)
    with socket.socket(fileno=channel) as sock:
        socket.send_fds(sock, [b"t"], [ours])
    os.close(ours)
    for standard in (0, 1, 2):
        os.dup2(theirs, standard)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def confine(about: dict[str, Any]) -> None:
    """Give up what the container must not have: capabilities, then the user's identity."""
    if about["oom_score_adj"] is not None:
        # Lower than the present one needs CAP_SYS_RESOURCE.
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write(str(about["oom_score_adj"]))
    kept = about["capabilities"]
    if kept is not None:
        for number in range(LAST_CAPABILITY + 1):
            if number not in kept:
                with contextlib.suppress(OSError):  # beyond the last that this kernel has
                    linux.control(linux.PR_CAPBSET_DROP, number)
    if about["groups"] is not None:
        os.setgroups(about["groups"])
    if about["gid"] is not None:
        os.setresgid(about["gid"], about["gid"], about["gid"])
    if about["uid"] is not None:
        os.setresuid(about["uid"], about["uid"], about["uid"])
    if about["no_new_privs"]:
        linux.control(linux.PR_SET_NO_NEW_PRIVS, 1)


def program(name: str, path: str) -> str:
    """The file that `name` means on this search path. Raises `CannotStart` in the words of runc."""
    if "/" in name:
        if not os.path.exists(name):
            raise CannotStart(f'exec: "{name}": stat {name}: no such file or directory')
        return name
    for folder in path.split(":"):
        found = os.path.join(folder or ".", name)
        if os.path.isfile(found) and os.access(found, os.X_OK):
            return found
    raise CannotStart(f'exec: "{name}": executable file not found in $PATH')


def execute(about: dict[str, Any]) -> NoReturn:
    """Become the program. Raises `CannotStart`."""
    try:
        os.makedirs(about["cwd"], exist_ok=True)
        os.chdir(about["cwd"])
    except OSError as error:
        raise CannotStart(f'chdir to cwd ("{about["cwd"]}"): {error.strerror}') from error
    confine(about)
    if about["watched"]:
        # Only now: a change of identity forgets it (prctl(2)).
        linux.control(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    environment = dict(entry.split("=", 1) for entry in about["env"] if "=" in entry)
    found = program(about["argv"][0], environment.get("PATH", ""))
    for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.umask(0o022)
    try:
        os.execve(found, about["argv"], environment)
    except OSError as error:
        raise CannotStart(f'exec: "{about["argv"][0]}": {error.strerror}') from error


def become(spec: dict[str, Any], keep: set[int], terminal: int | None = None) -> NoReturn:
    """The life of a container's first process before its program; `terminal` is the socket that takes our end
    of its terminal, if it shall have one. Raises OSError, `CannotStart`.
    """
    detach.forget_descriptors(keep if terminal is None else keep | {terminal})
    join_groups(spec["cgroups"])
    enter_spaces({kind: path for kind, path in spec["spaces"].items() if kind != "pid"})
    linux.unshare(linux.CLONE_NEWNS)
    prepare_spaces(spec)
    root.build(spec["root"])
    if terminal is not None:
        new_terminal(terminal, spec["process"]["uid"])
    execute(spec["process"])
