"""HorizontalPodAutoscalers (autoscaling/v2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apimachinery import field
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import NONE, UNKNOWN, column, number, spec_of, status_of

DEFAULT_CPU_PERCENT = 80
_SOURCES = {
    "ContainerResource": "containerResource",
    "External": "external",
    "Object": "object",
    "Pods": "pods",
    "Resource": "resource",
}
_TARGETS = {"AverageValue": "averageValue", "Utilization": "averageUtilization", "Value": "value"}
_SHOWN = 2


def _default(scaler: Object) -> None:
    spec = common.spec_for(scaler)
    spec.setdefault("minReplicas", 1)
    if not spec.get("metrics"):
        target = {"type": "Utilization", "averageUtilization": DEFAULT_CPU_PERCENT}
        spec["metrics"] = [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]
    for direction, scaling in (spec.get("behavior") or {}).items():
        _default_rules(scaling, up=direction == "scaleUp")


def _default_rules(rules: Object, *, up: bool) -> None:
    rules.setdefault("selectPolicy", "Max")
    if up:
        rules.setdefault("stabilizationWindowSeconds", 0)
    if "policies" not in rules:
        whole = {"type": "Percent", "value": 100, "periodSeconds": 15}
        rules["policies"] = [{"type": "Pods", "value": 4, "periodSeconds": 15}, whole] if up else [whole]


def _prepare_create(scaler: Object) -> None:
    scaler["status"] = {"desiredReplicas": 0}


def _validate(scaler: Object) -> Iterator[Cause]:
    spec = spec_of(scaler)
    least, most = spec.get("minReplicas", 1), spec.get("maxReplicas", 0)
    if least < 1:
        yield field.invalid("spec.minReplicas", least, "must be greater than or equal to 1")
    if most < 1:
        yield field.invalid("spec.maxReplicas", most, "must be greater than 0")
    elif most < least:
        yield field.invalid("spec.maxReplicas", most, "must be greater than or equal to `minReplicas`")
    target = spec.get("scaleTargetRef") or {}
    for name in ("kind", "name"):
        if not target.get(name):
            yield field.required(f"spec.scaleTargetRef.{name}")
    for at, metric in enumerate(spec.get("metrics") or ()):
        yield from _metric(metric, f"spec.metrics[{at}]")


def _metric(metric: Mapping[str, Any], path: str) -> Iterator[Cause]:
    kind = metric.get("type", "")
    if kind not in _SOURCES:
        yield from common.one_of(f"{path}.type", kind, _SOURCES)
        return
    source = metric.get(_SOURCES[kind])
    if source is None:
        detail = "must populate information for the given metric source"
        yield field.required(f"{path}.{_SOURCES[kind]}", detail)
        return
    target = source.get("target") or {}
    where = f"{path}.{_SOURCES[kind]}.target"
    yield from common.one_of(f"{where}.type", target.get("type"), _TARGETS)
    utilization = target.get("averageUtilization")
    if utilization is not None and utilization < 1:
        yield field.invalid(f"{where}.averageUtilization", utilization, "must be greater than 0")


def _reference(scaler: Object) -> str:
    ref = spec_of(scaler).get("scaleTargetRef") or {}
    return f"{ref.get('kind', '')}/{ref.get('name', '')}"


def _targets(scaler: Object) -> str:
    metrics, current = spec_of(scaler).get("metrics") or (), status_of(scaler).get("currentMetrics") or ()
    shown = [_target(metric, current[at] if at < len(current) else {}) for at, metric in enumerate(metrics)]
    if not shown:
        return NONE
    more = f" + {len(shown) - _SHOWN} more..." if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more


def _target(metric: Mapping[str, Any], current: Mapping[str, Any]) -> str:
    kind = _SOURCES.get(metric.get("type", ""), "")
    source, now = metric.get(kind) or {}, (current.get(kind) or {}).get("current") or {}
    target = source.get("target") or {}
    member = _TARGETS.get(target.get("type", ""), "value")
    percent = "%" if member == "averageUtilization" else ""
    have = f"{now[member]}{percent}" if now.get(member) is not None else UNKNOWN
    text = f"{have}/{target.get(member, '')}{percent}"
    return f"{source.get('name', '')}: {text}" if kind in ("resource", "containerResource") else text


KINDS = (
    Kind(
        group="autoscaling",
        version="v2",
        kind="HorizontalPodAutoscaler",
        resource="horizontalpodautoscalers",
        namespaced=True,
        storage_prefix="horizontalpodautoscalers",
        singular="horizontalpodautoscaler",
        short_names=("hpa",),
        categories=common.ALL,
        subresources=("status",),
        columns=(
            common.NAME,
            column("Reference", _reference),
            column("Targets", _targets),
            column("MinPods", lambda scaler: str(spec_of(scaler).get("minReplicas", "<unset>"))),
            column("MaxPods", number("spec", "maxReplicas"), "integer"),
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
    ),
)
