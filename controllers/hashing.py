"""Short stable names for templates: FNV-1a over canonical JSON, spelled in letters that make no words.

The value is ours, not bit for bit Kubernetes': nothing outside the controller that wrote it may depend on it.
"""

from __future__ import annotations

from typing import Any

import orjson

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def template_hash(template: Any, collision_count: int | None = None) -> str:
    """A name part for `template`; a higher collision count gives another one for the same template."""
    data = orjson.dumps(template, option=orjson.OPT_SORT_KEYS)
    if collision_count:
        data += b"/%d" % collision_count
    return "".join(_ALPHABET[int(digit) % len(_ALPHABET)] for digit in _spread(_fnv1a(data)))


def _fnv1a(data: bytes) -> int:
    value = 0x811C9DC5
    for byte in data:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def _spread(value: int) -> list[int]:
    digits = []
    for _ in range(8):
        value, digit = divmod(value, len(_ALPHABET))
        digits.append(digit)
    return digits
