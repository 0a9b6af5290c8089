"""Is a node alive, and what does its state mean for its conditions and taints? Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from controllers import objects as o
from controllers import taints as tt
from controllers.objects import Object

WATCHED = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")
REGION_LABEL = "topology.kubernetes.io/region"
ZONE_LABEL = "topology.kubernetes.io/zone"

_CONDITION_TAINTS: Mapping[tuple[str, str], str] = {
    ("Ready", "False"): tt.NOT_READY,
    ("Ready", "Unknown"): tt.UNREACHABLE,
    ("MemoryPressure", "True"): tt.MEMORY_PRESSURE,
    ("DiskPressure", "True"): tt.DISK_PRESSURE,
    ("PIDPressure", "True"): tt.PID_PRESSURE,
    ("NetworkUnavailable", "True"): tt.NETWORK_UNAVAILABLE,
}
_OURS = frozenset(_CONDITION_TAINTS.values()) | {tt.UNSCHEDULABLE}


@dataclass(frozen=True, slots=True)
class Seen:
    """What was last heard of a node and when, on this process' monotonic clock: clocks of hosts are never
    compared.
    """

    heartbeat: str  # the Ready condition's lastHeartbeatTime
    renewed: str  # the Lease's renewTime
    at: float  # when either last changed
    grace: float  # how long silence is bearable


@dataclass(frozen=True, slots=True)
class Grace:
    """`--node-monitor-grace-period` and `--node-startup-grace-period`, seconds."""

    running: float
    startup: float


def observe(node: Object, lease: Object | None, before: Seen | None, monotonic: float, grace: Grace) -> Seen:
    """Update what is known of a node: any change of its status or Lease is a sign of life."""
    ready = o.condition(node, "Ready")
    heartbeat = str((ready or {}).get("lastHeartbeatTime") or "")
    renewed = str(o.spec(lease).get("renewTime") or "") if lease else ""
    bearable = grace.running if ready is not None else grace.startup
    if before is None:
        return Seen(heartbeat, renewed, monotonic, bearable)
    changed = (heartbeat, renewed) != (before.heartbeat, before.renewed)
    return Seen(heartbeat, renewed, monotonic if changed else before.at, bearable)


def is_silent(seen: Seen, monotonic: float) -> bool:
    return monotonic > seen.at + seen.grace


def unknown_conditions(node: Object, now: float) -> list[Object] | None:
    """The conditions of a node that has gone silent; None when they say so already."""
    before = list(o.status(node).get("conditions") or ())
    after = before
    stamp = o.format_time(now)
    for kind in WATCHED:
        found = o.find_condition(before, kind)
        if found is None:
            fresh: Object = {
                "type": kind,
                "status": "Unknown",
                "reason": "NodeStatusNeverUpdated",
                "message": "Kubelet never posted node status.",
                "lastHeartbeatTime": o.meta(node).get("creationTimestamp"),
                "lastTransitionTime": stamp,
            }
        elif found.get("status") != "Unknown":
            fresh = {
                **found,
                "status": "Unknown",
                "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status.",
                "lastTransitionTime": stamp,
            }
        else:
            continue
        after = o.set_condition(after, fresh)
    return None if after == before else after


def ready_status(node: Object) -> str:
    """ "True", "False" or "Unknown"; a node that never reported is Unknown."""
    return o.condition_status(node, "Ready") or "Unknown"


def schedule_taints(node: Object, now: float) -> list[Object] | None:
    """`spec.taints` with the NoSchedule taints its conditions call for; None when they are right already."""
    wanted = [
        {"key": key, "effect": tt.NO_SCHEDULE}
        for (kind, status), key in _CONDITION_TAINTS.items()
        if o.condition_status(node, kind) == status
    ]
    stamp = o.format_time(now)
    if o.spec(node).get("unschedulable"):
        wanted.append({"key": tt.UNSCHEDULABLE, "effect": tt.NO_SCHEDULE})
    wanted = [{**taint, "timeAdded": stamp} for taint in wanted]
    return _with(node, wanted, _OURS, tt.NO_SCHEDULE)


def execute_taints(node: Object, now: float, *, evicting: bool = True) -> list[Object] | None:
    """`spec.taints` with the NoExecute taint its readiness calls for, or none of them while nobody is to be
    evicted; None when it is right already.
    """
    key = {"False": tt.NOT_READY, "Unknown": tt.UNREACHABLE}.get(ready_status(node))
    stamp = o.format_time(now)
    wanted = [{"key": key, "effect": tt.NO_EXECUTE, "timeAdded": stamp}] if key and evicting else []
    return _with(node, wanted, frozenset({tt.NOT_READY, tt.UNREACHABLE}), tt.NO_EXECUTE)


def with_taints(node: Object, taints: Sequence[Object]) -> Object:
    return {**node, "spec": {**o.spec(node), "taints": list(taints)}}


def _with(node: Object, wanted: list[Object], ours: frozenset[str], effect: str) -> list[Object] | None:
    current = tt.taints(node)
    stale = [
        taint
        for taint in current
        if taint.get("effect") == effect
        and taint.get("key") in ours
        and not any(tt.same(taint, keep) for keep in wanted)
    ]
    after = tt.replaced(current, wanted, stale)
    return None if after == list(current) else after


class ZoneState(Enum):
    """How many of a zone's nodes are gone; decides how fast the others may be emptied."""

    NORMAL = "Normal"
    PARTIAL = "PartialDisruption"
    FULL = "FullDisruption"


@dataclass(frozen=True, slots=True)
class Rates:
    """Nodes per second that may be marked for eviction."""

    normal: float
    secondary: float
    large_cluster: int
    unhealthy_threshold: float


def zone_of(node: Object) -> str:
    return f"{o.labels(node).get(REGION_LABEL, '')}:{o.labels(node).get(ZONE_LABEL, '')}"


def zone_states(nodes: Sequence[Object], threshold: float) -> dict[str, ZoneState]:
    """Each zone's state: full disruption when none is ready, partial when too many (and more than two) are
    not.
    """
    counts: dict[str, tuple[int, int]] = {}
    for node in nodes:
        ready, not_ready = counts.get(zone_of(node), (0, 0))
        good = ready_status(node) == "True"
        counts[zone_of(node)] = (ready + good, not_ready + (not good))
    out = {}
    for zone, (ready, not_ready) in counts.items():
        if ready == 0 and not_ready > 0:
            out[zone] = ZoneState.FULL
        elif not_ready > 2 and not_ready / (ready + not_ready) >= threshold:
            out[zone] = ZoneState.PARTIAL
        else:
            out[zone] = ZoneState.NORMAL
    return out


def zone_sizes(nodes: Sequence[Object]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for node in nodes:
        sizes[zone_of(node)] = sizes.get(zone_of(node), 0) + 1
    return sizes


def eviction_rates(
    states: Mapping[str, ZoneState], sizes: Mapping[str, int], rates: Rates
) -> dict[str, float]:
    """Each zone's eviction rate. When every zone is down it is this side that is cut off: nobody is
    evicted.
    """
    if states and all(state is ZoneState.FULL for state in states.values()):
        return dict.fromkeys(states, 0.0)
    out = {}
    for zone, state in states.items():
        if state is ZoneState.PARTIAL:
            out[zone] = rates.secondary if sizes.get(zone, 0) > rates.large_cluster else 0.0
        else:
            out[zone] = rates.normal
    return out
