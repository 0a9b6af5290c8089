"""Faults of a whole host: power, and the time of day."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.chaos import daemons
from deploy.chaos.lab import Lab
from deploy.chaos.targets import Target
from deploy.control import HostDown
from deploy.faults import process
from deploy.faults.fault import Fault, FaultError

LIBRARIES = ("/usr/lib/*/faketime/libfaketimeMT.so.1", "/usr/lib/faketime/libfaketimeMT.so.1")
POWER_ON_TIMEOUT = 120.0


def powered_off(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """SIGKILL to each host's pid 1, which no process of the host survives, all at nearly the same moment."""
    hosts = [target.host for target in targets]

    def apply() -> None:
        pids = []
        for host in hosts:
            with contextlib.suppress(HostDown):
                pids.append(lab.pid(host))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            process.kill(pid)  # waits for the death

    return Fault("power off", apply, lambda: power_on(lab, hosts))


def powered_on(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """Raise the hosts that are down."""
    return Fault("power on", lambda: power_on(lab, [target.host for target in targets]), lambda: None)


def power_on(lab: Lab, hosts: Sequence[str]) -> None:
    """In a process of its own: hosts are forked from one that has one thread and every daemon imported."""
    down = [host for host in hosts if not lab.is_up(host)]
    if not down:
        return
    argv = [sys.executable, "-m", "deploy.chaos.poweron", str(lab.topology_file), str(lab.state.root), *down]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=POWER_ON_TIMEOUT, check=False, env=environment
    )
    if done.returncode != 0:
        raise FaultError(f"power on {', '.join(down)}: {(done.stderr or done.stdout).strip()[-300:]}")


def faketime_library() -> str:
    """The preloaded library that shifts the wall clock. Raises FaultError when it is not installed."""
    for pattern in LIBRARIES:
        for path in sorted(Path("/").glob(pattern.lstrip("/"))):
            return str(path)
    raise FaultError("clock: libfaketime is not installed (Debian package libfaketime)")


def faketime_environment(library: str, seconds: float) -> dict[str, str]:
    """A constant offset of the wall clock alone. Monotonic time, by which timeouts and elections run, and the
    times of files stay true: a clock that is wrong does not make time pass differently.
    """
    return {
        "LD_PRELOAD": library,
        "FAKETIME": f"{seconds:+.3f}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


def clock(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """Restart the unit with another wall clock, and with the true one.

    Time namespaces shift only the monotonic and boot clocks (time_namespaces(7)), so the offset is preloaded
    into the program. That does not reach a program that makes system calls without libc, as Go's do: refused.
    """
    target = targets[0]
    host, unit = target.host, str(target.unit)
    seconds = float(str(values["seconds"]))

    def apply() -> None:
        override = lab.topology.units.get(unit)
        if unit in ("containerd", "haproxy") or (override is not None and override.exec is not None):
            raise FaultError(
                f"clock: {target} is not one of Hardway's own daemons; its clock cannot be shifted"
            )
        library = faketime_library()
        daemons.stop(lab, host, unit)
        daemons.start(lab, host, unit, environment=faketime_environment(library, seconds))

    def undo() -> None:
        with contextlib.suppress(HostDown):
            daemons.stop(lab, host, unit)
            daemons.start(lab, host, unit)

    return Fault("clock", apply, undo)
