"""What Endpoints and EndpointSlices have in common: which pods are behind a Service, on which ports. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from apimachinery import selectors
from controllers import objects as o
from controllers import pods
from controllers.objects import Object

HEADLESS_LABEL = "service.kubernetes.io/headless"
TOLERATE_UNREADY = "service.alpha.kubernetes.io/tolerate-unready-endpoints"
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"


@dataclass(frozen=True, slots=True, order=True)
class Port:
    """One resolved port of a Service on a pod."""

    name: str
    protocol: str
    port: int | None  # None: a headless Service without ports
    app_protocol: str | None = None


def selector_of(service: Object) -> Mapping[str, str]:
    return o.spec(service).get("selector") or {}


def is_headless(service: Object) -> bool:
    return o.spec(service).get("clusterIP") == "None"


def is_external(service: Object) -> bool:
    return o.spec(service).get("type") == "ExternalName"


def publishes_unready(service: Object) -> bool:
    if o.annotations_of(service).get(TOLERATE_UNREADY) == "true":
        return True
    return bool(o.spec(service).get("publishNotReadyAddresses"))


def members(service: Object, candidates: Iterable[Object]) -> Iterator[Object]:
    """Pods of the Service's namespace that its selector picks."""
    matches = selectors.from_set(selector_of(service)).matches
    return (pod for pod in candidates if matches(o.labels(pod)))


def selecting(services: Iterable[Object], pod: Object) -> Iterator[Object]:
    """Services whose selector picks this pod."""
    for service in services:
        if selector_of(service) and selectors.from_set(selector_of(service)).matches(o.labels(pod)):
            yield service


def pod_ips(pod: Object, family: str) -> list[str]:
    """The pod's addresses of one family, "IPv4" or "IPv6"."""
    found = [entry["ip"] for entry in o.status(pod).get("podIPs") or () if entry.get("ip")]
    single = o.status(pod).get("podIP")
    if not found and single:
        found = [single]
    return [ip for ip in found if f"IPv{ipaddress.ip_address(ip).version}" == family]


def ip_families(service: Object) -> Sequence[str]:
    families = o.spec(service).get("ipFamilies")
    if families:
        return tuple(families)
    address = o.spec(service).get("clusterIP")
    if address and address != "None":
        return (f"IPv{ipaddress.ip_address(address).version}",)
    return ("IPv4",)


def resolve_ports(service: Object, pod: Object) -> tuple[Port, ...]:
    """The Service's ports as this pod serves them; a named port the pod does not have is left out."""
    out = []
    for port in o.spec(service).get("ports") or ():
        number = target_port(port, pod)
        if number is not None:
            protocol = str(port.get("protocol") or "TCP")
            out.append(Port(str(port.get("name") or ""), protocol, number, port.get("appProtocol")))
    return tuple(sorted(out, key=lambda p: (p.name, p.protocol, p.port or 0)))


def target_port(port: Object, pod: Object) -> int | None:
    """`targetPort` on this pod: a number, a container port's name, or the Service port when absent."""
    target = port.get("targetPort")
    if target in (None, 0, ""):
        return int(port["port"])
    if isinstance(target, int):
        return target
    for container in _containers(pod):
        for candidate in container.get("ports") or ():
            same_protocol = (candidate.get("protocol") or "TCP") == (port.get("protocol") or "TCP")
            if candidate.get("name") == target and same_protocol:
                return int(candidate["containerPort"])
    return None


def _containers(pod: Object) -> Iterator[Object]:
    yield from o.spec(pod).get("containers") or ()
    for container in o.spec(pod).get("initContainers") or ():
        if container.get("restartPolicy") == "Always":  # a sidecar (KEP-753)
            yield container


def hostname_of(service: Object, pod: Object) -> str | None:
    """The name under the Service's domain that this pod asked for (`hostname` and `subdomain`)."""
    wanted = o.spec(pod).get("hostname")
    return str(wanted) if wanted and o.spec(pod).get("subdomain") == o.name(service) else None


def target_reference(pod: Object) -> Object:
    return {"kind": "Pod", "namespace": o.namespace(pod), "name": o.name(pod), "uid": o.uid(pod)}


def trigger_time(service: Object, behind: Iterable[Object]) -> str | None:
    """When the newest of the things that decide this Service's endpoints changed (its pods' readiness,
    itself).
    """
    times = [o.created_at(service)]
    for pod in behind:
        found = o.condition(pod, "Ready")
        if found and found.get("lastTransitionTime"):
            times.append(o.parse_time(found["lastTransitionTime"]))
    newest = max(times)
    return o.format_time(newest) if newest else None


def concerns_endpoints(old: Object, new: Object) -> bool:
    """Did a pod update change anything an endpoint shows?"""
    return _shown(old) != _shown(new)


def _shown(pod: Object) -> tuple[object, ...]:
    return (
        o.labels(pod),
        o.status(pod).get("podIPs") or o.status(pod).get("podIP"),
        pods.node_name(pod),
        pods.is_ready(pod),
        pods.is_finished(pod),
        o.is_terminating(pod),
        o.spec(pod).get("hostname"),
    )
