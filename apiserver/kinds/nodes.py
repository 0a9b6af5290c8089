"""Nodes, as kubelets report them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Mapping

from apimachinery import field, meta
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import NONE, UNKNOWN, column, spec_of, status_of
from apiserver.kinds.podrules import EFFECTS

ROLE_PREFIX = "node-role.kubernetes.io/"
ROLE_LABEL = "kubernetes.io/role"


def _prepare_create(node: Object) -> None:
    """A node brings its status along: kubelets register with it."""
    node.setdefault("spec", {})
    node.setdefault("status", {})


def _default(node: Object) -> None:
    spec = common.spec_for(node)
    if spec.get("podCIDRs"):
        spec["podCIDR"] = spec["podCIDRs"][0]  # the older field shows the first
    elif spec.get("podCIDR"):
        spec["podCIDRs"] = [spec["podCIDR"]]
    status = node.setdefault("status", {})
    capacity = status.get("capacity")
    if capacity and "allocatable" not in status:
        status["allocatable"] = dict(capacity)


def _validate(node: Object) -> Iterator[Cause]:
    spec, status = spec_of(node), status_of(node)
    seen: set[tuple[str, str]] = set()
    for at, taint in enumerate(spec.get("taints") or ()):
        yield from _taint(taint, f"metadata.taints[{at}]")
        key = (taint.get("key", ""), taint.get("effect", ""))
        if key in seen:
            yield field.duplicate(f"metadata.taints[{at}]", dict(taint))
        seen.add(key)
    for at, cidr in enumerate(spec.get("podCIDRs") or ()):
        try:
            ipaddress.ip_network(cidr)
        except ValueError:
            detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            yield field.invalid(f"spec.podCIDRs[{at}]", cidr, detail)
    for name in ("capacity", "allocatable"):
        yield from common.resource_list(f"status.{name}", status.get(name) or {})


def _taint(taint: Mapping[str, str], path: str) -> Iterator[Cause]:
    key = taint.get("key", "")
    for problem in meta.qualified_name(key):
        yield field.invalid(f"{path}.key", key, problem)
    for problem in meta.label_value(taint.get("value", "")):
        yield field.invalid(f"{path}.value", taint.get("value", ""), problem)
    yield from common.one_of(f"{path}.effect", taint.get("effect"), EFFECTS)


def _validate_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate(new)
    before, after = spec_of(old), spec_of(new)
    if before.get("podCIDRs") and before["podCIDRs"] != after.get("podCIDRs"):
        detail = 'node updates may not change podCIDR except from "" to valid'
        yield field.forbidden("spec.podCIDRs", detail)
    if before.get("providerID") and before["providerID"] != after.get("providerID"):
        detail = 'node updates may not change providerID except from "" to valid'
        yield field.forbidden("spec.providerID", detail)


def _prepare_update(new: Object, old: Object) -> None:
    common.keep_status(new, old)
    new.setdefault("spec", {})


def _status_prepare(new: Object, old: Object) -> None:
    common.restore(new, old, "spec")


def _status_validate(new: Object, _old: Object) -> Iterator[Cause]:
    for name in ("capacity", "allocatable"):
        yield from common.resource_list(f"status.{name}", status_of(new).get(name) or {})


def _status(node: Object) -> str:
    ready = {item.get("type"): item.get("status") for item in status_of(node).get("conditions") or ()}.get(
        "Ready"
    )
    found = ["Unknown" if ready is None else "Ready" if ready == "True" else "NotReady"]
    if spec_of(node).get("unschedulable"):
        found.append("SchedulingDisabled")
    return ",".join(found)


def _roles(node: Object) -> str:
    labels = meta.labels_of(node)
    roles = {name.removeprefix(ROLE_PREFIX) for name in labels if name.startswith(ROLE_PREFIX)} - {""}
    if role := labels.get(ROLE_LABEL):
        roles.add(role)
    return ",".join(sorted(roles)) or NONE


def _address(sort: str) -> Callable[[Object], str]:
    def cell(node: Object) -> str:
        for address in status_of(node).get("addresses") or ():
            if address.get("type") == sort:
                return str(address.get("address", ""))
        return NONE

    return cell


def _fields(node: Object) -> Mapping[str, str]:
    return {"spec.unschedulable": "true" if spec_of(node).get("unschedulable") else "false"}


def _info(name: str) -> Callable[[Object], str]:
    return common.text("status", "nodeInfo", name, absent=UNKNOWN)


KINDS = (
    Kind(
        group="",
        version="v1",
        kind="Node",
        resource="nodes",
        namespaced=False,
        storage_prefix="minions",
        singular="node",
        short_names=("no",),
        subresources=("proxy", "status"),
        columns=(
            common.NAME,
            column("Status", _status),
            column("Roles", _roles),
            common.AGE,
            column("Version", common.text("status", "nodeInfo", "kubeletVersion")),
            column("Internal-IP", _address("InternalIP"), wide=True),
            column("External-IP", _address("ExternalIP"), wide=True),
            column("OS-Image", _info("osImage"), wide=True),
            column("Kernel-Version", _info("kernelVersion"), wide=True),
            column("Container-Runtime", _info("containerRuntimeVersion"), wide=True),
        ),
        strategy=Strategy(
            default=_default,
            prepare_create=_prepare_create,
            prepare_update=_prepare_update,
            validate=_validate,
            validate_update=_validate_update,
            status_prepare_update=_status_prepare,
            status_validate_update=_status_validate,
            fields=_fields,
            has_generation=False,
        ),
        selectable_fields=("spec.unschedulable",),
    ),
)
