"""Faults of processes, by way of each host's supervisor: it knows the pids, and it starts the dead again."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any

from deploy.chaos.lab import Lab
from deploy.chaos.targets import Target
from deploy.control import HostDown, Refused
from deploy.faults.fault import Fault, FaultError

STOP_TIMEOUT = 30.0
POLL = 0.05


def units_of(lab: Lab, target: Target) -> tuple[str, ...]:
    """The unit, or all units of the host."""
    return (target.unit,) if target.unit is not None else lab.units(target.host)


def _each(lab: Lab, targets: tuple[Target, ...]) -> Iterator[tuple[str, str]]:
    for target in targets:
        for unit in units_of(lab, target):
            yield target.host, unit


def stop(lab: Lab, host: str, unit: str, number: int = signal.SIGTERM) -> None:
    """End a unit and wait until it has ended. Raises FaultError, HostDown."""
    control = lab.control(host)
    control.call("stop", unit=unit, signal=int(number))
    deadline = time.monotonic() + STOP_TIMEOUT
    while control.call("status")["units"][unit]["state"] != "stopped":
        if time.monotonic() > deadline:
            raise FaultError(f"{host}: {unit} did not stop in {STOP_TIMEOUT:.0f} s")
        time.sleep(POLL)


def start(lab: Lab, host: str, unit: str, **changes: Any) -> None:
    """Start a unit that is stopped; `changes` as in `Supervisor._command_start`."""
    lab.control(host).call("start", unit=unit, **changes)


def start_if_up(lab: Lab, host: str, unit: str, **changes: Any) -> None:
    """The same for undoing: a host that is down meanwhile starts everything when it comes back."""
    with contextlib.suppress(HostDown):
        start(lab, host, unit, **changes)


def killed(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """SIGKILL. The units stay down until the fault is undone: without a duration that is at once."""

    def apply() -> None:
        for host, unit in _each(lab, targets):
            lab.control(host).call("stop", unit=unit, signal=int(signal.SIGKILL))

    def undo() -> None:
        for host, unit in _each(lab, targets):
            with contextlib.suppress(HostDown):
                stop(lab, host, unit, signal.SIGKILL)
                start(lab, host, unit)

    return Fault("kill", apply, undo)


def paused(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """SIGSTOP and SIGCONT."""

    def send(number: int) -> None:
        for host, unit in _each(lab, targets):
            with contextlib.suppress(Refused):  # a unit that is between two lives has nothing to freeze
                lab.control(host).call("signal", unit=unit, signal=number)

    def undo() -> None:
        with contextlib.suppress(HostDown):
            send(signal.SIGCONT)

    return Fault("pause", lambda: send(signal.SIGSTOP), undo)


def restarted(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """SIGTERM, then start: what an operator does."""

    def apply() -> None:
        for host, unit in _each(lab, targets):
            stop(lab, host, unit)

    def undo() -> None:
        for host, unit in _each(lab, targets):
            start_if_up(lab, host, unit)

    return Fault("restart", apply, undo)
