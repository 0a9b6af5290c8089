"""ReplicaSets and their elder, ReplicationControllers."""

from __future__ import annotations

from collections.abc import Iterator

from apimachinery import field
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Scale, Strategy
from apiserver.kinds import common, workloads
from apiserver.kinds.common import column, number, spec_of, status_of


def _default(replica_set: Object) -> None:
    workloads.default_workload(replica_set).setdefault("replicas", 1)


def _validate(replica_set: Object) -> Iterator[Cause]:
    spec = spec_of(replica_set)
    yield from workloads.counts(spec, "replicas", "minReadySeconds")
    yield from workloads.validate_selector(spec, "replicaset")
    yield from workloads.validate_running_template(spec, "ReplicaSet")


def _validate_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate(new)
    yield from workloads.selector_immutable(new, old)


def _status_validate(new: Object, _old: Object) -> Iterator[Cause]:
    status = status_of(new)
    for name in ("replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas"):
        yield from common.non_negative(f"status.{name}", status.get(name))
    total, ready = status.get("replicas", 0), status.get("readyReplicas", 0)
    for name in ("fullyLabeledReplicas", "readyReplicas", "availableReplicas"):
        if status.get(name, 0) > total:
            yield field.invalid(f"status.{name}", status[name], "cannot be greater than status.replicas")
    if status.get("availableReplicas", 0) > ready:
        detail = "cannot be greater than readyReplicas"
        yield field.invalid("status.availableReplicas", status["availableReplicas"], detail)


def _prepare_create(obj: Object) -> None:
    obj["status"] = {"replicas": 0}


def _fields(obj: Object) -> dict[str, str]:
    return {"status.replicas": str(status_of(obj).get("replicas", 0))}


_COUNTS = (
    common.NAME,
    column("Desired", number("spec", "replicas"), "integer"),
    column("Current", number("status", "replicas"), "integer"),
    column("Ready", number("status", "readyReplicas"), "integer"),
    common.AGE,
    common.CONTAINERS,
    common.IMAGES,
)

REPLICA_SET = Kind(
    group="apps",
    version="v1",
    kind="ReplicaSet",
    resource="replicasets",
    namespaced=True,
    storage_prefix="replicasets",
    singular="replicaset",
    short_names=("rs",),
    categories=common.ALL,
    subresources=("scale", "status"),
    columns=(*_COUNTS, common.SELECTOR),
    strategy=Strategy(
        default=_default,
        prepare_create=_prepare_create,
        prepare_update=common.keep_status,
        validate=_validate,
        validate_update=_validate_update,
        status_prepare_update=common.keep_spec,
        status_validate_update=_status_validate,
        fields=_fields,
    ),
    scale=Scale(),
    selectable_fields=("status.replicas",),
)


def _default_controller(controller: Object) -> None:
    spec = workloads.default_workload(controller)
    spec.setdefault("replicas", 1)
    if labels := common.dig(spec, "template", "metadata", "labels"):
        spec.setdefault("selector", dict(labels))
        controller.setdefault("metadata", {}).setdefault("labels", dict(labels))


def _validate_controller(controller: Object) -> Iterator[Cause]:
    spec = spec_of(controller)
    yield from workloads.counts(spec, "replicas", "minReadySeconds")
    selector = spec.get("selector") or {}
    if not selector:
        yield field.required("spec.selector")
    labels = common.dig(spec, "template", "metadata", "labels") or {}
    if selector and not selector.items() <= labels.items():
        detail = "`selector` does not match template `labels`"
        yield field.invalid("spec.template.metadata.labels", labels, detail)
    yield from workloads.validate_running_template(spec, "ReplicationController")


REPLICATION_CONTROLLER = Kind(
    group="",
    version="v1",
    kind="ReplicationController",
    resource="replicationcontrollers",
    namespaced=True,
    storage_prefix="controllers",
    singular="replicationcontroller",
    short_names=("rc",),
    categories=common.ALL,
    subresources=("scale", "status"),
    columns=(
        *_COUNTS,
        column("Selector", lambda obj: common.labels_text(spec_of(obj).get("selector")), wide=True),
    ),
    strategy=Strategy(
        default=_default_controller,
        prepare_create=_prepare_create,
        prepare_update=common.keep_status,
        validate=_validate_controller,
        validate_update=common.revalidate(_validate_controller),
        status_prepare_update=common.keep_spec,
        status_validate_update=_status_validate,
        fields=_fields,
    ),
    scale=Scale(),
    selectable_fields=("status.replicas",),
)

KINDS = (REPLICA_SET, REPLICATION_CONTROLLER)
