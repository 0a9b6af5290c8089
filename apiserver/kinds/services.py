"""Services, Endpoints and EndpointSlices. Addresses and node ports are allocated by the registry."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

from apimachinery import field, meta
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import NONE, column, spec_of
from apiserver.kinds.podrules import PROTOCOLS, port_name, valid_ip

TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
POLICIES = ("Cluster", "Local")
AFFINITIES = ("ClientIP", "None")
STICKY_SECONDS = 10800
STICKY_LIMIT = 86400
_MORE = 3  # endpoints shown before "+ n more..."


# -- Service ------------------------------------------------------------------------------------------------


def _default_service(service: Object) -> None:
    spec = common.spec_for(service)
    spec.setdefault("sessionAffinity", "None")
    if spec["sessionAffinity"] == "None":
        spec.pop("sessionAffinityConfig", None)
    elif spec["sessionAffinity"] == "ClientIP":
        config = spec.setdefault("sessionAffinityConfig", {}).setdefault("clientIP", {})
        config.setdefault("timeoutSeconds", STICKY_SECONDS)
    kind = spec.setdefault("type", "ClusterIP")
    for port in spec.get("ports") or ():
        port.setdefault("protocol", "TCP")
        if port.get("targetPort") in (None, 0, ""):
            port["targetPort"] = port.get("port", 0)
    if kind in ("NodePort", "LoadBalancer"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    if kind != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]


def _create_service(service: Object) -> None:
    service["status"] = {"loadBalancer": {}}
    _drop_for_type(spec_of(service), None)


def _update_service(new: Object, old: Object) -> None:
    common.keep_status(new, old)
    fresh, stored = spec_of(new), spec_of(old)
    if fresh.get("type") != "ExternalName":
        _patch_allocated(fresh, stored)
    _drop_for_type(fresh, stored)


def _patch_allocated(fresh: Object, stored: Mapping[str, Any]) -> None:
    """What the server allocated stays when an update does not mention it."""
    if stored.get("type") == "ExternalName":
        return
    for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        if not fresh.get(name) and stored.get(name):
            fresh[name] = stored[name]
    if fresh.get("type") in ("NodePort", "LoadBalancer"):
        used = {port.get("nodePort") for port in fresh.get("ports") or ()}
        before = {
            (item.get("protocol"), item.get("port")): item.get("nodePort")
            for item in stored.get("ports") or ()
        }
        for port in fresh.get("ports") or ():
            kept = before.get((port.get("protocol"), port.get("port")))
            if not port.get("nodePort") and kept and kept not in used:
                port["nodePort"] = kept


def _drop_for_type(fresh: Object, stored: Mapping[str, Any] | None) -> None:
    """Fields of a type that the service no longer has, when the caller did not set them anew."""
    if stored is None:
        return
    if (
        not needs_health_port(fresh)
        and needs_health_port(stored)
        and fresh.get("healthCheckNodePort") == stored.get("healthCheckNodePort")
    ):
        fresh.pop("healthCheckNodePort", None)
    if fresh.get("type") == stored.get("type"):
        return
    if fresh.get("type") == "ExternalName":
        for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"):
            if fresh.get(name) == stored.get(name):
                fresh.pop(name, None)
    if fresh.get("type") not in ("NodePort", "LoadBalancer"):
        before = [port.get("nodePort") for port in stored.get("ports") or ()]
        if [port.get("nodePort") for port in fresh.get("ports") or ()] == before:
            for port in fresh.get("ports") or ():
                port.pop("nodePort", None)
        if fresh.get("externalTrafficPolicy") == stored.get("externalTrafficPolicy"):
            fresh.pop("externalTrafficPolicy", None)
    if fresh.get("type") != "LoadBalancer":
        for name in ("allocateLoadBalancerNodePorts", "loadBalancerClass", "healthCheckNodePort"):
            if fresh.get(name) == stored.get(name):
                fresh.pop(name, None)


def needs_health_port(spec: Mapping[str, Any]) -> bool:
    """Whether the Service is a load balancer that only sends to nodes with endpoints of their own."""
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def _validate_service(service: Object) -> Iterator[Cause]:
    spec = spec_of(service)
    kind = spec.get("type", "")
    yield from common.one_of("spec.type", kind, TYPES)
    ports = spec.get("ports") or ()
    headless = spec.get("clusterIP") == "None"
    if not ports and not headless and kind != "ExternalName":
        yield field.required("spec.ports")
    if kind == "ExternalName":
        yield from _external_name(spec)
    if kind in ("NodePort", "LoadBalancer") and headless:
        detail = f'may not be set to "None" for {kind} services'
        yield field.invalid("spec.clusterIPs[0]", "None", detail)
    yield from _service_ports(ports, spec)
    yield from meta.validate_labels(spec.get("selector") or {}, "spec.selector")
    yield from _affinity(spec)
    yield from _cluster_ips(spec)
    yield from _traffic(spec)


def _external_name(spec: Mapping[str, Any]) -> Iterator[Cause]:
    for name in ("clusterIPs", "clusterIP"):
        if spec.get(name) and spec[name] != "None":
            yield field.forbidden(f"spec.{name}", "may not be set when `type` is 'ExternalName'")
    name = spec.get("externalName", "").removesuffix(".")
    if name:
        yield from common.subdomain("spec.externalName", name)
    else:
        yield field.required("spec.externalName")


def _service_ports(ports: Any, spec: Mapping[str, Any]) -> Iterator[Cause]:
    names: set[str] = set()
    numbers: set[tuple[Any, ...]] = set()
    node_ports: set[tuple[Any, ...]] = set()
    for at, port in enumerate(ports):
        here = f"spec.ports[{at}]"
        name = port.get("name", "")
        if len(ports) > 1 and not name:
            yield field.required(f"{here}.name")
        elif name:
            yield from common.label(f"{here}.name", name)
            if name in names:
                yield field.duplicate(f"{here}.name", name)
        names.add(name)
        yield from common.port_number(f"{here}.port", port.get("port", 0))
        yield from common.one_of(f"{here}.protocol", port.get("protocol"), PROTOCOLS)
        yield from _target_port(port.get("targetPort", 0), f"{here}.targetPort")
        key = (port.get("protocol"), port.get("port"))
        if key in numbers:
            yield field.duplicate(here, {name: port[name] for name in ("port", "protocol") if name in port})
        numbers.add(key)
        if node_port := port.get("nodePort"):
            if spec.get("type") not in ("NodePort", "LoadBalancer"):
                yield field.forbidden(
                    f"{here}.nodePort", f"may not be used when `type` is '{spec.get('type')}'"
                )
            if (port.get("protocol"), node_port) in node_ports:
                yield field.duplicate(f"{here}.nodePort", node_port)
            node_ports.add((port.get("protocol"), node_port))


def _target_port(target: int | str, path: str) -> Iterator[Cause]:
    if isinstance(target, int):
        yield from common.port_number(path, target)
    else:
        for problem in port_name(target):
            yield field.invalid(path, target, problem)


def _affinity(spec: Mapping[str, Any]) -> Iterator[Cause]:
    yield from common.one_of("spec.sessionAffinity", spec.get("sessionAffinity"), AFFINITIES)
    if spec.get("sessionAffinity") == "ClientIP":
        seconds = common.dig(spec, "sessionAffinityConfig", "clientIP", "timeoutSeconds") or 0
        if not 0 < seconds <= STICKY_LIMIT:
            detail = f"must be greater than 0 and less than {STICKY_LIMIT}"
            yield field.invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, detail)


def _cluster_ips(spec: Mapping[str, Any]) -> Iterator[Cause]:
    addresses = spec.get("clusterIPs") or ()
    if addresses and spec.get("clusterIP") != addresses[0]:
        yield field.invalid("spec.clusterIPs", list(addresses), "first value must match `clusterIP`")
    for at, address in enumerate(addresses):
        if address != "None":
            yield from valid_ip(f"spec.clusterIPs[{at}]", address)
        elif at:
            yield field.invalid(f"spec.clusterIPs[{at}]", address, "can not be None")
    for at, address in enumerate(spec.get("externalIPs") or ()):
        yield from valid_ip(f"spec.externalIPs[{at}]", address)
    for at, cidr in enumerate(spec.get("loadBalancerSourceRanges") or ()):
        try:
            ipaddress.ip_network(cidr.strip())
        except ValueError:
            detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            yield field.invalid(f"spec.loadBalancerSourceRanges[{at}]", cidr, detail)


def _traffic(spec: Mapping[str, Any]) -> Iterator[Cause]:
    external, internal = spec.get("externalTrafficPolicy"), spec.get("internalTrafficPolicy")
    if external and spec.get("type") not in ("NodePort", "LoadBalancer") and not spec.get("externalIPs"):
        detail = "may only be set for externally-accessible services"
        yield field.invalid("spec.externalTrafficPolicy", external, detail)
    elif external:
        yield from common.one_of("spec.externalTrafficPolicy", external, POLICIES)
    if internal:
        yield from common.one_of("spec.internalTrafficPolicy", internal, POLICIES)
    if spec.get("healthCheckNodePort") and not (spec.get("type") == "LoadBalancer" and external == "Local"):
        detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        yield field.invalid("spec.healthCheckNodePort", spec["healthCheckNodePort"], detail)


def _validate_service_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate_service(new)
    fresh, stored = spec_of(new), spec_of(old)
    if "ExternalName" in (fresh.get("type"), stored.get("type")):
        return
    health = stored.get("healthCheckNodePort")
    wanted = fresh.get("healthCheckNodePort") or health
    if needs_health_port(fresh) and needs_health_port(stored) and health and wanted != health:
        yield field.invalid("spec.healthCheckNodePort", wanted, "field is immutable")
    before, after = stored.get("clusterIPs") or (), fresh.get("clusterIPs") or ()
    if before and (not after or after[0] != before[0]):
        yield field.invalid("spec.clusterIPs[0]", after[0] if after else None, "may not change once set")


def _cluster_ip_cell(service: Object) -> str:
    return str(spec_of(service).get("clusterIP") or NONE)


def _external_ip_cell(service: Object) -> str:
    spec = spec_of(service)
    ingress = common.dig(service, "status", "loadBalancer", "ingress") or ()
    addresses = [str(item.get("ip") or item.get("hostname") or "") for item in ingress]
    given = [str(item) for item in spec.get("externalIPs") or ()]
    match spec.get("type"):
        case "LoadBalancer":
            return ",".join([*(item for item in addresses if item), *given]) or "<pending>"
        case "ExternalName":
            return str(spec.get("externalName", ""))
    return ",".join(given) or NONE


def _ports_cell(service: Object) -> str:
    shown = []
    for port in spec_of(service).get("ports") or ():
        node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
        shown.append(f"{port.get('port')}{node_port}/{port.get('protocol')}")
    return ",".join(shown) or NONE


SERVICE = Kind(
    group="",
    version="v1",
    kind="Service",
    resource="services",
    namespaced=True,
    storage_prefix="services/specs",
    singular="service",
    short_names=("svc",),
    categories=common.ALL,
    subresources=("proxy", "status"),
    columns=(
        common.NAME,
        column("Type", common.text("spec", "type")),
        column("Cluster-IP", _cluster_ip_cell),
        column("External-IP", _external_ip_cell),
        column("Port(s)", _ports_cell),
        common.AGE,
        column("Selector", lambda service: common.labels_text(spec_of(service).get("selector")), wide=True),
    ),
    strategy=Strategy(
        default=_default_service,
        prepare_create=_create_service,
        prepare_update=_update_service,
        validate=_validate_service,
        validate_update=_validate_service_update,
        status_prepare_update=common.keep_spec,
        fields=common.status_fields("spec.clusterIP", "spec.type"),
        has_generation=False,
    ),
    selectable_fields=("spec.clusterIP", "spec.type"),
    name_rule="label-1035",
)


# -- Endpoints ----------------------------------------------------------------------------------------------


def _default_endpoints(endpoints: Object) -> None:
    for subset in endpoints.get("subsets") or ():
        for port in subset.get("ports") or ():
            port.setdefault("protocol", "TCP")


def _validate_endpoints(endpoints: Object) -> Iterator[Cause]:
    for at, subset in enumerate(endpoints.get("subsets") or ()):
        here = f"subsets[{at}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            yield field.required(here, "must specify `addresses` or `notReadyAddresses`")
        for name in ("addresses", "notReadyAddresses"):
            for index, address in enumerate(subset.get(name) or ()):
                yield from valid_ip(f"{here}.{name}[{index}].ip", address.get("ip", ""))
        ports = subset.get("ports") or ()
        for index, port in enumerate(ports):
            if len(ports) > 1 and not port.get("name"):
                yield field.required(f"{here}.ports[{index}].name")
            yield from common.port_number(f"{here}.ports[{index}].port", port.get("port", 0))
            yield from common.one_of(f"{here}.ports[{index}].protocol", port.get("protocol"), PROTOCOLS)


def _shorten(items: list[str]) -> str:
    if len(items) <= _MORE:
        return ",".join(items) or NONE
    return f"{','.join(items[:_MORE])} + {len(items) - _MORE} more..."


def _endpoints_cell(endpoints: Object) -> str:
    found: list[str] = []
    for subset in endpoints.get("subsets") or ():
        addresses = [str(item.get("ip", "")) for item in subset.get("addresses") or ()]
        if not subset.get("ports"):
            found += addresses
        for port in subset.get("ports") or ():
            found += [_join(address, port.get("port", 0)) for address in addresses]
    return _shorten(found)


def _join(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


ENDPOINTS = Kind(
    group="",
    version="v1",
    kind="Endpoints",
    resource="endpoints",
    namespaced=True,
    storage_prefix="services/endpoints",
    singular="endpoints",
    short_names=("ep",),
    columns=(common.NAME, column("Endpoints", _endpoints_cell), common.AGE),
    strategy=Strategy(
        default=_default_endpoints,
        validate=_validate_endpoints,
        validate_update=common.revalidate(_validate_endpoints),
        has_generation=False,
        allow_create_on_update=True,
    ),
)


# -- EndpointSlice ------------------------------------------------------------------------------------------

ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")
MAX_ENDPOINTS, MAX_ADDRESSES, MAX_PORTS = 1000, 100, 20000


def _default_slice(item: Object) -> None:
    item.setdefault("endpoints", [])
    item.setdefault("ports", [])
    for port in item["ports"]:
        port.setdefault("name", "")
        port.setdefault("protocol", "TCP")


def _validate_slice(item: Object) -> Iterator[Cause]:
    kind = item.get("addressType", "")
    yield from common.one_of("addressType", kind, ADDRESS_TYPES)
    endpoints, ports = item.get("endpoints") or (), item.get("ports") or ()
    if len(endpoints) > MAX_ENDPOINTS:
        yield field.too_many("endpoints", len(endpoints), MAX_ENDPOINTS)
    if len(ports) > MAX_PORTS:
        yield field.too_many("ports", len(ports), MAX_PORTS)
    for at, endpoint in enumerate(endpoints):
        yield from _slice_addresses(endpoint.get("addresses") or (), kind, f"endpoints[{at}].addresses")
        if endpoint.get("hostname"):
            yield from common.label(f"endpoints[{at}].hostname", endpoint["hostname"])
    names: set[str] = set()
    for at, port in enumerate(ports):
        name = port.get("name") or ""
        if name in names:
            yield field.duplicate(f"ports[{at}].name", name)
        names.add(name)
        if name:
            yield from common.label(f"ports[{at}].name", name)
        yield from common.one_of(f"ports[{at}].protocol", port.get("protocol"), PROTOCOLS)


def _slice_addresses(addresses: Any, kind: str, path: str) -> Iterator[Cause]:
    if not addresses:
        yield field.required(path, "must contain at least 1 address")
    if len(addresses) > MAX_ADDRESSES:
        yield field.too_many(path, len(addresses), MAX_ADDRESSES)
    version = {"IPv4": 4, "IPv6": 6}.get(kind)
    for at, address in enumerate(addresses):
        if version is None:
            yield from common.subdomain(f"{path}[{at}]", address)
            continue
        try:
            if ipaddress.ip_address(address).version != version:
                raise ValueError(address)
        except ValueError:
            yield field.invalid(f"{path}[{at}]", address, f"must be an {kind} address")


def _validate_slice_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate_slice(new)
    yield from common.immutable("addressType", new.get("addressType"), old.get("addressType"))


def _slice_ports_cell(item: Object) -> str:
    ports = item.get("ports") or ()
    if not ports:
        return "<unset>"
    return _shorten([str(port.get("port") or "*") for port in ports])


def _slice_endpoints_cell(item: Object) -> str:
    found = [
        address for endpoint in item.get("endpoints") or () for address in endpoint.get("addresses") or ()
    ]
    return _shorten(found) if found else "<unset>"


ENDPOINT_SLICE = Kind(
    group="discovery.k8s.io",
    version="v1",
    kind="EndpointSlice",
    resource="endpointslices",
    namespaced=True,
    storage_prefix="endpointslices",
    singular="endpointslice",
    columns=(
        common.NAME,
        column("AddressType", lambda item: item.get("addressType", "")),
        column("Ports", _slice_ports_cell),
        column("Endpoints", _slice_endpoints_cell),
        common.AGE,
    ),
    strategy=Strategy(
        default=_default_slice,
        validate=_validate_slice,
        validate_update=_validate_slice_update,
        has_generation=True,
    ),
)

KINDS = (SERVICE, ENDPOINTS, ENDPOINT_SLICE)
