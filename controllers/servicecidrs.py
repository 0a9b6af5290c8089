"""ServiceCIDRs (KEP-1880): which ranges new cluster IPs may come from, and which may go.

A range is Ready from the start. One that is deleted stays, not Ready, while an address that Services hold
lies in it and in no other range; the finalizer holds it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from apimachinery import errors
from controllers import objects as o
from controllers.objects import Object
from controllers.runtime import Context, Controller, ignore_not_found
from kubeclient.resources import IPADDRESSES, SERVICECIDRS
from kubeclient.rest import MERGE

FINALIZER = "networking.k8s.io/service-cidr-finalizer"
MANAGED_BY = "ipaddress.kubernetes.io/managed-by"
ALLOCATOR = "ipallocator.k8s.io"
GRACE = 10.0
"""Seconds a range outlives its deletion: an API server that has not heard of it may still give an address."""
READY = "Kubernetes Service CIDR is ready"
IN_USE = (
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write; `again` is when to look once more, in seconds."""

    condition: Object | None = None
    finalizers: list[str] | None = None
    again: float | None = None


def networks(cidr: Object) -> list[Network]:
    return [ipaddress.ip_network(each) for each in o.spec(cidr).get("cidrs") or ()]


def blocking(cidr: Object, others: Sequence[Object], addresses: Iterable[Object]) -> list[str]:
    """The addresses that would lie in no range without this one. `others` are ranges that stay."""
    own = networks(cidr)
    kept = [net for other in others for net in networks(other)]
    found = []
    for address in addresses:
        if o.labels(address).get(MANAGED_BY) != ALLOCATOR:
            continue
        ip = ipaddress.ip_address(o.name(address))
        if any(ip in net for net in own) and not any(ip in net for net in kept):
            found.append(o.name(address))
    return found


def compute_plan(cidr: Object, everyone: Iterable[Object], addresses: Iterable[Object], now: float) -> Plan:
    """`everyone` are all ranges, this one among them or not."""
    have = list(o.finalizers(cidr))
    if not o.is_terminating(cidr):
        finalizers = None if FINALIZER in have else [*have, FINALIZER]
        return Plan(_condition(cidr, "True", "", READY, now), finalizers)
    if FINALIZER not in have:
        return Plan()
    staying = [each for each in everyone if o.uid(each) != o.uid(cidr) and not o.is_terminating(each)]
    if blocking(cidr, staying, addresses):
        return Plan(_condition(cidr, "False", "Terminating", IN_USE, now))
    left = o.parse_time(o.meta(cidr)["deletionTimestamp"]) + GRACE - now
    if left > 0:
        return Plan(again=left)
    return Plan(finalizers=[name for name in have if name != FINALIZER])


def _condition(cidr: Object, status: str, reason: str, message: str, now: float) -> Object | None:
    """The Ready condition; None when the object says so already."""
    if o.condition_status(cidr, "Ready") == status:
        return None
    stamp = o.format_time(now)
    return {
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": stamp,
    }


class ServiceCIDRController(Controller):
    """Keys are ranges. An address that goes wakes all that are on their way out."""

    name: ClassVar[str] = "service-cidr-controller"
    account: ClassVar[str] = "service-cidrs-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.cidrs = self.watch(SERVICECIDRS, self._on_cidr)
        self.addresses = self.watch(IPADDRESSES, lambda _: self._wake_terminating())

    async def sync(self, key: str) -> float | None:
        cidr = self.cidrs.store.get(key)
        if cidr is None:
            return None
        addresses = self.addresses.store.list()
        plan = compute_plan(cidr, self.cidrs.store.list(), addresses, self.clock.now())
        try:
            return await self._execute(cidr, plan)
        except errors.StatusError as error:
            if error.code != 405:
                raise
            # A server whose range is its flag: it cannot be deleted there, so that there is nothing to hold.
            self.log.info("the API server lets nobody write ServiceCIDRs")
            return None

    async def _execute(self, cidr: Object, plan: Plan) -> float | None:
        if plan.finalizers is not None and o.is_terminating(cidr):
            # An address the cache does not know yet would lie in no range, and this cannot be taken back.
            live = (await self.client.list(IPADDRESSES))["items"]
            plan = compute_plan(cidr, self.cidrs.store.list(), live, self.clock.now())
        if plan.condition is not None:
            conditions = o.set_condition(o.status(cidr).get("conditions") or [], plan.condition)
            await self._patch(cidr, {"status": {"conditions": conditions}}, "status")
            if o.condition_status(cidr, "Ready") and plan.condition["status"] == "False":
                self.event(cidr, SERVICECIDRS, "KubernetesServiceCIDRError", IN_USE, "Warning")
        if plan.finalizers is not None:
            await self._patch(cidr, {"metadata": {"finalizers": plan.finalizers}})
        return plan.again

    async def _patch(self, cidr: Object, change: Object, subresource: str | None = None) -> None:
        body = {**change, "metadata": {**change.get("metadata", {}), "uid": o.uid(cidr)}}
        if subresource is None:
            body["metadata"]["resourceVersion"] = o.meta(cidr)["resourceVersion"]
        name = o.name(cidr)
        await ignore_not_found(
            self.client.patch(SERVICECIDRS, name, body, content_type=MERGE, subresource=subresource)
        )

    def _on_cidr(self, cidr: Object) -> None:
        self.enqueue(cidr)
        self._wake_terminating()  # a new range may hold what kept another from going

    def _wake_terminating(self) -> None:
        for cidr in self.cidrs.store.list():
            if o.is_terminating(cidr):
                self.enqueue(cidr)
