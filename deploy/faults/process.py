"""Killing and freezing processes.

A pid is pinned by a pidfd as soon as it is handed in, so a process that dies and whose number is given to
another is never mistaken for it (pidfd_open(2)).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal

from deploy.faults.fault import Fault, FaultError


def kill(pid: int, *, timeout: float = 10.0) -> None:
    """kill -9, returning when the process is dead (not necessarily reaped). One that is dead already is fine.

    Raises FaultError when it is still there after `timeout` seconds.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        if not poll.poll(timeout * 1000):
            raise FaultError(f"kill: process {pid} survives SIGKILL for {timeout:g} s")
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def paused(pid: int) -> Fault:
    """SIGSTOP now, SIGCONT later: the process keeps its connections, its locks and its ideas of the time."""
    held: list[int] = []

    def stop() -> None:
        held.append(os.pidfd_open(pid))
        signal.pidfd_send_signal(held[0], signal.SIGSTOP)

    def resume() -> None:
        while held:
            descriptor = held.pop()
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGCONT)
            os.close(descriptor)

    return Fault(f"pause of process {pid}", stop, resume)
