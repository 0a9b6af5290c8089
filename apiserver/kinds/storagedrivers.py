"""CSIDrivers, CSINodes and VolumeAttachments (storage.k8s.io/v1): the records volume drivers keep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apimachinery import field, meta
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import column, dig, spec_of

MODES = ("Ephemeral", "Persistent")
POLICIES = ("File", "None", "ReadWriteOnceWithFSType")
MAX_DRIVER_NAME = 63


def _default_driver(driver: Object) -> None:
    spec = common.spec_for(driver)
    for name, value in (
        ("attachRequired", True),
        ("podInfoOnMount", False),
        ("storageCapacity", False),
        ("requiresRepublish", False),
        ("seLinuxMount", False),
        ("fsGroupPolicy", "ReadWriteOnceWithFSType"),
    ):
        spec.setdefault(name, value)
    spec["volumeLifecycleModes"] = spec.get("volumeLifecycleModes") or ["Persistent"]


def _validate_driver(driver: Object) -> Iterator[Cause]:
    spec, name = spec_of(driver), meta.name_of(driver)
    if len(name) > MAX_DRIVER_NAME:
        yield field.too_long("metadata.name", MAX_DRIVER_NAME)
    for at, mode in enumerate(spec.get("volumeLifecycleModes") or ()):
        yield from common.one_of(f"spec.volumeLifecycleModes[{at}]", mode, MODES)
    yield from common.one_of("spec.fsGroupPolicy", spec.get("fsGroupPolicy"), POLICIES)
    seen = set()
    for at, request in enumerate(spec.get("tokenRequests") or ()):
        if request.get("audience", "") in seen:
            yield field.duplicate(f"spec.tokenRequests[{at}].audience", request.get("audience", ""))
        seen.add(request.get("audience", ""))


def _validate_driver_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate_driver(new)
    for name in ("attachRequired", "volumeLifecycleModes"):
        yield from common.immutable(f"spec.{name}", spec_of(new).get(name), spec_of(old).get(name))


def _audiences(driver: Object) -> str:
    requests = spec_of(driver).get("tokenRequests")
    return ",".join(item.get("audience", "") for item in requests) if requests else "<unset>"


CSI_DRIVER = Kind(
    group="storage.k8s.io",
    version="v1",
    kind="CSIDriver",
    resource="csidrivers",
    namespaced=False,
    storage_prefix="csidrivers",
    singular="csidriver",
    columns=(
        common.NAME,
        column("AttachRequired", lambda item: bool(dig(item, "spec", "attachRequired")), "boolean"),
        column("PodInfoOnMount", lambda item: bool(dig(item, "spec", "podInfoOnMount")), "boolean"),
        column("StorageCapacity", lambda item: bool(dig(item, "spec", "storageCapacity")), "boolean"),
        column("TokenRequests", _audiences),
        column("RequiresRepublish", lambda item: bool(dig(item, "spec", "requiresRepublish")), "boolean"),
        column("Modes", lambda item: ",".join(spec_of(item).get("volumeLifecycleModes") or ())),
        common.AGE,
    ),
    strategy=Strategy(
        default=_default_driver, validate=_validate_driver, validate_update=_validate_driver_update
    ),
)


# -- CSINode ------------------------------------------------------------------------------------------------


def _validate_node(node: Object) -> Iterator[Cause]:
    drivers = spec_of(node).get("drivers") or []
    yield from common.unique("spec.drivers", "name", drivers)
    for at, driver in enumerate(drivers):
        for name in ("name", "nodeID"):
            if not driver.get(name):
                yield field.required(f"spec.drivers[{at}].{name}")
        for key in driver.get("topologyKeys") or ():
            for problem in meta.qualified_name(key):
                yield field.invalid(f"spec.drivers[{at}].topologyKeys", key, problem)


def _validate_node_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate_node(new)
    known = {driver["name"]: driver for driver in spec_of(old).get("drivers") or ()}
    for at, driver in enumerate(spec_of(new).get("drivers") or ()):
        before = known.get(driver.get("name"))
        if before is not None and _identity(before) != _identity(driver):
            yield field.invalid(f"spec.drivers[{at}]", driver, "field is immutable")


def _identity(driver: Object) -> Any:
    return driver.get("nodeID"), sorted(driver.get("topologyKeys") or ())


CSI_NODE = Kind(
    group="storage.k8s.io",
    version="v1",
    kind="CSINode",
    resource="csinodes",
    namespaced=False,
    storage_prefix="csinodes",
    singular="csinode",
    columns=(
        common.NAME,
        column("Drivers", lambda item: len(spec_of(item).get("drivers") or ()), "integer"),
        common.AGE,
    ),
    strategy=Strategy(
        default=lambda node: common.spec_for(node).setdefault("drivers", []) and None,
        validate=_validate_node,
        validate_update=_validate_node_update,
        has_generation=False,
    ),
)


# -- VolumeAttachment ---------------------------------------------------------------------------------------


def _prepare_attachment(attachment: Object) -> None:
    attachment["status"] = {"attached": False}


def _validate_attachment(attachment: Object) -> Iterator[Cause]:
    spec = spec_of(attachment)
    for name in ("attacher", "nodeName"):
        if not spec.get(name):
            yield field.required(f"spec.{name}")
    source = spec.get("source") or {}
    inline, volume = source.get("inlineVolumeSpec"), source.get("persistentVolumeName")
    if not inline and not volume:
        yield field.required(
            "spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
        )
    elif inline and volume:
        yield field.forbidden(
            "spec.source", "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
        )


def _validate_attachment_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate_attachment(new)
    yield from common.immutable("spec", spec_of(new), spec_of(old))


VOLUME_ATTACHMENT = Kind(
    group="storage.k8s.io",
    version="v1",
    kind="VolumeAttachment",
    resource="volumeattachments",
    namespaced=False,
    storage_prefix="volumeattachments",
    singular="volumeattachment",
    subresources=("status",),
    columns=(
        common.NAME,
        column("Attacher", common.text("spec", "attacher")),
        column("PV", common.text("spec", "source", "persistentVolumeName")),
        column("Node", common.text("spec", "nodeName")),
        column("Attached", lambda item: bool(dig(item, "status", "attached")), "boolean"),
        common.AGE,
    ),
    strategy=Strategy(
        prepare_create=_prepare_attachment,
        prepare_update=common.keep_status,
        validate=_validate_attachment,
        validate_update=_validate_attachment_update,
        status_prepare_update=common.keep_spec,
        has_generation=False,
    ),
)

KINDS = (CSI_DRIVER, CSI_NODE, VOLUME_ATTACHMENT)
