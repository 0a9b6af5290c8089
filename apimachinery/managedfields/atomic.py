"""Lists, maps and structs in a configuration that have one owner as a whole. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apimachinery.managedfields.types import Deduced, Keyed, Leaf, Map, Type, of_value, resolve


def first(kind: Type, config: Any) -> str:
    """The path of the first that a configuration sets (`.spec.selector`); "" when there is none."""
    return next(_found(kind, config, ""), "")


def _found(kind: Type, value: Any, path: str) -> Iterator[str]:
    kind = resolve(kind)
    if isinstance(kind, Deduced):
        kind = of_value(value)
    match kind:
        case Leaf() if isinstance(value, dict | list) and kind.shape in ("list", "map", "any"):
            yield path
        case Map() if isinstance(value, dict):
            for name, item in value.items():
                inner = kind.fields.get(name, kind.element)
                if inner is not None:
                    yield from _found(inner, item, f"{path}.{name}")
        case Keyed() if isinstance(value, list):
            for at, item in enumerate(value):
                yield from _found(kind.element, item, f"{path}[{at}]")
