"""What the page shows of an object, a member, a host. Pure: readings in, plain data out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Object = Mapping[str, Any]
Data = dict[str, Any]

MAX_EVENTS = 80
"""So many events are kept on the page."""
MAX_PODS = 1000
"""More pods than a person can look at are cut, and the page says so."""


def member(host: str, reading: Mapping[str, Any]) -> Data:
    """A member of the store; `reading` is its Maintenance/Status answer, or {"error": why there is none}."""
    if "error" in reading:
        return {"host": host, "role": "unreachable", "error": reading["error"]}
    if reading["learner"]:
        role = "learner"
    elif not reading["leader"]:
        role = "no leader"
    else:
        role = "leader" if reading["leader"] == reading["member"] else "follower"
    kept = ("term", "index", "applied", "revision", "size")
    return {"host": host, "role": role, "id": f"{reading['member']:x}", **{key: reading[key] for key in kept}}


def host(name: str, role: str, address: str, reading: Mapping[str, Any]) -> Data:
    """A host and its units; `reading` is its supervisor's answer, or {"error": why there is none}."""
    units = [
        {"name": unit, "state": found["state"], "restarts": found["restarts"]}
        for unit, found in (reading.get("units") or {}).items()
    ]
    return {"name": name, "role": role, "address": address, "up": "error" not in reading, "units": units}


def node(obj: Object) -> Data:
    """A node: ready or not, cordoned or not, and every condition that is not as it should be."""
    conditions = {
        condition["type"]: condition["status"]
        for condition in (obj.get("status") or {}).get("conditions") or []
    }
    spec = obj.get("spec") or {}
    wrong = [kind for kind, status in conditions.items() if kind != "Ready" and status != "False"]
    return {
        "name": obj["metadata"]["name"],
        "ready": conditions.get("Ready") == "True",
        "cordoned": bool(spec.get("unschedulable")),
        "pressure": sorted(wrong),
        "taints": sorted({taint["key"] for taint in spec.get("taints") or []}),
    }


def pod(obj: Object) -> Data:
    """A pod as `kubectl get pods -o wide` tells it, shortened."""
    metadata, status = obj["metadata"], obj.get("status") or {}
    containers = status.get("containerStatuses") or []
    return {
        "uid": metadata["uid"],
        "namespace": metadata["namespace"],
        "name": metadata["name"],
        "node": (obj.get("spec") or {}).get("nodeName") or "",
        "state": pod_state(obj),
        "ready": bool(containers) and all(each.get("ready") for each in containers),
        "restarts": sum(each.get("restartCount", 0) for each in containers),
        "address": status.get("podIP") or "",
    }


def pod_state(obj: Object) -> str:
    """The word of kubectl's STATUS column: the phase, unless something more telling is known."""
    status = obj.get("status") or {}
    if obj["metadata"].get("deletionTimestamp"):
        return "Terminating"
    if status.get("reason"):
        return str(status["reason"])
    for each in status.get("containerStatuses") or []:
        reason = ((each.get("state") or {}).get("waiting") or {}).get("reason")
        if reason:
            return str(reason)
    return str(status.get("phase") or "Unknown")


def event(obj: Object) -> Data:
    """An event of core/v1, with the time at which it was seen last."""
    about = obj.get("involvedObject") or {}
    metadata = obj["metadata"]
    series = obj.get("series") or {}
    seen = series.get("lastObservedTime") or obj.get("lastTimestamp") or obj.get("eventTime")
    return {
        "uid": metadata["uid"],
        "time": seen or metadata["creationTimestamp"],
        "type": obj.get("type") or "Normal",
        "reason": obj.get("reason") or "",
        "object": f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}",
        "message": obj.get("message") or "",
        "count": series.get("count") or obj.get("count") or 1,
    }


def newest(objects: Iterable[Object]) -> list[Data]:
    """The events of the page, newest first."""
    return sorted(map(event, objects), key=lambda each: (each["time"], each["uid"]), reverse=True)[
        :MAX_EVENTS
    ]
