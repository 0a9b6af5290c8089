"""The few system calls that Python 3.11 does not offer: namespaces, mounts, prctl.

All of them raise OSError with the target's name. Standard library only: the small programs of the embedded
runtime, started for each container, must be cheap. The numbers are those of <linux/sched.h>, <sys/mount.h>
and <sys/prctl.h>.
"""

from __future__ import annotations

import ctypes
import os
import platform

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38

# pivot_root has no wrapper in libc (pivot_root(2)).
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "armv7l": 218, "ppc64le": 203, "s390x": 217, "riscv64": 41}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _bytes(value: str | os.PathLike[str]) -> bytes | None:
    return os.fsencode(value) if value else None


def mount(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    kind: str = "",
    flags: int = 0,
    data: str = "",
) -> None:
    """mount(2)."""
    result = _libc.mount(_bytes(source), _bytes(target), _bytes(kind), ctypes.c_ulong(flags), _bytes(data))
    _check(result, f"mount {kind or source} on {target}")


def bind(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Make `source` (with what is mounted below it) appear at `target`."""
    mount(source, target, flags=MS_BIND | MS_REC)


def unmount(target: str | os.PathLike[str], flags: int = 0) -> None:
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


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2): `new` becomes the root of this mount namespace, the present one appears at `old`."""
    number = _PIVOT_ROOT.get(platform.machine())
    if number is None:
        raise OSError(f"pivot_root: its number on {platform.machine()} is not known here")
    _check(_libc.syscall(number, os.fsencode(new), os.fsencode(old)), f"pivot_root {new}")


def join(path: str | os.PathLike[str], kind: int = 0) -> None:
    """setns(2) into the namespace at `path`; one of processes takes effect in children."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(descriptor, kind)
    except OSError as error:
        raise OSError(error.errno, f"enter {path}: {os.strerror(error.errno or 0)}") from None
    finally:
        os.close(descriptor)


def control(option: int, value: int) -> None:
    """prctl(2) with one number."""
    _check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")
