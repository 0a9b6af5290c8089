"""From samples to a number of replicas (KEP-117, "Algorithm details" of the documentation). Pure.

Amounts are in thousandths of the metric's unit: milli-cores for cpu, milli-bytes for memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from apimachinery import quantity
from controllers import objects as o
from controllers import pods
from controllers.objects import Object


class NoMetric(Exception):
    """The metric cannot be judged; `reason` is that of the ScalingActive condition."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Tuning:
    """The manager's flags; durations in seconds."""

    tolerance: float = 0.1
    cpu_initialization: float = 300.0
    initial_readiness: float = 30.0


@dataclass(frozen=True, slots=True)
class Proposal:
    """What one metric asks for, and its entry in status.currentMetrics."""

    replicas: int
    status: Object
    name: str


@dataclass(frozen=True, slots=True)
class Groups:
    """Pods by what their sample is worth."""

    ready: tuple[str, ...]
    unready: tuple[str, ...]  # not counted as load, and as none when scaling up
    missing: tuple[str, ...]
    ignored: tuple[str, ...]  # going, or failed


@dataclass(frozen=True, slots=True)
class Samples:
    """What a metrics API says of pods, by name: thousandths of the unit, and when their window began."""

    values: Mapping[str, int]
    since: Mapping[str, float] = field(default_factory=dict)


def group(mine: Sequence[Object], samples: Samples, resource: str, tuning: Tuning, now: float) -> Groups:
    """Samples of a pod that is only starting say nothing about the load to come."""
    out: dict[str, list[str]] = {"ready": [], "unready": [], "missing": [], "ignored": []}
    for pod in mine:
        name = o.name(pod)
        if o.is_terminating(pod) or pods.phase(pod) == "Failed":
            out["ignored"].append(name)
        elif pods.phase(pod) == "Pending":
            out["unready"].append(name)
        elif name not in samples.values:
            out["missing"].append(name)
        elif resource == "cpu" and _is_warming_up(pod, samples.since.get(name), tuning, now):
            out["unready"].append(name)
        else:
            out["ready"].append(name)
    return Groups(**{part: tuple(names) for part, names in out.items()})


def _is_warming_up(pod: Object, since: float | None, tuning: Tuning, now: float) -> bool:
    """`since` is when the sample's window began: within the first minutes it must lie after the pod became
    ready, or the work of starting is taken for load.
    """
    condition, start = o.condition(pod, "Ready"), o.status(pod).get("startTime")
    if condition is None or not start:
        return True
    began, changed = o.parse_time(start), o.parse_time(condition.get("lastTransitionTime"))
    ready = condition.get("status") == "True"
    if began + tuning.cpu_initialization > now:
        return not ready or (since is not None and since < changed)
    # Never ready since it started: not ready, and nothing changed after the first moments.
    return not ready and began + tuning.initial_readiness > changed


def requests_of(mine: Sequence[Object], resource: str, container: str = "") -> dict[str, int]:
    """Per pod the requested amount. Raises NoMetric when a container states none."""
    out = {}
    for pod in mine:
        spec, total = o.spec(pod), 0
        sidecars = [c for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"]
        for one in (*(spec.get("containers") or ()), *sidecars):
            if container and one["name"] != container:
                continue
            stated = ((one.get("resources") or {}).get("requests") or {}).get(resource)
            if stated is None:
                text = f"missing request for {resource} in container {one['name']} of Pod {o.name(pod)}"
                raise NoMetric("FailedGetResourceMetric", text)
            total += quantity.parse(stated).milli()
        out[o.name(pod)] = total
    return out


def _ratio(load: Mapping[str, int], target: float, full: Mapping[str, int] | None) -> float:
    """How many times its target the load is."""
    if full is None:
        return sum(load.values()) / len(load) / target
    requested = sum(full.get(name, 0) for name in load)
    if requested == 0:
        raise NoMetric("FailedGetResourceMetric", "no metrics returned matched known pods")
    return math.floor(sum(load.values()) * 100 / requested) / target


def replicas_for(
    current: int,
    groups: Groups,
    samples: Mapping[str, int],
    target: float,
    full: Mapping[str, int] | None,
    tuning: Tuning,
) -> int:
    """The replicas that bring the load to `target`.

    With `full` (what each pod requested) load and target are shares of it, else amounts per pod. Missing
    pods are assumed to be fully loaded before scaling down and idle before scaling up, unready ones idle, so
    that a guess never widens a step; a guess that turns its direction cancels it.
    """
    load = {name: samples[name] for name in groups.ready}

    if not load:
        raise NoMetric("FailedGetResourceMetric", "no metrics returned matched known pods")
    first = _ratio(load, target, full)
    rising = first > 1.0
    if not groups.missing and not (rising and groups.unready):
        return current if abs(first - 1.0) <= tuning.tolerance else math.ceil(first * len(load))
    for name in groups.missing:
        whole = full.get(name, 0) * max(target, 100) / 100 if full is not None else target
        load[name] = int(whole) if first < 1.0 else 0
    if rising:
        load |= dict.fromkeys(groups.unready, 0)
    second = _ratio(load, target, full)
    turned = (first < 1.0 < second) or (second < 1.0 < first)
    if abs(second - 1.0) <= tuning.tolerance or turned:
        return current
    wanted = math.ceil(second * len(load))
    contrary = (second < 1.0 and wanted > current) or (second > 1.0 and wanted < current)
    return current if contrary else wanted


def resource_proposal(
    source: Object,
    mine: Sequence[Object],
    samples: Samples,
    current: int,
    tuning: Tuning,
    now: float,
    container: str = "",
) -> Proposal:
    """The proposal of a Resource or ContainerResource metric. Raises NoMetric."""
    resource, target = str(source["name"]), source.get("target") or {}
    groups = group(mine, samples, resource, tuning, now)
    counted = [pod for pod in mine if o.name(pod) not in groups.ignored]
    values = samples.values
    known = [values[name] for name in groups.ready] or [0]
    average = sum(known) // len(known)
    shown: Object = {"averageValue": quantity_text(average, resource)}
    if target.get("averageUtilization") is not None:
        full = requests_of(counted, resource, container)
        aim = float(target["averageUtilization"])
        wanted = replicas_for(current, groups, values, aim, full, tuning)
        asked = sum(full[name] for name in groups.ready)
        shown["averageUtilization"] = sum(known) * 100 // asked if asked else 0
        words = f"{resource} resource utilization (percentage of request)"
    else:
        aim = float(quantity.parse(target.get("averageValue", "0")).milli())
        wanted = replicas_for(current, groups, values, aim, None, tuning)
        words = f"{resource} resource"
    kind = "containerResource" if container else "resource"
    entry: Object = {"name": resource, "current": shown}
    if container:
        entry["container"] = container
        words = words.replace("resource", "container resource", 1)
    return Proposal(wanted, {"type": kind[0].upper() + kind[1:], kind: entry}, words)


def quantity_text(milli: int, resource: str) -> str:
    return f"{milli}m" if resource == "cpu" else str(milli // 1000)
