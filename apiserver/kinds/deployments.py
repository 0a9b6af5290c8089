"""Deployments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apimachinery import field
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Scale, Strategy
from apiserver.kinds import common, workloads
from apiserver.kinds.common import column, number, spec_of, status_of

PROGRESS_SECONDS = 600
SLACK = "25%"


def _default(deployment: Object) -> None:
    spec = workloads.default_workload(deployment)
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", SLACK)
        rolling.setdefault("maxSurge", SLACK)
    spec.setdefault("revisionHistoryLimit", workloads.HISTORY)
    spec.setdefault("progressDeadlineSeconds", PROGRESS_SECONDS)


def validate_rolling(rolling: Mapping[str, Any], path: str) -> Iterator[Cause]:
    """maxUnavailable and maxSurge: counts or percentages, not both nothing."""
    unavailable, surge = rolling.get("maxUnavailable", 0), rolling.get("maxSurge", 0)
    yield from common.int_or_percent(f"{path}.maxUnavailable", unavailable)
    yield from common.int_or_percent(f"{path}.maxSurge", surge)
    if common.is_zero(unavailable) and common.is_zero(surge):
        yield field.invalid(f"{path}.maxUnavailable", unavailable, "may not be 0 when `maxSurge` is 0")
    yield from common.at_most_whole(f"{path}.maxUnavailable", unavailable)


def _validate(deployment: Object) -> Iterator[Cause]:
    spec = spec_of(deployment)
    yield from workloads.counts(spec, "replicas", "minReadySeconds", "revisionHistoryLimit")
    yield from workloads.validate_selector(spec, "deployment")
    yield from workloads.validate_running_template(spec, "Deployment")
    strategy = spec.get("strategy") or {}
    yield from common.one_of("spec.strategy.type", strategy.get("type"), ("Recreate", "RollingUpdate"))
    rolling = strategy.get("rollingUpdate")
    if strategy.get("type") == "Recreate" and rolling is not None:
        detail = "may not be specified when strategy `type` is 'Recreate'"
        yield field.forbidden("spec.strategy.rollingUpdate", detail)
    elif strategy.get("type") == "RollingUpdate":
        yield from validate_rolling(rolling or {}, "spec.strategy.rollingUpdate")
    deadline = spec.get("progressDeadlineSeconds")
    if deadline is not None:
        yield from common.non_negative("spec.progressDeadlineSeconds", deadline)
        if deadline <= (spec.get("minReadySeconds") or 0):
            yield field.invalid(
                "spec.progressDeadlineSeconds", deadline, "must be greater than minReadySeconds"
            )


def _validate_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate(new)
    yield from workloads.selector_immutable(new, old)


def _ready(deployment: Object) -> str:
    return f"{status_of(deployment).get('readyReplicas', 0)}/{spec_of(deployment).get('replicas', 0)}"


KINDS = (
    Kind(
        group="apps",
        version="v1",
        kind="Deployment",
        resource="deployments",
        namespaced=True,
        storage_prefix="deployments",
        singular="deployment",
        short_names=("deploy",),
        categories=common.ALL,
        subresources=("scale", "status"),
        columns=(
            common.NAME,
            column("Ready", _ready),
            column("Up-to-date", number("status", "updatedReplicas"), "integer"),
            column("Available", number("status", "availableReplicas"), "integer"),
            common.AGE,
            common.CONTAINERS,
            common.IMAGES,
            common.SELECTOR,
        ),
        strategy=Strategy(
            default=_default,
            prepare_create=common.drop_status,
            prepare_update=common.keep_status,
            validate=_validate,
            validate_update=_validate_update,
            status_prepare_update=common.keep_spec,
            status_validate_update=workloads.status_counts(
                "replicas", "updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"
            ),
        ),
        scale=Scale(),
    ),
)
