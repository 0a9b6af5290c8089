"""What the cloud has to say of a node, as a patch; and which nodes to ask about. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apimachinery import meta
from cloudcontroller.cloud import Instance
from cloudcontroller.nodes import conditions
from cloudcontroller.nodes.conditions import NO_SCHEDULE, SHUT_DOWN, UNINITIALIZED, Object

PROVIDED_IP = "alpha.kubernetes.io/provided-node-ip"
# Each fact under its present name and the one that old selectors use.
LABELS = {
    "instance_type": ("node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type"),
    "zone": ("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"),
    "region": ("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
}


def provider_id(node: Mapping[str, Any]) -> str:
    return str((node.get("spec") or {}).get("providerID") or "")


def initialisation(node: Mapping[str, Any], instance: Instance) -> Object:
    """The merge patch that makes a node of this instance: its id, its labels, and the taint taken away."""
    spec: Object = {}
    if not provider_id(node):
        spec["providerID"] = instance.provider_id
    if conditions.has_taint(node, UNINITIALIZED):
        spec["taints"] = conditions.without_taint(node, UNINITIALIZED) or None
    labels = missing_labels(node, instance)
    patch: Object = {}
    if labels:
        patch["metadata"] = {"labels": labels}
    if spec:
        patch["spec"] = spec
    return patch


def missing_labels(node: Mapping[str, Any], instance: Instance) -> dict[str, str]:
    """The cloud's labels that the node lacks or has with another value."""
    wanted = {
        label: str(getattr(instance, fact))
        for fact, names in LABELS.items()
        for label in names
        if getattr(instance, fact)
    }
    have = meta.labels_of(node)
    return {label: value for label, value in wanted.items() if have.get(label) != value}


class WrongAddress(ValueError):
    """The kubelet was told an address (--node-ip) that its instance does not have."""


def addresses(node: Mapping[str, Any], instance: Instance) -> list[Object] | None:
    """`status.addresses` as the cloud has them, that of `--node-ip` first; None when they are there already.

    Raises WrongAddress.
    """
    made = [{"type": kind, "address": address} for kind, address in instance.addresses]
    provided = meta.annotations_of(node).get(PROVIDED_IP, "").partition(",")[0]
    if provided:
        if provided not in {each["address"] for each in made}:
            raise WrongAddress(f"failed to get node address from cloud provider that matches ip: {provided}")
        made.sort(key=lambda each: each["address"] != provided)
    present = (node.get("status") or {}).get("addresses") or []
    return None if present == made else made


def is_silent(node: Mapping[str, Any]) -> bool:
    """Whether the node has stopped saying that it is ready: only then is its instance asked about."""
    ready = conditions.find(node, "Ready")
    return ready is None or ready.get("status") != "True"


def with_shutdown_taint(node: Mapping[str, Any], now: float) -> list[Object] | None:
    """`spec.taints` with the taint of an instance that is switched off; None if it is there."""
    if conditions.has_taint(node, SHUT_DOWN):
        return None
    taint = {"key": SHUT_DOWN, "effect": NO_SCHEDULE, "timeAdded": meta.now_rfc3339(now)}
    return [*conditions.taints(node), taint]
