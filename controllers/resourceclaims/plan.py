"""Which claims a pod lacks, and what becomes of a claim whose users have gone. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from controllers import objects as o
from controllers import pods
from controllers.objects import Object

FINALIZER = "resource.kubernetes.io/delete-protection"
POD_CLAIM = "resource.kubernetes.io/pod-claim-name"
"""Annotation of a claim made for a pod: the name of the entry in `spec.resourceClaims` it was made for."""
MAX_USERS = 256


def entries(pod: Object) -> Sequence[Object]:
    return o.spec(pod).get("resourceClaims") or ()


def recorded(pod: Object) -> Mapping[str, str | None]:
    """Claim by entry, as the pod's status names them; None for an entry that needs no claim."""
    statuses = o.status(pod).get("resourceClaimStatuses") or ()
    return {each["name"]: each.get("resourceClaimName") for each in statuses}


def claims_of(pod: Object) -> list[str]:
    """The names of all claims that the pod uses, as far as they are known."""
    names = recorded(pod)
    used = [each.get("resourceClaimName") or names.get(each["name"]) for each in entries(pod)]
    return [name for name in used if name]


def is_done(pod: Object) -> bool:
    """It will never run again: what it has reserved is free."""
    return pods.is_finished(pod) or (o.is_terminating(pod) and not pods.node_name(pod))


@dataclass(frozen=True, slots=True)
class PodPlan:
    """`make` are the entries whose claim is to be made, `found` those that are there and not recorded yet."""

    make: tuple[Object, ...] = ()
    found: Mapping[str, str] | None = None


def compute_pod(pod: Object, claims: Iterable[Object]) -> PodPlan:
    """`claims` are those that the pod controls. One that vanished is made again, one that was made before a
    crash is found by its annotation.
    """
    if o.is_terminating(pod) or is_done(pod):
        return PodPlan()
    names, make, found = recorded(pod), [], {}
    mine = {o.annotations_of(claim).get(POD_CLAIM, ""): o.name(claim) for claim in claims}
    held = set(mine.values())
    for entry in entries(pod):
        name = entry["name"]
        if not entry.get("resourceClaimTemplateName"):
            continue
        if name in names and (names[name] is None or names[name] in held):
            continue
        if name in mine:
            found[name] = mine[name]
        else:
            make.append(entry)
    return PodPlan(tuple(make), found or None)


def build_claim(pod: Object, entry: Object, template: Object) -> Object:
    """The claim of one entry, as its template has it."""
    inside = o.spec(template)
    source = inside.get("metadata") or {}
    metadata: Object = {
        "generateName": f"{o.name(pod)}-{entry['name']}-",
        "annotations": {**(source.get("annotations") or {}), POD_CLAIM: entry["name"]},
        "ownerReferences": [o.owner_reference(pod, "v1", "Pod")],
    }
    if source.get("labels"):
        metadata["labels"] = source["labels"]
    return {"metadata": metadata, "spec": inside.get("spec") or {}}


def build_statuses(pod: Object, made: Mapping[str, str]) -> list[Object]:
    """`status.resourceClaimStatuses` with what was made."""
    names = {**recorded(pod), **made}
    return [{"name": n, **({"resourceClaimName": c} if c else {})} for n, c in names.items()]


# -- claims --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClaimPlan:
    """`status` is what to write (None: nothing), `let_go` that the finalizer goes then, `delete` that the
    claim goes: it was made for a pod that has ended.
    """

    status: Object | None = None
    let_go: bool = False
    delete: bool = False


def users(claim: Object) -> Sequence[Object]:
    return o.status(claim).get("reservedFor") or ()


def is_pod(user: Object) -> bool:
    return user.get("resource") == "pods" and not user.get("apiGroup")


def compute_claim(claim: Object, living: Mapping[str, Object]) -> ClaimPlan:
    """`living` are the pods that matter, by UID. Users that are no pods are somebody else's to remove.

    Without users nothing is allocated: DRA allocates for the next one anew. The finalizer goes only with an
    allocation or a deletion, for the scheduler sets it before it allocates.
    """
    stay = [user for user in users(claim) if not is_pod(user) or _lives(living.get(user.get("uid", "")))]
    status = dict(o.status(claim))
    if stay:
        status["reservedFor"] = stay
    else:
        status.pop("reservedFor", None)
    held = FINALIZER in o.finalizers(claim)
    freed = len(stay) < len(users(claim))
    if not stay and held and (freed or o.is_terminating(claim)):
        status.pop("allocation", None)
    changed = status != o.status(claim)
    ended = freed or o.is_terminating(claim)
    let_go = held and ended and not stay and "allocation" not in status
    return ClaimPlan(status if changed else None, let_go, not stay and _is_orphan(claim, living))


def compute_reservation(claim: Object, pod: Object) -> Object | None:
    """The status with the pod among the users; None when it is there or cannot be. For a pod that was placed
    by somebody who does not reserve.
    """
    known = any(user.get("uid") == o.uid(pod) for user in users(claim))
    if known or is_done(pod) or o.status(claim).get("allocation") is None or len(users(claim)) >= MAX_USERS:
        return None
    user = {"resource": "pods", "name": o.name(pod), "uid": o.uid(pod)}
    return {**o.status(claim), "reservedFor": [*users(claim), user]}


def _lives(pod: Object | None) -> bool:
    return pod is not None and not is_done(pod)


def _is_orphan(claim: Object, living: Mapping[str, Object]) -> bool:
    """Made for a pod that has ended and is still there; one that is gone is the garbage collector's."""
    owner = o.controller_of(claim)
    if owner is None or owner.get("kind") != "Pod" or o.is_terminating(claim):
        return False
    pod = living.get(owner["uid"])
    return pod is not None and is_done(pod)
