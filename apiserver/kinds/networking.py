"""Ingresses, IngressClasses and NetworkPolicies."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any

from apimachinery import field, selectors
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import NONE, column, spec_of
from apiserver.kinds.podrules import PROTOCOLS, port_name

GROUP = "networking.k8s.io"
PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_HOSTS_SHOWN = 3


# -- Ingress ------------------------------------------------------------------------------------------------


def _validate_ingress(ingress: Object) -> Iterator[Cause]:
    spec = spec_of(ingress)
    rules, backend = spec.get("rules") or (), spec.get("defaultBackend")
    if not rules and backend is None:
        yield field.invalid("spec", dict(spec), "either `defaultBackend` or `rules` must be specified")
    if backend is not None:
        yield from _backend(backend, "spec.defaultBackend")
    for at, rule in enumerate(rules):
        path = f"spec.rules[{at}]"
        if host := rule.get("host"):
            yield from _host(host, f"{path}.host")
        http = rule.get("http")
        if http is not None and not http.get("paths"):
            yield field.required(f"{path}.http.paths")
        for index, item in enumerate((http or {}).get("paths") or ()):
            yield from _ingress_path(item, f"{path}.http.paths[{index}]")
    for at, tls in enumerate(spec.get("tls") or ()):
        for index, host in enumerate(tls.get("hosts") or ()):
            yield from _host(host, f"spec.tls[{at}].hosts[{index}]")
    if spec.get("ingressClassName") is not None:
        yield from common.subdomain("spec.ingressClassName", spec["ingressClassName"])


def _host(host: str, path: str) -> Iterator[Cause]:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        yield from common.subdomain(path, host.removeprefix("*."))
    else:
        yield field.invalid(path, host, "must be a DNS name, not an IP address")


def _ingress_path(item: Mapping[str, Any], path: str) -> Iterator[Cause]:
    kind, where = item.get("pathType"), item.get("path", "")
    if kind is None:
        yield field.required(f"{path}.pathType", "pathType must be specified")
    elif kind not in PATH_TYPES:
        yield field.not_supported(f"{path}.pathType", kind, PATH_TYPES)
    if not where.startswith("/") and not (kind == "ImplementationSpecific" and not where):
        yield field.invalid(f"{path}.path", where, "must be an absolute path")
    yield from _backend(item.get("backend") or {}, f"{path}.backend")


def _backend(backend: Mapping[str, Any], path: str) -> Iterator[Cause]:
    service, resource = backend.get("service"), backend.get("resource")
    if service is None and resource is None:
        yield field.required(path, "backend must specify a service or a resource")
    elif service is not None and resource is not None:
        yield field.invalid(path, "", "cannot set both resource and service backends")
    elif service is not None:
        if not service.get("name"):
            yield field.required(f"{path}.service.name")
        port = service.get("port") or {}
        if not port.get("name") and not port.get("number"):
            yield field.required(f"{path}.service.port", "port name or number is required")
        elif port.get("name") and port.get("number"):
            yield field.invalid(f"{path}.service.port", "", "cannot set both port name & port number")
        elif port.get("number"):
            yield from common.port_number(f"{path}.service.port.number", port["number"])


def _hosts(ingress: Object) -> str:
    hosts = [rule["host"] for rule in spec_of(ingress).get("rules") or () if rule.get("host")]
    if not hosts:
        return "*"
    shown = ",".join(hosts[:_HOSTS_SHOWN])
    return shown if len(hosts) <= _HOSTS_SHOWN else f"{shown} + {len(hosts) - _HOSTS_SHOWN} more..."


def _address(ingress: Object) -> str:
    found = common.dig(ingress, "status", "loadBalancer", "ingress") or ()
    return ",".join(str(item.get("ip") or item.get("hostname") or "") for item in found)


INGRESS = Kind(
    group=GROUP,
    version="v1",
    kind="Ingress",
    resource="ingresses",
    namespaced=True,
    storage_prefix="ingress",
    singular="ingress",
    short_names=("ing",),
    subresources=("status",),
    columns=(
        common.NAME,
        column("Class", common.text("spec", "ingressClassName", absent=NONE)),
        column("Hosts", _hosts),
        column("Address", _address),
        column("Ports", lambda ingress: "80, 443" if spec_of(ingress).get("tls") else "80"),
        common.AGE,
    ),
    strategy=Strategy(
        prepare_create=lambda ingress: ingress.__setitem__("status", {"loadBalancer": {}}),
        prepare_update=common.keep_status,
        validate=_validate_ingress,
        validate_update=common.revalidate(_validate_ingress),
        status_prepare_update=common.keep_spec,
    ),
)


# -- IngressClass -------------------------------------------------------------------------------------------


def _default_class(item: Object) -> None:
    if (reference := spec_of(item).get("parameters")) is not None:
        reference.setdefault("scope", "Cluster")


def _validate_class(item: Object) -> Iterator[Cause]:
    controller = spec_of(item).get("controller", "")
    if not controller:
        yield field.required("spec.controller")
    elif "/" not in controller:
        yield field.invalid(
            "spec.controller", controller, 'must be a domain-prefixed path (such as "acme.io/foo")'
        )
    if (reference := spec_of(item).get("parameters")) is not None:
        yield from _class_parameters(reference, "spec.parameters")


def _class_parameters(reference: Mapping[str, Any], path: str) -> Iterator[Cause]:
    if reference.get("apiGroup") is not None:
        yield from common.subdomain(f"{path}.apiGroup", reference["apiGroup"])
    for name in ("kind", "name"):
        if not reference.get(name):
            yield field.required(f"{path}.{name}", f"{name} is required")
        else:
            yield from common.path_segment(f"{path}.{name}", reference[name])
    scope, namespace = reference.get("scope"), reference.get("namespace")
    yield from common.one_of(f"{path}.scope", scope, ("Cluster", "Namespace"))
    if scope == "Namespace" and not namespace:
        yield field.required(f"{path}.namespace", "`parameters.scope` is set to 'Namespace'")
    elif scope == "Namespace":
        yield from common.label(f"{path}.namespace", str(namespace))
    elif scope == "Cluster" and namespace is not None:
        yield field.forbidden(f"{path}.namespace", "`parameters.scope` is set to 'Cluster'")


def _validate_class_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from common.immutable(
        "spec.controller", spec_of(new).get("controller"), spec_of(old).get("controller")
    )
    yield from _validate_class(new)


def _parameters(item: Object) -> str:
    ref = spec_of(item).get("parameters")
    if not ref:
        return NONE
    kind = f"{ref['kind']}.{ref['apiGroup']}" if ref.get("apiGroup") else ref.get("kind", "")
    return f"{kind}/{ref.get('name', '')}"


INGRESS_CLASS = Kind(
    group=GROUP,
    version="v1",
    kind="IngressClass",
    resource="ingressclasses",
    namespaced=False,
    storage_prefix="ingressclass",
    singular="ingressclass",
    columns=(
        common.NAME,
        column("Controller", common.text("spec", "controller")),
        column("Parameters", _parameters),
        common.AGE,
    ),
    strategy=Strategy(
        default=_default_class, validate=_validate_class, validate_update=_validate_class_update
    ),
)


# -- NetworkPolicy ------------------------------------------------------------------------------------------


def _default_policy(policy: Object) -> None:
    spec = common.spec_for(policy)
    spec.setdefault("podSelector", {})
    for direction in ("ingress", "egress"):
        for rule in spec.get(direction) or ():
            for port in rule.get("ports") or ():
                port.setdefault("protocol", "TCP")
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]


def _validate_policy(policy: Object) -> Iterator[Cause]:
    spec = spec_of(policy)
    yield from selectors.validate_label_selector(spec.get("podSelector") or {}, "spec.podSelector")
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for at, rule in enumerate(spec.get(direction) or ()):
            path = f"spec.{direction}[{at}]"
            for index, port in enumerate(rule.get("ports") or ()):
                yield from _policy_port(port, f"{path}.ports[{index}]")
            for index, peer in enumerate(rule.get(peers) or ()):
                yield from _peer(peer, f"{path}.{peers}[{index}]")
    for at, kind in enumerate(spec.get("policyTypes") or ()):
        yield from common.one_of(f"spec.policyTypes[{at}]", kind, ("Egress", "Ingress"))


def _policy_port(port: Mapping[str, Any], path: str) -> Iterator[Cause]:
    yield from common.one_of(f"{path}.protocol", port.get("protocol"), PROTOCOLS)
    number, end = port.get("port"), port.get("endPort")
    if isinstance(number, int):
        yield from common.port_number(f"{path}.port", number)
        if end is not None and end < number:
            yield field.invalid(f"{path}.endPort", end, "must be greater than or equal to `port`")
    elif isinstance(number, str):
        for problem in port_name(number):
            yield field.invalid(f"{path}.port", number, problem)
        if end is not None:
            yield field.invalid(f"{path}.endPort", end, "may not be specified when `port` is non-numeric")
    elif end is not None:
        yield field.invalid(f"{path}.endPort", end, "may not be specified when `port` is not specified")


def _peer(peer: Mapping[str, Any], path: str) -> Iterator[Cause]:
    chosen = [name for name in ("podSelector", "namespaceSelector") if peer.get(name) is not None]
    for name in chosen:
        yield from selectors.validate_label_selector(peer[name], f"{path}.{name}")
    block = peer.get("ipBlock")
    if block is None:
        if not chosen:
            yield field.required(path, "must specify a peer")
        return
    if chosen:
        detail = "may not specify both ipBlock and another peer"
        yield field.forbidden(path, detail)
    yield from _ip_block(block, f"{path}.ipBlock")


def _ip_block(block: Mapping[str, Any], path: str) -> Iterator[Cause]:
    detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
    try:
        outer = ipaddress.ip_network(block.get("cidr", ""), strict=False)
    except ValueError:
        yield field.invalid(f"{path}.cidr", block.get("cidr", ""), detail)
        return
    for at, text in enumerate(block.get("except") or ()):
        here = f"{path}.except[{at}]"
        try:
            inner = ipaddress.ip_network(text, strict=False)
        except ValueError:
            yield field.invalid(here, text, detail)
            continue
        strictly_inside = (
            inner.version == outer.version
            and inner.prefixlen > outer.prefixlen
            and inner.network_address in outer
        )
        if not strictly_inside:
            yield field.invalid(here, text, "must be a strict subset of `cidr`")


NETWORK_POLICY = Kind(
    group=GROUP,
    version="v1",
    kind="NetworkPolicy",
    resource="networkpolicies",
    namespaced=True,
    storage_prefix="networkpolicies",
    singular="networkpolicy",
    short_names=("netpol",),
    columns=(
        common.NAME,
        column("Pod-Selector", lambda policy: common.selector_text(spec_of(policy).get("podSelector") or {})),
        common.AGE,
    ),
    strategy=Strategy(
        default=_default_policy,
        validate=_validate_policy,
        validate_update=common.revalidate(_validate_policy),
    ),
)

KINDS = (INGRESS, INGRESS_CLASS, NETWORK_POLICY)
