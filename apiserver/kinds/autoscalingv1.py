"""HorizontalPodAutoscalers in their first form (autoscaling/v1), kept as autoscaling/v2.

The first form knows one metric, the CPU's utilization; all else travels in annotations, so that an object
read and
written in it loses nothing (pkg/apis/autoscaling/v1/conversion.go).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from apimachinery import field
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import autoscaling, common
from apiserver.kinds.common import column, number, spec_of, status_of

PREFIX = "autoscaling.alpha.kubernetes.io/"
_SPEC = ("maxReplicas", "minReplicas", "scaleTargetRef")
_STATUS = ("currentReplicas", "desiredReplicas", "lastScaleTime", "observedGeneration")
_EXTRA = {
    "metrics": ("spec", "metrics"),
    "behavior": ("spec", "behavior"),
    "conditions": ("status", "conditions"),
    "current-metrics": ("status", "currentMetrics"),
}


def _is_cpu(metric: Any) -> bool:
    resource = metric.get("resource") or {}
    wanted = (resource.get("target") or resource.get("current") or {}).get("averageUtilization")
    return metric.get("type") == "Resource" and resource.get("name") == "cpu" and wanted is not None


def from_v2(scaler: Object) -> Object:
    """The stored form as autoscaling/v1."""
    spec, status = spec_of(scaler), status_of(scaler)
    out: Object = {**scaler, "apiVersion": "autoscaling/v1", "metadata": dict(scaler["metadata"])}
    out["spec"] = {name: spec[name] for name in _SPEC if name in spec}
    out["status"] = {"currentReplicas": 0, "desiredReplicas": 0}
    out["status"].update({name: status[name] for name in _STATUS if name in status})
    metrics, current = list(spec.get("metrics") or ()), list(status.get("currentMetrics") or ())
    cpu = next((item for item in metrics if _is_cpu(item)), None)
    if cpu is not None:
        metrics.remove(cpu)
        out["spec"]["targetCPUUtilizationPercentage"] = cpu["resource"]["target"]["averageUtilization"]
    seen = next((item for item in current if _is_cpu(item)), None)
    if seen is not None:
        out["status"]["currentCPUUtilizationPercentage"] = seen["resource"]["current"]["averageUtilization"]
    extra = {
        "metrics": metrics,
        "behavior": spec.get("behavior"),
        "conditions": status.get("conditions"),
        "current-metrics": current,
    }
    kept = {f"{PREFIX}{name}": orjson.dumps(value).decode() for name, value in extra.items() if value}
    if kept:
        out["metadata"]["annotations"] = {**(scaler["metadata"].get("annotations") or {}), **kept}
    return out


def to_v2(scaler: Object) -> Object:
    """An autoscaling/v1 object as it is stored."""
    spec, status = spec_of(scaler), status_of(scaler)
    out: Object = {**scaler, "apiVersion": "autoscaling/v2", "metadata": dict(scaler["metadata"])}
    annotations = dict(scaler["metadata"].get("annotations") or {})
    out["spec"] = {name: spec[name] for name in _SPEC if name in spec}
    out["status"] = {name: status[name] for name in _STATUS if name in status}
    for name, (part, member) in _EXTRA.items():
        text = annotations.pop(PREFIX + name, None)
        if text is not None:
            out[part][member] = orjson.loads(text)
    percent = spec.get("targetCPUUtilizationPercentage")
    if percent is not None:
        target = {"type": "Utilization", "averageUtilization": percent}
        cpu = {"type": "Resource", "resource": {"name": "cpu", "target": target}}
        out["spec"]["metrics"] = [cpu, *out["spec"].get("metrics", ())]
    out["metadata"].pop("annotations", None)
    if annotations:
        out["metadata"]["annotations"] = annotations
    return out


def _default(scaler: Object) -> None:
    spec = common.spec_for(scaler)
    spec.setdefault("minReplicas", 1)
    if f"{PREFIX}metrics" not in (scaler["metadata"].get("annotations") or {}):
        spec.setdefault("targetCPUUtilizationPercentage", autoscaling.DEFAULT_CPU_PERCENT)


def _prepare_create(scaler: Object) -> None:
    scaler["status"] = {"currentReplicas": 0, "desiredReplicas": 0}


def _validate(scaler: Object) -> Iterator[Cause]:
    percent = spec_of(scaler).get("targetCPUUtilizationPercentage")
    if percent is not None and percent < 1:
        yield field.invalid("spec.targetCPUUtilizationPercentage", percent, "must be greater than 0")
    for name in _EXTRA:
        text = (scaler["metadata"].get("annotations") or {}).get(PREFIX + name)
        try:
            orjson.loads(text or "null")
        except orjson.JSONDecodeError:
            yield field.invalid(f"metadata.annotations[{PREFIX}{name}]", text, "must be valid JSON")
            return
    yield from STORED.strategy.validate(to_v2(scaler))


def _targets(scaler: Object) -> str:
    wanted = spec_of(scaler).get("targetCPUUtilizationPercentage")
    current = status_of(scaler).get("currentCPUUtilizationPercentage")
    shown = common.UNKNOWN if current is None else f"{current}%"
    return f"cpu: {shown}/{wanted}%" if wanted is not None else common.NONE


STORED = autoscaling.KINDS[0]
KINDS = (
    Kind(
        group="autoscaling",
        version="v1",
        kind=STORED.kind,
        resource=STORED.resource,
        namespaced=True,
        storage_prefix=STORED.storage_prefix,
        singular=STORED.singular,
        short_names=STORED.short_names,
        categories=STORED.categories,
        subresources=("status",),
        columns=(
            common.NAME,
            STORED.columns[1],
            column("Targets", _targets),
            *STORED.columns[3:5],
            column("Replicas", number("status", "currentReplicas"), "integer"),
            common.AGE,
        ),
        strategy=Strategy(
            default=_default,
            prepare_create=_prepare_create,
            prepare_update=common.keep_status,
            validate=_validate,
            validate_update=common.revalidate(_validate),
            status_prepare_update=common.keep_spec,
            has_generation=False,
        ),
        to_storage=to_v2,
        from_storage=from_v2,
    ),
)
