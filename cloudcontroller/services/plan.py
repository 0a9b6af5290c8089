"""What balancer a Service asks for, which nodes stand behind it, and which address it gets. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from apimachinery import meta
from cloudcontroller.cloud import Balancer, Listener
from cloudcontroller.routes.plan import internal_ip

FINALIZER = "service.kubernetes.io/load-balancer-cleanup"
EXCLUDED = "node.kubernetes.io/exclude-from-external-load-balancers"
TO_BE_DELETED = "ToBeDeletedByClusterAutoscaler"
# kube-proxy's own health (KEP-3836): it says no on a node that is going.
PROXY_HEALTH = (10256, "/healthz")

Object = dict[str, Any]


class AddressUnavailable(ValueError):
    """No address can be given; the text is what the Service's event says."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a Service asks of the service controller."""

    balancer: bool
    finalizer: bool  # whether our finalizer is on it now
    going: bool


def wish(service: Object) -> Wish:
    """Services with a loadBalancerClass are somebody else's (KEP-1959)."""
    spec, going = service.get("spec") or {}, meta.is_deleting(service)
    ours = spec.get("type") == "LoadBalancer" and not spec.get("loadBalancerClass")
    return Wish(ours and not going, FINALIZER in meta.finalizers_of(service), going)


def ingress_ips(service: Mapping[str, Any]) -> list[str]:
    """The addresses in `status.loadBalancer`."""
    held = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    return [each["ip"] for each in held if each.get("ip")]


def is_eligible(node: Mapping[str, Any]) -> bool:
    """Whether balancers may send to the node at all (KEP-3458: readiness is for health checks to find
    out)."""
    spec = node.get("spec") or {}
    excluded = EXCLUDED in meta.labels_of(node) or meta.is_deleting(node)
    leaving = any(each.get("key") == TO_BE_DELETED for each in spec.get("taints") or ())
    return not excluded and not leaving and bool(spec.get("providerID"))


def targets(nodes: Iterable[Object]) -> tuple[str, ...]:
    """Addresses of the eligible nodes."""
    found = (internal_ip(node, 4) for node in nodes if is_eligible(node))
    return tuple(sorted(address for address in found if address))


def health_check(service: Mapping[str, Any]) -> tuple[int, str]:
    """Port and path at which a node says whether it takes this service's traffic."""
    spec = service["spec"]
    if spec.get("externalTrafficPolicy") == "Local" and spec.get("healthCheckNodePort"):
        return int(spec["healthCheckNodePort"]), "/healthz"
    return PROXY_HEALTH


def balancer(service: Mapping[str, Any], address: str, behind: Sequence[str]) -> Balancer:
    """The balancer the service asks for."""
    ports = service["spec"].get("ports") or ()
    listeners = {Listener(str(port.get("protocol", "TCP")), int(port["port"])) for port in ports}
    port, path = health_check(service)
    return Balancer(address, tuple(sorted(listeners)), tuple(behind), port, path)


def choose_address(
    service: Mapping[str, Any],
    pool: Sequence[IPv4Address],
    taken: Collection[str],
    held: Sequence[str] = (),
) -> str:
    """The address the service has (`held`, or in its status), else the one it asks for
    (`spec.loadBalancerIP`), else the lowest free one; `taken` are those of others.

    Raises AddressUnavailable.
    """
    wanted = service["spec"].get("loadBalancerIP") or ""
    have = [ip for ip in (*held, *ingress_ips(service)) if ip not in taken and _within(ip, pool)]
    if have and wanted in ("", have[0]):
        return have[0]
    if wanted:
        if not _within(wanted, pool):
            raise AddressUnavailable(f"requested address {wanted} is not in the pool of load balancers")
        if wanted in taken:
            raise AddressUnavailable(f"requested address {wanted} is held by another service")
        return str(wanted)
    for address in pool:
        if str(address) not in taken:
            return str(address)
    raise AddressUnavailable(f"all {len(pool)} addresses of load balancers are in use")


def _within(text: str, pool: Sequence[IPv4Address]) -> bool:
    return any(str(address) == text for address in pool)


def status_of(address: str) -> Object:
    """`status.loadBalancer` of a service with this address. Mode VIP: packets arrive with it as destination,
    so kube-proxy has to know it (KEP-1860)."""
    return {"ingress": [{"ip": address, "ipMode": "VIP"}]}
