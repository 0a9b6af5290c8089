"""The few system calls that Python 3.11 does not offer: namespaces and mounts.

All of them raise OSError with the target's name. The numbers are those of <linux/sched.h>, <sys/mount.h>.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
HOST_NAMESPACES = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MNT_DETACH = 2
PR_SET_NAME = 15

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _bytes(value: str | Path | None) -> bytes | None:
    return None if value is None else os.fsencode(value)


def mount(
    source: str | Path,
    target: str | Path,
    kind: str | None = None,
    flags: int = 0,
    data: str | None = None,
) -> None:
    """mount(2)."""
    result = _libc.mount(_bytes(source), _bytes(target), _bytes(kind), ctypes.c_ulong(flags), _bytes(data))
    _check(result, f"mount {kind or source} on {target}")


def bind(source: str | Path, target: str | Path) -> None:
    """Make `source` (with what is mounted below it) appear at `target`."""
    mount(source, target, flags=MS_BIND | MS_REC)


def unmount(target: str | Path, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(_bytes(target), flags), f"unmount {target}")


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags` for fresh ones (CLONE_NEWPID takes effect in children)."""
    _check(_libc.unshare(flags), "unshare")


def setns(descriptor: int, kind: int = 0) -> None:
    """Join the namespace behind an open /proc/<pid>/ns/<kind> or a file it is mounted on."""
    _check(_libc.setns(descriptor, kind), "setns")


def sethostname(name: str) -> None:
    """Name this UTS namespace."""
    encoded = name.encode()
    _check(_libc.sethostname(encoded, len(encoded)), f"sethostname {name}")


def set_process_name(name: str) -> None:
    """Show as `name` (15 bytes of it) in ps -o comm and top: forks of one parent all share its command
    line."""
    _check(_libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0), "prctl")


def enter_network(path: str | Path) -> None:
    """Leave the present network namespace for the one at `path`; for a process that has no way back to go.

    Whoever is root only in a user namespace may leave the machine's network, and not return to it: others
    use `socket_in`, or a child.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(descriptor, CLONE_NEWNET)
    finally:
        os.close(descriptor)


def socket_in(path: str | Path, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    """A socket of the network namespace at `path`, where it stays whoever uses it. Raises OSError.

    Made by a thread that ends in there: a namespace is a thread's, and no other code ever runs in it.
    """
    made: list[socket.socket | OSError] = []

    def make() -> None:
        try:
            enter_network(path)
            made.append(socket.socket(family, kind))
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=make, name="socket")
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]


def enter(pid: int, *, processes: bool = True) -> None:
    """Join the namespaces of the host whose pid 1 is `pid`.

    With `processes`, a child forked afterwards is inside its PID namespace, and the caller itself can no
    longer start threads (clone(2): EINVAL when the namespace for children differs): a caller that goes on to
    execute a program without forking leaves it out.
    """
    kinds = ("mnt", "uts", "ipc", "net", *(("pid",) if processes else ()))
    descriptors = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]
    for descriptor in descriptors:
        setns(descriptor)
        os.close(descriptor)
