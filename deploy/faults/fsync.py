"""A disk that is slow to sync, or fails to, for one program.

The program's fsync-like system calls are handed to a helper before the kernel carries them out (seccomp user
notification, seccomp_unotify(2)); the helper lets each go on, at once or after a delay, or answers it with
an error. That works for any program, whatever it is written in, and touches neither the disk nor anybody
else on it.

    python -m deploy.faults.fsync RULE -- etcd --name a ...

becomes the program (same pid) with a helper beside it. RULE is the path of a file that says what to do, read
at every such call: no file means nothing to do. `slow_fsync` and `failing_fsync` write it and take it away.
The helper ends with the last process it serves.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import heapq
import json
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from deploy.faults.fault import Fault

# <asm/unistd_64.h>: fsync, fdatasync, msync, sync_file_range, syncfs
X86_64, AARCH64 = 0xC000003E, 0xC00000B7
SYSCALLS = {X86_64: (74, 75, 26, 277, 306), AARCH64: (82, 83, 227, 84, 267)}
MACHINES = {"x86_64": (X86_64, 317), "aarch64": (AARCH64, 277)}  # audit architecture, number of seccomp(2)

PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER = 1, 8
SECCOMP_RET_ALLOW, SECCOMP_RET_USER_NOTIF = 0x7FFF0000, 0x7FC00000
SECCOMP_USER_NOTIF_FLAG_CONTINUE = 1
NOTIF = struct.Struct("=QII" + "iIQ6Q")  # id, pid, flags, seccomp_data{nr, arch, ip, args}
RESPONSE = struct.Struct("=QqiI")  # id, val, error, flags
NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101
BPF_LD_ABS, BPF_JEQ, BPF_RET = 0x20, 0x15, 0x06

POLL_SECONDS = 0.05  # how soon a call that is held notices that its rule was taken away


@dataclass(frozen=True, slots=True)
class Rule:
    """What happens to a sync: wait `delay` seconds, then succeed, or fail with `error` (errno; 0: none)."""

    delay: float = 0.0
    error: int = 0


def read_rule(path: str | Path) -> Rule:
    """The rule in force. A file that is not there, or not whole, is no rule."""
    try:
        document = json.loads(Path(path).read_bytes())
        return Rule(float(document.get("delay", 0.0)), int(document.get("error", 0)))
    except (FileNotFoundError, ValueError, AttributeError):
        return Rule()


def _ruled(name: str, path: str | Path, rule: dict[str, float | int]) -> Fault:
    target = Path(path)

    def apply() -> None:
        fresh = target.with_name(target.name + ".new")
        fresh.write_text(json.dumps(rule))
        fresh.replace(target)

    return Fault(name, apply, lambda: target.unlink(missing_ok=True))


def slow_fsync(rule: str | Path, seconds: float) -> Fault:
    """Every sync of the program started with this rule file takes `seconds` longer."""
    return _ruled(f"fsync slower by {seconds:g} s ({rule})", rule, {"delay": seconds})


def failing_fsync(rule: str | Path, error: int = errno.EIO) -> Fault:
    """Every sync of the program started with this rule file fails with `error` and syncs nothing."""
    return _ruled(f"fsync fails with {errno.errorcode[error]} ({rule})", rule, {"error": error})


def command(rule: str | Path, argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` under a rule file."""
    return [sys.executable, "-m", "deploy.faults.fsync", os.fspath(rule), "--", *argv]


# -- the program's side --------------------------------------------------------------------------------------


def _program(architecture: int) -> bytes:
    """Classic BPF over struct seccomp_data: hand over SYSCALLS of this architecture, allow all else."""
    numbers = SYSCALLS[architecture]
    last = len(numbers) + 3  # index of the RET that hands over; the one before it allows
    lines = [(BPF_LD_ABS, 0, 0, 4), (BPF_JEQ, 0, last - 3, architecture), (BPF_LD_ABS, 0, 0, 0)]
    lines += [(BPF_JEQ, last + 1 - index - 4, 0, number) for index, number in enumerate(numbers)]
    lines += [(BPF_RET, 0, 0, SECCOMP_RET_ALLOW), (BPF_RET, 0, 0, SECCOMP_RET_USER_NOTIF)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)


def install() -> int:
    """Put the filter on this process and all that comes of it; the descriptor that a helper listens on.

    Raises OSError, or NotImplementedError on a machine whose numbers are not known here.
    """
    machine = os.uname().machine
    if machine not in MACHINES:
        raise NotImplementedError(f"system call numbers of {machine} are not known")
    architecture, seccomp = MACHINES[machine]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    code = _program(architecture)
    buffer = ctypes.create_string_buffer(code, len(code))
    filters = struct.pack("=H6xQ", len(code) // 8, ctypes.addressof(buffer))
    flags = ctypes.c_ulong(SECCOMP_FILTER_FLAG_NEW_LISTENER)
    descriptor = libc.syscall(seccomp, SECCOMP_SET_MODE_FILTER, flags, filters)
    if descriptor < 0:
        code_number = ctypes.get_errno()
        raise OSError(code_number, f"seccomp: {os.strerror(code_number)}")
    return int(descriptor)


def attach(rule: str | Path) -> None:
    """Put this process under a rule file. To be called before any thread is started."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    child = os.fork()
    if child == 0:
        ours.close()
        _helper(os.fspath(Path(rule).absolute()), theirs)
    theirs.close()
    with ours:
        listener = install()
        socket.send_fds(ours, [b"listener"], [listener])
        os.close(listener)
        ours.recv(1)  # the helper has it: from here on no sync waits for nobody
    os.waitpid(child, 0)


def main(argv: Sequence[str]) -> NoReturn:
    """`RULE -- program arguments...`: become the program under the rule file."""
    if len(argv) < 3 or argv[1] != "--":
        print("usage: python -m deploy.faults.fsync RULE -- PROGRAM [ARGUMENT...]", file=sys.stderr)
        sys.exit(2)
    attach(argv[0])
    os.execvp(argv[2], list(argv[2:]))


# -- the helper's side ---------------------------------------------------------------------------------------


def _helper(rule: str, channel: socket.socket) -> NoReturn:
    """Detach from the program (which must not find a child it does not know) and serve."""
    try:
        if os.fork() != 0:
            os._exit(0)
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        _, descriptors, _, _ = socket.recv_fds(channel, 16, 1)
        listener = descriptors[0]
        channel.send(b"k")
        channel.close()
        os.closerange(3, listener)
        os.closerange(listener + 1, 1 << 10)
        serve(listener, rule)
    finally:
        os._exit(0)


def serve(listener: int, rule: str | Path) -> None:
    """Answer every call that is handed over, until nobody is left to hand one over."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    held: list[tuple[float, int]] = []  # (when its time is over, id), a heap
    while True:
        events = poll.poll(POLL_SECONDS * 1000 if held else None)
        now = time.monotonic()
        current = read_rule(rule)
        for _, event in events:
            if not event & select.POLLIN:
                return
            call = _receive(listener)
            if call is not None:
                heapq.heappush(held, (now + current.delay, call))
        limit = now if current.delay else float("inf")
        while held and held[0][0] <= limit:
            _answer(listener, heapq.heappop(held)[1], current.error)


def _receive(listener: int) -> int | None:
    buffer = bytearray(NOTIF.size)
    try:
        fcntl.ioctl(listener, NOTIF_RECV, buffer)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):  # the caller was killed meanwhile
            return None
        raise
    return int(NOTIF.unpack(buffer)[0])


def _answer(listener: int, call: int, error: int) -> None:
    flags = 0 if error else SECCOMP_USER_NOTIF_FLAG_CONTINUE
    try:
        fcntl.ioctl(listener, NOTIF_SEND, RESPONSE.pack(call, 0, -error, flags))
    except OSError as failed:
        if failed.errno not in (errno.ENOENT, errno.EINPROGRESS):
            raise


if __name__ == "__main__":
    main(sys.argv[1:])
