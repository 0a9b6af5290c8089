"""Endpoints: the addresses behind a Service in one object (the older API, still what many clients read)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from apimachinery import errors
from controllers import objects as o
from controllers import pods
from controllers import services as sv
from controllers.objects import Object
from controllers.podcontrol import namespace_terminating
from controllers.runtime import Context, Controller, ignore_not_found, in_namespace
from kubeclient.resources import ENDPOINTS, PODS, SERVICES

CAPACITY = 1000  # addresses; more are cut off and the object says so
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
MANAGED_BY = ("endpoints.kubernetes.io/managed-by", "endpoint-controller")


def compute_endpoints(service: Object, candidates: Iterable[Object]) -> Object:
    """The Endpoints object that `service` ought to have, given the pods of its namespace."""
    by_address: dict[tuple[str, bool], tuple[Object, set[sv.Port]]] = {}
    behind = [pod for pod in sv.members(service, candidates) if _may_serve(service, pod)]
    family = sv.ip_families(service)[0]
    for pod in behind:
        ready = sv.publishes_unready(service) or pods.is_ready(pod)
        ports = sv.resolve_ports(service, pod)
        if not ports and not sv.is_headless(service):
            continue
        for ip in sv.pod_ips(pod, family)[:1]:
            by_address[(o.uid(pod), ready)] = (_address(service, pod, ip), set(ports))
    subsets, truncated = _truncate(_repack(by_address))
    metadata: Object = {
        "name": o.name(service),
        "namespace": o.namespace(service),
        "labels": _labels(service),
    }
    stamp = sv.trigger_time(service, behind)
    metadata["annotations"] = {sv.TRIGGER_TIME: stamp} if stamp else {}
    if truncated:
        metadata["annotations"][OVER_CAPACITY] = "truncated"
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets}


def _may_serve(service: Object, pod: Object) -> bool:
    if pods.is_finished(pod) or not pods.node_name(pod):
        return False
    return not o.is_terminating(pod) or sv.publishes_unready(service)


def _address(service: Object, pod: Object, ip: str) -> Object:
    out: Object = {"ip": ip, "nodeName": pods.node_name(pod), "targetRef": sv.target_reference(pod)}
    hostname = sv.hostname_of(service, pod)
    if hostname:
        out["hostname"] = hostname
    return out


def _labels(service: Object) -> dict[str, str]:
    out = {k: v for k, v in o.labels(service).items() if k != sv.HEADLESS_LABEL}
    out[MANAGED_BY[0]] = MANAGED_BY[1]
    if sv.is_headless(service):
        out[sv.HEADLESS_LABEL] = ""
    return out


def _repack(by_address: dict[tuple[str, bool], tuple[Object, set[sv.Port]]]) -> list[Object]:
    """One subset per set of ports, addresses and ports in a fixed order, so that equal content is equal
    bytes.
    """
    groups: dict[tuple[sv.Port, ...], tuple[list[Object], list[Object]]] = {}
    for (_, ready), (address, ports) in by_address.items():
        group = groups.setdefault(tuple(sorted(ports, key=_port_order)), ([], []))
        group[0 if ready else 1].append(address)
    subsets = []
    for ports_of, (ready_here, waiting_here) in sorted(
        groups.items(), key=lambda g: [_port_order(p) for p in g[0]]
    ):
        subset: Object = {}
        if ready_here:
            subset["addresses"] = sorted(ready_here, key=_address_order)
        if waiting_here:
            subset["notReadyAddresses"] = sorted(waiting_here, key=_address_order)
        if ports_of:
            subset["ports"] = [_port_dict(port) for port in ports_of]
        subsets.append(subset)
    return subsets


def _truncate(subsets: Sequence[Object]) -> tuple[list[Object], bool]:
    """At most CAPACITY addresses, ready ones first."""
    total = sum(len(s.get(part, ())) for s in subsets for part in ("addresses", "notReadyAddresses"))
    if total <= CAPACITY:
        return list(subsets), False
    room, out = CAPACITY, [dict(subset) for subset in subsets]
    for part in ("addresses", "notReadyAddresses"):
        for subset in out:
            if part in subset:
                subset[part] = subset[part][:room]
                room -= len(subset[part])
    return [{k: v for k, v in subset.items() if v} for subset in out], True


def _port_order(port: sv.Port) -> tuple[str, str, int]:
    return port.name, port.protocol, port.port or 0


def _address_order(address: Object) -> tuple[str, str]:
    return address["ip"], address["targetRef"]["uid"]


def _port_dict(port: sv.Port) -> Object:
    out: Object = {"port": port.port, "protocol": port.protocol}
    if port.name:
        out["name"] = port.name
    if port.app_protocol:
        out["appProtocol"] = port.app_protocol
    return out


def same_content(current: Object, wanted: Object) -> bool:
    """Equal but for the trigger time, which alone is no reason to write."""
    mine = {k: v for k, v in o.annotations_of(current).items() if k != sv.TRIGGER_TIME}
    theirs = {k: v for k, v in o.annotations_of(wanted).items() if k != sv.TRIGGER_TIME}
    return (
        (current.get("subsets") or []) == wanted["subsets"]
        and o.labels(current) == o.labels(wanted)
        and mine.get(OVER_CAPACITY) == theirs.get(OVER_CAPACITY)
    )


class EndpointsController(Controller):
    name: ClassVar[str] = "endpoints-controller"
    account: ClassVar[str] = "endpoint-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, workers=ctx.options.concurrent_endpoint_syncs, component="endpoint-controller")
        self.services = self.watch(SERVICES, self.enqueue)
        self.endpoints = self.watch(ENDPOINTS, self._on_endpoints)
        self.pods = ctx.informers.informer(PODS)
        self.pods.add_handler(self._on_pod, self._on_pod_update, self._on_pod)

    async def sync(self, key: str) -> float | None:
        namespace, name = o.split_key(key)
        service = self.services.store.get(key)
        if service is None:
            if self.endpoints.store.get(key) is not None and self._is_ours(key):
                await ignore_not_found(self.client.delete(ENDPOINTS, name, namespace))
            return None
        if not sv.selector_of(service) or sv.is_external(service):
            return None
        wanted = compute_endpoints(service, in_namespace(self.pods, namespace))
        await self._write(service, self.endpoints.store.get(key), wanted)
        return None

    async def _write(self, service: Object, current: Object | None, wanted: Object) -> None:
        if current is not None and same_content(current, wanted):
            return
        try:
            if current is None:
                await self.client.create(ENDPOINTS, wanted, o.namespace(service))
                return
            ours = (sv.TRIGGER_TIME, OVER_CAPACITY)
            kept = {k: v for k, v in o.annotations_of(current).items() if k not in ours}
            metadata = {
                **o.meta(current),
                "labels": o.labels(wanted),
                "annotations": {**kept, **o.annotations_of(wanted)},
            }
            await self.client.update(
                ENDPOINTS, {**current, "metadata": metadata, "subsets": wanted["subsets"]}
            )
        except errors.StatusError as error:
            if namespace_terminating(error):
                return
            if not errors.is_conflict(error) and not errors.is_already_exists(error):
                text = f"Failed to update endpoint {o.key(service)}: {error}"
                self.warn(service, SERVICES, "FailedToUpdateEndpoint", text)
            raise

    def _is_ours(self, key: str) -> bool:
        """A Service and its Endpoints go together, whoever wrote them; `kubernetes` and leader locks have no
        Service.
        """
        current = self.endpoints.store.get(key)
        return current is not None and o.labels(current).get(MANAGED_BY[0]) == MANAGED_BY[1]

    def _on_endpoints(self, endpoints: Object) -> None:
        self.queue.add(o.key(endpoints))

    def _on_pod(self, pod: Object) -> None:
        for service in sv.selecting(in_namespace(self.services, o.namespace(pod)), pod):
            self.enqueue(service)

    def _on_pod_update(self, old: Object, new: Object) -> None:
        if not sv.concerns_endpoints(old, new):
            return
        if o.labels(old) != o.labels(new):
            self._on_pod(old)
        self._on_pod(new)
