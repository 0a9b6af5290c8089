"""PersistentVolumeClaims: from a pod's volume to the directory that its bound volume is on this node. Pure.

Only volumes that are already here are mounted: `local` and `hostPath`. Every reason not to is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubelet.volumes.payload import VolumeError

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Backing:
    """What a bound claim is made of: `kind` is local or hostPath, `source` its PersistentVolume source."""

    kind: str
    source: Object


def claim_name(pod: Object, volume: Object) -> str:
    """The claim a volume refers to, empty when it is no claim. A generic ephemeral volume's claim has the
    names of pod and volume.
    """
    if "persistentVolumeClaim" in volume:
        return str(volume["persistentVolumeClaim"]["claimName"])
    return f"{pod['metadata']['name']}-{volume['name']}" if "ephemeral" in volume else ""


def bound_volume(pod: Object, volume: Object, claim: Object | None) -> str:
    """The name of the PersistentVolume; raises `VolumeError` until the claim is bound."""
    name, namespace = claim_name(pod, volume), pod["metadata"].get("namespace", "default")
    if claim is None:
        raise VolumeError(f'persistentvolumeclaim "{name}" not found')
    if "ephemeral" in volume and not _owned(claim, pod):
        raise VolumeError(
            f"PVC {namespace}/{name} was not created for pod {namespace}/{pod['metadata']['name']}"
        )
    if claim["metadata"].get("deletionTimestamp"):
        raise VolumeError(f"PVC {namespace}/{name} is being deleted")
    phase = (claim.get("status") or {}).get("phase", "")
    bound = (claim.get("spec") or {}).get("volumeName", "")
    if phase != "Bound" or not bound:
        raise VolumeError(
            f'PVC {namespace}/{name} has non-bound phase ("{phase}") or empty pvc.Spec.VolumeName ("{bound}")'
        )
    return str(bound)


def _owned(claim: Object, pod: Object) -> bool:
    owners = claim["metadata"].get("ownerReferences") or []
    return any(owner.get("uid") == pod["metadata"]["uid"] for owner in owners)


def backing(claim: Object, volume: Object | None, name: str, labels: Mapping[str, str]) -> Backing:
    """How to mount the PersistentVolume `name` on a node with these labels. Raises `VolumeError`."""
    if volume is None:
        raise VolumeError(f'persistentvolume "{name}" not found')
    spec = volume["spec"]
    holder = (spec.get("claimRef") or {}).get("uid")
    if holder != claim["metadata"]["uid"]:
        raise VolumeError(
            f'PV "{name}" is not bound to PVC "{claim["metadata"]["name"]}" (claimRef.uid {holder})'
        )
    if spec.get("volumeMode", "Filesystem") != "Filesystem":
        raise VolumeError(f"volumeMode {spec['volumeMode']} is not supported")
    if not reachable(spec, labels):
        raise VolumeError(f'PV "{name}": no matching NodeSelectorTerms: the volume is on another node')
    for kind in ("local", "hostPath"):
        if kind in spec:
            return Backing(kind, spec[kind])
    kinds = sorted(key for key in spec if isinstance(spec[key], Mapping) and key not in _NOT_SOURCES)
    raise VolumeError(f"persistent volume source {kinds} is not supported")


_NOT_SOURCES = ("capacity", "claimRef", "nodeAffinity")


def reachable(spec: Object, labels: Mapping[str, str]) -> bool:
    """Whether a volume's node affinity lets this node use it: all expressions of one term must match."""
    required = (spec.get("nodeAffinity") or {}).get("required")
    if not required:
        return True
    return any(
        all(_matches(rule, labels) for rule in term.get("matchExpressions") or [])
        for term in required.get("nodeSelectorTerms") or []
    )


def _matches(rule: Object, labels: Mapping[str, str]) -> bool:
    held, values = labels.get(rule["key"]), rule.get("values") or []
    match rule["operator"]:
        case "In":
            return held in values
        case "NotIn":
            return held not in values
        case "Exists":
            return held is not None
        case "DoesNotExist":
            return held is None
        case "Gt" | "Lt" if held is not None and held.lstrip("-").isdigit():
            return int(held) > int(values[0]) if rule["operator"] == "Gt" else int(held) < int(values[0])
    return False


def read_only(spec: Object) -> frozenset[str]:
    """The volumes of a pod that no container may write to, by name."""
    return frozenset(
        volume["name"]
        for volume in spec.get("volumes", [])
        if (volume.get("persistentVolumeClaim") or {}).get("readOnly")
    )
