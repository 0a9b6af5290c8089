"""The language in which labs write expected output (docs/labs/README.md). Pure.

Text stands for itself, apart from these: a line `...` is any number of lines; `<any>`, `<word>`, `<number>`,
`<hex>`, `<time>`, `<age>` stand for what varies; `<host>` and `<address>` are those of the host on which the
command ran. Any other `<...>` is literal. A run of blanks is one blank; blanks at the ends of a line, and
empty lines, do not count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GAP = "..."
KINDS = {
    "any": r".*",
    "word": r"\S+",
    "number": r"-?\d+(?:\.\d+)?",
    "hex": r"[0-9a-fA-F]+",
    "time": r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\S*",
    "age": r"(?:\d+[dhms])+|<unknown>",
}
TOKEN = re.compile(r"<(\w+)>")


@dataclass(frozen=True)
class Difference:
    """Where output leaves what is expected. Either side is None where the other has a line too many."""

    expected: str | None
    found: str | None

    def __str__(self) -> str:
        if self.expected is None:
            return f"the output goes on with {self.found!r}"
        if self.found is None:
            return f"the output ends before {self.expected!r}"
        return f"expected {self.expected!r}, found {self.found!r}"


def lines_of(text: str) -> list[str]:
    """The lines that count, each with its blanks made one."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return [line for line in lines if line]


def line_matches(expected: str, found: str, facts: Mapping[str, str]) -> bool:
    """Does one line of output match? Both sides as `lines_of` gives them; `facts` are `host`, `address`."""
    pieces: list[str] = []
    end = 0
    for token in TOKEN.finditer(expected):
        name = token[1]
        if name not in KINDS and name not in facts:
            continue
        pieces.append(re.escape(expected[end : token.start()]))
        pieces.append(f"(?:{KINDS[name]})" if name in KINDS else re.escape(facts[name]))
        end = token.end()
    pieces.append(re.escape(expected[end:]))
    return re.fullmatch("".join(pieces), found) is not None


def compare(expected: str, found: str, facts: Mapping[str, str] | None = None) -> Difference | None:
    """The first difference, or None when `found` is as expected."""
    return _compare(lines_of(expected), lines_of(found), facts or {})


def _compare(expected: Sequence[str], found: Sequence[str], facts: Mapping[str, str]) -> Difference | None:
    """Between two gaps a run of lines must match line by line; after a gap it may begin anywhere, and the
    first place where it fits is as good as any later one. The last run must end the output."""
    runs: list[list[str]] = [[]]
    for line in expected:
        if line == GAP:
            runs.append([])
        else:
            runs[-1].append(line)
    position = 0
    for number, run in enumerate(runs):
        last = number == len(runs) - 1
        if number == 0:
            if (difference := _run_differs(run, found, 0, facts)) is not None:
                return difference
            position = len(run)
            continue
        if last and run:
            return _run_differs(run, found, max(position, len(found) - len(run)), facts)
        start = _find(run, found, position, facts)
        if start is None:
            return Difference(run[0], None)
        position = start + len(run)
    if len(runs) == 1 and position < len(found):
        return Difference(None, found[position])
    return None


def _run_differs(
    run: Sequence[str], found: Sequence[str], start: int, facts: Mapping[str, str]
) -> Difference | None:
    for offset, line in enumerate(run):
        if start + offset >= len(found):
            return Difference(line, None)
        if not line_matches(line, found[start + offset], facts):
            return Difference(line, found[start + offset])
    return None


def _find(run: Sequence[str], found: Sequence[str], start: int, facts: Mapping[str, str]) -> int | None:
    places = range(start, len(found) - len(run) + 1)
    return next((place for place in places if _run_differs(run, found, place, facts) is None), None)
