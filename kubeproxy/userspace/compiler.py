"""Service ports to listeners and where each leads. Pure.

What the rules of the other back ends decide for a packet is here a `Route`: who may use which endpoints. A
service without endpoints has no route but keeps its address on the node: with nobody listening there, the
kernel itself refuses, as the rules of the others do.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import NamedTuple

from kubeproxy.compiler import Settings
from kubeproxy.model import Endpoint, ServicePort

RELAYED = ("tcp", "udp")
NODE = ""
"""The address of a front that is served on the node's own addresses: a node port's."""


class Front(NamedTuple):
    """Where clients of a service connect to."""

    ip: str
    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class Route:
    """Where connections to a front go. `inside` is for pods and the host itself, `outside` for all others
    (externalTrafficPolicy). With `source_ranges` nobody else is let in. `title` is the service port's, which
    clients are remembered for.
    """

    title: str
    inside: tuple[Endpoint, ...]
    outside: tuple[Endpoint, ...]
    affinity_seconds: int = 0
    source_ranges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What one node serves. `addresses` must be the node's; `unserved` are ports of other protocols."""

    routes: Mapping[Front, Route] = field(default_factory=dict)
    addresses: frozenset[str] = frozenset()
    unserved: tuple[str, ...] = ()


class Difference(NamedTuple):
    """What turns one set of listeners into another."""

    opened: dict[Front, Route]
    closed: list[Front]
    rerouted: dict[Front, Route]


def compile_port(port: ServicePort, settings: Settings) -> Plan:
    """What is served for one service port."""
    addresses = frozenset(_addresses(port))
    if port.protocol not in RELAYED:
        return Plan({}, addresses, (port.title,))
    routes: dict[Front, Route] = {}
    for ip in (*port.external_ips, *port.load_balancer_ips):
        ranges = port.source_ranges if ip in port.load_balancer_ips else ()
        routes[Front(ip, port.protocol, port.port)] = _external(port, ranges)
    if port.node_port:
        routes[Front(NODE, port.protocol, port.node_port)] = _external(port)
    if port.cluster_ip:
        ends = port.internal_endpoints
        routes[Front(port.cluster_ip, port.protocol, port.port)] = _route(port, ends, ends)
    # Whoever is outside never has an endpoint that nobody inside has.
    leading = {front: route for front, route in routes.items() if route.inside}
    return Plan(leading, addresses)


def assemble(plans: Iterable[Plan], settings: Settings) -> Plan:
    """Join what is served. Where two services claim one front, the first keeps it."""
    routes: dict[Front, Route] = {}
    addresses: set[str] = set()
    unserved: list[str] = []
    for plan in plans:
        for front, route in plan.routes.items():
            routes.setdefault(front, route)
        addresses |= plan.addresses
        unserved += plan.unserved
    return Plan(routes, frozenset(addresses), tuple(unserved))


def _addresses(port: ServicePort) -> list[str]:
    return [each for each in (port.cluster_ip, *port.external_ips, *port.load_balancer_ips) if each]


def _external(port: ServicePort, ranges: tuple[str, ...] = ()) -> Route:
    # Pods and the host itself are inside already: for them the external policy does not apply.
    return _route(port, port.cluster, port.external_endpoints, ranges)


def _route(
    port: ServicePort,
    inside: tuple[Endpoint, ...],
    outside: tuple[Endpoint, ...],
    ranges: tuple[str, ...] = (),
) -> Route:
    return Route(port.title, inside, outside, port.affinity_seconds, ranges)


def foreign(plan: Plan, own: Iterable[str], networks: Iterable[str], settings: Settings) -> frozenset[str]:
    """The addresses of services that this node must not take, since other machines of its `networks` or pods
    have them: all that is sent there would end here, on whatever port, where rules would take one port.
    """
    taken = (*networks, *settings.cluster_cidrs)
    return frozenset(ip for ip in plan.addresses - set(own) if within(ip, taken))


def listeners(plan: Plan, own: Iterable[str], settings: Settings) -> dict[Front, Route]:
    """The fronts with the node's `own` addresses in place of NODE: all but loopback, within
    nodePortAddresses. One that is also an endpoint of its service is left to that. No route leads to a front:
    a relay could be made to call itself, where rules translate once.
    """
    hosts = [ip for ip in own if _serves_node_ports(ip, settings.node_port_networks)]
    found = {front: route for front, route in plan.routes.items() if front.ip != NODE}
    for front, route in plan.routes.items():
        for ip in hosts if front.ip == NODE else ():
            found.setdefault(front._replace(ip=ip), route)
    kept = {front: route for front, route in found.items() if not _served_at(route.inside, {front}, front)}
    return {front: _without(route, front, kept.keys()) for front, route in kept.items()}


def _without(route: Route, front: Front, fronts: Set[Front]) -> Route:
    looping = _served_at(route.inside, fronts, front)
    if not looping:
        return route
    inside, outside = (
        tuple(each for each in ends if each not in looping) for ends in (route.inside, route.outside)
    )
    return replace(route, inside=inside, outside=outside)


def _served_at(ends: Iterable[Endpoint], fronts: Set[Front], front: Front) -> set[Endpoint]:
    """The endpoints that are among `fronts`, for the protocol of `front`."""
    return {each for each in ends if Front(each.ip, front.protocol, each.port) in fronts}


def difference(old: Mapping[Front, Route], new: Mapping[Front, Route]) -> Difference:
    """Listeners that stay are not in it, and those whose route alone changed are not closed."""
    return Difference(
        opened={front: route for front, route in new.items() if front not in old},
        closed=[front for front in old if front not in new],
        rerouted={front: new[front] for front, route in old.items() if new.get(front, route) != route},
    )


def eligible(route: Route, client: str, own: Iterable[str], settings: Settings) -> tuple[Endpoint, ...]:
    """The endpoints that `client` may reach through `route`, in no order; () when it must be turned away.
    `own` are the addresses of this node.
    """
    if route.source_ranges and not within(client, route.source_ranges):
        return ()
    if client in own or within(client, ("127.0.0.0/8", *settings.cluster_cidrs)):
        return route.inside
    return route.outside


def within(ip: str, networks: Iterable[str]) -> bool:
    address = ipaddress.IPv4Address(ip)
    return any(address in _network(each) for each in networks)


def _serves_node_ports(ip: str, networks: tuple[str, ...]) -> bool:
    return not within(ip, ("127.0.0.0/8",)) and (not networks or within(ip, networks))


@lru_cache(maxsize=4096)
def _network(text: str) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(text)
