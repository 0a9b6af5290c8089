"""IPAddresses and ServiceCIDRs (networking.k8s.io/v1): which Service has which address, and their range.

Both are written by registry/allocation.py and bootstrap/, and only read through the API: the range is
the server's flag, and there is one.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import column, dig, spec_of

GROUP = "networking.k8s.io"
ADDRESSES = "ipaddresses"
DEFAULT_CIDR = "kubernetes"
READ_VERBS = ("get", "list", "watch")


def address_object(address: str, namespace: str, name: str, *, uid: str, created: str) -> Object:
    """The IPAddress of a Service's cluster IP."""
    labels = {
        "ipaddress.kubernetes.io/ip-family": f"IPv{ipaddress.ip_address(address).version}",
        "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
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
        verbs=READ_VERBS,
        columns=(common.NAME, column("ParentRef", _parent), common.AGE),
        strategy=Strategy(has_generation=False),
    ),
    Kind(
        group=GROUP,
        version="v1",
        kind="ServiceCIDR",
        resource="servicecidrs",
        namespaced=False,
        storage_prefix="servicecidrs",
        singular="servicecidr",
        verbs=READ_VERBS,
        columns=(
            common.NAME,
            column("CIDRs", lambda item: ",".join(spec_of(item).get("cidrs") or ())),
            common.AGE,
        ),
        strategy=Strategy(has_generation=False),
    ),
)
