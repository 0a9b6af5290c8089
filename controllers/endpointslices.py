"""EndpointSlices: the addresses behind a Service, at most 100 (by default) in an object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from controllers import objects as o
from controllers import pods
from controllers import services as sv
from controllers.objects import Object
from controllers.runtime import SETTLE_RETRY, Context, Controller, in_namespace, on_node
from controllers.slices import SlicePlan, SliceWriter
from kubeclient.resources import ENDPOINTSLICES, NODES, PODS, SERVICES

SERVICE_LABEL = "kubernetes.io/service-name"
MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
ZONE_LABEL = "topology.kubernetes.io/zone"
SAME_NODE = "PreferSameNode"
NEAR = frozenset({"PreferClose", "PreferSameZone", SAME_NODE})
"""Values of a Service's `spec.trafficDistribution` that keep traffic near."""

Ports = tuple[sv.Port, ...]


def compute_plan(
    service: Object,
    members: Sequence[Object],
    existing: Sequence[Object],
    zones: Mapping[str, str],
    capacity: int,
) -> SlicePlan:
    """Bring the slices of one Service in line with its pods, touching as few slices as possible.

    `zones` maps node names to zones; `existing` are this controller's slices of the Service.
    """
    create: list[Object] = []
    update: list[Object] = []
    delete: list[Object] = []
    families = sv.ip_families(service)
    for family in families:
        wanted = _group_by_ports(service, members, family, zones)
        have = [s for s in existing if s.get("addressType") == family and not o.is_terminating(s)]
        part = _reconcile_family(service, family, wanted, have, capacity)
        create += part.create
        update += part.update
        delete += part.delete
    delete += [s for s in existing if s.get("addressType") not in families and not o.is_terminating(s)]
    return SlicePlan(tuple(create), tuple(update), tuple(delete))


def compute_endpoint(service: Object, pod: Object, family: str, zones: Mapping[str, str]) -> Object:
    """One endpoint. `ready` is serving and not terminating, or always when the Service publishes unready
    addresses.
    """
    serving, terminating = pods.is_ready(pod), o.is_terminating(pod)
    ready = sv.publishes_unready(service) or (serving and not terminating)
    out: Object = {
        "addresses": sv.pod_ips(pod, family)[:1],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "targetRef": sv.target_reference(pod),
    }
    node = pods.node_name(pod)
    if node:
        out["nodeName"] = node
    if zones.get(node):
        out["zone"] = zones[node]
    hostname = sv.hostname_of(service, pod)
    if hostname:
        out["hostname"] = hostname
    hints = compute_hints(o.spec(service).get("trafficDistribution"), out)
    if hints:
        out["hints"] = hints
    return out


def compute_hints(distribution: str | None, endpoint: Object) -> Object:
    """Whom an endpoint is meant for (KEP-4444, KEP-3015): clients of its zone, or of its node and then its
    zone. None for one that is not ready: those of the others decide.
    """
    hints: Object = {}
    if not endpoint["conditions"]["ready"] or distribution not in NEAR:
        return hints
    if endpoint.get("zone"):
        hints["forZones"] = [{"name": endpoint["zone"]}]
    if distribution == SAME_NODE and endpoint.get("nodeName"):
        hints["forNodes"] = [{"name": endpoint["nodeName"]}]
    return hints


def _group_by_ports(
    service: Object, members: Iterable[Object], family: str, zones: Mapping[str, str]
) -> dict[Ports, dict[str, Object]]:
    """Ports -> (pod UID -> endpoint). Pods with different numbers for a named port are in different
    groups.
    """
    groups: dict[Ports, dict[str, Object]] = {}
    for pod in members:
        if pods.is_finished(pod) or not sv.pod_ips(pod, family):
            continue
        group = groups.setdefault(sv.resolve_ports(service, pod), {})
        group[o.uid(pod)] = compute_endpoint(service, pod, family, zones)
    return groups


def _reconcile_family(
    service: Object,
    family: str,
    wanted: dict[Ports, dict[str, Object]],
    have: Sequence[Object],
    capacity: int,
) -> SlicePlan:
    create: list[Object] = []
    update: list[Object] = []
    delete: list[Object] = []
    by_ports: dict[Ports, list[Object]] = {}
    for existing in have:
        by_ports.setdefault(ports_of(existing), []).append(existing)
    for ports in sorted({*wanted, *by_ports}, key=lambda ps: [(p.name, p.protocol, p.port or 0) for p in ps]):
        filled = _Filling(service, family, ports, capacity)
        filled.run(by_ports.get(ports, []), dict(wanted.get(ports, {})))
        create += filled.create
        update += filled.update
        delete += filled.delete
    if not create and len(delete) == len(have):
        # A Service with no endpoints keeps one empty slice: consumers see "none", not "not yet computed".
        if delete:
            keep = delete.pop(0)
            update += [] if _is_placeholder(service, keep) else [build_slice(service, family, (), [], keep)]
        else:
            create.append(build_slice(service, family, (), []))
    return SlicePlan(tuple(create), tuple(update), tuple(delete))


class _Filling:
    """Places the endpoints of one group of ports into slices."""

    def __init__(self, service: Object, family: str, ports: Ports, capacity: int) -> None:
        self._service, self._family, self._ports, self._capacity = service, family, ports, capacity
        self.create: list[Object] = []
        self.update: list[Object] = []
        self.delete: list[Object] = []

    def run(self, have: Sequence[Object], missing: dict[str, Object]) -> None:
        """Keep what is right where it is, drop what is gone, then fill changed slices, then the fullest that
        has room.
        """
        changed: list[tuple[Object, list[Object]]] = []
        unchanged: list[tuple[Object, list[Object]]] = []
        for existing in have:
            before = existing.get("endpoints") or []
            after = [missing.pop(uid) for endpoint in before if (uid := _uid(endpoint)) in missing]
            if not after:
                self.delete.append(existing)
            elif after != before or not _same_labels(self._service, existing):
                changed.append((existing, after))
            else:
                unchanged.append((existing, after))
        rest = [missing[uid] for uid in sorted(missing)]
        for _, endpoints in changed:
            rest = self._fill(endpoints, rest)
        while rest:
            rest = self._open_another(rest, changed, unchanged)
        self.update = [
            build_slice(self._service, self._family, self._ports, endpoints, existing)
            for existing, endpoints in changed
        ]

    def _open_another(
        self,
        rest: list[Object],
        changed: list[tuple[Object, list[Object]]],
        unchanged: list[tuple[Object, list[Object]]],
    ) -> list[Object]:
        roomy = [entry for entry in unchanged if self._capacity - len(entry[1]) >= len(rest)]
        if roomy:
            chosen = max(roomy, key=lambda entry: len(entry[1]))
            unchanged.remove(chosen)
            changed.append(chosen)
            return self._fill(chosen[1], rest)
        if self.delete:
            chosen = (self.delete.pop(), [])  # an emptied slice is used again rather than replaced
            changed.append(chosen)
            return self._fill(chosen[1], rest)
        batch, rest = rest[: self._capacity], rest[self._capacity :]
        self.create.append(build_slice(self._service, self._family, self._ports, batch))
        return rest

    def _fill(self, endpoints: list[Object], rest: list[Object]) -> list[Object]:
        room = max(self._capacity - len(endpoints), 0)
        endpoints.extend(rest[:room])
        return rest[room:]


def build_slice(
    service: Object, family: str, ports: Ports, endpoints: list[Object], existing: Object | None = None
) -> Object:
    """A slice object; with `existing`, that one with new content (address type and name never change)."""
    content: Object = {"endpoints": endpoints, "ports": [port_dict(port) for port in ports]}
    if existing is not None:
        metadata = {**o.meta(existing), "labels": slice_labels(service)}
        return {**existing, "metadata": metadata, **content}
    reference = o.owner_reference(service, SERVICES.api_version, SERVICES.kind)
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "generateName": pods.generate_name(o.name(service)),
            "namespace": o.namespace(service),
            "labels": slice_labels(service),
            "ownerReferences": [reference],
        },
        "addressType": family,
        **content,
    }


def slice_labels(service: Object) -> dict[str, str]:
    """The Service's labels, whose it is, and who manages it."""
    out = {k: v for k, v in o.labels(service).items() if k != sv.HEADLESS_LABEL}
    out[SERVICE_LABEL] = o.name(service)
    out[MANAGED_BY_LABEL] = MANAGER
    if sv.is_headless(service):
        out[sv.HEADLESS_LABEL] = ""
    return out


def ports_of(existing: Object) -> Ports:
    """A stored slice's ports in the order used for comparison."""
    found = [
        sv.Port(
            str(p.get("name") or ""), str(p.get("protocol") or "TCP"), p.get("port"), p.get("appProtocol")
        )
        for p in existing.get("ports") or ()
    ]
    return tuple(sorted(found, key=lambda p: (p.name, p.protocol, p.port or 0)))


def port_dict(port: sv.Port) -> Object:
    """A port as a slice spells it."""
    out: Object = {"name": port.name, "protocol": port.protocol, "port": port.port}
    if port.app_protocol:
        out["appProtocol"] = port.app_protocol
    return out


def _uid(endpoint: Object) -> str:
    return str((endpoint.get("targetRef") or {}).get("uid", ""))


def _same_labels(service: Object, existing: Object) -> bool:
    return o.labels(existing) == slice_labels(service)


def _is_placeholder(service: Object, existing: Object) -> bool:
    return not existing.get("endpoints") and not existing.get("ports") and _same_labels(service, existing)


class EndpointSliceController(Controller):
    name: ClassVar[str] = "endpointslice-controller"
    account: ClassVar[str] = "endpointslice-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, workers=ctx.options.concurrent_service_endpoint_syncs)
        self.services = self.watch(SERVICES, self.enqueue)
        self.slices = self.watch(ENDPOINTSLICES, self._on_slice)
        self.pods = ctx.informers.informer(PODS)
        self.pods.add_handler(self._on_pod, self._on_pod_update, self._on_pod)
        self.nodes = ctx.informers.informer(NODES)
        self.nodes.add_handler(self._on_node, self._on_node_update)
        self.written = self.written_to(ENDPOINTSLICES)
        self.writer = SliceWriter(self.client, self.written)

    async def sync(self, key: str) -> float | None:
        service = self.services.store.get(key)
        if service is None:
            self.written.forget(key)
            return None  # its slices are garbage-collected by their owner reference
        if not self.written.settled(key):
            return SETTLE_RETRY
        if not sv.selector_of(service) or sv.is_external(service) or o.is_terminating(service):
            return None
        namespace = o.namespace(service)
        plan = compute_plan(
            service,
            list(sv.members(service, in_namespace(self.pods, namespace))),
            [s for s in in_namespace(self.slices, namespace) if _is_slice_of(s, o.name(service))],
            {o.name(node): zone_of(node) for node in self.nodes.store.list()},
            self.ctx.options.max_endpoints_per_slice,
        )
        await self.writer.execute(key, namespace, plan)
        return None

    def _on_slice(self, existing: Object) -> None:
        if o.labels(existing).get(MANAGED_BY_LABEL) == MANAGER:
            self.queue.add(f"{o.namespace(existing)}/{o.labels(existing).get(SERVICE_LABEL, '')}")

    def _on_pod(self, pod: Object) -> None:
        for service in sv.selecting(in_namespace(self.services, o.namespace(pod)), pod):
            self.enqueue(service)

    def _on_pod_update(self, old: Object, new: Object) -> None:
        if not sv.concerns_endpoints(old, new):
            return
        if o.labels(old) != o.labels(new):
            self._on_pod(old)
        self._on_pod(new)

    def _on_node(self, node: Object) -> None:
        for pod in on_node(self.pods, o.name(node)):
            self._on_pod(pod)

    def _on_node_update(self, old: Object, new: Object) -> None:
        """Endpoints carry the zone of their node."""
        if zone_of(old) != zone_of(new):
            self._on_node(new)


def zone_of(node: Object) -> str:
    return o.labels(node).get(ZONE_LABEL, "")


def _is_slice_of(existing: Object, service_name: str) -> bool:
    labels = o.labels(existing)
    return labels.get(SERVICE_LABEL) == service_name and labels.get(MANAGED_BY_LABEL) == MANAGER
