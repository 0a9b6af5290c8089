"""Objects spoilt in one or a few places. Pure; the random source is the caller's."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from random import Random
from typing import Any

Path = tuple[str | int, ...]

WORDS = (
    "",
    " ",
    "x" * 300,
    "../..",
    "a/b",
    "a/b/c",
    "A_b",
    "-1",
    "1e9999",
    "1Ki",
    "99999999999999999999",
    "0.0.0.0/33",
    "::ffff:1.2.3.4",
    "2026-13-41T99:99:99Z",
    "\x00",
    "\u202e\ufeff",
    "*",
    "$(A)",
    "{{",
    "100%",
    "None",
    "[",
    "(?P<",
    ".spec[",
)
"""Texts that some parser of a field may stumble over."""

SCALARS = (None, True, False, 0, -1, 1, 2**31, 2**63 - 1, -(2**63), 1.5, -0.0, 1e300)
SHAPES: tuple[Any, ...] = (
    [],
    {},
    [None],
    {"": None},
    [[]],
    [{}],
    {"a": {"b": {"c": []}}},
    ["x", "x"],
    [1, "1"],
)


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every place in a document, the whole of it left out."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        yield (*path, key)
        yield from places(child, (*path, key))


def _spoil(rng: Random, parent: Any, key: str | int) -> None:
    action = rng.randrange(8)
    value = parent[key]
    if action == 0:
        del parent[key]
    elif action == 1 and isinstance(parent, list):
        parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(value))
    elif action == 2 and isinstance(parent, dict):
        parent[rng.choice(WORDS)] = parent.pop(key)
    elif action in (3, 4) or isinstance(value, str):
        parent[key] = rng.choice(WORDS)
    elif action == 5:
        parent[key] = copy.deepcopy(rng.choice(SHAPES))
    elif action == 6 and isinstance(value, list | dict):
        parent[key] = [copy.deepcopy(value)] if rng.random() < 0.5 else {"key": copy.deepcopy(value)}
    else:
        parent[key] = rng.choice(SCALARS)


def mutant(rng: Random, document: Any) -> Any:
    """A copy, spoilt in one to three places."""
    made = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = list(places(made))
        if not found:
            break
        *above, key = rng.choice(found)
        parent = made
        for step in above:
            parent = parent[step]
        _spoil(rng, parent, key)
    return made


def subtree(rng: Random, document: Any) -> Any:
    """A mutant cut down to one of its branches: what a merge patch looks like."""
    spoilt = mutant(rng, document)
    found = [path for path in places(spoilt) if path[0] not in ("apiVersion", "kind")]
    if not found:
        return spoilt
    path = rng.choice(found)
    value = spoilt
    for step in path:
        value = value[step]
    for step in reversed(path):
        value = [value] if isinstance(step, int) else {step: value}
    return value


def json_patch(rng: Random, document: Any) -> list[dict[str, Any]]:
    """A JSON patch (RFC 6902) of a few operations, most of them on places that exist."""
    spoilt = mutant(rng, document)
    found = [*places(spoilt), ("no", "such", "place"), ("spec", "-"), ()]
    operations = []
    for _ in range(rng.choice((1, 1, 2, 4))):
        operation = {
            "op": rng.choice(("add", "remove", "replace", "move", "copy", "test", "tast")),
            "path": pointer(rng.choice(found)),
            "from": pointer(rng.choice(found)),
            "value": rng.choice((*SCALARS, *SHAPES, *WORDS)),
        }
        operations.append({key: value for key, value in operation.items() if rng.random() > 0.05})
    return operations


def pointer(path: Path) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


DIRECTIVES = (
    {"$patch": "replace"},
    {"$patch": "delete"},
    {"$patch": "merge"},
    {"$patch": "nonsense"},
    {"$patch": 1},
    {"$retainKeys": ["containers"]},
    {"$retainKeys": "containers"},
    {"$setElementOrder/containers": [{"name": "main"}]},
    {"$setElementOrder/containers": ["main"]},
    {"$deleteFromPrimitiveList/finalizers": ["example.com/hold"]},
    {"$deleteFromPrimitiveList/finalizers": {"a": 1}},
)


def strategic(rng: Random, document: Any) -> Any:
    """A strategic merge patch: a branch with directives strewn into it."""
    patch = subtree(rng, document)
    maps = [patch, *(value for value in _values(patch) if isinstance(value, dict))]
    for target in rng.sample(maps, k=min(len(maps), rng.choice((0, 1, 2)))):
        if isinstance(target, dict):
            target.update(copy.deepcopy(rng.choice(DIRECTIVES)))
    return patch


def _values(document: Any) -> Iterator[Any]:
    for path in places(document):
        value = document
        for step in path:
            value = value[step]
        yield value
