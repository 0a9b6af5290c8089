"""Whether the ranges someone was granted cover the range they ask for. Pure.

A range is (key, end) as in requests: an empty end means the key alone, one zero byte everything from the key
on. Granted ranges count together: [a, c) and [c, e) allow [b, d) (etcd's range_perm_cache.go).
"""

from __future__ import annotations

from collections.abc import Iterable

Range = tuple[bytes, bytes]

_OPEN = b"\0"


def interval(key: bytes, end: bytes) -> tuple[bytes, bytes | None]:
    """[first, last) with None for "no end"; a single key is the interval up to its successor."""
    if not end:
        return key, key + b"\0"
    return key, None if end == _OPEN else end


def covers(granted: Iterable[Range], key: bytes, end: bytes) -> bool:
    """Whether every key of the asked range lies in a granted one. A range without keys asks for nothing."""
    position, last = interval(key, end)
    if last is not None and position >= last:
        return True
    for start, stop in sorted((interval(*each) for each in granted), key=lambda each: each[0]):
        if start > position:
            return False
        if stop is None:
            return True
        if stop > position:
            position = stop
        if last is not None and position >= last:
            return True
    return False
