"""The APIServices of what this server serves itself, and the order they give to discovery. Pure.

Numbers: kube-apiserver's `apiVersionPriorities` (pkg/controlplane/apiserver/aggregator.go).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from apiserver.extensions import conditions
from apiserver.extensions.versions import version_order
from apiserver.kinds.apiservices import GROUP

Object = dict[str, Any]
GroupVersion = tuple[str, str]

MANAGED = "kube-aggregator.kubernetes.io/automanaged"
ON_START, ALWAYS = "onstart", "true"  # made once by a starting server; kept as long as it is served


class Rank(NamedTuple):
    """Higher comes first: groups by the highest `group` of their versions, versions by `version`."""

    group: int
    version: int


CUSTOM = Rank(1000, 100)
_GROUPS = {
    "": 18000,
    GROUP: 17900,  # has no APIService, but leads the groups
    "apps": 17800,
    "events.k8s.io": 17750,
    "authentication.k8s.io": 17700,
    "authorization.k8s.io": 17600,
    "autoscaling": 17500,
    "batch": 17400,
    "certificates.k8s.io": 17300,
    "networking.k8s.io": 17200,
    "policy": 17100,
    "rbac.authorization.k8s.io": 17000,
    "storage.k8s.io": 16800,
    "apiextensions.k8s.io": 16700,
    "admissionregistration.k8s.io": 16700,
    "scheduling.k8s.io": 16600,
    "coordination.k8s.io": 16500,
    "node.k8s.io": 16300,
    "discovery.k8s.io": 16200,
    "flowcontrol.apiserver.k8s.io": 16100,
    "resource.k8s.io": 15900,
}
_VERSIONS = {("", "v1"): 1, ("autoscaling", "v2"): 30, ("flowcontrol.apiserver.k8s.io", "v1"): 21}
BUILTIN_VERSION = 15


def rank(group: str, version: str) -> Rank:
    """The rank of a group version that no APIService speaks of."""
    if group in _GROUPS:
        return Rank(_GROUPS[group], _VERSIONS.get((group, version), BUILTIN_VERSION))
    return CUSTOM


def ordered(found: Iterable[GroupVersion], ranks: Mapping[GroupVersion, Rank]) -> dict[str, list[str]]:
    """Group -> versions, in the order of discovery."""
    known = {item: ranks.get(item) or rank(*item) for item in found}
    groups: dict[str, list[str]] = {}
    for group, version in sorted(known, key=lambda item: (-known[item].version, version_order(item[1]))):
        groups.setdefault(group, []).append(version)
    highest = {name: max(known[(name, version)].group for version in groups[name]) for name in groups}
    return {name: groups[name] for name in sorted(groups, key=lambda name: (-highest[name], name))}


def custom_versions(definitions: Iterable[Object]) -> set[GroupVersion]:
    """What CustomResourceDefinitions serve."""
    return {
        (crd["spec"]["group"], version["name"])
        for crd in definitions
        if conditions.is_true(crd, conditions.ESTABLISHED)
        for version in crd["spec"]["versions"]
        if version.get("served")
    }


def api_service(group: str, version: str, managed: str) -> Object:
    priority = rank(group, version)
    return {
        "kind": "APIService",
        "apiVersion": f"{GROUP}/v1",
        "metadata": {"name": f"{version}.{group}", "labels": {MANAGED: managed}},
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": priority.group,
            "versionPriority": priority.version,
        },
    }


def group_version(service: Object) -> GroupVersion:
    return service["spec"].get("group", ""), service["spec"].get("version", "")


def stale(services: Iterable[Object], custom: set[GroupVersion]) -> Iterator[str]:
    """Names of APIServices made for custom resources that are served no longer."""
    for service in services:
        managed = (service["metadata"].get("labels") or {}).get(MANAGED)
        if managed == ALWAYS and group_version(service) not in custom:
            yield service["metadata"]["name"]
