"""Claims, volumes, storage classes and what drivers say of nodes: what volume plugins decide from.

Objects are kept as the API has them, compiled once where nodes are compared with them. `reserved` are volumes
and claims promised to a pod whose binding is on its way (volume name -> claim key), so that two pods never
plan with one volume.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from apimachinery import quantity
from scheduler.podinfo import NodeTerm, PodInfo, compile_node_selector, compile_selector

Object = dict[str, Any]

BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
NO_PROVISIONER = "kubernetes.io/no-provisioner"
_CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"


def size_of(text: Any) -> int:
    return quantity.parse(str(text)).value()


def is_bound(claim: Object) -> bool:
    """Bound to its volume by both sides, as the volume controller notes when it is done."""
    annotations = claim["metadata"].get("annotations") or {}
    return bool(claim["spec"].get("volumeName")) and BIND_COMPLETED in annotations


def class_of(claim_or_volume: Object) -> str:
    annotations = claim_or_volume["metadata"].get("annotations") or {}
    found = annotations.get(_CLASS_ANNOTATION, claim_or_volume["spec"].get("storageClassName"))
    return found or ""


def key_of(obj: Object) -> str:
    meta = obj["metadata"]
    return f"{meta['namespace']}/{meta['name']}"


@dataclass(frozen=True, slots=True)
class Plan:
    """How the claims of a pod are to be satisfied on its node."""

    static: tuple[tuple[str, str], ...] = ()  # volume name, claim key
    provisioned: tuple[str, ...] = ()  # claim keys


@dataclass(slots=True)
class Volumes:
    """The storage objects by key."""

    claims: dict[str, Object] = field(default_factory=dict)
    volumes: dict[str, Object] = field(default_factory=dict)
    classes: dict[str, Object] = field(default_factory=dict)
    csi_nodes: dict[str, Object] = field(default_factory=dict)
    plans: dict[str, Plan] = field(default_factory=dict)  # pod uid -> what is on its way
    reserved: dict[str, str] = field(default_factory=dict)
    _affinity: dict[str, tuple[NodeTerm, ...] | None] = field(default_factory=dict)

    def set_volume(self, volume: Object) -> None:
        name = volume["metadata"]["name"]
        self.volumes[name] = volume
        affinity = (volume["spec"].get("nodeAffinity") or {}).get("required")
        self._affinity[name] = compile_node_selector(affinity)

    def remove_volume(self, volume: Object) -> None:
        name = volume["metadata"]["name"]
        self.volumes.pop(name, None)
        self._affinity.pop(name, None)

    def affinity_of(self, volume: str) -> tuple[NodeTerm, ...] | None:
        """The node terms of a volume; None when it can be reached from everywhere."""
        return self._affinity.get(volume)

    def claims_of(self, pod: PodInfo) -> list[tuple[str, Object | None]]:
        """The pod's claims by key, None for one that does not exist."""
        keys = [f"{pod.namespace}/{name}" for name in pod.claims]
        return [(key, self.claims.get(key)) for key in keys]

    def waits_for_consumer(self, claim: Object) -> bool:
        """WaitForFirstConsumer, and not bound by hand to a volume."""
        mode = self.classes.get(class_of(claim), {}).get("volumeBindingMode")
        return mode == "WaitForFirstConsumer" and not claim["spec"].get("volumeName")

    def delayed(self, pod: PodInfo) -> list[tuple[str, Object]]:
        """Claims that are to be bound for this pod, the largest wish last."""
        found = [
            (key, claim) for key, claim in self.claims_of(pod) if claim is not None and not is_bound(claim)
        ]
        return sorted(found, key=lambda item: _wanted(item[1]))

    def candidates(self, key: str, claim: Object) -> list[str]:
        """Volumes that could serve a claim, the smallest first."""
        spec = claim["spec"]
        selector = compile_selector(spec["selector"]) if spec.get("selector") else None
        found: list[tuple[int, str]] = []
        for name, volume in self.volumes.items():
            offered = volume["spec"]
            if class_of(volume) != class_of(claim) or self.reserved.get(name, key) != key:
                continue
            if not _free_for(volume, key, claim) or volume["metadata"].get("deletionTimestamp"):
                continue
            if offered.get("volumeMode", "Filesystem") != spec.get("volumeMode", "Filesystem"):
                continue
            if not set(spec.get("accessModes") or ()) <= set(offered.get("accessModes") or ()):
                continue
            if selector is not None and not selector.matches(volume["metadata"].get("labels") or {}):
                continue
            size = size_of((offered.get("capacity") or {}).get("storage", 0))
            if size >= _wanted(claim):
                found.append((size, name))
        return [name for _, name in sorted(found)]

    def reserve(self, pod: PodInfo, plan: Plan) -> None:
        self.plans[pod.uid] = plan
        self.reserved.update(plan.static)

    def release(self, pod: PodInfo) -> None:
        plan = self.plans.pop(pod.uid, None)
        for name, key in plan.static if plan else ():
            if self.reserved.get(name) == key:
                del self.reserved[name]


def _wanted(claim: Object) -> int:
    return size_of(((claim["spec"].get("resources") or {}).get("requests") or {}).get("storage", 0))


def _free_for(volume: Object, key: str, claim: Object) -> bool:
    ref = volume["spec"].get("claimRef")
    if ref is None:
        return (volume.get("status") or {}).get("phase", "Available") in ("Available", "Pending")
    mine = f"{ref.get('namespace')}/{ref.get('name')}" == key
    return mine and ref.get("uid") in (None, "", claim["metadata"].get("uid"))
