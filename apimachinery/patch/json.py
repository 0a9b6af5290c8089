"""JSON patch (RFC 6902) with JSON pointers (RFC 6901)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from apimachinery.errors import bad_request, too_large
from apimachinery.patch import rejected
from apimachinery.scheme import Object

MAX_OPERATIONS = 10_000

_INDEX = re.compile(r"0|[1-9][0-9]*")


def apply(original: Object, patch: Any) -> Object:
    """Apply the operations in order. All or nothing.

    Raises BadRequest when the patch is malformed, RequestEntityTooLarge over 10,000 operations, and Invalid
    (422) when an operation cannot be applied (a path does not exist, a test fails).
    """
    if not isinstance(patch, list) or not all(isinstance(item, dict) for item in patch):
        raise bad_request("error decoding patch: a JSON patch is a list of operations")
    if len(patch) > MAX_OPERATIONS:
        raise too_large(
            f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {len(patch)}"
        )
    document: Any = original
    for operation in patch:
        document = _operate(document, operation)
    if not isinstance(document, dict):
        raise rejected("the patched document is not an object")
    return document


def _operate(document: Any, operation: dict[str, Any]) -> Any:
    name = operation.get("op")
    path = _pointer(operation, "path")
    if name == "remove":
        return _change(document, path, _remove)
    if name in ("add", "replace", "test"):
        if "value" not in operation:
            raise rejected(f'{name} operation at "{operation["path"]}" has no value')
        return _with_value(document, name, path, operation["value"])
    if name in ("move", "copy"):
        source = _pointer(operation, "from")
        value = _read(document, source)
        if name == "move":
            if source == path[: len(source)] and len(path) > len(source):
                raise rejected("a value cannot be moved into itself")
            document = _change(document, source, _remove)
        return _change(document, path, _adder(value))
    raise rejected(f"Unexpected kind: {name}")


def _with_value(document: Any, name: str, path: list[str], value: Any) -> Any:
    if name == "add":
        return _change(document, path, _adder(value))
    if name == "replace":
        return _change(document, path, _replacer(value))
    if not _same(_read(document, path), value):
        raise rejected(f"testing path {'/' + '/'.join(path)!s} failed")
    return document


def _same(left: Any, right: Any) -> bool:
    """JSON equality: true is not 1, and 1 is 1.0."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(item, right[key]) for key, item in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


def _pointer(operation: dict[str, Any], member: str) -> list[str]:
    text = operation.get(member)
    if not isinstance(text, str):
        raise rejected(f"operation has no {member}")
    if text and not text.startswith("/"):
        raise rejected(f'"{text}" is not a JSON pointer')
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


Edit = Callable[[Any, str], Any]


def _change(document: Any, path: list[str], edit: Edit) -> Any:
    """A copy of `document` in which `edit` has changed the member at the end of `path`."""
    if not path:
        return edit({"": document}, "").get("")
    head, rest = path[0], path[1:]
    if not rest:
        return edit(document, head)
    child = _change(_member(document, head), rest, edit)
    if isinstance(document, list):
        copy: Any = list(document)
        copy[int(head)] = child
        return copy
    return {**document, head: child}


def _read(document: Any, path: list[str]) -> Any:
    for part in path:
        document = _member(document, part)
    return document


def _member(document: Any, part: str) -> Any:
    if isinstance(document, dict) and part in document:
        return document[part]
    if isinstance(document, list) and _INDEX.fullmatch(part) and int(part) < len(document):
        return document[int(part)]
    raise rejected(f'the path has no member "{part}"')


def _adder(value: Any) -> Edit:
    def add(parent: Any, part: str) -> Any:
        if isinstance(parent, dict):
            return {**parent, part: value}
        if isinstance(parent, list):
            at = len(parent) if part == "-" else _index(part, len(parent))
            return [*parent[:at], value, *parent[at:]]
        raise rejected(f'nothing can be added at "{part}"')

    return add


def _replacer(value: Any) -> Edit:
    def replace(parent: Any, part: str) -> Any:
        _member(parent, part)
        if isinstance(parent, dict):
            return {**parent, part: value}
        copy = list(parent)
        copy[int(part)] = value
        return copy

    return replace


def _remove(parent: Any, part: str) -> Any:
    _member(parent, part)
    if isinstance(parent, dict):
        return {key: value for key, value in parent.items() if key != part}
    at = int(part)
    return [*parent[:at], *parent[at + 1 :]]


def _index(part: str, limit: int) -> int:
    if not _INDEX.fullmatch(part) or int(part) > limit:
        raise rejected(f'"{part}" is not an index into a list of {limit}')
    return int(part)
