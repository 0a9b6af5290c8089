"""`pluginConfig`: the arguments of plugins (kubescheduler.config.k8s.io/v1 `<Plugin>Args`), unknown ones
refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

from scheduler.framework import Plugin
from scheduler.plugins.balanced_allocation import BalancedAllocation
from scheduler.plugins.default_preemption import DefaultPreemption
from scheduler.plugins.inter_pod_affinity import InterPodAffinity
from scheduler.plugins.node_affinity import NodeAffinity
from scheduler.plugins.resources_fit import (
    RequestedToCapacityRatio,
    ResourcesFit,
    Strategy,
    least_allocated,
    most_allocated,
)
from scheduler.plugins.topology_spread import SYSTEM_DEFAULTS, TopologySpread
from scheduler.plugins.volume_binding import VolumeBinding
from scheduler.podinfo import Selector, Spread, compile_node_selector, compile_preferences

API_VERSION = "kubescheduler.config.k8s.io/v1"
Args = Mapping[str, Any]


class ArgsError(ValueError):
    """The arguments cannot be used; the text names the field below `args`."""


def _only(args: Args, where: str, *allowed: str) -> None:
    for name in args:
        if name not in allowed:
            raise ArgsError(f"{where}{name}: not supported by this scheduler")


def _integer(args: Args, name: str, default: int, low: int, high: int, where: str = "") -> int:
    value = args.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ArgsError(f"{where}{name}: must be an integer from {low} to {high}")
    return value


def _resources(items: Any, where: str) -> tuple[tuple[str, int], ...]:
    out = []
    for index, item in enumerate(items):
        here = f"{where}[{index}]."
        _only(item, here, "name", "weight")
        if not item.get("name"):
            raise ArgsError(f"{here}name: required")
        out.append((item["name"], _integer(item, "weight", 1, 1, 100, here)))
    return tuple(out)


def _shape(args: Args) -> RequestedToCapacityRatio:
    where = "scoringStrategy.requestedToCapacityRatio."
    _only(args, where, "shape")
    points = [
        (
            _integer(point, "utilization", -1, 0, 100, f"{where}shape[{i}]."),
            _integer(point, "score", 0, 0, 10, f"{where}shape[{i}]."),
        )
        for i, point in enumerate(args.get("shape") or ())
    ]
    if not points or any(a[0] >= b[0] for a, b in pairwise(points)):
        raise ArgsError(f"{where}shape: needs points of rising utilization")
    return RequestedToCapacityRatio(tuple(points))


def _fit(args: Args) -> Plugin:
    _only(args, "", "ignoredResources", "ignoredResourceGroups", "scoringStrategy")
    wanted = args.get("scoringStrategy") or {}
    _only(wanted, "scoringStrategy.", "type", "resources", "requestedToCapacityRatio")
    kind = wanted.get("type", "LeastAllocated")
    strategies: dict[str, Callable[[], Strategy]] = {
        "LeastAllocated": lambda: least_allocated,
        "MostAllocated": lambda: most_allocated,
        "RequestedToCapacityRatio": lambda: _shape(wanted.get("requestedToCapacityRatio") or {}),
    }
    if kind not in strategies:
        raise ArgsError(f"scoringStrategy.type: unknown strategy {kind!r}")
    default = [{"name": "cpu"}, {"name": "memory"}]
    return ResourcesFit(
        strategies[kind](),
        _resources(wanted.get("resources") or default, "scoringStrategy.resources"),
        frozenset(args.get("ignoredResources") or ()),
        frozenset(args.get("ignoredResourceGroups") or ()),
    )


def _balanced(args: Args) -> Plugin:
    _only(args, "", "resources")
    items = args.get("resources") or [{"name": "cpu"}, {"name": "memory"}]
    return BalancedAllocation(tuple(name for name, _ in _resources(items, "resources")))


def _node_affinity(args: Args) -> Plugin:
    _only(args, "", "addedAffinity")
    hard, soft = (
        "requiredDuringSchedulingIgnoredDuringExecution",
        "preferredDuringSchedulingIgnoredDuringExecution",
    )
    added = args.get("addedAffinity") or {}
    _only(added, "addedAffinity.", hard, soft)
    return NodeAffinity(compile_node_selector(added.get(hard)), compile_preferences(added.get(soft)))


def _inter_pod_affinity(args: Args) -> Plugin:
    _only(args, "", "hardPodAffinityWeight", "ignorePreferredTermsOfExistingPods")
    return InterPodAffinity(
        _integer(args, "hardPodAffinityWeight", 1, 0, 100),
        ignore_preferred=bool(args.get("ignorePreferredTermsOfExistingPods")),
    )


def _topology_spread(args: Args) -> Plugin:
    _only(args, "", "defaultConstraints", "defaultingType")
    kind = args.get("defaultingType", "System")
    given = args.get("defaultConstraints") or ()
    if kind == "System" and given:
        raise ArgsError("defaultConstraints: cannot be set with defaultingType System")
    if kind not in ("System", "List"):
        raise ArgsError(f"defaultingType: unknown type {kind!r}")
    if kind == "System":
        return TopologySpread(SYSTEM_DEFAULTS)
    return TopologySpread(tuple(_default(item, i) for i, item in enumerate(given)), system=False)


def _default(item: Args, index: int) -> Spread:
    where = f"defaultConstraints[{index}]."
    _only(item, where, "maxSkew", "topologyKey", "whenUnsatisfiable")
    if not item.get("topologyKey"):
        raise ArgsError(f"{where}topologyKey: required")
    mode = item.get("whenUnsatisfiable")
    if mode not in ("DoNotSchedule", "ScheduleAnyway"):
        raise ArgsError(f"{where}whenUnsatisfiable: unknown value {mode!r}")
    skew = _integer(item, "maxSkew", 0, 1, 2**31 - 1, where)
    return Spread(skew, item["topologyKey"], mode == "DoNotSchedule", Selector(()))


def _preemption(args: Args) -> Plugin:
    _only(args, "", "minCandidateNodesPercentage", "minCandidateNodesAbsolute")
    return DefaultPreemption(
        _integer(args, "minCandidateNodesPercentage", 10, 0, 100),
        _integer(args, "minCandidateNodesAbsolute", 100, 0, 2**31 - 1),
    )


def _volume_binding(args: Args) -> Plugin:
    _only(args, "", "bindTimeoutSeconds")
    return VolumeBinding(float(_integer(args, "bindTimeoutSeconds", 600, 0, 2**31 - 1)))


MAKERS: Mapping[str, Callable[[Args], Plugin]] = {
    "NodeResourcesFit": _fit,
    "NodeResourcesBalancedAllocation": _balanced,
    "NodeAffinity": _node_affinity,
    "InterPodAffinity": _inter_pod_affinity,
    "PodTopologySpread": _topology_spread,
    "DefaultPreemption": _preemption,
    "VolumeBinding": _volume_binding,
}


def make(name: str, args: Args) -> Plugin:
    """A plugin with these arguments; raises ArgsError."""
    if name not in MAKERS:
        raise ArgsError("this plugin takes no arguments")
    expected = {"apiVersion": API_VERSION, "kind": f"{name}Args"}
    for field, value in expected.items():
        if args.get(field, value) != value:
            raise ArgsError(f"{field}: must be {value}")
    return MAKERS[name]({key: value for key, value in args.items() if key not in expected})
