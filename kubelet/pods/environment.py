"""The environment of a container: where its values come from and how they refer to one another.

Order and precedence are Kubernetes': service variables first, then `envFrom` in order, then `env` in order;
a later name wins, and an `env` value may refer by `$(NAME)` to what came before it.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kubelet.pods.expand import expand
from kubelet.pods.resources import milli, whole
from kubelet.pods.spec import known_containers


class ConfigError(Exception):
    """A container cannot be configured as its pod asks; the message says which reference is at fault."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What the environment may refer to: the objects (None: does not exist) and facts about pod and node."""

    configmaps: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    services: Iterable[Mapping[str, Any]] = ()
    pod_ips: tuple[str, ...] = ()
    host_ips: tuple[str, ...] = ()
    allocatable: Mapping[str, str] = field(default_factory=dict)


def references(spec: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Names of the ConfigMaps and Secrets that the environments of a pod refer to."""
    configmaps: set[str] = set()
    secrets: set[str] = set()
    for container in known_containers(spec):
        for source in container.get("envFrom", []):
            if "configMapRef" in source:
                configmaps.add(source["configMapRef"]["name"])
            if "secretRef" in source:
                secrets.add(source["secretRef"]["name"])
        for variable in container.get("env", []):
            origin = variable.get("valueFrom") or {}
            if "configMapKeyRef" in origin:
                configmaps.add(origin["configMapKeyRef"]["name"])
            if "secretKeyRef" in origin:
                secrets.add(origin["secretKeyRef"]["name"])
    return configmaps, secrets


def environment(pod: Mapping[str, Any], container: Mapping[str, Any], sources: Sources) -> dict[str, str]:
    """The variables of one container, or `ConfigError`."""
    spec = pod["spec"]
    linked = spec.get("enableServiceLinks", True)
    out = service_variables(
        sources.services, pod["metadata"].get("namespace", "default"), linked is not False
    )
    for source in container.get("envFrom", []):
        out.update(_all_of(source, sources))
    for variable in container.get("env", []):
        value = _value(pod, container, variable, sources, out)
        if value is not None:
            out[variable["name"]] = value
    return out


def service_variables(services: Iterable[Mapping[str, Any]], namespace: str, linked: bool) -> dict[str, str]:
    """`NAME_SERVICE_HOST` and its kin: of `default/kubernetes` always, of the pod's own namespace when
    linked.
    """
    out: dict[str, str] = {}
    for service in services:
        metadata, spec = service["metadata"], service.get("spec") or {}
        address = spec.get("clusterIP", "")
        if address in ("", "None") or not spec.get("ports"):
            continue
        is_master = metadata.get("namespace") == "default" and metadata["name"] == "kubernetes"
        if is_master or (linked and metadata.get("namespace") == namespace):
            out.update(_service(metadata["name"], address, spec["ports"]))
    return out


def _service(name: str, address: str, ports: list[Mapping[str, Any]]) -> dict[str, str]:
    prefix = name.upper().replace("-", "_")
    out = {f"{prefix}_SERVICE_HOST": address, f"{prefix}_SERVICE_PORT": str(ports[0]["port"])}
    first = ports[0]
    scheme = first.get("protocol", "TCP").lower()
    out[f"{prefix}_PORT"] = f"{scheme}://{address}:{first['port']}"
    for port in ports:
        if port.get("name"):
            out[f"{prefix}_SERVICE_PORT_{port['name'].upper().replace('-', '_')}"] = str(port["port"])
        protocol = port.get("protocol", "TCP")
        one = f"{prefix}_PORT_{port['port']}_{protocol}"
        out[one] = f"{protocol.lower()}://{address}:{port['port']}"
        out[f"{one}_PROTO"] = protocol.lower()
        out[f"{one}_PORT"] = str(port["port"])
        out[f"{one}_ADDR"] = address
    return out


def _all_of(source: Mapping[str, Any], sources: Sources) -> dict[str, str]:
    prefix = source.get("prefix", "")
    if "configMapRef" in source:
        reference = source["configMapRef"]
        held, what = sources.configmaps.get(reference["name"]), "configmap"
        data = dict((held or {}).get("data") or {})
    elif "secretRef" in source:
        reference = source["secretRef"]
        held, what = sources.secrets.get(reference["name"]), "secret"
        data = {k: _decode(v) for k, v in ((held or {}).get("data") or {}).items()}
    else:
        return {}
    if held is None and not reference.get("optional"):
        raise ConfigError(f'{what} "{reference["name"]}" not found')
    return {prefix + key: value for key, value in data.items()}


def _decode(value: str) -> str:
    return base64.b64decode(value).decode("utf-8", "surrogateescape")


def _value(
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    variable: Mapping[str, Any],
    sources: Sources,
    before: Mapping[str, str],
) -> str | None:
    origin = variable.get("valueFrom")
    if not origin:
        return expand(variable.get("value", ""), before)
    if "fieldRef" in origin:
        return field_value(pod, origin["fieldRef"]["fieldPath"], sources)
    if "resourceFieldRef" in origin:
        return resource_value(pod, container, origin["resourceFieldRef"], sources.allocatable)
    if "configMapKeyRef" in origin:
        return _key(origin["configMapKeyRef"], sources.configmaps, "configmap", pod, secret=False)
    if "secretKeyRef" in origin:
        return _key(origin["secretKeyRef"], sources.secrets, "secret", pod, secret=True)
    raise ConfigError(f"env {variable['name']}: valueFrom {sorted(origin)} is not supported")


def _key(
    reference: Mapping[str, Any],
    objects: Mapping[str, Mapping[str, Any] | None],
    what: str,
    pod: Mapping[str, Any],
    *,
    secret: bool,
) -> str | None:
    held = objects.get(reference["name"])
    optional = bool(reference.get("optional"))
    if held is None:
        if optional:
            return None
        raise ConfigError(f'{what} "{reference["name"]}" not found')
    value = (held.get("data") or {}).get(reference["key"])
    if value is None:
        if optional:
            return None
        kind = "Secret" if secret else "ConfigMap"
        namespace = pod["metadata"].get("namespace", "")
        raise ConfigError(f"couldn't find key {reference['key']} in {kind} {namespace}/{reference['name']}")
    return _decode(value) if secret else str(value)


def field_value(pod: Mapping[str, Any], path: str, sources: Sources) -> str:
    """A downward-API field of the pod."""
    metadata, spec = pod["metadata"], pod["spec"]
    simple = {
        "metadata.name": metadata.get("name", ""),
        "metadata.namespace": metadata.get("namespace", ""),
        "metadata.uid": metadata.get("uid", ""),
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", "default"),
        "status.hostIP": sources.host_ips[0] if sources.host_ips else "",
        "status.hostIPs": ",".join(sources.host_ips),
        "status.podIP": sources.pod_ips[0] if sources.pod_ips else "",
        "status.podIPs": ",".join(sources.pod_ips),
    }
    if path in simple:
        return str(simple[path])
    for name in ("labels", "annotations"):
        held: Mapping[str, str] = metadata.get(name) or {}
        if path == f"metadata.{name}":
            return "\n".join(f'{key}="{_escape(held[key])}"' for key in sorted(held))
        if path.startswith(f"metadata.{name}['") and path.endswith("']"):
            return held.get(path[len(f"metadata.{name}['") : -2], "")
    raise ConfigError(f"unsupported fieldPath: {path}")


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def resource_value(
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    reference: Mapping[str, Any],
    allocatable: Mapping[str, str],
) -> str:
    """A container's request or limit, divided and rounded up; a missing limit is what the node can give."""
    name = reference.get("containerName") or container["name"]
    everything = known_containers(pod["spec"])
    target = next((c for c in everything if c["name"] == name), None)
    if target is None:
        raise ConfigError(f"container {name} not found")
    kind, _, resource = str(reference["resource"]).partition(".")
    if kind not in ("limits", "requests") or not resource:
        raise ConfigError(f"unsupported container resource: {reference['resource']}")
    resources = target.get("resources") or {}
    amount = (resources.get(kind) or {}).get(resource)
    if amount is None and kind == "requests":
        amount = (resources.get("limits") or {}).get(resource, "0")
    if amount is None:
        amount = allocatable.get(resource, "0")
    divisor = reference.get("divisor", "1")
    divisor = "1" if str(divisor) in ("", "0") else divisor
    if resource == "cpu":
        return str(-(-milli(amount) // max(1, milli(divisor))))
    return str(-(-whole(amount) // max(1, whole(divisor))))
