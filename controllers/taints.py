"""Taints and tolerations. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from controllers import objects as o
from controllers.objects import Object

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
MEMORY_PRESSURE = "node.kubernetes.io/memory-pressure"
DISK_PRESSURE = "node.kubernetes.io/disk-pressure"
PID_PRESSURE = "node.kubernetes.io/pid-pressure"
NETWORK_UNAVAILABLE = "node.kubernetes.io/network-unavailable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"

NO_SCHEDULE = "NoSchedule"
NO_EXECUTE = "NoExecute"


def taints(node: Object) -> Sequence[Object]:
    return o.spec(node).get("taints") or ()


def tolerates(toleration: Object, taint: Object) -> bool:
    """core/v1 `Toleration.ToleratesTaint`."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    # An empty key tolerates everything only together with Exists.
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")


def untolerated(
    node_taints: Iterable[Object], tolerations: Sequence[Object], effects: Collection[str]
) -> list[Object]:
    """Taints with one of the effects that no toleration covers."""
    return [
        taint
        for taint in node_taints
        if taint.get("effect") in effects and not any(tolerates(t, taint) for t in tolerations)
    ]


def same(a: Object, b: Object) -> bool:
    """Two taints are one when key and effect agree."""
    return a.get("key") == b.get("key") and a.get("effect") == b.get("effect")


def replaced(current: Sequence[Object], add: Sequence[Object], remove: Sequence[Object]) -> list[Object]:
    """`current` without `remove` and with `add`; one already there (same key and effect) keeps its
    timeAdded.
    """
    kept = [taint for taint in current if not any(same(taint, gone) for gone in remove)]
    return kept + [taint for taint in add if not any(same(taint, there) for there in kept)]
