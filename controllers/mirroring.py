"""EndpointSlices for Endpoints that somebody writes by hand, for Services without selector."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from controllers import endpointslices as es
from controllers import objects as o
from controllers import services as sv
from controllers.objects import Object
from controllers.runtime import SETTLE_RETRY, Context, Controller, in_namespace
from controllers.slices import SlicePlan, SliceWriter
from kubeclient.resources import ENDPOINTS, ENDPOINTSLICES, SERVICES

MANAGER = "endpointslicemirroring-controller.k8s.io"
SKIP = "endpointslice.kubernetes.io/skip-mirror"
LEADER = "control-plane.alpha.kubernetes.io/leader"
_OWN_NOTES = ("kubectl.kubernetes.io/last-applied-configuration", sv.TRIGGER_TIME)

Group = tuple[str, es.Ports]  # address family, ports


@dataclass(frozen=True, slots=True)
class Plan(SlicePlan):
    """`skipped` addresses were too many or no addresses."""

    skipped: int = 0


def is_mirrored(endpoints: Object | None, service: Object | None) -> bool:
    """Not those a controller derives from a selector, nor a leader's lock, nor what asks to be left alone."""
    if endpoints is None or service is None or sv.selector_of(service):
        return False
    return o.labels(endpoints).get(SKIP) != "true" and LEADER not in o.annotations_of(endpoints)


def compute_plan(endpoints: Object, existing: Sequence[Object], limit: int) -> Plan:
    """One slice per family and set of ports; `limit` is the most addresses taken from a subset."""
    wanted, skipped = _groups(endpoints, limit)
    create, update, delete = [], [], []
    free: dict[Group, Object] = {}
    for found in existing:
        group = (str(found.get("addressType")), es.ports_of(found))
        if group in wanted and group not in free:
            free[group] = found
        elif not o.is_terminating(found):
            delete.append(found)
    for group, members in wanted.items():
        kept = free.get(group)
        built = _slice(endpoints, group, members, kept)
        if kept is None:
            create.append(built)
        elif built != kept:
            update.append(built)
    return Plan(tuple(create), tuple(update), tuple(delete), skipped)


def _groups(endpoints: Object, limit: int) -> tuple[dict[Group, list[Object]], int]:
    out: dict[Group, list[Object]] = {}
    skipped = 0
    for subset in endpoints.get("subsets") or ():
        listed = [(address, True) for address in subset.get("addresses") or ()]
        listed += [(address, False) for address in subset.get("notReadyAddresses") or ()]
        skipped += max(len(listed) - limit, 0)
        ports = es.ports_of(subset)
        for address, ready in listed[:limit]:
            try:
                family = f"IPv{ipaddress.ip_address(address['ip']).version}"
            except ValueError:
                skipped += 1
                continue
            out.setdefault((family, ports), []).append(_endpoint(address, ready))
    return out, skipped


def _endpoint(address: Object, ready: bool) -> Object:
    out: Object = {"addresses": [address["ip"]], "conditions": {"ready": ready}}
    out |= {part: address[part] for part in ("hostname", "nodeName", "targetRef") if address.get(part)}
    return out


def _slice(endpoints: Object, group: Group, members: list[Object], kept: Object | None) -> Object:
    family, ports = group
    labels = {name: value for name, value in o.labels(endpoints).items() if name != sv.HEADLESS_LABEL}
    labels |= {es.SERVICE_LABEL: o.name(endpoints), es.MANAGED_BY_LABEL: MANAGER}
    notes = {name: v for name, v in o.annotations_of(endpoints).items() if name not in _OWN_NOTES}
    content: Object = {"endpoints": members, "ports": [es.port_dict(port) for port in ports]}
    changed: Object = {"labels": labels, **({"annotations": notes} if notes else {})}
    if kept is not None:
        rest = {part: value for part, value in o.meta(kept).items() if part != "annotations"}
        return {**kept, "metadata": {**rest, **changed}, **content}
    metadata = {
        "generateName": f"{o.name(endpoints)}-",
        "namespace": o.namespace(endpoints),
        "ownerReferences": [o.owner_reference(endpoints, ENDPOINTS.api_version, ENDPOINTS.kind)],
        **changed,
    }
    kind = {"apiVersion": ENDPOINTSLICES.api_version, "kind": ENDPOINTSLICES.kind}
    return {**kind, "metadata": metadata, "addressType": family, **content}


class EndpointSliceMirroringController(Controller):
    """Keys are those of Endpoints, which are those of their Services."""

    name: ClassVar[str] = "endpointslice-mirroring-controller"
    account: ClassVar[str] = "endpointslicemirroring-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, workers=ctx.options.mirroring_concurrent_service_endpoint_syncs)
        self.endpoints = self.watch(ENDPOINTS, self.enqueue)
        self.services = self.watch(SERVICES, self.enqueue)
        self.slices = self.watch(ENDPOINTSLICES, self._on_slice)
        self.written = self.written_to(ENDPOINTSLICES)
        self.writer = SliceWriter(self.client, self.written)

    async def sync(self, key: str) -> float | None:
        if not self.written.settled(key):
            return SETTLE_RETRY
        namespace, name = o.split_key(key)
        mine = [s for s in in_namespace(self.slices, namespace) if _is_mirror_of(s, name)]
        endpoints = self.endpoints.store.get(key)
        if endpoints is None or not is_mirrored(endpoints, self.services.store.get(key)):
            plan = Plan(delete=tuple(s for s in mine if not o.is_terminating(s)))
        else:
            plan = compute_plan(endpoints, mine, self.ctx.options.mirroring_max_endpoints_per_subset)
            if plan.skipped:
                text = f"Skipped {plan.skipped} invalid IP addresses when mirroring to EndpointSlices"
                self.warn(endpoints, ENDPOINTS, "InvalidIPAddress", text)
        await self.writer.execute(key, namespace, plan)
        return None

    def _on_slice(self, existing: Object) -> None:
        if o.labels(existing).get(es.MANAGED_BY_LABEL) == MANAGER:
            self.queue.add(f"{o.namespace(existing)}/{o.labels(existing).get(es.SERVICE_LABEL, '')}")


def _is_mirror_of(existing: Object, name: str) -> bool:
    labels = o.labels(existing)
    return labels.get(es.SERVICE_LABEL) == name and labels.get(es.MANAGED_BY_LABEL) == MANAGER
