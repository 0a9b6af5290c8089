"""What binding reads of claims, volumes and storage classes, by the real names of annotations. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from apimachinery import quantity
from apimachinery.quantity import Quantity
from controllers import objects as o
from controllers.objects import Object

BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
BOUND_BY_CONTROLLER = "pv.kubernetes.io/bound-by-controller"
PROVISIONED_BY = "pv.kubernetes.io/provisioned-by"
STORAGE_PROVISIONER = "volume.kubernetes.io/storage-provisioner"
BETA_STORAGE_PROVISIONER = "volume.beta.kubernetes.io/storage-provisioner"
SELECTED_NODE = "volume.kubernetes.io/selected-node"
CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def class_of(claim_or_volume: Object) -> str:
    """The storage class by name; "" for none."""
    annotated = o.annotations_of(claim_or_volume).get(CLASS_ANNOTATION)
    return str(annotated if annotated is not None else o.spec(claim_or_volume).get("storageClassName") or "")


def wants_default_class(claim: Object) -> bool:
    """Nothing was said about a class; "" says that there shall be none (KEP-3333)."""
    return CLASS_ANNOTATION not in o.annotations_of(claim) and o.spec(claim).get("storageClassName") is None


def default_class(classes: Iterable[Object]) -> str:
    """The newest of those marked as default, the first by name among equals; "" when there is none."""
    marked = [c for c in classes if o.annotations_of(c).get(DEFAULT_CLASS) == "true"]
    return o.name(min(marked, key=lambda c: (-o.created_at(c), o.name(c)))) if marked else ""


def mode_of(claim_or_volume: Object) -> str:
    return str(o.spec(claim_or_volume).get("volumeMode") or "Filesystem")


def size(text: object) -> Quantity:
    return quantity.parse(str(text))


def requested(claim: Object) -> Quantity:
    return size(((o.spec(claim).get("resources") or {}).get("requests") or {}).get("storage", "0"))


def capacity(volume: Object) -> Quantity:
    return size((o.spec(volume).get("capacity") or {}).get("storage", "0"))


def access_modes(claim_or_volume: Object) -> set[str]:
    return set(o.spec(claim_or_volume).get("accessModes") or ())


def claim_ref(volume: Object) -> Object | None:
    found: Object | None = o.spec(volume).get("claimRef")
    return found


def refers_to(volume: Object, claim: Object) -> bool:
    """The volume is promised to this claim: by name, and by UID unless whoever promised it knew none."""
    ref = claim_ref(volume)
    if ref is None or (ref.get("namespace"), ref.get("name")) != (o.namespace(claim), o.name(claim)):
        return False
    return not ref.get("uid") or ref["uid"] == o.uid(claim)


def reference_to(claim: Object) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "namespace": o.namespace(claim),
        "name": o.name(claim),
        "uid": o.uid(claim),
        "resourceVersion": str(o.meta(claim).get("resourceVersion", "")),
    }


def annotated(obj: Object, **notes: str) -> Object:
    """A copy of the object with `notes` (name -> value; spelt by their constants) added."""
    return {**obj, "metadata": {**o.meta(obj), "annotations": {**o.annotations_of(obj), **notes}}}
