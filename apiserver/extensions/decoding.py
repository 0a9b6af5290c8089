"""A custom resource in a request body: what its schema does not know is dropped, told or refused."""

from __future__ import annotations

from typing import Any

from apimachinery import errors
from apiserver.extensions.serving import CustomKind
from apiserver.registry.patching import clone

Object = dict[str, Any]


def prune_unknown(obj: Object, kind: CustomKind, strictness: str, warnings: list[str]) -> Object:
    """A pruned copy. Raises 400 for unknown fields when `strictness` is Strict."""
    pruned = clone(obj)
    unknown = [f'unknown field "{path}"' for path in kind.prune(pruned)]
    if unknown and strictness == "Strict":
        raise errors.bad_request(
            f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: strict decoding '
            "error: " + ", ".join(unknown)
        )
    if strictness == "Warn":
        warnings += [text for text in unknown if text not in warnings]
    return pruned
