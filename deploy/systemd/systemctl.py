"""`systemctl` on a host of the lab: the commands of the real one (systemctl(1)) that the labs type.

It tells the host's supervisor, over the socket at /run/hardway/init.sock, what to start and stop. Enabling is
what it is with systemd: a link in multi-user.target.wants. Other commands and options are refused by name.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deploy.control import INIT_SOCKET, Control, HostDown, Refused
from deploy.systemd import DIRECTORY, WANTS, is_name

STOP_TIMEOUT = 90.0
ANSWER_TIMEOUT = 60.0
POLL = 0.05


class Patient(Control):
    """Asks again when the supervisor has not answered: on a busy machine it may take a while, and every
    command may be given twice."""

    def call(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Give one command. Raises HostDown after a while, Refused."""
        deadline = time.monotonic() + ANSWER_TIMEOUT
        while True:
            try:
                return super().call(command, **arguments)
            except HostDown:
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL)


class UsageError(ValueError):
    """What was typed is not supported here."""


def _unit(text: str) -> str:
    name = text.removesuffix(".service")
    if not is_name(name):
        raise UsageError(f"{text}: not the name of a service")
    return name


def _states(control: Control) -> dict[str, dict[str, Any]]:
    units: dict[str, dict[str, Any]] = control.call("status")["units"]
    return units


def start(control: Control, name: str) -> None:
    """Start it, unless it runs."""
    control.call("start", unit=name)


def stop(control: Control, name: str) -> None:
    """Stop it and wait until it has ended."""
    control.call("stop", unit=name)
    deadline = time.monotonic() + STOP_TIMEOUT
    while _states(control)[name]["state"] != "stopped":
        if time.monotonic() > deadline:
            raise UsageError(f"{name}.service did not stop in {STOP_TIMEOUT:.0f} s")
        time.sleep(POLL)


def restart(control: Control, name: str) -> None:
    """Stop it if it runs, then start it."""
    if name in _states(control):
        stop(control, name)
    start(control, name)


def enable(control: Control, name: str) -> None:
    """From now on, start it whenever the host starts."""
    file, link = Path(DIRECTORY) / f"{name}.service", Path(WANTS) / f"{name}.service"
    if not file.exists():
        raise UsageError(f"Unit file {name}.service does not exist.")
    link.parent.mkdir(exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(file)
        print(f"Created symlink {link} -> {file}.")


def disable(control: Control, name: str) -> None:
    """Do not start it with the host any more."""
    link = Path(WANTS) / f"{name}.service"
    if link.is_symlink():
        link.unlink()
        print(f"Removed {link}.")


VERBS: dict[str, Callable[[Control, str], None]] = {
    "start": start,
    "stop": stop,
    "restart": restart,
    "enable": enable,
    "disable": disable,
}


def is_active(control: Control, names: Sequence[str]) -> int:
    """Print each unit's state as systemd words it; 0 when all are active."""
    units = _states(control)
    words = {"running": "active", "waiting": "activating", "stopping": "deactivating"}
    answers = [words.get(units[name]["state"], "inactive") if name in units else "inactive" for name in names]
    print("\n".join(answers))
    return 0 if set(answers) == {"active"} else 3


def status(control: Control, names: Sequence[str]) -> int:
    """Each unit, its process and where its log is; 0 when all run."""
    units = _states(control)
    unknown = [name for name in names if name not in units]
    for name in names or units:
        if name in units:
            unit = units[name]
            print(f"{name}.service: {unit['state']}, pid {unit['pid']}, {unit['restarts']} restarts")
            ended = f", last ended with {unit['last_exit']}" if unit["last_exit"] else ""
            print(f"    log: /var/log/{name}.log{ended}")
    for name in unknown:
        print(f"Unit {name}.service could not be found.")
    return 0 if all(name in units and units[name]["state"] == "running" for name in names) else 3


def run(control: Control, argv: Sequence[str]) -> int:
    """Carry out one command line. Raises UsageError, HostDown, Refused, OSError."""
    options = [word for word in argv if word.startswith("-")]
    command, *names = [word for word in argv if not word.startswith("-")] or ["status"]
    now = options == ["--now"] and command in ("enable", "disable")
    if options and not now:
        raise UsageError(f"option {options[0]} of {command} is not supported in the lab")
    units = [_unit(name) for name in names]
    if command == "daemon-reload" and not units:
        control.call("reload")
        return 0
    if command == "is-active":
        return is_active(control, units)
    if command == "status":
        return status(control, units)
    if command not in VERBS:
        known = ", ".join([*VERBS, "is-active", "status", "daemon-reload"])
        raise UsageError(f"command {command} is not supported in the lab (there are {known})")
    if not units:
        raise UsageError(f"{command}: which service?")
    for unit in units:
        VERBS[command](control, unit)
        if now:
            (start if command == "enable" else stop)(control, unit)
    return 0


def main() -> int:
    """Run the command line of this process."""
    try:
        return run(Patient(socket.gethostname(), Path(INIT_SOCKET)), sys.argv[1:])
    except (UsageError, HostDown, Refused, OSError, json.JSONDecodeError) as error:
        print(f"systemctl: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
