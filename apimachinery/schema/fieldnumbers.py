"""Field numbers of the API's protobuf messages, from the files of `numbers/` (their README says the form).

Pure: the generator puts them into the schema table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

# Where a field is: the numbers to go through, more than one where structs are embedded.
Numbers = Mapping[str, tuple[int, ...]]

_EMBEDDED = "+"


def read(directory: Path, module: str) -> dict[str, Numbers]:
    """Message -> field -> numbers, of one group version; empty when it has no file."""
    path = directory / f"{module}.txt"
    return parse(path.read_text(encoding="utf-8")) if path.exists() else {}


def parse(text: str) -> dict[str, Numbers]:
    """Raises KeyError for an embedded struct without a line, ValueError for a number that does not rise."""
    messages: dict[str, list[str]] = {}
    for line in text.replace("\n ", " ").splitlines():
        name, *words = line.split()
        messages[name] = words
    return {name: dict(_fields(name, messages)) for name in messages}


def _fields(message: str, messages: Mapping[str, list[str]]) -> Iterable[tuple[str, tuple[int, ...]]]:
    last = 0
    for word in messages[message]:
        name, _, given = word.partition("=")
        number = int(given) if given else last + 1
        if number <= last:
            raise ValueError(f"{message}: the number of {name} is not above {last}")
        last = number
        if not name.startswith(_EMBEDDED):
            yield name, (number,)
            continue
        for inner, path in _fields(name.removeprefix(_EMBEDDED), messages):
            yield inner, (number, *path)
