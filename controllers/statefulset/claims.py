"""PersistentVolumeClaims of a StatefulSet: which are missing, and who owns them under the retention policy
(KEP-1847). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controllers import objects as o
from controllers.objects import Object
from controllers.statefulset import identity
from kubeclient.resources import PODS, STATEFULSETS


@dataclass(frozen=True, slots=True)
class Retention:
    """What becomes of claims when the set is deleted or scaled down: True deletes them."""

    on_delete: bool
    on_scale: bool


def retention(sts: Object) -> Retention:
    policy = o.spec(sts).get("persistentVolumeClaimRetentionPolicy") or {}
    return Retention(policy.get("whenDeleted") == "Delete", policy.get("whenScaled") == "Delete")


def owners(sts: Object, pod: Object | None, ordinal: int) -> list[Object]:
    """The owner references this set wants on the claims of one ordinal.

    The set owns them when its deletion takes them along. The pod owns them only once it is condemned: then
    the claim goes with the pod, and a pod that restarts in its place keeps it.
    """
    rule = retention(sts)
    condemned = ordinal not in identity.ordinals(sts)
    if rule.on_scale and condemned:
        return [o.owner_reference(pod, PODS.api_version, PODS.kind)] if pod is not None else []
    if rule.on_delete:
        return [o.owner_reference(sts, STATEFULSETS.api_version, STATEFULSETS.kind)]
    return []


def build_claim(sts: Object, template: Object, ordinal: int) -> Object:
    selected = (o.spec(sts).get("selector") or {}).get("matchLabels") or {}
    metadata: Object = {
        "name": identity.claim_name(sts, template, ordinal),
        "namespace": o.namespace(sts),
        "labels": {**o.labels(template), **selected},
    }
    if o.annotations_of(template):
        metadata["annotations"] = dict(o.annotations_of(template))
    if references := owners(sts, None, ordinal):
        metadata["ownerReferences"] = references
    body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata}
    return {**body, "spec": template["spec"]}


def missing(sts: Object, ordinal: int, claims: Mapping[str, Object]) -> list[Object]:
    """Claims of the ordinal that have to be made; `claims` are those of the namespace by name."""
    wanted = (build_claim(sts, template, ordinal) for template in identity.claim_templates(sts))
    return [claim for claim in wanted if o.name(claim) not in claims]


def terminating(sts: Object, ordinal: int, claims: Mapping[str, Object]) -> str:
    """The name of a claim of the ordinal that is being deleted; "" when there is none."""
    for name in identity.claim_names(sts, ordinal):
        if name in claims and o.is_terminating(claims[name]):
            return name
    return ""


def stale(sts: Object, ordinal: int, pod: Object | None, claims: Mapping[str, Object]) -> bool:
    """A claim still belongs to an earlier pod of this name: it will be collected, so its successor waits."""
    uid = o.uid(pod) if pod is not None else ""
    name = identity.pod_name(sts, ordinal)
    return any(
        ref.get("kind") == "Pod" and ref.get("name") == name and ref.get("uid") != uid
        for claim in identity.claim_names(sts, ordinal)
        for ref in o.owner_references(claims.get(claim) or {})
    )


def reowned(sts: Object, pod: Object, claims: Mapping[str, Object]) -> list[Object]:
    """The pod's claims whose owners differ from what the policy says, put right.

    A claim that somebody else controls is left alone.
    """
    ordinal = identity.ordinal_of(pod)
    wanted = owners(sts, pod, ordinal)
    ours = {o.uid(sts), o.uid(pod)}
    out = []
    for name in identity.claim_names(sts, ordinal):
        claim = claims.get(name)
        if claim is None or o.is_terminating(claim):
            continue
        controller = o.controller_of(claim)
        if controller is not None and controller.get("uid") not in ours and not _of_namesake(controller, pod):
            continue
        kept = [ref for ref in o.owner_references(claim) if ref.get("uid") not in ours]
        present = {ref.get("uid") for ref in o.owner_references(claim)} & ours
        if present != {ref["uid"] for ref in wanted}:
            metadata = {**o.meta(claim), "ownerReferences": [*kept, *wanted]}
            out.append({**claim, "metadata": metadata})
    return out


def _of_namesake(reference: Object, pod: Object) -> bool:
    return reference.get("kind") == "Pod" and reference.get("name") == o.name(pod)
