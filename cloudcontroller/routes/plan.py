"""Which routes are missing, which are stale. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from apimachinery import meta
from cloudcontroller.cloud import Route
from cloudcontroller.nodes import conditions
from cloudcontroller.nodes.conditions import Object

CONDITION = "NetworkUnavailable"


@dataclass(frozen=True, slots=True)
class Plan:
    """Routes to make and to remove; `present` has each node's routes (by node name), made or to be made."""

    create: tuple[Route, ...]
    delete: tuple[Route, ...]
    wanted: dict[str, tuple[Route, ...]]


def pod_cidrs(node: Object) -> Sequence[str]:
    """`spec.podCIDRs`, or the single `spec.podCIDR`."""
    spec = node.get("spec") or {}
    return spec.get("podCIDRs") or ([spec["podCIDR"]] if spec.get("podCIDR") else [])


def internal_ip(node: Object, version: int) -> str | None:
    for address in (node.get("status") or {}).get("addresses") or ():
        if (
            address.get("type") == "InternalIP"
            and ipaddress.ip_address(address["address"]).version == version
        ):
            return str(address["address"])
    return None


def compute_plan(nodes: Sequence[Object], routes: Sequence[Route], cluster_cidr: str) -> Plan:
    """One route per pod CIDR. Only routes inside the cluster CIDR are ours to remove."""
    cluster = ipaddress.ip_network(cluster_cidr)
    wanted: dict[str, tuple[Route, ...]] = {}
    for node in nodes:
        mine = []
        for cidr in pod_cidrs(node):
            target = internal_ip(node, ipaddress.ip_network(cidr).version)
            if target:
                mine.append(Route(cidr, target))
        wanted[meta.name_of(node)] = tuple(mine)
    needed = {route for mine in wanted.values() for route in mine}
    claimed = {cidr for node in nodes for cidr in pod_cidrs(node)}
    existing = set(routes)
    stale = {
        route
        for route in existing - needed
        if _inside(route.cidr, cluster)
        # A CIDR whose node merely has no address at the moment keeps its route; a moved one is replaced
        # below.
        and (route.cidr not in claimed)
    }
    return Plan(tuple(sorted(needed - existing)), tuple(sorted(stale)), wanted)


def _inside(cidr: str, cluster: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    network = ipaddress.ip_network(cidr)
    if isinstance(network, ipaddress.IPv4Network) and isinstance(cluster, ipaddress.IPv4Network):
        return network.subnet_of(cluster)
    if isinstance(network, ipaddress.IPv6Network) and isinstance(cluster, ipaddress.IPv6Network):
        return network.subnet_of(cluster)
    return False


def network_condition(node: Object, routed: bool, now: float) -> list[Object] | None:
    """The node's conditions with NetworkUnavailable set; None when it says so already."""
    current = conditions.find(node, CONDITION)
    status = "False" if routed else "True"
    if current is not None and current.get("status") == status:
        return None
    stamp = meta.now_rfc3339(now)
    fresh = {
        "type": CONDITION,
        "status": status,
        "reason": "RouteCreated" if routed else "NoRouteCreated",
        "message": "RouteController created a route"
        if routed
        else "RouteController failed to create a route",
        "lastHeartbeatTime": stamp,
        "lastTransitionTime": stamp,
    }
    return conditions.replaced(node, fresh)
