"""What the API server serves, asked of the API server: every resource with its verbs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from apimachinery import errors
from kubeclient.resources import GVR
from kubeclient.rest import RestClient

_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


@dataclass(frozen=True, slots=True)
class Discovered:
    """One top-level resource in its group's preferred version."""

    gvr: GVR
    verbs: frozenset[str]


@dataclass(slots=True)
class Surface:
    """All resources found, and the group versions that could not be asked."""

    resources: list[Discovered] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def by_kind(self, api_version: str, kind: str) -> GVR | None:
        """The resource an owner reference means; any served version of its group will do."""
        group = api_version.rpartition("/")[0]
        return next((r.gvr for r in self.resources if r.gvr.group == group and r.gvr.kind == kind), None)


async def discover(client: RestClient) -> Surface:
    """Ask `/api` and `/apis`, in aggregated form (KEP-3352): two questions. A server that answers in the form
    before that is asked for each group's preferred version too.

    A group that fails is in `failures`; the others are there. Raises what the two requests raise.
    """
    surface = Surface()
    for path in ("/api", "/apis"):
        found = await fetch(client, path, accept=f"{_AGGREGATED},application/json")
        if found.get("kind") == "APIGroupDiscoveryList":
            for group in found.get("items") or ():
                _add_group(surface, group)
        elif path == "/api":
            for version in found.get("versions") or ():
                await _add(client, surface, "", str(version), f"/api/{version}")
        else:
            for group in found.get("groups") or ():
                version = (group.get("preferredVersion") or group["versions"][0])["version"]
                await _add(client, surface, group["name"], version, f"/apis/{group['name']}/{version}")
    return surface


def _add_group(surface: Surface, group: dict[str, Any]) -> None:
    """A group of an aggregated answer, its preferred version first. A stale one shows what was, and nobody
    answers for it now.
    """
    if not group.get("versions"):
        return
    name, preferred = (group.get("metadata") or {}).get("name", ""), group["versions"][0]
    version = preferred["version"]
    if preferred.get("freshness") == "Stale":
        surface.failures.append(f"/apis/{name}/{version}: stale GroupVersion discovery: {name}/{version}")
        return
    for entry in preferred.get("resources") or ():
        kind = (entry.get("responseKind") or {}).get("kind", "")
        gvr = GVR(name, version, entry["resource"], entry.get("scope") == "Namespaced", kind)
        surface.resources.append(Discovered(gvr, frozenset(entry.get("verbs") or ())))


async def _add(client: RestClient, surface: Surface, group: str, version: str, path: str) -> None:
    try:
        found = await fetch(client, path)
    except errors.StatusError as error:
        surface.failures.append(f"{path}: {error}")
        return
    for entry in found.get("resources") or ():
        if "/" in entry["name"]:
            continue
        gvr = GVR(group, version, entry["name"], bool(entry["namespaced"]), entry["kind"])
        surface.resources.append(Discovered(gvr, frozenset(entry.get("verbs") or ())))


async def fetch(client: RestClient, path: str, *, accept: str = "application/json") -> dict[str, Any]:
    """GET a path outside the resources.

    Raises StatusError for an error status, and for an answer that is no JSON object: an aggregated API server
    that is not there is answered for in plain text.
    """
    response = await client.raw("GET", path, headers={"Accept": accept})
    try:
        body = response.json() if response.content else {}
    except ValueError:
        body = None
    if isinstance(body, dict) and response.status < 400:
        return body
    if isinstance(body, dict) and body.get("kind") == "Status":
        raise errors.StatusError(body)
    raise errors.internal_error(f"GET {path}: {response.status}")
