"""What the proxy works from: service ports with their usable endpoints, read from Services and
EndpointSlices. Pure.

IPv4 only: addresses of other families are left out, as by a kube-proxy that runs single-stack.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

Object = dict[str, Any]

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
HEADLESS_LABEL = "service.kubernetes.io/headless"
DEFAULT_AFFINITY_SECONDS = 10800


class Endpoint(NamedTuple):
    """Where connections can be sent, and whether that is on this node."""

    ip: str
    port: int
    local: bool = False


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of one service, with everything that decides where its connections go.

    `cluster` are the endpoints of the whole cluster that this node may use, `node` those on this node. In
    each, terminating endpoints that still serve stand in when none is ready (KEP-1669). `ready_here` are the
    addresses on this node that are ready, which is what `health_port` tells load balancers.
    """

    namespace: str
    name: str
    port_name: str
    protocol: str
    port: int
    cluster_ip: str = ""
    node_port: int = 0
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] = ()
    affinity_seconds: int = 0
    external_local: bool = False
    internal_local: bool = False
    cluster: tuple[Endpoint, ...] = ()
    node: tuple[Endpoint, ...] = ()
    health_port: int = 0
    ready_here: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """`namespace/name/tcp/port-name`, the form kube-proxy uses in its chains."""
        return f"{self.namespace}/{self.name}/{self.protocol}/{self.port_name}"

    @property
    def internal_endpoints(self) -> tuple[Endpoint, ...]:
        return self.node if self.internal_local else self.cluster

    @property
    def external_endpoints(self) -> tuple[Endpoint, ...]:
        return self.node if self.external_local else self.cluster


class Place(NamedTuple):
    """Where this proxy runs; `zone` is the node's label topology.kubernetes.io/zone, "" without one."""

    node: str
    zone: str = ""


class _Candidate(NamedTuple):
    endpoint: Endpoint
    zones: frozenset[str]
    nodes: frozenset[str]


class HealthCheck(NamedTuple):
    """What a load balancer learns on a health-check node port: how many endpoints this node has itself."""

    namespace: str
    name: str
    local_endpoints: int


def health_checks(ports: Iterable[ServicePort]) -> dict[int, HealthCheck]:
    """By node port."""
    found: dict[int, tuple[ServicePort, set[str]]] = {}
    for port in ports:
        if port.health_port:
            found.setdefault(port.health_port, (port, set()))[1].update(port.ready_here)
    return {
        number: HealthCheck(port.namespace, port.name, len(addresses))
        for number, (port, addresses) in found.items()
    }


@lru_cache(maxsize=65536)
def is_ipv4(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 4
    except ValueError:
        return False


def _ipv4(addresses: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each for each in addresses if each and is_ipv4(each)))


def is_proxied(service: Object) -> bool:
    """Whether the service has addresses of its own that this proxy serves."""
    spec = service.get("spec", {})
    if PROXY_NAME_LABEL in (service["metadata"].get("labels") or {}):
        return False
    return spec.get("type") != "ExternalName" and spec.get("clusterIP") not in (None, "", "None")


def service_ports(service: Object, slices: Iterable[Object], here: Place | str) -> list[ServicePort]:
    """The ports of `service`, whose EndpointSlices are `slices`, as seen from this place (or node)."""
    if not is_proxied(service):
        return []
    slices = [each for each in slices if each.get("addressType", "IPv4") == "IPv4"]
    place = here if isinstance(here, Place) else Place(here)
    return [_service_port(service, port, slices, place) for port in service["spec"].get("ports") or []]


def _service_port(service: Object, port: Object, slices: list[Object], here: Place) -> ServicePort:
    spec, metadata = service["spec"], service["metadata"]
    protocol = str(port.get("protocol", "TCP"))
    ready, serving = _endpoints(slices, port.get("name") or "", protocol, here.node)
    near = [each.endpoint for each in _nearby(ready, here)]
    local = [each.endpoint for each in ready if each.endpoint.local]
    external_local = spec.get("externalTrafficPolicy") == "Local"
    ingress = (service.get("status") or {}).get("loadBalancer", {}).get("ingress") or []
    cluster_ips = _ipv4(spec.get("clusterIPs") or [spec["clusterIP"]])
    return ServicePort(
        namespace=metadata["namespace"],
        name=metadata["name"],
        port_name=port.get("name") or "",
        protocol=protocol.lower(),
        port=int(port["port"]),
        cluster_ip=cluster_ips[0] if cluster_ips else "",
        node_port=int(port.get("nodePort") or 0),
        external_ips=_ipv4(spec.get("externalIPs") or ()),
        load_balancer_ips=_ipv4(each.get("ip") for each in ingress if each.get("ipMode") != "Proxy"),
        source_ranges=_ranges(spec.get("loadBalancerSourceRanges") or ()),
        affinity_seconds=_affinity(spec),
        external_local=external_local,
        internal_local=spec.get("internalTrafficPolicy") == "Local",
        cluster=_usable(near, serving),
        node=_usable(local, [each for each in serving if each.local]),
        health_port=int(spec.get("healthCheckNodePort") or 0) if external_local else 0,
        ready_here=tuple(sorted({each.ip for each in local})),
    )


def _nearby(ready: list[_Candidate], here: Place) -> list[_Candidate]:
    """Those the hints give to this node, else those they give to its zone. Hints count only when every ready
    endpoint has them and some are for us (KEP-2433 and KEP-3015: otherwise traffic would be lost).
    """
    if ready and all(each.nodes for each in ready):
        mine = [each for each in ready if here.node in each.nodes]
        if mine:
            return mine
    if here.zone and ready and all(each.zones for each in ready):
        return [each for each in ready if here.zone in each.zones] or ready
    return ready


def _usable(ready: list[Endpoint], serving: list[Endpoint]) -> tuple[Endpoint, ...]:
    return tuple(sorted(set(ready or serving)))


def _affinity(spec: Object) -> int:
    if spec.get("sessionAffinity") != "ClientIP":
        return 0
    config = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
    return int(config.get("timeoutSeconds") or DEFAULT_AFFINITY_SECONDS)


def _ranges(texts: Iterable[str]) -> tuple[str, ...]:
    """CIDRs in canonical form; those of the other family never match and are left out."""
    networks = (ipaddress.ip_network(text.strip(), strict=False) for text in texts)
    return tuple(sorted({str(network) for network in networks if network.version == 4}))


def _endpoints(
    slices: list[Object], port_name: str, protocol: str, node: str
) -> tuple[list[_Candidate], list[Endpoint]]:
    """Ready endpoints, and those that terminate but still serve, of the port called `port_name`."""
    ready: list[_Candidate] = []
    serving: list[Endpoint] = []
    for each in slices:
        number = _target_port(each, port_name, protocol)
        if number is None:
            continue
        for endpoint in each.get("endpoints") or []:
            conditions = endpoint.get("conditions") or {}
            found = [
                Endpoint(ip, number, endpoint.get("nodeName") == node)
                for ip in _ipv4(endpoint.get("addresses", ())[:1])
            ]
            # An absent condition means ready (discovery/v1 EndpointConditions).
            if conditions.get("ready", True) is not False:
                hints = endpoint.get("hints") or {}
                zones, nodes = _hinted(hints, "forZones"), _hinted(hints, "forNodes")
                ready += [_Candidate(one, zones, nodes) for one in found]
            elif conditions.get("serving") and conditions.get("terminating"):
                serving += found
    return ready, serving


def _hinted(hints: Object, field: str) -> frozenset[str]:
    return frozenset(each["name"] for each in hints.get(field) or ())


def _target_port(each: Object, port_name: str, protocol: str) -> int | None:
    for port in each.get("ports") or []:
        if (port.get("name") or "") == port_name and port.get("protocol", "TCP") == protocol:
            return int(port["port"]) if port.get("port") else None
    return None
