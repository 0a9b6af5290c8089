"""What a DELETE does: remove now, or mark and wait for grace or finalizers. Pure; the same decisions as
Kubernetes' generic registry (`BeforeDelete`, `deletionFinalizersForGarbageCollection`) and the pod
strategy's grace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from apimachinery import errors, meta
from apimachinery.scheme import Kind
from apiserver.rest.options import DeleteOptions

Object = dict[str, Any]

ORPHAN, FOREGROUND = "orphan", "foregroundDeletion"
CLEANUP = "customresourcecleanup.apiextensions.k8s.io"


@dataclass(frozen=True, slots=True)
class DeletePlan:
    """`remove`: delete the key. `mark`: write `obj` instead. `keep`: it is being deleted already; nothing
    changes.
    """

    action: Literal["remove", "mark", "keep"]
    obj: Object


def check_preconditions(kind: Kind, obj: Object, options: DeleteOptions) -> None:
    """Raises a 409 StatusError when the object is not the one the caller means."""
    fields = obj["metadata"]
    pairs = (
        ("UID", options.uid, fields["uid"]),
        ("ResourceVersion", options.resource_version, fields["resourceVersion"]),
    )
    for label, wanted, found in pairs:
        if wanted and wanted != found:
            why = f"Precondition failed: {label} in precondition: {wanted}, {label} in object meta: {found}"
            raise errors.conflict(kind.group, kind.resource, fields["name"], why)


def plan(kind: Kind, stored: Object, options: DeleteOptions, now: float) -> DeletePlan:
    """Decide; `now` in Unix seconds."""
    fields = dict(stored["metadata"])
    obj = {**stored, "metadata": fields}  # nothing below is changed, only replaced
    _set_finalizers(kind, fields, options.propagation)
    _keep_until_cleaned(kind, fields)
    grace = _grace_seconds(kind, obj, options)
    deleting = "deletionTimestamp" in fields
    if deleting:
        left = fields.get("deletionGracePeriodSeconds", 0)
        if grace is None or (grace >= left and left > 0):
            grace = left
    grace = grace or 0
    waits = bool(fields.get("finalizers")) or _holds(kind, obj)
    if grace == 0 and not waits:
        return DeletePlan("remove", obj)
    if deleting and fields.get("deletionGracePeriodSeconds", 0) == grace:
        changed = fields.get("finalizers") != stored["metadata"].get("finalizers")
        return DeletePlan("mark" if changed else "keep", obj)
    start = now
    if deleting:
        start = meta.parse_time(fields["deletionTimestamp"]) - fields.get("deletionGracePeriodSeconds", 0)
    fields["deletionTimestamp"] = meta.now_rfc3339(start + grace)
    fields["deletionGracePeriodSeconds"] = grace
    if fields.get("generation"):
        fields["generation"] += 1
    if kind.group == "" and kind.resource == "namespaces":
        obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
    return DeletePlan("mark", obj)


def is_finished(kind: Kind, obj: Object) -> bool:
    """Whether nothing holds a marked object any longer: no finalizer, no grace left."""
    fields = obj["metadata"]
    if "deletionTimestamp" not in fields or fields.get("finalizers") or _holds(kind, obj):
        return False
    return not fields.get("deletionGracePeriodSeconds")


def _holds(kind: Kind, obj: Object) -> bool:
    """A namespace stays until its spec.finalizers, which the namespace controller owns, are gone."""
    if kind.group or kind.resource != "namespaces":
        return False
    return bool((obj.get("spec") or {}).get("finalizers"))


def _set_finalizers(kind: Kind, fields: Object, propagation: str) -> None:
    """The propagation policy is carried out by the garbage collector, which finalizers tell what to do."""
    finalizers = [
        name for name in fields.get("finalizers") or [] if not propagation or name not in (ORPHAN, FOREGROUND)
    ]
    if not propagation and not any(name in (ORPHAN, FOREGROUND) for name in finalizers):
        propagation = kind.strategy.default_propagation
    if propagation == "Orphan" and ORPHAN not in finalizers:
        finalizers.append(ORPHAN)
    elif propagation == "Foreground" and FOREGROUND not in finalizers:
        finalizers.append(FOREGROUND)
    if finalizers:
        fields["finalizers"] = finalizers
    else:
        fields.pop("finalizers", None)


def _keep_until_cleaned(kind: Kind, fields: Object) -> None:
    """A CustomResourceDefinition stays until its instances are gone, which extensions/controller.py sees
    to.
    """
    if kind.group != "apiextensions.k8s.io" or "deletionTimestamp" in fields:
        return
    finalizers = fields.get("finalizers") or []
    if CLEANUP not in finalizers:
        fields["finalizers"] = [*finalizers, CLEANUP]


def _grace_seconds(kind: Kind, obj: Object, options: DeleteOptions) -> int | None:
    """Seconds the object gets to end; None: not said (only meaningful for one that is being deleted
    already).
    """
    if not kind.strategy.default_grace_seconds:
        return 0
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
        return 0
    if options.grace_seconds is not None:
        return options.grace_seconds
    if "deletionTimestamp" in obj["metadata"]:
        return None
    default = kind.strategy.default_grace_seconds
    return max(int(spec.get("terminationGracePeriodSeconds", default)), 0)
