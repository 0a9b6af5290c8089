"""Reading the parts of an object every controller looks at. Pure; nothing here changes its argument.

Objects in informer stores are shared, so the functions that "change" something (`with_condition`, `edited`)
return a copy of the path they touch and leave the rest shared.
"""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Object = dict[str, Any]


def meta(obj: Object) -> Object:
    """`metadata`, or an empty mapping."""
    return obj.get("metadata") or {}


def spec(obj: Object) -> Object:
    """`spec`, or an empty mapping."""
    return obj.get("spec") or {}


def status(obj: Object) -> Object:
    """`status`, or an empty mapping."""
    return obj.get("status") or {}


def name(obj: Object) -> str:
    return str(meta(obj).get("name", ""))


def namespace(obj: Object) -> str:
    return str(meta(obj).get("namespace", ""))


def uid(obj: Object) -> str:
    return str(meta(obj).get("uid", ""))


def labels(obj: Object) -> Mapping[str, str]:
    return meta(obj).get("labels") or {}


def annotations_of(obj: Object) -> Mapping[str, str]:
    return meta(obj).get("annotations") or {}


def finalizers(obj: Object) -> Sequence[str]:
    return meta(obj).get("finalizers") or ()


def owner_references(obj: Object) -> Sequence[Object]:
    return meta(obj).get("ownerReferences") or ()


def generation(obj: Object) -> int:
    return int(meta(obj).get("generation") or 0)


def revision_of(obj: Object) -> int:
    """`metadata.resourceVersion` as the store's revision; 0 when it is absent."""
    return int(meta(obj).get("resourceVersion") or 0)


def is_terminating(obj: Object) -> bool:
    """True once deletion was asked for."""
    return meta(obj).get("deletionTimestamp") is not None


def key(obj: Object) -> str:
    """The work queue's key: `namespace/name`, or `name` for cluster-scoped objects."""
    ns = namespace(obj)
    return f"{ns}/{name(obj)}" if ns else name(obj)


def split_key(text: str) -> tuple[str, str]:
    """`namespace/name` -> (namespace, name); a cluster-scoped key has an empty namespace."""
    left, slash, right = text.partition("/")
    return (left, right) if slash else ("", left)


def replicas(obj: Object, default: int = 1) -> int:
    """`spec.replicas`; absent means one, as the API defaults it."""
    value = spec(obj).get("replicas")
    return default if value is None else int(value)


def parse_time(text: str | None) -> float:
    """Seconds since the epoch of an RFC 3339 time in `Z` (a fraction is kept); 0.0 for an absent one."""
    if not text:
        return 0.0
    body, _, fraction = text.rstrip("Z").partition(".")
    seconds = calendar.timegm(time.strptime(body, "%Y-%m-%dT%H:%M:%S"))
    return seconds + (float(f"0.{fraction}") if fraction else 0.0)


def format_time(seconds: float) -> str:
    """The API's `Time`: RFC 3339 in `Z`, whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def created_at(obj: Object) -> float:
    return parse_time(meta(obj).get("creationTimestamp"))


# -- owners --------------------------------------------------------------------------------------------------


def controller_of(obj: Object) -> Object | None:
    """The owner reference that manages this object, if any (at most one has `controller: true`)."""
    return next((ref for ref in owner_references(obj) if ref.get("controller")), None)


def is_controlled_by(obj: Object, owner: Object) -> bool:
    ref = controller_of(obj)
    return ref is not None and ref.get("uid") == uid(owner)


def owner_reference(owner: Object, api_version: str, kind: str) -> Object:
    """A controlling reference to `owner`; items of a list carry no kind, so it is handed in."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "name": name(owner),
        "uid": uid(owner),
        "controller": True,
        "blockOwnerDeletion": True,
    }


# -- conditions ----------------------------------------------------------------------------------------------


def condition(obj: Object, kind: str) -> Object | None:
    """The condition of that type in `status.conditions`."""
    return find_condition(status(obj).get("conditions") or (), kind)


def find_condition(conditions: Iterable[Object], kind: str) -> Object | None:
    return next((c for c in conditions if c.get("type") == kind), None)


def condition_status(obj: Object, kind: str) -> str:
    """ "True", "False", "Unknown", or "" when the condition is absent."""
    found = condition(obj, kind)
    return str(found.get("status", "")) if found else ""


def set_condition(conditions: Sequence[Object], new: Object) -> list[Object]:
    """`conditions` with the one of `new`'s type replaced in place, or `new` appended."""
    out = [new if c.get("type") == new["type"] else c for c in conditions]
    return out if find_condition(conditions, new["type"]) else [*out, new]


def set_condition_once(conditions: Sequence[Object], new: Object) -> list[Object]:
    """`conditions` with `new`, unless one of its type and status is there already (which keeps its times)."""
    found = find_condition(conditions, new["type"])
    if found is not None and found.get("status") == new["status"]:
        return list(conditions)
    return set_condition(conditions, new)


def drop_condition(conditions: Sequence[Object], kind: str) -> list[Object]:
    return [c for c in conditions if c.get("type") != kind]


# -- copies --------------------------------------------------------------------------------------------------


def edited(obj: Object, **parts: Any) -> Object:
    """A shallow copy with top-level parts replaced."""
    return {**obj, **parts}


def with_status(obj: Object, new_status: Object) -> Object:
    return {**obj, "status": new_status}


def scaled_value(value: int | str | None, total: int, *, round_up: bool) -> int:
    """An int-or-percent resolved against `total` (apimachinery `GetScaledValueFromIntOrPercent`).

    Raises ValueError for a string that is no percentage.
    """
    if value is None:
        return 0
    if isinstance(value, int):
        return value
    if not value.endswith("%"):
        raise ValueError(f"invalid value for IntOrString: {value!r}")
    product = int(value[:-1]) * total
    return -(-product // 100) if round_up else product // 100
