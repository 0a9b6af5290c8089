"""systemd service files, as much of them as a lab's hosts obey: text -> Unit. Pure.

The same files serve on real machines, so every setting is systemd's own (systemd.service(5)). Those that a
host of the lab carries out are read here; those whose effect its supervisor has anyway (`Restart=always`) or
that only order a boot (`After=`) are known and checked; anything else is refused by name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping

from deploy.units import Unit

ENV = "/usr/bin/env"
PYTHON = (ENV, "python", "-m")
VARIABLE = re.compile(r"\$\{(\w+)\}")
DURATION = re.compile(r"(\d+)(s|sec|min)?")
# No effect in a lab: documentation, the order of a boot, accounting and limits that its hosts do not have.
IDLE = {
    "Unit": {"Description", "Documentation", "After", "Wants", "Before", "StartLimitIntervalSec"},
    "Service": {"Type", "RestartSec", "LimitNOFILE", "TasksMax", "Delegate", "KillMode", "OOMScoreAdjust"},
    "Install": {"WantedBy"},
}
USED = {"ExecStart", "Environment", "EnvironmentFile", "Restart", "TimeoutStopSec", "StandardOutput"}


Read = Callable[[str], str]


class UnitFileError(ValueError):
    """A service file that cannot be obeyed; the message names the file and the line."""


def settings(name: str, text: str) -> Iterator[tuple[str, str, str]]:
    """(section, key, value) in order; a line that ends with a backslash goes on. Raises UnitFileError."""
    section = ""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[" and line[-1] == "]":
            section = line[1:-1]
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise UnitFileError(f"{name}.service: {line!r} is neither a section nor a setting")
        key = key.strip()
        if key not in IDLE.get(section, set()) | (USED if section == "Service" else set()):
            raise UnitFileError(f"{name}.service: [{section}] {key} is not supported in the lab")
        yield section, key, value.strip()


def environment_file(text: str) -> dict[str, str]:
    """NAME=value lines, as `EnvironmentFile=` reads them. Raises UnitFileError."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.isidentifier():
            raise UnitFileError(f"environment file: {line!r} is not NAME=value")
        values[name] = "".join(shlex.split(value)) if value[:1] in "\"'" else value
    return values


def expand(name: str, word: str, environment: Mapping[str, str]) -> str:
    """Put the environment's values for `${NAME}`. systemd would put nothing for one that is not set; a lab
    says so instead."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in environment:
            raise UnitFileError(f"{name}.service: ${{{match[1]}}} is not set")
        return environment[match[1]]

    return VARIABLE.sub(value, word)


def _grace(name: str, value: str) -> float:
    match = DURATION.fullmatch(value)
    if match is None:
        raise UnitFileError(f"{name}.service: TimeoutStopSec={value} is not a number of seconds")
    return float(match[1]) * (60 if match[2] == "min" else 1)


def _program(name: str, command: str, environment: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    words = [expand(name, word, environment) for word in shlex.split(command)]
    if not words or not words[0].startswith("/"):
        raise UnitFileError(f"{name}.service: ExecStart must begin with an absolute path")
    return words[0], tuple(words[1:])


def parse(name: str, text: str, read: Read, inherited: Mapping[str, str]) -> Unit:
    """The unit that `<name>.service` describes.

    `read` gives the text of a file of the host; `inherited` is the environment that every unit has. Raises
    UnitFileError.
    """
    environment: dict[str, str] = {}
    commands: list[str] = []
    grace = 5.0
    for section, key, value in settings(name, text):
        if section != "Service":
            continue
        if key == "EnvironmentFile":
            environment |= _environment_of(name, value, read)
        elif key == "Environment":
            environment |= dict(word.partition("=")[::2] for word in shlex.split(value))
        elif key == "ExecStart":
            commands.append(value)
        elif key == "TimeoutStopSec":
            grace = _grace(name, value)
        elif key == "Restart" and value != "always":
            raise UnitFileError(f"{name}.service: Restart={value}: a host of the lab restarts always")
        elif key == "StandardOutput" and value != f"append:/var/log/{name}.log":
            raise UnitFileError(f"{name}.service: StandardOutput={value}: must be append:/var/log/{name}.log")
    if len(commands) != 1:
        raise UnitFileError(f"{name}.service: {len(commands)} times ExecStart, must be once")
    program, arguments = _program(name, commands[0], {**inherited, **environment})
    return Unit(name=name, program=program, arguments=arguments, environment=environment, grace=grace)


def _environment_of(name: str, value: str, read: Read) -> dict[str, str]:
    optional = value.startswith("-")
    path = value.removeprefix("-")
    try:
        return environment_file(read(path))
    except FileNotFoundError:
        if optional:
            return {}
        raise UnitFileError(f"{name}.service: EnvironmentFile {path} is absent") from None


def command_line(unit: Unit) -> tuple[str, ...]:
    """What a service file of this unit must execute. Programs are looked up in the PATH of the host's
    environment file, since they are not at one place on every machine."""
    if unit.package is not None:
        return (*PYTHON, unit.package, *unit.argv)
    return (ENV, str(unit.program), *unit.argv)
