"""Discovery: which groups, versions and resources there are, in the old form (/api, /apis/...) and the
aggregated one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from apimachinery.scheme import Kind, Scheme
from apiserver.aggregation import local
from apiserver.aggregation.documents import Documents

Object = dict[str, Any]

AGGREGATED_GROUP = "apidiscovery.k8s.io"
AGGREGATED_VERSIONS = ("v2", "v2beta1")


class Extra(NamedTuple):
    """A resource that is served but not stored, or the kind and verbs of a subresource."""

    group: str
    version: str
    resource: str
    kind: str
    namespaced: bool
    verbs: tuple[str, ...] = ("create",)
    short_names: tuple[str, ...] = ()


SUBRESOURCE_KINDS: Mapping[str, tuple[str, str, str, tuple[str, ...]]] = {
    # subresource: group, version, kind ("" = the parent's), verbs
    "status": ("", "", "", ("get", "patch", "update")),
    "scale": ("autoscaling", "v1", "Scale", ("get", "patch", "update")),
    "binding": ("", "v1", "Binding", ("create",)),
    "eviction": ("policy", "v1", "Eviction", ("create",)),
    "log": ("", "", "", ("get",)),
    "exec": ("", "v1", "PodExecOptions", ("create", "get")),
    "attach": ("", "v1", "PodAttachOptions", ("create", "get")),
    "portforward": ("", "v1", "PodPortForwardOptions", ("create", "get")),
    "proxy": ("", "v1", "NodeProxyOptions", ("create", "delete", "get", "patch", "update")),
    "token": ("authentication.k8s.io", "v1", "TokenRequest", ("create",)),
    "finalize": ("", "", "", ("update",)),
    "ephemeralcontainers": ("", "", "", ("get", "patch", "update")),
    "resize": ("", "", "", ("get", "patch", "update")),
    "approval": ("", "", "", ("get", "patch", "update")),
}


class Elsewhere(Protocol):
    """What other API servers serve (aggregation/controller.py)."""

    def versions(self) -> Mapping[tuple[str, str], Documents | None]: ...
    def is_fresh(self, item: tuple[str, str]) -> bool: ...
    def order(self, found: Iterable[tuple[str, str]]) -> dict[str, list[str]]: ...


class Nowhere:
    """This server is alone."""

    def versions(self) -> Mapping[tuple[str, str], Documents | None]:
        return {}

    def is_fresh(self, item: tuple[str, str]) -> bool:
        return False

    def order(self, found: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
        return local.ordered(found, {})


class Discovery:
    """Built once from the scheme; documents are values. `elsewhere` may be set while the server runs."""

    def __init__(self, scheme: Scheme, extras: Iterable[Extra], server_address: str) -> None:
        self._scheme = scheme
        self._extras = tuple(extras)
        self._server_address = server_address
        self.elsewhere: Elsewhere = Nowhere()

    def api_versions(self) -> Object:
        addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": self._server_address}]
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}

    def group_list(self) -> Object:
        groups = [self.group(name) for name in self._groups() if name]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}

    def group(self, name: str) -> Object | None:
        versions = self._groups().get(name)
        if not versions or not name:
            return None
        listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
        return {
            "kind": "APIGroup",
            "apiVersion": "v1",
            "name": name,
            "versions": listed,
            "preferredVersion": listed[0],
        }

    def resources(self, group: str, version: str) -> Object | None:
        """The APIResourceList of one version; None when it is not served."""
        if (group, version) not in self.group_versions():
            return None
        items: list[Object] = []
        for kind in self._kinds(group, version):
            items.append(_resource(kind))
            items += [_subresource(kind, name) for name in kind.subresources]
        for extra in self._of(group, version):
            item = {
                "name": extra.resource,
                "singularName": extra.kind.lower(),
                "namespaced": extra.namespaced,
                "kind": extra.kind,
                "verbs": list(extra.verbs),
            }
            items.append(item | _short_names(extra))
        name = f"{group}/{version}" if group else version
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": items}

    def aggregated(self, version: str, *, core: bool) -> Object:
        """APIGroupDiscoveryList of the legacy API (`core`) or of all groups."""
        items = []
        for group, versions in self._groups().items():
            if bool(group) == core:
                continue
            listed = [self._aggregated_version(group, name) for name in versions]
            items.append({"metadata": {"name": group} if group else {}, "versions": listed})
        return {
            "kind": "APIGroupDiscoveryList",
            "apiVersion": f"{AGGREGATED_GROUP}/{version}",
            "metadata": {},
            "items": items,
        }

    def _aggregated_version(self, group: str, version: str) -> Object:
        """A version elsewhere is stale while its server does not answer; what it last said is kept."""
        fresh, there = True, self.elsewhere.versions()
        if (group, version) in there:
            known, fresh = there[(group, version)], self.elsewhere.is_fresh((group, version))
            resources = list(known.resources) if known else []
        else:
            resources = [_aggregated(kind) for kind in self._kinds(group, version)]
            resources += [_aggregated_extra(extra) for extra in self._of(group, version)]
        return {"version": version, "resources": resources, "freshness": "Current" if fresh else "Stale"}

    def _groups(self) -> dict[str, list[str]]:
        """Everything there is, also elsewhere: group -> versions, in the order that APIServices give."""
        return self.elsewhere.order(self.group_versions())

    def group_versions(self) -> list[tuple[str, str]]:
        """What this server serves itself."""
        found = {("", "v1"): None, **{(kind.group, kind.version): None for kind in self._scheme}}
        found.update({(extra.group, extra.version): None for extra in self._extras})
        return [*found]

    def _kinds(self, group: str, version: str) -> list[Kind]:
        return [kind for kind in self._scheme if (kind.group, kind.version) == (group, version)]

    def _of(self, group: str, version: str) -> list[Extra]:
        return [extra for extra in self._extras if (extra.group, extra.version) == (group, version)]


def _resource(kind: Kind) -> Object:
    out: Object = {
        "name": kind.resource,
        "singularName": kind.singular or kind.kind.lower(),
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(kind.verbs),
    }
    if kind.short_names:
        out["shortNames"] = list(kind.short_names)
    if kind.categories:
        out["categories"] = list(kind.categories)
    return out


def _subresource(kind: Kind, name: str) -> Object:
    group, version, shown, verbs = subresource_kind(kind, name)
    out: Object = {
        "name": f"{kind.resource}/{name}",
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": shown or kind.kind,
        "verbs": list(verbs),
    }
    if shown and (group, version) != (kind.group, kind.version):
        out["group"], out["version"] = group, version
    return out


def _aggregated(kind: Kind) -> Object:
    out: Object = {
        "resource": kind.resource,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular or kind.kind.lower(),
        "verbs": list(kind.verbs),
    }
    if kind.short_names:
        out["shortNames"] = list(kind.short_names)
    if kind.categories:
        out["categories"] = list(kind.categories)
    if kind.subresources:
        out["subresources"] = [_aggregated_subresource(kind, name) for name in kind.subresources]
    return out


def _aggregated_extra(extra: Extra) -> Object:
    return {
        "resource": extra.resource,
        "responseKind": {"group": extra.group, "version": extra.version, "kind": extra.kind},
        "scope": "Namespaced" if extra.namespaced else "Cluster",
        "singularResource": extra.kind.lower(),
        "verbs": list(extra.verbs),
        **_short_names(extra),
    }


def _short_names(extra: Extra) -> Object:
    return {"shortNames": list(extra.short_names)} if extra.short_names else {}


def subresource_kind(kind: Kind, name: str) -> tuple[str, str, str, tuple[str, ...]]:
    """Group, version, kind ("" = the parent's) and verbs of a kind's subresource."""
    group, version, shown, verbs = SUBRESOURCE_KINDS.get(name, ("", "", "", ("get",)))
    return group, version, f"{kind.kind}ProxyOptions" if name == "proxy" else shown, verbs


def _aggregated_subresource(kind: Kind, name: str) -> Object:
    group, version, shown, verbs = subresource_kind(kind, name)
    response = (
        {"group": group, "version": version, "kind": shown}
        if shown
        else {"group": kind.group, "version": kind.version, "kind": kind.kind}
    )
    return {"subresource": name, "responseKind": response, "verbs": list(verbs)}
