"""Server-side printing: `meta.k8s.io/v1` Tables and PartialObjectMetadata.

Column functions are pure; a cell that depends on the time is a `Since`, which becomes text here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from apimachinery.meta import labels_of, meta_of, parse_time
from apimachinery.scheme import Column, Kind, Object

IncludeObject = Literal["None", "Metadata", "Object"]
UNKNOWN = "<unknown>"
NONE = "<none>"

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


@dataclass(frozen=True, slots=True)
class Since:
    """How long ago a time was, inside a text (`{}`); `until` (a time) stops the count. No time gives
    `absent`.
    """

    timestamp: str | None
    text: str = "{}"
    until: str | None = None
    absent: str = UNKNOWN

    def render(self, now: float) -> str:
        if not self.timestamp:
            return self.text.format(self.absent)
        end = parse_time(self.until) if self.until else now
        return self.text.format(human_duration(end - parse_time(self.timestamp)))


def human_duration(seconds: float) -> str:
    """A duration with two digits of sense: `45s`, `3m20s`, `4h`, `2d3h` (util/duration.HumanDuration)."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    if whole < 2 * _MINUTE:
        return f"{max(whole, 0)}s"
    if whole < 10 * _MINUTE:
        return _two(whole, _MINUTE, "m", 1, "s", 60)
    if whole < 3 * _HOUR:
        return f"{whole // _MINUTE}m"
    if whole < 8 * _HOUR:
        return _two(whole, _HOUR, "h", _MINUTE, "m", 60)
    if whole < 2 * _DAY:
        return f"{whole // _HOUR}h"
    if whole < 8 * _DAY:
        return _two(whole, _DAY, "d", _HOUR, "h", 24)
    if whole < 2 * 365 * _DAY:
        return f"{whole // _DAY}d"
    if whole < 8 * 365 * _DAY:
        return _two(whole, 365 * _DAY, "y", _DAY, "d", 365)
    return f"{whole // (365 * _DAY)}y"


def _two(whole: int, large: int, large_name: str, small: int, small_name: str, per: int) -> str:
    rest = whole // small % per
    return f"{whole // large}{large_name}" + (f"{rest}{small_name}" if rest else "")


def _created(obj: Object) -> Since:
    return Since(meta_of(obj).get("creationTimestamp"))


NAME = Column(
    "Name",
    lambda obj: meta_of(obj).get("name", ""),
    format="name",
    description=(
        "Name must be unique within a namespace. Is required when creating resources, although some "
        "resources may "
        "allow a client to request the generation of an appropriate name automatically."
    ),
)
AGE = Column(
    "Age", _created, description="CreationTimestamp is a timestamp representing when the object was created."
)
CREATED_AT = Column(
    "Created At",
    lambda obj: meta_of(obj).get("creationTimestamp", ""),
    type="date",
    description="CreationTimestamp is a timestamp representing when the object was created.",
)
GENERIC = (NAME, AGE)  # for a kind that declares no columns


def labels_text(labels: Mapping[str, str] | None) -> str:
    """`a=b,c=d`, or `<none>`."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or NONE


def object_labels(obj: Object) -> str:
    return labels_text(labels_of(obj))


def partial_metadata(obj: Object) -> Object:
    """The object's metadata alone, as `meta.k8s.io/v1` PartialObjectMetadata."""
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": obj.get("metadata") or {},
    }


def partial_metadata_list(objects: Iterable[Object], metadata: Mapping[str, Any]) -> Object:
    return {
        "kind": "PartialObjectMetadataList",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": dict(metadata),
        "items": [partial_metadata(obj) for obj in objects],
    }


def column_definitions(kind: Kind) -> list[Object]:
    return [
        {
            "name": column.name,
            "type": column.type,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        }
        for column in kind.columns or GENERIC
    ]


def row(kind: Kind, obj: Object, *, include_object: IncludeObject = "Metadata", now: float) -> Object:
    """One table row; `now` is Unix seconds."""
    cells = [column.cell(obj) for column in kind.columns or GENERIC]
    out: Object = {"cells": [cell.render(now) if isinstance(cell, Since) else cell for cell in cells]}
    if kind.row_conditions and (conditions := kind.row_conditions(obj)):
        out["conditions"] = conditions
    if include_object == "Metadata":
        out["object"] = partial_metadata(obj)
    elif include_object == "Object":
        out["object"] = obj
    return out


def table(
    kind: Kind,
    objects: Iterable[Object],
    include_object: IncludeObject = "Metadata",
    *,
    metadata: Mapping[str, Any] | None = None,
    now: float | None = None,
    headers: bool = True,
) -> Object:
    """A Table of these objects. `metadata` is the list's (resourceVersion, continue, ...); watches omit the
    headers.
    """
    moment = time.time() if now is None else now
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": dict(metadata or {}),
        "columnDefinitions": column_definitions(kind) if headers else [],
        "rows": [row(kind, obj, include_object=include_object, now=moment) for obj in objects],
    }
