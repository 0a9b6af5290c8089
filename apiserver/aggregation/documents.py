"""What extension servers say they serve, in the forms this server's own documents have. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]
GroupVersion = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Documents:
    """Of one group version. `resources` in the form of aggregated discovery; `openapi_v3` is the value of
    its entry in the index of OpenAPI v3 ("" for none); `definitions` those of OpenAPI v2.
    """

    resources: tuple[Object, ...] = ()
    openapi_v3: str = ""
    definitions: Mapping[str, Object] = field(default_factory=dict)


def aggregated_resources(listed: Iterable[Object], group_version: GroupVersion) -> tuple[Object, ...]:
    """The resources of an APIResourceList as `apidiscovery.k8s.io` has them."""
    out: dict[str, Object] = {}
    below: list[tuple[str, str, Object]] = []
    for item in listed:
        parent, slash, name = str(item.get("name", "")).partition("/")
        if slash:
            below.append((parent, name, item))
        else:
            out[parent] = _resource(item, group_version)
    for parent, name, item in below:
        entry = {
            "subresource": name,
            "responseKind": _kind(item, group_version),
            "verbs": list(item.get("verbs") or ()),
        }
        if parent in out:
            out[parent].setdefault("subresources", []).append(entry)
    return tuple(out.values())


def _resource(item: Object, group_version: GroupVersion) -> Object:
    out: Object = {
        "resource": item["name"],
        "responseKind": _kind(item, group_version),
        "scope": "Namespaced" if item.get("namespaced") else "Cluster",
        "singularResource": item.get("singularName") or "",
        "verbs": list(item.get("verbs") or ()),
    }
    for name in ("shortNames", "categories"):
        if item.get(name):
            out[name] = list(item[name])
    return out


def _kind(item: Object, group_version: GroupVersion) -> Object:
    group, version = group_version
    return {
        "group": item.get("group") or group,
        "version": item.get("version") or version,
        "kind": item.get("kind", ""),
    }


def openapi_url(index: Object, group_version: GroupVersion) -> str:
    """Where an extension server's document of its group version is, by its index; "" when it has none."""
    entry = (index.get("paths") or {}).get(openapi_path(group_version))
    return str(entry.get("serverRelativeURL", "")) if isinstance(entry, dict) else ""


def openapi_path(group_version: GroupVersion) -> str:
    return f"apis/{group_version[0]}/{group_version[1]}"
