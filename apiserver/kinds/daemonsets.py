"""DaemonSets, and ControllerRevisions: the history that DaemonSets and StatefulSets keep."""

from __future__ import annotations

from collections.abc import Iterator

from apimachinery import field, meta
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common, workloads
from apiserver.kinds.common import NONE, column, number, spec_of


def _default(daemon_set: Object) -> None:
    spec = workloads.default_workload(daemon_set)
    strategy = spec.setdefault("updateStrategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", 1)
        rolling.setdefault("maxSurge", 0)
    spec.setdefault("revisionHistoryLimit", workloads.HISTORY)


def _validate(daemon_set: Object) -> Iterator[Cause]:
    spec = spec_of(daemon_set)
    yield from workloads.validate_selector(spec, "daemonset")
    yield from workloads.validate_running_template(spec, "DaemonSet")
    yield from workloads.counts(spec, "minReadySeconds", "revisionHistoryLimit")
    strategy = spec.get("updateStrategy") or {}
    yield from common.one_of("spec.updateStrategy.type", strategy.get("type"), ("OnDelete", "RollingUpdate"))
    if strategy.get("type") != "RollingUpdate":
        return
    path = "spec.updateStrategy.rollingUpdate"
    rolling = strategy.get("rollingUpdate") or {}
    unavailable, surge = rolling.get("maxUnavailable", 0), rolling.get("maxSurge", 0)
    yield from common.int_or_percent(f"{path}.maxUnavailable", unavailable)
    yield from common.int_or_percent(f"{path}.maxSurge", surge)
    yield from common.at_most_whole(f"{path}.maxUnavailable", unavailable)
    if common.is_zero(unavailable) and common.is_zero(surge):
        yield field.required(f"{path}.maxUnavailable", "cannot be 0 when maxSurge is 0")
    elif not common.is_zero(unavailable) and not common.is_zero(surge):
        yield field.invalid(f"{path}.maxSurge", surge, "may not be set when maxUnavailable is non-zero")


def _validate_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate(new)
    yield from workloads.selector_immutable(new, old)


_STATUS_COUNTS = ("currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady")


def _prepare_create(daemon_set: Object) -> None:
    daemon_set["status"] = dict.fromkeys(_STATUS_COUNTS, 0)


def _node_selector(daemon_set: Object) -> str:
    return common.labels_text(common.dig(daemon_set, "spec", "template", "spec", "nodeSelector"))


DAEMON_SET = Kind(
    group="apps",
    version="v1",
    kind="DaemonSet",
    resource="daemonsets",
    namespaced=True,
    storage_prefix="daemonsets",
    singular="daemonset",
    short_names=("ds",),
    categories=common.ALL,
    subresources=("status",),
    columns=(
        common.NAME,
        column("Desired", number("status", "desiredNumberScheduled"), "integer"),
        column("Current", number("status", "currentNumberScheduled"), "integer"),
        column("Ready", number("status", "numberReady"), "integer"),
        column("Up-to-date", number("status", "updatedNumberScheduled"), "integer"),
        column("Available", number("status", "numberAvailable"), "integer"),
        column("Node Selector", _node_selector),
        common.AGE,
        common.CONTAINERS,
        common.IMAGES,
        common.SELECTOR,
    ),
    strategy=Strategy(
        default=_default,
        prepare_create=_prepare_create,
        prepare_update=common.keep_status,
        validate=_validate,
        validate_update=_validate_update,
        status_prepare_update=common.keep_spec,
        status_validate_update=workloads.status_counts(
            *_STATUS_COUNTS, "updatedNumberScheduled", "numberAvailable", "numberUnavailable"
        ),
    ),
)


# -- ControllerRevision -------------------------------------------------------------------------------------


def _validate_revision(revision: Object) -> Iterator[Cause]:
    if revision.get("data") is None:
        yield field.required("data", "data is mandatory")
    number_ = revision.get("revision", 0)
    if number_ < 0:
        yield field.invalid("revision", number_, "must be greater than or equal to 0")


def _validate_revision_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate_revision(new)
    yield from common.immutable("data", new.get("data"), old.get("data"))


def _controller(revision: Object) -> str:
    ref = meta.controller_of(revision)
    if ref is None:
        return NONE
    group = str(ref.get("apiVersion", "")).rpartition("/")[0]
    kind = str(ref.get("kind", "")).lower()
    return f"{kind}.{group}/{ref.get('name', '')}" if group else f"{kind}/{ref.get('name', '')}"


CONTROLLER_REVISION = Kind(
    group="apps",
    version="v1",
    kind="ControllerRevision",
    resource="controllerrevisions",
    namespaced=True,
    storage_prefix="controllerrevisions",
    singular="controllerrevision",
    columns=(
        common.NAME,
        column("Controller", _controller),
        column("Revision", number("revision"), "integer"),
        common.AGE,
    ),
    strategy=Strategy(
        validate=_validate_revision,
        validate_update=_validate_revision_update,
        has_generation=False,
    ),
)

KINDS = (DAEMON_SET, CONTROLLER_REVISION)
