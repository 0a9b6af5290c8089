"""The JSONPath that CustomResourceDefinitions use for columns: fields, quoted fields, indices, slices,
wildcards,
filters and `..` (k8s.io/client-go/util/jsonpath). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

Step = Callable[[list[Any]], list[Any]]

_TOKEN = re.compile(
    r"""\.\.(?P<deep>[A-Za-z_$][\w$-]*)            # ..name
    |\.(?P<field>(?:\\.|[^.\[\]\\(){}])+)            # .name, with \. for a dot in it
    |\[(?P<quoted>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\]
    |\[\?\((?P<filter>[^()]*)\)\]
    |\[(?P<index>-?\d+)\]
    |\[(?P<slice>-?\d*:-?\d*)\]
    |\[(?P<all>\*)\]""",
    re.VERBOSE,
)
_FILTER = re.compile(r"^\s*@(?P<path>[^=!<>]*?)\s*(?:(?P<op>==|!=|<=|>=|<|>)\s*(?P<value>.+?))?\s*$")


def compile_path(text: str) -> Callable[[Any], list[Any]]:
    """The function that finds the values at a path such as `.spec.replicas`. Raises ValueError for a bad
    path.
    """
    steps = list(_steps(text))

    def find(root: Any) -> list[Any]:
        found = [root]
        for step in steps:
            found = step(found)
        return found

    return find


def _steps(text: str) -> Iterator[Step]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"invalid JSONPath {text!r} at {text[at:]!r}")
        yield _step(match)
        at = match.end()


def _step(match: re.Match[str]) -> Step:
    sort, token = next((name, value) for name, value in match.groupdict().items() if value is not None)
    if sort == "deep":
        return lambda values: [found for value in values for found in _descend(value, token)]
    if sort == "field":
        name = re.sub(r"\\(.)", r"\1", token)
        return _all if name == "*" else _field(name)
    if sort == "quoted":
        return _field(re.sub(r"\\(.)", r"\1", token[1:-1]))
    if sort == "index":
        return _index(int(token))
    if sort == "slice":
        first, _, last = token.partition(":")
        bounds = slice(int(first) if first else None, int(last) if last else None)
        return lambda values: [item for value in values if isinstance(value, list) for item in value[bounds]]
    return _filter(token) if sort == "filter" else _all


def _field(name: str) -> Step:
    return lambda values: [value[name] for value in values if isinstance(value, dict) and name in value]


def _index(at: int) -> Step:
    return lambda values: [
        value[at] for value in values if isinstance(value, list) and -len(value) <= at < len(value)
    ]


def _all(values: list[Any]) -> list[Any]:
    return [
        item
        for value in values
        if isinstance(value, (list, dict))
        for item in (value.values() if isinstance(value, dict) else value)
    ]


def _descend(value: Any, name: str) -> Iterator[Any]:
    if isinstance(value, dict):
        if name in value:
            yield value[name]
        for item in value.values():
            yield from _descend(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _descend(item, name)


def _filter(text: str) -> Step:
    match = _FILTER.match(text)
    if match is None:
        raise ValueError(f"invalid JSONPath filter {text!r}")
    find = compile_path(match["path"])
    accepts = _comparison(match["op"], _literal(match["value"])) if match["op"] else bool
    return lambda values: [
        item
        for value in values
        if isinstance(value, list)
        for item in value
        if any(accepts(found) for found in find(item)[:1])
    ]


def _literal(text: str) -> Any:
    if text[:1] in "'\"" and text[-1:] == text[:1]:
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        raise ValueError(f"invalid JSONPath literal {text!r}") from None


def _comparison(op: str, wanted: Any) -> Callable[[Any], bool]:
    def accepts(found: Any) -> bool:
        if op in ("==", "!="):
            return bool((found == wanted and type(found) is type(wanted)) is (op == "=="))
        try:
            return bool(
                {"<": found < wanted, "<=": found <= wanted, ">": found > wanted, ">=": found >= wanted}[op]
            )
        except TypeError:
            return False

    return accepts


def simple_path(text: str) -> tuple[str, ...]:
    """The field names of a path of fields alone (`.spec.host`). Raises ValueError for anything else."""
    names = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match["field"] in (None, "*"):
            raise ValueError(f"{text!r} must be a simple path of fields")
        names.append(re.sub(r"\\(.)", r"\1", match["field"]))
        at = match.end()
    if not names:
        raise ValueError("an empty path names no field")
    return tuple(names)
