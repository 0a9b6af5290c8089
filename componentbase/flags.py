"""Command-line flags as Go daemons parse them (spf13/pflag), so that real unit files and manifests work
unchanged.

`--name=value`, `--name value`, `--switch`, `--switch=false`; a flag given twice takes the last value, a
list flag (`strings`) collects all of them and also splits at commas. Nothing unknown is accepted. With an
environment prefix (etcd's `ETCD_`) a variable sets the flag that the command line leaves alone.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

_UNIT_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class FlagError(Exception):
    """The command line cannot be used; the text names the flag."""


def parse_duration(text: str) -> float:
    """Seconds in a Go duration such as "1m30s", "100ms" or "0".

    Raises ValueError for anything Go's `time.ParseDuration` refuses.
    """
    sign, rest = (-1.0, text[1:]) if text.startswith("-") else (1.0, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    total, position = 0.0, 0
    while position < len(rest):
        part = _DURATION_PART.match(rest, position)
        if part is None:
            break
        total += float(part[1]) * _UNIT_SECONDS[part[2]]
        position = part.end()
    if not rest or position != len(rest):
        raise ValueError(f'invalid duration "{text}"')
    return sign * total


def format_duration(seconds: float) -> str:
    """The form Go's `Duration.String` prints: "1h0m0s", "1m30s", "1.5s", "100ms", "0s"."""
    nanoseconds = round(abs(seconds) * 1e9)
    sign = "-" if seconds < 0 and nanoseconds else ""
    if nanoseconds == 0:
        return "0s"
    for unit, size in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if nanoseconds < size * 1_000:
            return f"{sign}{_decimal(nanoseconds, size)}{unit}"
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, 1_000_000_000)}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{sign}{hours}h{text}" if hours else sign + text


def _decimal(value: int, size: int) -> str:
    whole, fraction = divmod(value, size)
    digits = f"{fraction:0{len(str(size)) - 1}d}".rstrip("0") if fraction else ""
    return f"{whole}.{digits}" if digits else str(whole)


def _parse_bool(text: str) -> bool:
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f'parsing "{text}": invalid syntax')


def _parse_strings(text: str) -> list[str]:
    return text.split(",") if text else []


@dataclass(frozen=True, slots=True)
class _Flag:
    name: str
    default: Any
    help: str
    type_name: str
    convert: Callable[[str], Any]
    choices: tuple[str, ...] = ()

    @property
    def attribute(self) -> str:
        return self.name.replace("-", "_")

    def parse(self, text: str) -> Any:
        try:
            value = self.convert(text)
        except ValueError as error:
            raise FlagError(f'invalid argument "{text}" for "--{self.name}" flag: {error}') from None
        if self.choices and value not in self.choices:
            allowed = ", ".join(repr(choice) for choice in self.choices)
            raise FlagError(f'invalid argument "{text}" for "--{self.name}" flag: must be one of {allowed}')
        return value


class Values:
    """What the command line said: one attribute per flag, dashes as underscores."""

    def __init__(self, values: dict[str, Any], changed: frozenset[str]) -> None:
        self._values = values
        self._changed = changed

    def __getattr__(self, attribute: str) -> Any:
        try:
            return self.__dict__["_values"][attribute]
        except KeyError:
            raise AttributeError(f"no flag is called {attribute!r}") from None

    def changed(self, name: str) -> bool:
        """Whether the flag was given (command line or environment), as opposed to left at its default."""
        return name in self._changed

    def as_dict(self) -> dict[str, Any]:
        return dict(self._values)


class Flags:
    """The flags of one daemon. Declare them, then `parse(argv)`."""

    def __init__(self, prog: str, description: str, *, env_prefix: str = "", version: str = "") -> None:
        self._prog = prog
        self._description = description
        self._env_prefix = env_prefix
        self._version = version
        self._flags: dict[str, _Flag] = {}
        self._short: dict[str, str] = {}

    def string(
        self, name: str, default: str = "", help: str = "", *, choices: Sequence[str] = (), short: str = ""
    ) -> None:
        self._add(_Flag(name, default, help, "string", str, tuple(choices)), short)

    def integer(self, name: str, default: int = 0, help: str = "", *, short: str = "") -> None:
        self._add(_Flag(name, default, help, "int", lambda text: int(text, 0)), short)

    def number(self, name: str, default: float = 0.0, help: str = "") -> None:
        self._add(_Flag(name, default, help, "float", float))

    def boolean(self, name: str, default: bool = False, help: str = "") -> None:
        self._add(_Flag(name, default, help, "bool", _parse_bool))

    def duration(self, name: str, default: float | str = 0.0, help: str = "") -> None:
        """A Go duration; the attribute holds seconds. `default` may be given in either form."""
        seconds = parse_duration(default) if isinstance(default, str) else float(default)
        self._add(_Flag(name, seconds, help, "duration", parse_duration))

    def strings(self, name: str, default: Sequence[str] = (), help: str = "") -> None:
        self._add(_Flag(name, list(default), help, "strings", _parse_strings))

    def _add(self, flag: _Flag, short: str = "") -> None:
        if flag.name in self._flags:
            raise ValueError(f"flag redefined: {flag.name}")
        self._flags[flag.name] = flag
        if short:
            self._short[short] = flag.name

    def parse(self, argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Values:
        """Parse or leave the process: status 0 after `--help` or `--version`, 2 with a message on stderr
        otherwise.

        `environ` is consulted only when an environment prefix was declared.
        """
        if "--help" in argv or "-h" in argv:
            print(self.usage())
            raise SystemExit(0)
        if self._version and ("--version" in argv or "--version=true" in argv):
            print(self._version)
            raise SystemExit(0)
        try:
            return self.parse_or_raise(argv, environ)
        except FlagError as error:
            self._fail(str(error))

    def _fail(self, message: str) -> NoReturn:
        print(
            f"{self._prog}: {message}" if not message.startswith("unknown flag") else message, file=sys.stderr
        )
        raise SystemExit(2)

    def parse_or_raise(self, argv: Sequence[str], environ: Mapping[str, str] | None = None) -> Values:
        """Like `parse`, for callers that handle FlagError themselves."""
        values: dict[str, Any] = {}
        self._read_environment(environ or {}, values)
        from_command_line: set[str] = set()
        remaining = list(argv)
        while remaining:
            flag, value = self._next(remaining)
            if isinstance(flag.default, list) and flag.name in from_command_line:
                value = values[flag.name] + value
            values[flag.name] = value
            from_command_line.add(flag.name)
        changed = frozenset(values)
        return Values({flag.attribute: values.get(flag.name, flag.default) for flag in self._all()}, changed)

    def _all(self) -> list[_Flag]:
        return list(self._flags.values())

    def _read_environment(self, environ: Mapping[str, str], values: dict[str, Any]) -> None:
        if not self._env_prefix:
            return
        for flag in self._all():
            text = environ.get(self._env_prefix + flag.name.upper().replace("-", "_"))
            if text is not None:
                values[flag.name] = flag.parse(text)

    def _next(self, remaining: list[str]) -> tuple[_Flag, Any]:
        word = remaining.pop(0)
        name, equals, text = word.partition("=")
        flag = self._lookup(word, name)
        if equals:
            return flag, flag.parse(text)
        if flag.type_name == "bool":
            return flag, True
        if not remaining:
            raise FlagError(f"flag needs an argument: --{flag.name}")
        return flag, flag.parse(remaining.pop(0))

    def _lookup(self, word: str, name: str) -> _Flag:
        if name.startswith("--") and len(name) > 2:
            flag = self._flags.get(name[2:])
            if flag is None:
                raise FlagError(f"unknown flag: {name}")
            return flag
        if name.startswith("-") and name[1:] in self._short:
            return self._flags[self._short[name[1:]]]
        if name.startswith("-") and len(name) > 1:
            raise FlagError(f"unknown shorthand flag: {name[1:2]!r} in {word}")
        raise FlagError(f'unknown command "{word}" for "{self._prog}"')

    def usage(self) -> str:
        lines = [self._description, "", "Usage:", f"  {self._prog} [flags]", "", "Flags:"]
        for flag in sorted(self._all(), key=lambda each: each.name):
            default = format_duration(flag.default) if flag.type_name == "duration" else flag.default
            shown = f" (default {default})" if flag.default not in ("", False, 0, []) else ""
            lines.append(f"      --{flag.name} {flag.type_name}\n            {flag.help}{shown}")
        return "\n".join(lines)
