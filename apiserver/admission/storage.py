"""Plugins for volumes: DefaultStorageClass, StorageObjectInUseProtection, PersistentVolumeClaimResize; and
DefaultIngressClass, which chooses as the first does.
"""

from __future__ import annotations

from typing import Any

from apimachinery import quantity
from apiserver.admission.base import Context, Plugin, forbid, is_create
from apiserver.registry.call import Call

Object = dict[str, Any]

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
BETA_DEFAULT_CLASS = "storageclass.beta.kubernetes.io/is-default-class"
BETA_CLASS = "volume.beta.kubernetes.io/storage-class"
DEFAULT_INGRESS = "ingressclass.kubernetes.io/is-default-class"
INGRESS_ANNOTATION = "kubernetes.io/ingress.class"
FINALIZERS = {
    "persistentvolumeclaims": "kubernetes.io/pvc-protection",
    "persistentvolumes": "kubernetes.io/pv-protection",
}


def annotations_of(obj: Object) -> dict[str, str]:
    return obj["metadata"].get("annotations") or {}


def default_of(context: Context, group: str, resource: str, *keys: str) -> str:
    """The name of the class marked as default: of several the newest, of equally new ones the first by
    name. "" when none is.
    """
    kind = context.scheme.resource(group, "v1", resource)
    marked = [
        item
        for entry in (context.cacher.of(kind).scan() if kind else ())
        if any(annotations_of(item := entry.decoded()).get(key) == "true" for key in keys)
    ]
    marked.sort(key=lambda item: str(item["metadata"]["name"]))
    marked.sort(key=lambda item: str(item["metadata"].get("creationTimestamp", "")), reverse=True)
    return str(marked[0]["metadata"]["name"]) if marked else ""


class DefaultStorageClass(Plugin):
    """A claim that names no class gets the default one; one that names "" wants none."""

    def handles(self, call: Call) -> bool:
        return call.is_for("", "persistentvolumeclaims") and is_create(call)

    async def mutate(self, call: Call) -> None:
        assert call.obj is not None
        spec = call.obj.setdefault("spec", {})
        if spec.get("storageClassName") is not None or BETA_CLASS in annotations_of(call.obj):
            return
        keys = DEFAULT_CLASS, BETA_DEFAULT_CLASS
        if name := default_of(self.context, "storage.k8s.io", "storageclasses", *keys):
            spec["storageClassName"] = name


class DefaultIngressClass(Plugin):
    """The same for Ingresses."""

    def handles(self, call: Call) -> bool:
        return call.is_for("networking.k8s.io", "ingresses") and is_create(call)

    async def mutate(self, call: Call) -> None:
        assert call.obj is not None
        spec = call.obj.setdefault("spec", {})
        if spec.get("ingressClassName") is not None or INGRESS_ANNOTATION in annotations_of(call.obj):
            return
        if name := default_of(self.context, "networking.k8s.io", "ingressclasses", DEFAULT_INGRESS):
            spec["ingressClassName"] = name


class StorageObjectInUseProtection(Plugin):
    """What is in use does not go; the controllers take the finalizers off."""

    def handles(self, call: Call) -> bool:
        return call.kind.group == "" and call.kind.resource in FINALIZERS and is_create(call)

    async def mutate(self, call: Call) -> None:
        assert call.obj is not None
        held = call.obj["metadata"].setdefault("finalizers", [])
        if FINALIZERS[call.kind.resource] not in held:
            held.append(FINALIZERS[call.kind.resource])


class PersistentVolumeClaimResize(Plugin):
    """A claim grows only when it is bound and its class allows that."""

    def handles(self, call: Call) -> bool:
        claims = call.is_for("", "persistentvolumeclaims") and not call.subresource
        return claims and call.obj is not None and call.old is not None

    async def validate(self, call: Call) -> None:
        assert call.obj is not None and call.old is not None
        if not _size(call.old) < _size(call.obj):
            return
        if (call.old.get("status") or {}).get("phase") != "Bound":
            raise forbid(call, "Only bound persistent volume claims can be expanded")
        name = (call.obj.get("spec") or {}).get("storageClassName") or annotations_of(call.obj).get(
            BETA_CLASS
        )
        found = await self.context.current("storage.k8s.io", "storageclasses", "", name) if name else None
        if not (found or {}).get("allowVolumeExpansion"):
            raise forbid(
                call,
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the "
                "pvc must support resize",
            )


def _size(claim: Object) -> quantity.Quantity:
    resources = (claim.get("spec") or {}).get("resources") or {}
    return quantity.parse((resources.get("requests") or {}).get("storage", "0"))
