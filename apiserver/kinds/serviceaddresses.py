"""IPAddresses and ServiceCIDRs (networking.k8s.io/v1, KEP-1880): which address is whose, and from which
ranges new ones come. registry/addresses.py takes addresses; the range of the server's flag is always there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from typing import Any

from apimachinery import field
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import column, dig, spec_of

GROUP = "networking.k8s.io"
ADDRESSES = "ipaddresses"
DEFAULT_CIDR = "kubernetes"
MANAGED_BY, MANAGER = "ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io"
MAX_CIDRS = 2


def address_object(address: str, namespace: str, name: str, *, uid: str, created: str) -> Object:
    """The IPAddress of a Service's cluster IP."""
    labels = {
        "ipaddress.kubernetes.io/ip-family": f"IPv{ipaddress.ip_address(address).version}",
        MANAGED_BY: MANAGER,
    }
    parent = {"group": "", "resource": "services", "namespace": namespace, "name": name}
    return {
        "kind": "IPAddress",
        "apiVersion": f"{GROUP}/v1",
        "metadata": {"name": address, "uid": uid, "creationTimestamp": created, "labels": labels},
        "spec": {"parentRef": {key: value for key, value in parent.items() if value}},
    }


def cidr_object(cidr: str, created: str) -> Object:
    """The range of `--service-cluster-ip-range`, ready from the start."""
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "",
        "message": "Kubernetes Service CIDR is ready",
        "lastTransitionTime": created,
    }
    return {
        "kind": "ServiceCIDR",
        "apiVersion": f"{GROUP}/v1",
        "metadata": {"name": DEFAULT_CIDR},
        "spec": {"cidrs": [cidr]},
        "status": {"conditions": [ready]},
    }


def is_ready(cidr: Object) -> bool:
    """Whether addresses may be taken from a range."""
    conditions = (cidr.get("status") or {}).get("conditions") or ()
    ready = any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)
    return ready and not cidr["metadata"].get("deletionTimestamp")


# -- rules --------------------------------------------------------------------------------------------------


def _validate_address(address: Object) -> Iterator[Cause]:
    name = address["metadata"].get("name", "")
    yield from _canonical(
        "metadata.name", name, ipaddress.ip_address, "must be a valid IP address in canonical form"
    )
    parent = spec_of(address).get("parentRef")
    if not parent:
        yield field.required("spec.parentRef")
        return
    for part in ("resource", "name"):
        if not parent.get(part):
            yield field.required(f"spec.parentRef.{part}")


def _validate_address_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate_address(new)
    if spec_of(new).get("parentRef") != spec_of(old).get("parentRef"):
        yield field.invalid("spec.parentRef", spec_of(new).get("parentRef"), "field is immutable")


def _validate_cidr(cidr: Object) -> Iterator[Cause]:
    cidrs = spec_of(cidr).get("cidrs") or []
    if not cidrs:
        yield field.required("spec.cidrs", "at least one CIDR required")
    if len(cidrs) > MAX_CIDRS:
        yield field.invalid("spec.cidrs", cidrs, "may only hold up to 2 values")
    for at, text in enumerate(cidrs):
        yield from _canonical(
            f"spec.cidrs[{at}]", text, ipaddress.ip_network, "must be a valid CIDR in canonical form"
        )
    if len(cidrs) == MAX_CIDRS and len({":" in text for text in cidrs}) == 1:
        yield field.invalid(
            "spec.cidrs",
            cidrs,
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        )


def _validate_cidr_update(new: Object, old: Object) -> Iterator[Cause]:
    """A second family may be added; nothing else changes."""
    yield from _validate_cidr(new)
    after, before = spec_of(new).get("cidrs") or [], spec_of(old).get("cidrs") or []
    if after[: len(before)] != before or not before:
        yield field.invalid("spec.cidrs", after, "field is immutable")


def _canonical(path: str, text: str, parse: Callable[[str], object], why: str) -> Iterator[Cause]:
    try:
        given = str(parse(text))
    except ValueError:
        given = ""
    if given != text:
        yield field.invalid(path, text, why)


# -- columns ------------------------------------------------------------------------------------------------


def _parent(address: Object) -> str:
    ref: Any = dig(address, "spec", "parentRef") or {}
    resource = f"{ref.get('resource', '')}.{ref['group']}" if ref.get("group") else ref.get("resource", "")
    return "/".join(part for part in (resource, ref.get("namespace"), ref.get("name")) if part)


KINDS = (
    Kind(
        group=GROUP,
        version="v1",
        kind="IPAddress",
        resource=ADDRESSES,
        namespaced=False,
        storage_prefix=ADDRESSES,
        singular="ipaddress",
        short_names=("ip",),
        columns=(common.NAME, column("ParentRef", _parent), common.AGE),
        strategy=Strategy(
            has_generation=False, validate=_validate_address, validate_update=_validate_address_update
        ),
        name_rule="path-segment",
    ),
    Kind(
        group=GROUP,
        version="v1",
        kind="ServiceCIDR",
        resource="servicecidrs",
        namespaced=False,
        storage_prefix="servicecidrs",
        singular="servicecidr",
        columns=(
            common.NAME,
            column("CIDRs", lambda item: ",".join(spec_of(item).get("cidrs") or ())),
            common.AGE,
        ),
        subresources=("status",),
        strategy=Strategy(
            has_generation=False,
            prepare_create=common.drop_status,
            prepare_update=common.keep_status,
            validate=_validate_cidr,
            validate_update=_validate_cidr_update,
            status_prepare_update=common.keep_spec,
        ),
    ),
)
