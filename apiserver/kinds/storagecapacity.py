"""CSIStorageCapacities and VolumeAttributesClasses (storage.k8s.io/v1)."""

from __future__ import annotations

from collections.abc import Iterator

from apimachinery import field, quantity, selectors
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import column

MAX_PARAMETERS, MAX_PARAMETERS_SIZE = 512, 256 * 1024


def _validate_capacity(capacity: Object) -> Iterator[Cause]:
    name = capacity.get("storageClassName", "")
    if not name:
        yield field.required("storageClassName")
    else:
        yield from common.subdomain("storageClassName", name)
    for key in ("capacity", "maximumVolumeSize"):
        value = capacity.get(key)
        if value is not None and quantity.parse(value) < quantity.ZERO:
            yield field.invalid(key, value, "must be greater than or equal to 0")
    yield from selectors.validate_label_selector(capacity.get("nodeTopology") or {}, "nodeTopology")


def _update_capacity(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate_capacity(new)
    for name in ("nodeTopology", "storageClassName"):
        yield from common.immutable(name, new.get(name), old.get(name))


def _validate_class(attributes: Object) -> Iterator[Cause]:
    driver, parameters = attributes.get("driverName", ""), attributes.get("parameters") or {}
    if not driver:
        yield field.required("driverName")
    else:
        yield from common.subdomain("driverName", driver.lower())
    if not parameters:
        yield field.required("parameters", "must contain at least one key/value pair")
    if len(parameters) > MAX_PARAMETERS:
        yield field.too_many("parameters", len(parameters), MAX_PARAMETERS)
    if "" in parameters:
        yield field.invalid("parameters", "", "field can not be empty.")
    if sum(len(key) + len(value) for key, value in parameters.items()) > MAX_PARAMETERS_SIZE:
        yield field.too_long("parameters", MAX_PARAMETERS_SIZE)


def _update_class(new: Object, old: Object) -> Iterator[Cause]:
    for name in ("driverName", "parameters"):
        yield from common.immutable(name, new.get(name), old.get(name))


KINDS = (
    Kind(
        group="storage.k8s.io",
        version="v1",
        kind="CSIStorageCapacity",
        resource="csistoragecapacities",
        namespaced=True,
        storage_prefix="csistoragecapacities",
        singular="csistoragecapacity",
        columns=(
            common.NAME,
            column("StorageClassName", common.text("storageClassName")),
            column("Capacity", common.text("capacity")),
        ),
        strategy=Strategy(
            validate=_validate_capacity, validate_update=_update_capacity, has_generation=False
        ),
    ),
    Kind(
        group="storage.k8s.io",
        version="v1",
        kind="VolumeAttributesClass",
        resource="volumeattributesclasses",
        namespaced=False,
        storage_prefix="volumeattributesclasses",
        singular="volumeattributesclass",
        short_names=("vac",),
        columns=(common.NAME, column("DriverName", common.text("driverName")), common.AGE),
        strategy=Strategy(validate=_validate_class, validate_update=_update_class, has_generation=False),
    ),
)
