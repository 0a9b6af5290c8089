"""JSON merge patch (RFC 7386)."""

from __future__ import annotations

from typing import Any

from apimachinery.errors import bad_request
from apimachinery.scheme import Object


def apply(original: Object, patch: Any) -> Object:
    """Merge `patch` into `original`: null deletes, objects merge, everything else replaces. BadRequest if no
    object.
    """
    if not isinstance(patch, dict):
        raise bad_request(
            "error decoding patch: json: cannot unmarshal into Go value of type map[string]interface {}"
        )
    merged: Object = _merge(original, patch)
    return merged


def _merge(original: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    out = dict(original) if isinstance(original, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = _merge(out.get(key), value)
    return out
