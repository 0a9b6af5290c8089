"""KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1): profiles, plugin sets and weights, leader
election.

Fields this scheduler does not act on are refused by name rather than ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from componentbase.flags import parse_duration
from scheduler.framework import Profile
from scheduler.plugins import FILTERS, SCORES

API_VERSION = "kubescheduler.config.k8s.io/v1"
DEFAULT_SCHEDULER = "default-scheduler"


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
    return Profile(
        scheduler_name,
        tuple(make() for make in FILTERS.values()),
        tuple((make(), weight) for make, weight in SCORES.values()),
    )


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
    _only(entry, where, {"schedulerName", "plugins"})
    plugins = entry.get("plugins") or {}
    _only(plugins, f"{where}.plugins", {"filter", "score"})
    filters = _chosen(plugins.get("filter") or {}, f"{where}.plugins.filter", dict.fromkeys(FILTERS, 0))
    weights = {name: weight for name, (_, weight) in SCORES.items()}
    scores = _chosen(plugins.get("score") or {}, f"{where}.plugins.score", weights)
    return Profile(
        entry.get("schedulerName", DEFAULT_SCHEDULER),
        tuple(FILTERS[name]() for name in filters),
        tuple((SCORES[name][0](), weight) for name, weight in scores.items()),
    )


def _chosen(entry: Mapping[str, Any], where: str, defaults: dict[str, int]) -> dict[str, int]:
    """The default set less what is disabled (`*` for all), plus what is enabled, in that order."""
    _only(entry, where, {"enabled", "disabled"})
    disabled = {item["name"] for item in entry.get("disabled") or ()}
    enabled = {item["name"]: int(item.get("weight") or 0) for item in entry.get("enabled") or ()}
    for name in (disabled | set(enabled)) - {"*"}:
        if name not in defaults:
            raise ConfigError(f"{where}: unknown plugin {name!r}")
    kept = {} if "*" in disabled else {name: w for name, w in defaults.items() if name not in disabled}
    return kept | {name: weight or defaults[name] for name, weight in enabled.items()}
