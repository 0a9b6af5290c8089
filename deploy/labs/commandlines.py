"""The command line with which a daemon runs, beside the one with which it should."""

from __future__ import annotations

from pathlib import Path

from deploy.systemd import unitfile
from deploy.units import Unit


def running(root: Path, pid: int) -> tuple[str, ...]:
    """The arguments of process `pid` of the host whose file tree is `root`, without its program. Raises
    OSError."""
    text = (root / "proc" / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    return tuple(text.rstrip("\0").split("\0"))[1:]


def wanted(unit: Unit) -> tuple[str, ...]:
    """The arguments that its service must give it: /usr/bin/env has become the program itself."""
    return unitfile.command_line(unit)[2:]


def difference(expected: tuple[str, ...], found: tuple[str, ...]) -> str | None:
    """In words, the first argument in which a command line is not what it must be."""
    for argument in expected:
        if argument not in found:
            flag = argument.partition("=")[0]
            instead = next((other for other in found if other.partition("=")[0] == flag), None)
            return f"runs with {instead}, must be {argument}" if instead else f"runs without {argument}"
    extra = next((argument for argument in found if argument not in expected), None)
    return None if extra is None else f"runs with {extra}, which is too much"
