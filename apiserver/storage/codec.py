"""Between an object and its bytes. The only place that puts a revision into `metadata.resourceVersion`."""

from __future__ import annotations

from typing import Any

import orjson

Object = dict[str, Any]


def to_storage(obj: Object) -> bytes:
    """Encode for the store: everything but the resourceVersion, which the store itself is the source of."""
    metadata = {key: value for key, value in obj["metadata"].items() if key != "resourceVersion"}
    return orjson.dumps({**obj, "metadata": metadata})


def from_storage(value: bytes, revision: int) -> Object:
    """Decode a stored value and stamp it with the revision that wrote it."""
    obj: Object = orjson.loads(value)
    obj["metadata"]["resourceVersion"] = str(revision)
    return obj


def clone(obj: Object) -> Object:
    """A deep copy."""
    copy: Object = orjson.loads(orjson.dumps(obj))
    return copy


def encode(obj: Any) -> bytes:
    """Encode for the wire."""
    return orjson.dumps(obj)


def decode(data: bytes) -> Object:
    """Decode bytes this server encoded."""
    obj: Object = orjson.loads(data)
    return obj
