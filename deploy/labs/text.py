"""A lab's Markdown as data: which commands are typed on which host, and what they must print. Pure.

A command block's info string begins with `sh` and the host (docs/labs/README.md):

    ```sh controller-0                    typed on that host; every command must succeed
    ```sh workers                         typed on each worker
    ```sh worker-1 verify                 as well; the next block, `text expected`, is its output
    ```sh worker-1 verify within=30       typed again until it prints that, for at most 30 seconds
    ```sh workstation verify check="..."  also part of `hardway lab check`; the sentence says what is wrong
    ```sh workstation manual              typed by the reader; done already where the labs are executed

The line above it says the host to those who read the rendered text (`heading`).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path(__file__).resolve().parents[2] / "docs" / "labs"
FENCE = re.compile(r"^```(.*)$")
FILE = re.compile(r"(\d\d)-[a-z-]+\.md")
WORKSTATION = "workstation"
GROUPS = {
    "controllers": ("controller",),
    "workers": ("worker",),
    "hosts": ("controller", "worker", "balancer"),
}
EACH = {"controllers": "each controller", "workers": "each worker", "hosts": "each host"}


class LabError(ValueError):
    """A lab's text is not well formed; the message names file and line."""


@dataclass(frozen=True)
class Command:
    """One block of commands. `expected` is None unless its output is compared; `within` is in seconds."""

    line: int
    where: str
    text: str
    expected: str | None = None
    within: float = 0.0
    check: str = ""
    manual: bool = False


@dataclass(frozen=True)
class Lab:
    """One lab."""

    number: int
    title: str
    path: Path
    commands: tuple[Command, ...]

    @property
    def verifications(self) -> int:
        """How many outputs are compared."""
        return sum(command.expected is not None for command in self.commands)


@dataclass(frozen=True)
class Block:
    """A fenced block: the line of its fence, its info string's words, its content."""

    line: int
    info: tuple[str, ...]
    text: str


def blocks(text: str, name: str) -> Iterator[Block]:
    """The fenced blocks of a Markdown text. Raises LabError for one that does not end."""
    start, info, content = 0, "", list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        match = FENCE.match(line)
        if start and match and not match[1]:
            yield Block(start, tuple(shlex.split(info)), "\n".join(content) + "\n")
            start = 0
        elif start:
            content.append(line)
        elif match:
            start, info, content = number, match[1], []
    if start:
        raise LabError(f"{name}:{start}: the block does not end")


def heading(where: str) -> str:
    """The line above a block of commands, which says where they are typed."""
    return f"**{EACH.get(where, where.replace(',', ', '))}**"


def _command(block: Block, name: str) -> tuple[Command, bool]:
    """The command of an `sh` block, and whether its expected output must follow."""
    if len(block.info) < 2:
        raise LabError(f"{name}:{block.line}: on which host are these commands typed?")
    within, check, verify, manual = 0.0, "", False, False
    for word in block.info[2:]:
        key, _, value = word.partition("=")
        if word == "verify":
            verify = True
        elif word == "manual":
            manual = True
        elif key == "within" and value.isdigit():
            within = float(value)
        elif key == "check" and value:
            check = value
        else:
            raise LabError(f"{name}:{block.line}: {word!r} is not a mark")
    if (within or check) and not verify:
        raise LabError(f"{name}:{block.line}: only a `verify` block has `within` and `check`")
    return Command(block.line, block.info[1], block.text, None, within, check, manual), verify


def commands(text: str, name: str) -> Iterator[Command]:
    """Every command block of a lab, in order. Raises LabError."""
    waiting: Command | None = None
    for block in blocks(text, name):
        expected = block.info == ("text", "expected")
        if waiting is not None and not expected:
            raise LabError(f"{name}:{waiting.line}: no `text expected` block follows")
        if expected:
            if waiting is None:
                raise LabError(f"{name}:{block.line}: expected output of which command?")
            yield Command(
                waiting.line, waiting.where, waiting.text, block.text, waiting.within, waiting.check
            )
            waiting = None
        elif block.info[:1] == ("sh",):
            command, verify = _command(block, name)
            if verify:
                waiting = command
            else:
                yield command
    if waiting is not None:
        raise LabError(f"{name}:{waiting.line}: no `text expected` block follows")


def parse(path: Path, text: str) -> Lab:
    """The lab in `text`, whose file is called `path`. Raises LabError."""
    match = FILE.fullmatch(path.name)
    first = text.partition("\n")[0]
    if match is None or not first.startswith(f"# {match[1]} "):
        raise LabError(f"{path.name}: must be NN-title.md and begin with '# NN Title'")
    return Lab(int(match[1]), first[5:].strip(), path, tuple(commands(text, path.name)))


def load(directory: Path = DIRECTORY) -> tuple[Lab, ...]:
    """All labs in order. Raises LabError, also when a number is missing or double."""
    labs = tuple(parse(path, path.read_text()) for path in sorted(directory.glob("[0-9][0-9]-*.md")))
    if [lab.number for lab in labs] != list(range(1, len(labs) + 1)):
        raise LabError(f"{directory}: the labs' numbers are not 01, 02, ...")
    return labs
