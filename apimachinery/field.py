"""Causes of `422 Invalid`, worded as `k8s.io/apimachinery/pkg/util/validation/field` words them.

Paths are plain strings built by the caller: `spec.containers[0].name`, `metadata.labels[key]`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from apimachinery.errors import Cause

IMMUTABLE = "field is immutable"


def quote(text: str) -> str:
    """`text` as a double-quoted literal (Go's %q for printable text)."""
    return orjson.dumps(text).decode()


def show(value: Any) -> str:
    """A value as it appears in a message."""
    if value is None:
        return "null"
    return orjson.dumps(value).decode()


def required(path: str, detail: str = "") -> Cause:
    return Cause("FieldValueRequired", f"Required value: {detail}" if detail else "Required value", path)


def invalid(path: str, value: Any, detail: str) -> Cause:
    return Cause("FieldValueInvalid", f"Invalid value: {show(value)}: {detail}", path)


def immutable(path: str, value: Any) -> Cause:
    return invalid(path, value, IMMUTABLE)


def not_supported(path: str, value: Any, supported: Iterable[str]) -> Cause:
    listed = ", ".join(quote(item) for item in supported)
    return Cause(
        "FieldValueNotSupported", f"Unsupported value: {show(value)}: supported values: {listed}", path
    )


def forbidden(path: str, detail: str) -> Cause:
    return Cause("FieldValueForbidden", f"Forbidden: {detail}", path)


def duplicate(path: str, value: Any) -> Cause:
    return Cause("FieldValueDuplicate", f"Duplicate value: {show(value)}", path)


def not_found(path: str, value: Any) -> Cause:
    return Cause("FieldValueNotFound", f"Not found: {show(value)}", path)


def too_long(path: str, limit: int) -> Cause:
    return Cause("FieldValueTooLong", f"Too long: may not be more than {limit} bytes", path)


def too_many(path: str, count: int, limit: int) -> Cause:
    return Cause("FieldValueTooMany", f"Too many: {count}: must have at most {limit} items", path)


def at_least(path: str, value: int, least: int = 0) -> Iterable[Cause]:
    """A number that may not be smaller than `least`."""
    if value < least:
        yield invalid(path, value, f"must be greater than or equal to {least}")
