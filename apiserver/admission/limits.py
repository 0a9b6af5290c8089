"""LimitRanger: the defaults and bounds that LimitRanges of a namespace set for its pods and claims
(plugin/pkg/admission/limitranger).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apimachinery import quantity
from apimachinery.quantity import Quantity
from apiserver.admission.base import Plugin, forbid, is_create
from apiserver.registry.call import Call

Object = dict[str, Any]
Amounts = Mapping[str, Quantity]

ANNOTATION = "kubernetes.io/limit-ranger"


class LimitRanger(Plugin):
    def handles(self, call: Call) -> bool:
        if call.obj is None or call.subresource:
            return False
        return (call.is_for("", "pods") and is_create(call)) or call.is_for("", "persistentvolumeclaims")

    async def mutate(self, call: Call) -> None:
        if not call.is_for("", "pods") or call.obj is None:
            return
        for limit_range in self._ranges(call.namespace):
            set_defaults(call.obj, limit_range)

    async def validate(self, call: Call) -> None:
        assert call.obj is not None
        for limit_range in self._ranges(call.namespace):
            wrong = list(violations(call.obj, limit_range, is_pod=call.is_for("", "pods")))
            if wrong:
                raise forbid(call, wrong[0] if len(wrong) == 1 else f"[{', '.join(wrong)}]")

    def _ranges(self, namespace: str) -> list[Object]:
        kind = self.context.scheme.resource("", "v1", "limitranges")
        return (
            [entry.decoded() for entry in self.context.cacher.of(kind).scan(f"{namespace}/")] if kind else []
        )


def set_defaults(pod: Object, limit_range: Object) -> None:
    """Fill what containers leave unsaid from the range's Container entry, and say so in an annotation."""
    items = [item for item in _items(limit_range) if item.get("type") == "Container"]
    notes = []
    for item in items:
        for label, container in _containers(pod):
            for field, source in (("limits", "default"), ("requests", "defaultRequest")):
                held = container.setdefault("resources", {}).setdefault(field, {})
                missing = sorted(name for name in item.get(source) or {} if name not in held)
                held.update({name: item[source][name] for name in missing})
                if not held:
                    del container["resources"][field]
                shown = f"{field[:-1]} for {label} {container.get('name', '')}"
                notes += [f"{name} {shown}" for name in missing]
    if notes:
        annotations = pod["metadata"].setdefault("annotations", {})
        annotations[ANNOTATION] = "LimitRanger plugin set: " + "; ".join(notes)


def _items(limit_range: Object) -> list[Object]:
    return (limit_range.get("spec") or {}).get("limits") or []


def _containers(pod: Object) -> Iterator[tuple[str, Object]]:
    spec = pod.get("spec") or {}
    for container in spec.get("containers") or ():
        yield "container", container
    for container in spec.get("initContainers") or ():
        yield "init container", container


def violations(obj: Object, limit_range: Object, *, is_pod: bool) -> Iterator[str]:
    for item in _items(limit_range):
        kind = item.get("type")
        if is_pod and kind == "Container":
            for _, container in _containers(obj):
                resources = container.get("resources") or {}
                yield from _check(item, amounts(resources, "requests"), amounts(resources, "limits"))
        elif is_pod and kind == "Pod":
            yield from _check(item, pod_total(obj, "requests"), pod_total(obj, "limits"))
        elif not is_pod and kind == "PersistentVolumeClaim":
            resources = (obj.get("spec") or {}).get("resources") or {}
            yield from _check(item, amounts(resources, "requests"), {})


def amounts(resources: Mapping[str, Any], field: str) -> dict[str, Quantity]:
    return {name: quantity.parse(value) for name, value in (resources.get(field) or {}).items()}


def pod_total(pod: Object, field: str) -> dict[str, Quantity]:
    """What a pod asks for as a whole: its containers together with its sidecars, or its largest init
    container
    with the sidecars started before it; and the overhead.
    """
    spec = pod.get("spec") or {}
    total: dict[str, Quantity] = {}
    for container in spec.get("containers") or ():
        _add(total, amounts(container.get("resources") or {}, field))
    sidecars: dict[str, Quantity] = {}
    largest: dict[str, Quantity] = {}
    for container in spec.get("initContainers") or ():
        wanted = amounts(container.get("resources") or {}, field)
        if container.get("restartPolicy") == "Always":
            _add(total, wanted)
            _add(sidecars, wanted)
            wanted = {}
        moment = dict(sidecars)
        _add(moment, wanted)
        for name, value in moment.items():
            largest[name] = max(value, largest.get(name, quantity.ZERO))
    for name, value in largest.items():
        total[name] = max(value, total.get(name, quantity.ZERO))
    overhead = {name: quantity.parse(value) for name, value in (spec.get("overhead") or {}).items()}
    _add(
        total,
        overhead if field == "requests" else {name: overhead[name] for name in overhead if name in total},
    )
    return total


def _add(total: dict[str, Quantity], more: Amounts) -> None:
    for name, value in more.items():
        total[name] = total[name] + value if name in total else value


def _check(item: Object, requests: Amounts, limits: Amounts) -> Iterator[str]:
    kind = item["type"]
    for name, text in (item.get("min") or {}).items():
        least = quantity.parse(text)
        shown = f"minimum {name} usage per {kind} is {text}"
        if name not in requests:
            yield f"{shown}.  No request is specified"
        elif requests[name] < least:
            yield f"{shown}, but request is {requests[name]}"
        if name in limits and limits[name] < least:
            yield f"{shown}, but limit is {limits[name]}"
    for name, text in (item.get("max") or {}).items():
        most = quantity.parse(text)
        shown = f"maximum {name} usage per {kind} is {text}"
        if name not in limits and kind != "PersistentVolumeClaim":
            yield f"{shown}.  No limit is specified"
        elif name in limits and limits[name] > most:
            yield f"{shown}, but limit is {limits[name]}"
        if name in requests and requests[name] > most:
            yield f"{shown}, but request is {requests[name]}"
    for name, text in (item.get("maxLimitRequestRatio") or {}).items():
        yield from _ratio(kind, name, text, requests, limits)


def _ratio(kind: str, name: str, text: str, requests: Amounts, limits: Amounts) -> Iterator[str]:
    asked, bound = requests.get(name), limits.get(name)
    shown = f"{name} max limit to request ratio per {kind} is {text}"
    if not asked or not asked.amount:
        yield f"{shown}, but no request is specified or request is 0"
    elif not bound or not bound.amount:
        yield f"{shown}, but no limit is specified or limit is 0"
    elif bound.amount / asked.amount > quantity.parse(text).amount:
        yield f"{shown}, but provided ratio is {float(bound.amount / asked.amount):f}"
