"""What is to become of a claim and of a volume (kube's syncClaim and syncVolume). Pure.

A binding has two sides, each with a note of who made it: `spec.claimRef` of the volume comes first, the
claim's `spec.volumeName` second, and `bind-completed` on the claim says that both stand. A crash between any
two writes leaves a volume that refers to its claim, which is where the next look goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from controllers import objects as o
from controllers.objects import Object
from controllers.volumes import matching
from controllers.volumes import model as m

Objects = Mapping[str, Object]  # by name
_DELETED = "Data on the volume is lost!"


class Note(NamedTuple):
    """An event to record."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ClaimPlan:
    """`bind`: the volume to bind the claim to. Otherwise its `phase` ("" when another sync will say), the
    default class to write into it, or the provisioner to call by annotation.
    """

    bind: Object | None = None
    phase: str = ""
    assign_class: str = ""
    provisioner: str = ""
    note: Note | None = None


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """`unbind`: take back what this controller promised. `ask_claim`: the claim's side has the next move."""

    phase: str = ""
    message: str = ""
    unbind: bool = False
    ask_claim: bool = False
    note: Note | None = None


# -- the claim's side ----------------------------------------------------------------------------------------


def plan_claim(claim: Object, volumes: Objects, classes: Objects, waiting: tuple[str, ...] = ()) -> ClaimPlan:
    """`waiting`: names of pods that use the claim and have no node yet."""
    name = str(o.spec(claim).get("volumeName") or "")
    if m.BIND_COMPLETED in o.annotations_of(claim):
        return _completed(claim, volumes.get(name), name)
    if not name:
        return _unnamed(claim, volumes, classes, waiting)
    volume = volumes.get(name)
    if volume is None:
        return ClaimPlan(phase="Pending")
    if m.refers_to(volume, claim):
        return ClaimPlan(bind=volume)
    if m.claim_ref(volume) is not None:
        text = f'volume "{name}" already bound to a different claim.'
        return ClaimPlan(phase="Pending", note=Note("Warning", "FailedBinding", text))
    if why := matching.mismatch(volume, claim):
        text = f'Cannot bind to requested volume "{name}": {why}'
        return ClaimPlan(phase="Pending", note=Note("Warning", "VolumeMismatch", text))
    return ClaimPlan(bind=volume)


def _completed(claim: Object, volume: Object | None, name: str) -> ClaimPlan:
    """A claim that was bound never gets another volume: what it lost is lost."""
    if not name:
        text = f"Bound claim has lost reference to PersistentVolume. {_DELETED}"
    elif volume is None:
        text = f"Bound claim has lost its PersistentVolume. {_DELETED}"
    elif m.claim_ref(volume) is None or m.refers_to(volume, claim):
        return ClaimPlan(bind=volume)
    else:
        text = "Two claims are bound to the same volume, this one is bound incorrectly"
        return ClaimPlan(phase="Lost", note=Note("Warning", "ClaimMisbound", text))
    return ClaimPlan(phase="Lost", note=Note("Warning", "ClaimLost", text))


def _unnamed(claim: Object, volumes: Objects, classes: Objects, waiting: tuple[str, ...]) -> ClaimPlan:
    class_name = m.class_of(claim)
    storage_class = classes.get(class_name, {})
    delayed = storage_class.get("volumeBindingMode") == "WaitForFirstConsumer"
    found = matching.find(claim, volumes.values(), only_promised=delayed)
    if found is not None:
        return ClaimPlan(bind=found)
    if m.wants_default_class(claim) and (default := m.default_class(classes.values())):
        return ClaimPlan(assign_class=default)
    if delayed and m.SELECTED_NODE not in o.annotations_of(claim):
        return ClaimPlan(phase="Pending", note=_delayed(waiting))
    if class_name:
        return _provision(class_name, storage_class)
    text = "no persistent volumes available for this claim and no storage class is set"
    return ClaimPlan(phase="Pending", note=Note("Normal", "FailedBinding", text))


def _delayed(waiting: tuple[str, ...]) -> Note:
    if not waiting:
        text = "waiting for first consumer to be created before binding"
        return Note("Normal", "WaitForFirstConsumer", text)
    several = "s" if len(waiting) > 1 else ""
    return Note(
        "Normal", "WaitForPodScheduled", f"waiting for pod{several} {','.join(waiting)} to be scheduled"
    )


def _provision(name: str, storage_class: Object) -> ClaimPlan:
    provisioner = str(storage_class.get("provisioner", ""))
    if not provisioner:
        text = f'storageclass.storage.k8s.io "{name}" not found'
        return ClaimPlan(phase="Pending", note=Note("Warning", "ProvisioningFailed", text))
    if provisioner.startswith("kubernetes.io/"):
        text = f"no volume plugin matched name: {provisioner}"
        return ClaimPlan(phase="Pending", note=Note("Warning", "ProvisioningFailed", text))
    text = (
        f"Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually "
        "by the system administrator. If volume creation is delayed, please verify that the provisioner is "
        "running and correctly registered."
    )
    note = Note("Normal", "ExternalProvisioning", text)
    return ClaimPlan(phase="Pending", provisioner=provisioner, note=note)


# -- the four writes of a binding, each None when there is nothing to write ----------------------------------


def promised(volume: Object, claim: Object) -> Object | None:
    """The volume with its reference to the claim, in full."""
    mine, ref = m.refers_to(volume, claim), m.claim_ref(volume) or {}
    if mine and ref.get("uid"):
        return None
    new = volume if mine else m.annotated(volume, **{m.BOUND_BY_CONTROLLER: "yes"})
    return {**new, "spec": {**o.spec(volume), "claimRef": m.reference_to(claim)}}


def named(claim: Object, volume: Object) -> Object | None:
    """The claim with the name of its volume, and the note that the binding stands."""
    notes = dict(o.annotations_of(claim))
    if not o.spec(claim).get("volumeName"):
        notes[m.BOUND_BY_CONTROLLER] = "yes"
    notes[m.BIND_COMPLETED] = "yes"
    if notes == o.annotations_of(claim) and o.spec(claim).get("volumeName") == o.name(volume):
        return None
    return {**m.annotated(claim, **notes), "spec": {**o.spec(claim), "volumeName": o.name(volume)}}


def claim_status(claim: Object, phase: str, volume: Object | None = None) -> Object | None:
    """The status; the capacity is the volume's at the time of binding, then whoever resizes it writes it."""
    old = o.status(claim)
    new = {**old, "phase": phase}
    if volume is None:
        new = {name: value for name, value in new.items() if name not in ("accessModes", "capacity")}
    else:
        size = (old.get("capacity") or {}).get("storage") or o.spec(volume)["capacity"]["storage"]
        modes = o.spec(volume).get("accessModes") or []
        new |= {"accessModes": modes, "capacity": {**(old.get("capacity") or {}), "storage": size}}
    return None if new == old else new


def volume_status(volume: Object, phase: str, message: str, now: str) -> Object | None:
    """The status; `now` is when the phase was entered (KEP-3762)."""
    old = o.status(volume)
    if old.get("phase") == phase and old.get("message", "") == message:
        return None
    new = {name: value for name, value in old.items() if name not in ("message", "reason")}
    stamp = old.get("lastPhaseTransitionTime") if old.get("phase") == phase else now
    return {
        **new,
        "phase": phase,
        "lastPhaseTransitionTime": stamp or now,
        **({"message": message} if message else {}),
    }


# -- the volume's side ---------------------------------------------------------------------------------------


def plan_volume(volume: Object, claim: Object | None) -> VolumePlan:
    """`claim` is who the volume refers to by name and UID, or None when it is gone for certain."""
    ref = m.claim_ref(volume)
    if ref is None or not ref.get("uid"):
        return VolumePlan(phase="Available", ask_claim=ref is not None)
    if claim is None:
        return _released(volume)
    bound_to = o.spec(claim).get("volumeName") or ""
    if bound_to == o.name(volume):
        return VolumePlan(phase="Bound")
    if not bound_to:
        if m.mode_of(volume) != m.mode_of(claim):
            text = (
                "Cannot bind PersistentVolume to requested PersistentVolumeClaim "
                f'"{o.name(claim)}" due to incompatible volumeMode.'
            )
            return VolumePlan(note=Note("Warning", "VolumeMismatch", text))
        return VolumePlan(ask_claim=True)
    if m.PROVISIONED_BY in o.annotations_of(volume) and _policy(volume) == "Delete":
        return _released(volume)  # made for a claim that has found another: nobody will ever want it
    return VolumePlan(unbind=True)


def _policy(volume: Object) -> str:
    return str(o.spec(volume).get("persistentVolumeReclaimPolicy") or "Retain")


def _released(volume: Object) -> VolumePlan:
    """The claim is gone. A provisioned volume is deleted by whoever made it, when it sees this phase."""
    if o.status(volume).get("phase") == "Failed":
        return VolumePlan()
    policy = _policy(volume)
    if policy == "Recycle":
        text = "No recycler plugin found for the volume!"
        return VolumePlan("Failed", text, note=Note("Warning", "VolumeFailedRecycle", text))
    if policy == "Delete" and m.PROVISIONED_BY not in o.annotations_of(volume):
        name = o.name(volume)
        text = f'error getting deleter volume plugin for volume "{name}": no deletable volume plugin matched'
        return VolumePlan("Failed", text, note=Note("Warning", "VolumeFailedDelete", text))
    return VolumePlan(phase="Released")


def unbound(volume: Object) -> Object:
    """The volume without the promise: all of it if this controller made it, else only the UID it added."""
    notes = dict(o.annotations_of(volume))
    spec = {name: value for name, value in o.spec(volume).items() if name != "claimRef"}
    if notes.pop(m.BOUND_BY_CONTROLLER, None) is None:
        ref = m.claim_ref(volume) or {}
        spec["claimRef"] = {
            name: value for name, value in ref.items() if name not in ("uid", "resourceVersion")
        }
    return {**volume, "metadata": {**o.meta(volume), "annotations": notes}, "spec": spec}
