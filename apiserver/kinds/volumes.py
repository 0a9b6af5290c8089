"""PersistentVolumes, their claims, and StorageClasses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from apimachinery import field, meta, quantity
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import column, spec_of, status_of
from apiserver.kinds.podrules import validate_node_selector

UNSET = "<unset>"
ACCESS_MODES = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
VOLUME_MODES = ("Block", "Filesystem")
_SHORT_MODES = {
    "ReadWriteOnce": "RWO",
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOncePod": "RWOP",
}
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"
_VOLUME_MEMBERS = frozenset(
    (
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    )
)


def _modes_cell(modes: Any) -> str:
    return ",".join(_SHORT_MODES[mode] for mode in _SHORT_MODES if mode in (modes or ()))


def _class_of(obj: Object) -> str:
    annotated = meta.annotations_of(obj).get(_CLASS_ANNOTATION)
    return str(annotated if annotated is not None else spec_of(obj).get("storageClassName") or "")


def _access_modes(modes: Any, path: str) -> Iterator[Cause]:
    if not modes:
        yield field.required(path)
    for mode in modes or ():
        if mode not in ACCESS_MODES:
            yield field.not_supported(path, mode, ACCESS_MODES)
    if "ReadWriteOncePod" in (modes or ()) and len(modes) > 1:
        yield field.forbidden(path, "may not use ReadWriteOncePod with other access modes")


# -- PersistentVolume ---------------------------------------------------------------------------------------


def _default_volume(volume: Object) -> None:
    spec = common.spec_for(volume)
    spec.setdefault("persistentVolumeReclaimPolicy", "Retain")
    spec.setdefault("volumeMode", "Filesystem")
    if (host := spec.get("hostPath")) is not None:
        host.setdefault("type", "")
    volume.setdefault("status", {}).setdefault("phase", "Pending")


def _create_pending(obj: Object) -> None:
    obj["status"] = {"phase": "Pending"}


def _validate_volume(volume: Object) -> Iterator[Cause]:
    spec = spec_of(volume)
    yield from _access_modes(spec.get("accessModes"), "spec.accessModes")
    capacity = spec.get("capacity") or {}
    if not capacity:
        yield field.required("spec.capacity")
    elif set(capacity) != {"storage"}:
        yield field.not_supported("spec.capacity", sorted(capacity), ("storage",))
    for name, value in capacity.items():
        if quantity.parse(value) <= quantity.ZERO:
            yield field.invalid(f"spec.capacity[{name}]", value, "must be greater than zero")
    sources = [name for name in spec if name not in _VOLUME_MEMBERS]
    if not sources:
        yield field.required("spec", "must specify a volume type")
    for source in sources[1:]:
        yield field.forbidden(f"spec.{source}", "may not specify more than 1 volume type")
    policies = ("Delete", "Recycle", "Retain")
    reclaim = spec.get("persistentVolumeReclaimPolicy")
    yield from common.one_of("spec.persistentVolumeReclaimPolicy", reclaim, policies)
    yield from common.one_of("spec.volumeMode", spec.get("volumeMode"), VOLUME_MODES)
    if "local" in spec and "nodeAffinity" not in spec:
        yield field.required("spec.nodeAffinity", "Local volume requires node affinity")
    if (selector := common.dig(spec, "nodeAffinity", "required")) is not None:
        yield from validate_node_selector(selector, "spec.nodeAffinity.required")


def _validate_volume_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate_volume(new)
    fresh, stored = spec_of(new), spec_of(old)
    for name in sorted({*fresh, *stored} - _VOLUME_MEMBERS):
        if fresh.get(name) != stored.get(name):
            detail = "spec.persistentvolumesource is immutable after creation"
            yield field.forbidden("spec.persistentvolumesource", detail)
    yield from common.immutable("spec.volumeMode", fresh.get("volumeMode"), stored.get("volumeMode"))


def _claim_cell(volume: Object) -> str:
    ref = spec_of(volume).get("claimRef")
    return f"{ref.get('namespace', '')}/{ref.get('name', '')}" if ref else ""


def _phase(obj: Object) -> str:
    return "Terminating" if meta.is_deleting(obj) else str(status_of(obj).get("phase", ""))


PERSISTENT_VOLUME = Kind(
    group="",
    version="v1",
    kind="PersistentVolume",
    resource="persistentvolumes",
    namespaced=False,
    storage_prefix="persistentvolumes",
    singular="persistentvolume",
    short_names=("pv",),
    subresources=("status",),
    columns=(
        common.NAME,
        column("Capacity", common.text("spec", "capacity", "storage")),
        column("Access Modes", lambda volume: _modes_cell(spec_of(volume).get("accessModes"))),
        column("Reclaim Policy", common.text("spec", "persistentVolumeReclaimPolicy")),
        column("Status", _phase),
        column("Claim", _claim_cell),
        column("StorageClass", _class_of),
        column("VolumeAttributesClass", common.text("spec", "volumeAttributesClassName", absent=UNSET)),
        column("Reason", common.text("status", "reason")),
        common.AGE,
        column("VolumeMode", common.text("spec", "volumeMode", absent=UNSET), wide=True),
    ),
    strategy=Strategy(
        default=_default_volume,
        prepare_create=_create_pending,
        prepare_update=common.keep_status,
        validate=_validate_volume,
        validate_update=_validate_volume_update,
        status_prepare_update=common.keep_spec,
        has_generation=False,
    ),
)


# -- PersistentVolumeClaim ----------------------------------------------------------------------------------


def _default_claim(claim: Object) -> None:
    common.spec_for(claim).setdefault("volumeMode", "Filesystem")
    claim.setdefault("status", {}).setdefault("phase", "Pending")


def _validate_claim(claim: Object) -> Iterator[Cause]:
    spec = spec_of(claim)
    yield from _access_modes(spec.get("accessModes"), "spec.accessModes")
    storage = common.dig(spec, "resources", "requests", "storage")
    if storage is None:
        yield field.required("spec.resources[storage]")
    elif quantity.parse(storage) <= quantity.ZERO:
        yield field.invalid("spec.resources[storage]", storage, "must be greater than zero")
    if name := spec.get("storageClassName"):
        yield from common.subdomain("spec.storageClassName", name)
    yield from common.one_of("spec.volumeMode", spec.get("volumeMode"), VOLUME_MODES)


_CLAIM_RULE = (
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for "
    "bound claims"
)


def _validate_claim_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate_claim(new)
    fresh, stored = dict(spec_of(new)), dict(spec_of(old))
    if stored.get("storageClassName") is None and _CLASS_ANNOTATION not in meta.annotations_of(old):
        stored["storageClassName"] = fresh.get("storageClassName")  # a default that came later (KEP-3333)
    if not stored.get("volumeName"):
        stored["volumeName"] = fresh.get("volumeName")
    bound = status_of(old).get("phase") == "Bound"
    before = quantity.parse(common.dig(stored, "resources", "requests", "storage") or "0")
    after = quantity.parse(common.dig(fresh, "resources", "requests", "storage") or "0")
    if bound:
        for spec in (fresh, stored):
            spec.pop("resources", None)
            spec.pop("volumeAttributesClassName", None)
        if after < before:
            detail = "field can not be less than status.capacity"
            yield field.forbidden("spec.resources.requests.storage", detail)
    if any(fresh.get(name) != stored.get(name) for name in {*fresh, *stored}):
        yield field.forbidden("spec", _CLAIM_RULE)


def _bound(claim: Object, cell: Callable[[Mapping[str, Any]], str]) -> str:
    """Capacity and modes are those of the bound volume."""
    return cell(status_of(claim)) if spec_of(claim).get("volumeName") else ""


PERSISTENT_VOLUME_CLAIM = Kind(
    group="",
    version="v1",
    kind="PersistentVolumeClaim",
    resource="persistentvolumeclaims",
    namespaced=True,
    storage_prefix="persistentvolumeclaims",
    singular="persistentvolumeclaim",
    short_names=("pvc",),
    subresources=("status",),
    columns=(
        common.NAME,
        column("Status", _phase),
        column("Volume", common.text("spec", "volumeName")),
        column(
            "Capacity",
            lambda claim: _bound(claim, lambda status: str(common.dig(status, "capacity", "storage") or "")),
        ),
        column(
            "Access Modes", lambda claim: _bound(claim, lambda status: _modes_cell(status.get("accessModes")))
        ),
        column("StorageClass", _class_of),
        column("VolumeAttributesClass", common.text("spec", "volumeAttributesClassName", absent=UNSET)),
        common.AGE,
        column("VolumeMode", common.text("spec", "volumeMode", absent=UNSET), wide=True),
    ),
    strategy=Strategy(
        default=_default_claim,
        prepare_create=_create_pending,
        prepare_update=common.keep_status,
        validate=_validate_claim,
        validate_update=_validate_claim_update,
        status_prepare_update=common.keep_spec,
        has_generation=False,
    ),
)


# -- StorageClass -------------------------------------------------------------------------------------------


def _default_class(item: Object) -> None:
    item.setdefault("reclaimPolicy", "Delete")
    item.setdefault("volumeBindingMode", "Immediate")


def _validate_class(item: Object) -> Iterator[Cause]:
    if not item.get("provisioner"):
        yield field.required("provisioner")
    else:
        for problem in meta.qualified_name(item["provisioner"].lower()):
            yield field.invalid("provisioner", item["provisioner"], problem)
    yield from common.one_of("reclaimPolicy", item.get("reclaimPolicy"), ("Delete", "Retain"))
    modes = ("Immediate", "WaitForFirstConsumer")
    yield from common.one_of("volumeBindingMode", item.get("volumeBindingMode"), modes)


def _validate_class_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate_class(new)
    if (new.get("parameters") or {}) != (old.get("parameters") or {}):
        yield field.forbidden("parameters", "updates to parameters are forbidden.")
    if new.get("provisioner") != old.get("provisioner"):
        yield field.forbidden("provisioner", "updates to provisioner are forbidden.")
    if new.get("reclaimPolicy") != old.get("reclaimPolicy"):
        yield field.forbidden("reclaimPolicy", "updates to reclaimPolicy are forbidden.")
    yield from common.immutable(
        "volumeBindingMode", new.get("volumeBindingMode"), old.get("volumeBindingMode")
    )


def _class_name(item: Object) -> str:
    default = meta.annotations_of(item).get(_DEFAULT_CLASS) == "true"
    return meta.name_of(item) + (" (default)" if default else "")


STORAGE_CLASS = Kind(
    group="storage.k8s.io",
    version="v1",
    kind="StorageClass",
    resource="storageclasses",
    namespaced=False,
    storage_prefix="storageclasses",
    singular="storageclass",
    short_names=("sc",),
    columns=(
        column("Name", _class_name),
        column("Provisioner", common.text("provisioner")),
        column("ReclaimPolicy", common.text("reclaimPolicy")),
        column("VolumeBindingMode", common.text("volumeBindingMode")),
        column("AllowVolumeExpansion", lambda item: bool(item.get("allowVolumeExpansion")), "boolean"),
        common.AGE,
    ),
    strategy=Strategy(
        default=_default_class,
        validate=_validate_class,
        validate_update=_validate_class_update,
        has_generation=False,
    ),
)

KINDS = (PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, STORAGE_CLASS)
