"""KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1): profiles, plugin sets and weights, leader
election.

Fields this scheduler does not act on are refused by name rather than ignored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from componentbase.flags import parse_duration
from scheduler import pluginargs
from scheduler.framework import POINTS, Plugin, Profile
from scheduler.plugins import PLUGINS

API_VERSION = "kubescheduler.config.k8s.io/v1"
DEFAULT_SCHEDULER = "default-scheduler"
Weights = dict[str, int]


class ConfigError(ValueError):
    """The configuration cannot be used; the text names the field."""


@dataclass(frozen=True, slots=True)
class LeaderElection:
    """Durations are seconds."""

    leader_elect: bool = True
    lease_duration: float = 15.0
    renew_deadline: float = 10.0
    retry_period: float = 2.0
    resource_name: str = "kube-scheduler"
    resource_namespace: str = "kube-system"


@dataclass(frozen=True, slots=True)
class Configuration:
    profiles: tuple[Profile, ...]
    kubeconfig: str = ""
    qps: float = 0.0
    burst: int = 0
    leader_election: LeaderElection = field(default_factory=LeaderElection)


def default_profile(scheduler_name: str = DEFAULT_SCHEDULER) -> Profile:
    """All plugins of this tree, with kube-scheduler's weights."""
    return _profile({"schedulerName": scheduler_name}, "profiles[0]")


def load(path: Path) -> Configuration:
    """Read a configuration file; raises ConfigError."""
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: not a KubeSchedulerConfiguration")
    return parse(document)


def parse(document: Mapping[str, Any]) -> Configuration:
    """Turn a decoded document into a configuration; raises ConfigError naming what is wrong."""
    if document.get("apiVersion") != API_VERSION or document.get("kind") != "KubeSchedulerConfiguration":
        raise ConfigError(f"apiVersion and kind must be {API_VERSION} KubeSchedulerConfiguration")
    _only(document, "", {"apiVersion", "kind", "profiles", "clientConnection", "leaderElection"})
    connection = document.get("clientConnection") or {}
    _only(connection, "clientConnection", {"kubeconfig", "qps", "burst"})
    profiles = tuple(
        _profile(entry, f"profiles[{i}]") for i, entry in enumerate(document.get("profiles") or [{}])
    )
    names = [profile.scheduler_name for profile in profiles]
    if len(set(names)) != len(names):
        raise ConfigError("profiles: schedulerName must be unique")
    return Configuration(
        profiles,
        kubeconfig=connection.get("kubeconfig", ""),
        qps=float(connection.get("qps") or 0),
        burst=int(connection.get("burst") or 0),
        leader_election=_leader_election(document.get("leaderElection") or {}),
    )


def _only(mapping: Mapping[str, Any], where: str, allowed: set[str]) -> None:
    for name in mapping:
        if name not in allowed:
            path = f"{where}.{name}" if where else name
            raise ConfigError(f"{path}: not supported by this scheduler")


def _leader_election(entry: Mapping[str, Any]) -> LeaderElection:
    known = {
        "leaderElect",
        "leaseDuration",
        "renewDeadline",
        "retryPeriod",
        "resourceName",
        "resourceNamespace",
    }
    _only(entry, "leaderElection", known | {"resourceLock"})
    if entry.get("resourceLock", "leases") != "leases":
        raise ConfigError('leaderElection.resourceLock: only "leases" is supported')
    base = LeaderElection()
    try:
        return LeaderElection(
            leader_elect=bool(entry.get("leaderElect", True)),
            lease_duration=parse_duration(str(entry.get("leaseDuration", "15s"))),
            renew_deadline=parse_duration(str(entry.get("renewDeadline", "10s"))),
            retry_period=parse_duration(str(entry.get("retryPeriod", "2s"))),
            resource_name=entry.get("resourceName", base.resource_name),
            resource_namespace=entry.get("resourceNamespace", base.resource_namespace),
        )
    except ValueError as error:
        raise ConfigError(f"leaderElection: {error}") from None


def _profile(entry: Mapping[str, Any], where: str) -> Profile:
    _only(entry, where, {"schedulerName", "plugins", "pluginConfig", "percentageOfNodesToScore"})
    if entry.get("percentageOfNodesToScore") not in (None, 0, 100):
        raise ConfigError(f"{where}.percentageOfNodesToScore: not supported, all nodes are scored")
    sets = entry.get("plugins") or {}
    _only(sets, f"{where}.plugins", {"multiPoint", *POINTS})
    everywhere = _chosen(sets.get("multiPoint") or {}, f"{where}.plugins.multiPoint", _default_weights())
    made = _instances(entry.get("pluginConfig") or (), f"{where}.pluginConfig")
    chosen = {
        point: _at_point(point, sets.get(point) or {}, f"{where}.plugins.{point}", everywhere, made)
        for point in POINTS
    }
    for point in ("queueSort", "bind"):
        if not chosen[point]:
            raise ConfigError(f"{where}.plugins.{point}: needs a plugin")
    if len(chosen["queueSort"]) > 1:
        raise ConfigError(f"{where}.plugins.queueSort: only one plugin can sort the queue")
    return assemble(entry.get("schedulerName", DEFAULT_SCHEDULER), chosen)


def _default_weights() -> dict[str, int]:
    return {name: weight for name, (_, weight) in PLUGINS.items()}


def _instances(items: Sequence[Mapping[str, Any]], where: str) -> dict[str, Plugin]:
    """One instance per plugin and profile, whatever number of extension points it takes part in."""
    made = {name: make() for name, (make, _) in PLUGINS.items()}
    for index, item in enumerate(items):
        here = f"{where}[{index}]"
        _only(item, here, {"name", "args"})
        name = item.get("name")
        if name not in made:
            raise ConfigError(f"{here}.name: unknown plugin {name!r}")
        try:
            made[name] = pluginargs.make(name, item.get("args") or {})
        except pluginargs.ArgsError as error:
            raise ConfigError(f"{here}.args ({name}): {error}") from None
    return made


def _at_point(
    point: str, entry: Mapping[str, Any], where: str, everywhere: Weights, made: Mapping[str, Plugin]
) -> list[tuple[Any, int]]:
    able = {name for name, plugin in made.items() if hasattr(plugin, POINTS[point])}
    named = {item["name"] for item in entry.get("enabled") or ()}
    for name in named & made.keys() - able:
        raise ConfigError(f"{where}: plugin {name!r} has no part in this extension point")
    defaults = {name: weight for name, weight in everywhere.items() if name in able}
    return [(made[name], weight) for name, weight in _chosen(entry, where, defaults).items()]


def _chosen(entry: Mapping[str, Any], where: str, defaults: Weights) -> Weights:
    """The default set less what is disabled (`*` for all), plus what is enabled, in that order."""
    _only(entry, where, {"enabled", "disabled"})
    disabled = {item["name"] for item in entry.get("disabled") or ()}
    enabled = {item["name"]: int(item.get("weight") or 0) for item in entry.get("enabled") or ()}
    for name in (disabled | set(enabled)) - {"*"}:
        if name not in PLUGINS:
            raise ConfigError(f"{where}: unknown plugin {name!r}")
    kept = {} if "*" in disabled else {name: w for name, w in defaults.items() if name not in disabled}
    return kept | {name: weight or defaults.get(name, PLUGINS[name][1]) for name, weight in enabled.items()}


def assemble(scheduler_name: str, chosen: Mapping[str, Sequence[tuple[Any, int]]]) -> Profile:
    """A profile from the plugins of each extension point, with their weights."""
    plugins = {point: tuple(plugin for plugin, _ in entries) for point, entries in chosen.items()}
    return Profile(
        scheduler_name,
        queue_sort=plugins["queueSort"][0],
        filters=plugins["filter"],
        scores=tuple(chosen["score"]),
        pre_enqueues=plugins["preEnqueue"],
        pre_filters=plugins["preFilter"],
        post_filters=plugins["postFilter"],
        pre_scores=plugins["preScore"],
        reserves=plugins["reserve"],
        permits=plugins["permit"],
        pre_binds=plugins["preBind"],
        binds=plugins["bind"],
        post_binds=plugins["postBind"],
    )
