"""Events, in two API groups over one storage: kept as core/v1, shown as events.k8s.io/v1 where asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from apimachinery import field, meta
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import UNKNOWN, Since, column

# core/v1 name -> events.k8s.io/v1 name, where they differ.
_RENAMED = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_BACK = {new: old for old, new in _RENAMED.items()}


def _as_new(event: Object) -> Object:
    out = {_RENAMED.get(key, key): value for key, value in event.items()}
    return {**out, "apiVersion": "events.k8s.io/v1"}


def _as_core(event: Object) -> Object:
    out = {_BACK.get(key, key): value for key, value in event.items()}
    out.setdefault("involvedObject", {})
    return {**out, "apiVersion": "v1"}


def _validate_core(event: Object) -> Iterator[Cause]:
    regarding = event.get("involvedObject") or {}
    yield from _same_namespace(event, regarding.get("namespace", ""), "involvedObject.namespace")


def _same_namespace(event: Object, namespace: str, path: str) -> Iterator[Cause]:
    """An event lives with its object; those about cluster-scoped objects live in `default`."""
    own = meta.namespace_of(event)
    if not namespace:
        if own not in ("", "default", "kube-system"):
            yield field.invalid(path, namespace, "does not match event.namespace")
    elif namespace != own:
        yield field.invalid(path, namespace, "does not match event.namespace")


def _validate_new(event: Object) -> Iterator[Cause]:
    regarding = event.get("regarding") or {}
    yield from _same_namespace(event, regarding.get("namespace", ""), "regarding.namespace")
    if not event.get("eventTime"):
        yield field.required("eventTime")
    for name, limit in (
        ("reportingController", 128),
        ("reportingInstance", 128),
        ("action", 128),
        ("reason", 128),
    ):
        value = event.get(name, "")
        if not value:
            yield field.required(name)
        elif len(value) > limit:
            yield field.invalid(name, "", f"can have at most {limit} characters")
    yield from common.one_of("type", event.get("type"), ("Normal", "Warning"))
    if len(event.get("note", "")) > 1024:
        yield field.invalid("note", "", "can have at most 1024 characters")


def _validate_new_update(new: Object, old: Object) -> Iterator[Cause]:
    """Only the series and the metadata of a new-style event change."""
    yield from _validate_new(new)
    for name in ("regarding", "related", "reason", "action", "type", "note", "eventTime"):
        yield from common.immutable(name, new.get(name), old.get(name))


_OBJECT_FIELDS = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")


def _fields(event: Object) -> Mapping[str, str]:
    regarding = event.get("involvedObject") or event.get("regarding") or {}
    source = event.get("source") or event.get("deprecatedSource") or {}
    component = event.get("reportingComponent") or event.get("reportingController") or ""
    found = {f"involvedObject.{name}": str(regarding.get(name, "")) for name in _OBJECT_FIELDS}
    found["reason"] = event.get("reason", "")
    found["reportingComponent"] = component
    found["source"] = source.get("component") or component
    found["type"] = event.get("type", "")
    return found


def _fields_new(event: Object) -> Mapping[str, str]:
    renamed = {"involvedObject": "regarding", "reportingComponent": "reportingController"}
    out = {}
    for name, value in _fields(event).items():
        head, dot, rest = name.partition(".")
        out[renamed.get(head, head) + dot + rest] = value
    return out


def _last(event: Object) -> Since:
    series = event.get("series") or {}
    last = (
        series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("deprecatedLastTimestamp")
    )
    return Since(last or event.get("eventTime") or meta.meta_of(event).get("creationTimestamp"))


def _first(event: Object) -> Since:
    first = event.get("firstTimestamp") or event.get("deprecatedFirstTimestamp") or event.get("eventTime")
    return Since(first, absent=UNKNOWN)


def _object(event: Object) -> str:
    regarding = event.get("involvedObject") or event.get("regarding") or {}
    name = regarding.get("name", "")
    kind = regarding.get("kind", "").lower()
    return f"{kind}/{name}" if name else kind


def _source(event: Object) -> str:
    source = event.get("source") or event.get("deprecatedSource") or {}
    component = (
        source.get("component") or event.get("reportingComponent") or event.get("reportingController") or ""
    )
    host = source.get("host") or event.get("reportingInstance") or ""
    return f"{component}, {host}" if host else component


def _subobject(event: Object) -> str:
    return str((event.get("involvedObject") or event.get("regarding") or {}).get("fieldPath", ""))


def _count(event: Object) -> int:
    series = (event.get("series") or {}).get("count")
    return int(series or event.get("count") or event.get("deprecatedCount") or 1)


_COLUMNS = (
    column("Last Seen", _last),
    column("Type", common.text("type")),
    column("Reason", common.text("reason")),
    column("Object", _object),
    column("Subobject", _subobject, wide=True),
    column("Source", _source, wide=True),
    column("Message", lambda event: (event.get("message") or event.get("note") or "").strip()),
    column("First Seen", _first, wide=True),
    column("Count", _count, "integer", wide=True),
    column("Name", lambda event: meta.name_of(event), wide=True),
)

KINDS = (
    Kind(
        group="",
        version="v1",
        kind="Event",
        resource="events",
        namespaced=True,
        storage_prefix="events",
        singular="event",
        short_names=("ev",),
        columns=_COLUMNS,
        strategy=Strategy(
            validate=_validate_core,
            validate_update=common.revalidate(_validate_core),
            fields=_fields,
            has_generation=False,
            allow_create_on_update=True,
        ),
        selectable_fields=(
            *(f"involvedObject.{name}" for name in _OBJECT_FIELDS),
            "reason",
            "reportingComponent",
            "source",
            "type",
        ),
    ),
    Kind(
        group="events.k8s.io",
        version="v1",
        kind="Event",
        resource="events",
        namespaced=True,
        storage_prefix="events",
        singular="event",
        short_names=("ev",),
        columns=_COLUMNS,
        to_storage=_as_core,
        from_storage=_as_new,
        strategy=Strategy(
            validate=_validate_new,
            validate_update=_validate_new_update,
            fields=_fields_new,
            has_generation=False,
            allow_create_on_update=True,
        ),
        selectable_fields=(
            *(f"regarding.{name}" for name in _OBJECT_FIELDS),
            "reason",
            "reportingController",
            "source",
            "type",
        ),
    ),
)
