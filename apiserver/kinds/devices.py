"""Dynamic resource allocation (resource.k8s.io/v1): DeviceClasses, ResourceClaims, their templates, and the
ResourceSlices that drivers publish. They are kept and checked here; who allocates is not this server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apimachinery import field, meta
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import column, dig, spec_of, status_of

GROUP = "resource.k8s.io"
MODES = ("All", "ExactCount")
EFFECTS = ("NoExecute", "NoSchedule", "None")
MAX_REQUESTS, MAX_SUBREQUESTS, MAX_SELECTORS, MAX_CONFIGS, MAX_CONSTRAINTS = 32, 8, 32, 32, 32
MAX_DEVICES, MAX_ATTRIBUTES, MAX_CONSUMERS = 128, 32, 256
NODE_CHOICES = ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")


# -- claims -------------------------------------------------------------------------------------------------


def _default_devices(spec: Object) -> None:
    for request in (spec.get("devices") or {}).get("requests") or ():
        wanted = [request.get("exactly"), *(request.get("firstAvailable") or ())]
        for each in (item for item in wanted if item is not None):
            if each.setdefault("allocationMode", "ExactCount") == "ExactCount":
                each.setdefault("count", 1)


def _default_claim(claim: Object) -> None:
    _default_devices(common.spec_for(claim))


def _default_template(template: Object) -> None:
    _default_devices(common.spec_for(template).setdefault("spec", {}))


def _devices(spec: Mapping[str, Any], path: str) -> Iterator[Cause]:
    devices = spec.get("devices") or {}
    requests = devices.get("requests") or []
    if len(requests) > MAX_REQUESTS:
        yield field.too_many(f"{path}.requests", len(requests), MAX_REQUESTS)
    yield from common.unique(f"{path}.requests", "name", requests)
    names = set()
    for at, request in enumerate(requests):
        where = f"{path}.requests[{at}]"
        yield from _label(request.get("name", ""), f"{where}.name")
        names.add(request.get("name"))
        names |= {f"{request.get('name')}/{sub.get('name')}" for sub in request.get("firstAvailable") or ()}
        yield from _request(request, where)
    for at, constraint in enumerate(devices.get("constraints") or ()):
        yield from _known(constraint, names, f"{path}.constraints[{at}].requests")
        if not constraint.get("matchAttribute") and not constraint.get("distinctAttribute"):
            yield field.required(f"{path}.constraints[{at}].matchAttribute")
    for at, config in enumerate(devices.get("config") or ()):
        yield from _known(config, names, f"{path}.config[{at}].requests")
        yield from _opaque(config.get("opaque"), f"{path}.config[{at}].opaque")
    for name, most in (("constraints", MAX_CONSTRAINTS), ("config", MAX_CONFIGS)):
        if len(devices.get(name) or ()) > most:
            yield field.too_many(f"{path}.{name}", len(devices[name]), most)


def _known(given: Mapping[str, Any], names: set[Any], path: str) -> Iterator[Cause]:
    for at, name in enumerate(given.get("requests") or ()):
        if name not in names:
            detail = "must be the name of a request in the claim or the name of a request and a subrequest "
            yield field.invalid(f"{path}[{at}]", name, f"{detail}separated by '/'")


def _request(request: Mapping[str, Any], path: str) -> Iterator[Cause]:
    exactly, first = request.get("exactly"), request.get("firstAvailable") or []
    if exactly is None and not first:
        yield field.required(path, "exactly one of `exactly` or `firstAvailable` is required")
    elif exactly is not None and first:
        detail = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set"
        yield field.invalid(path, None, detail)
    elif exactly is not None:
        yield from _exactly(exactly, f"{path}.exactly")
    if len(first) > MAX_SUBREQUESTS:
        yield field.too_many(f"{path}.firstAvailable", len(first), MAX_SUBREQUESTS)
    yield from common.unique(f"{path}.firstAvailable", "name", first)
    for at, sub in enumerate(first):
        yield from _label(sub.get("name", ""), f"{path}.firstAvailable[{at}].name")
        yield from _exactly(sub, f"{path}.firstAvailable[{at}]")


def _exactly(wanted: Mapping[str, Any], path: str) -> Iterator[Cause]:
    if not wanted.get("deviceClassName"):
        yield field.required(f"{path}.deviceClassName")
    else:
        yield from common.subdomain(f"{path}.deviceClassName", wanted["deviceClassName"])
    mode, count = wanted.get("allocationMode"), wanted.get("count")
    yield from common.one_of(f"{path}.allocationMode", mode, MODES)
    if mode == "All" and count:
        detail = "must not be specified when allocationMode is 'All'"
        yield field.invalid(f"{path}.count", count, detail)
    if mode == "ExactCount" and (count or 0) <= 0:
        yield field.invalid(f"{path}.count", count, "must be greater than zero")
    yield from _selectors(wanted.get("selectors") or [], f"{path}.selectors")


def _selectors(selectors: list[Object], path: str) -> Iterator[Cause]:
    if len(selectors) > MAX_SELECTORS:
        yield field.too_many(path, len(selectors), MAX_SELECTORS)
    for at, selector in enumerate(selectors):
        if selector.get("cel") is None:
            yield field.required(f"{path}[{at}].cel")
        elif not selector["cel"].get("expression"):
            yield field.required(f"{path}[{at}].cel.expression")


def _opaque(opaque: Mapping[str, Any] | None, path: str) -> Iterator[Cause]:
    if opaque is None:
        yield field.required(path)
        return
    yield from _driver(opaque.get("driver", ""), f"{path}.driver")
    if opaque.get("parameters") is None:
        yield field.required(f"{path}.parameters")


def _driver(name: str, path: str) -> Iterator[Cause]:
    if not name:
        yield field.required(path)
        return
    if len(name) > 63:
        yield field.too_long(path, 63)
    yield from common.subdomain(path, name)


def _label(name: str, path: str) -> Iterator[Cause]:
    yield from common.label(path, name) if name else iter([field.required(path)])


def _validate_claim(claim: Object) -> Iterator[Cause]:
    yield from _devices(spec_of(claim), "spec.devices")


def _update_claim(new: Object, old: Object) -> Iterator[Cause]:
    yield from common.immutable("spec", spec_of(new), spec_of(old))


def _update_claim_status(new: Object, old: Object) -> Iterator[Cause]:
    status, before = status_of(new), status_of(old)
    reserved = status.get("reservedFor") or []
    if len(reserved) > MAX_CONSUMERS:
        yield field.too_many("status.reservedFor", len(reserved), MAX_CONSUMERS)
    yield from common.unique("status.reservedFor", "uid", reserved)
    for at, consumer in enumerate(reserved):
        for name in ("resource", "name", "uid"):
            if not consumer.get(name):
                yield field.required(f"status.reservedFor[{at}].{name}")
    if reserved and not status.get("allocation"):
        yield field.forbidden("status.reservedFor", "may not be specified when `allocated` is not set")
    if meta.is_deleting(new) and len(reserved) > len(before.get("reservedFor") or ()):
        yield field.forbidden("status.reservedFor", "new reservations may not be added while being deleted")
    if before.get("allocation") and status.get("allocation"):
        yield from common.immutable("status.allocation", status["allocation"], before["allocation"])


def _state(claim: Object) -> str:
    status = status_of(claim)
    states = [name for name, shown in (("deleted", meta.is_deleting(claim)),) if shown]
    if not status.get("allocation"):
        return ",".join([*states, "pending"])
    states.append("allocated")
    return ",".join([*states, "reserved"] if status.get("reservedFor") else states)


def _validate_template(template: Object) -> Iterator[Cause]:
    yield from _devices(dig(template, "spec", "spec") or {}, "spec.spec.devices")


# -- classes and slices -------------------------------------------------------------------------------------


def _validate_class(kind: Object) -> Iterator[Cause]:
    spec = spec_of(kind)
    yield from _selectors(spec.get("selectors") or [], "spec.selectors")
    if len(spec.get("config") or ()) > MAX_CONFIGS:
        yield field.too_many("spec.config", len(spec["config"]), MAX_CONFIGS)
    for at, config in enumerate(spec.get("config") or ()):
        yield from _opaque(config.get("opaque"), f"spec.config[{at}].opaque")


def _validate_slice(resource: Object) -> Iterator[Cause]:
    spec = spec_of(resource)
    yield from _driver(spec.get("driver", ""), "spec.driver")
    pool = spec.get("pool") or {}
    if not pool.get("name"):
        yield field.required("spec.pool.name")
    if (pool.get("resourceSliceCount") or 0) <= 0:
        detail = "must be greater than zero"
        yield field.invalid("spec.pool.resourceSliceCount", pool.get("resourceSliceCount"), detail)
    yield from common.non_negative("spec.pool.generation", pool.get("generation"))
    chosen = [name for name in NODE_CHOICES if spec.get(name)]
    if len(chosen) != 1:
        detail = f"exactly one of {', '.join(f'`{name}`' for name in NODE_CHOICES)} is required"
        yield (
            field.invalid("spec", f"{{{', '.join(chosen)}}}", detail)
            if chosen
            else field.required("spec", detail)
        )
    devices = spec.get("devices") or []
    if len(devices) > MAX_DEVICES:
        yield field.too_many("spec.devices", len(devices), MAX_DEVICES)
    yield from common.unique("spec.devices", "name", devices)
    for at, device in enumerate(devices):
        yield from _device(device, f"spec.devices[{at}]")


def _device(device: Mapping[str, Any], path: str) -> Iterator[Cause]:
    yield from _label(device.get("name", ""), f"{path}.name")
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    if len(attributes) + len(capacity) > MAX_ATTRIBUTES:
        detail = f"the total number of attributes and capacities must not exceed {MAX_ATTRIBUTES}"
        yield field.invalid(path, len(attributes) + len(capacity), detail)
    for name, value in attributes.items():
        if len([kind for kind in ("bool", "int", "string", "version") if value.get(kind) is not None]) != 1:
            yield field.required(f"{path}.attributes[{name}]", "exactly one value must be specified")
    for at, taint in enumerate(device.get("taints") or ()):
        for problem in meta.qualified_name(taint.get("key", "")):
            yield field.invalid(f"{path}.taints[{at}].key", taint.get("key", ""), problem)
        yield from common.one_of(f"{path}.taints[{at}].effect", taint.get("effect"), EFFECTS)


def _update_slice(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate_slice(new)
    for name in ("driver", "nodeName", "nodeSelector", "allNodes"):
        yield from common.immutable(f"spec.{name}", spec_of(new).get(name), spec_of(old).get(name))
    pool, before = spec_of(new).get("pool") or {}, spec_of(old).get("pool") or {}
    yield from common.immutable("spec.pool.name", pool.get("name"), before.get("name"))


SLICE_FIELDS = ("spec.nodeName", "spec.driver")

KINDS = (
    Kind(
        group=GROUP,
        version="v1",
        kind="DeviceClass",
        resource="deviceclasses",
        namespaced=False,
        storage_prefix="deviceclasses",
        singular="deviceclass",
        columns=(common.NAME, common.AGE),
        strategy=Strategy(validate=_validate_class, validate_update=common.revalidate(_validate_class)),
    ),
    Kind(
        group=GROUP,
        version="v1",
        kind="ResourceClaim",
        resource="resourceclaims",
        namespaced=True,
        storage_prefix="resourceclaims",
        singular="resourceclaim",
        subresources=("status",),
        columns=(common.NAME, column("State", _state), common.AGE),
        strategy=Strategy(
            default=_default_claim,
            prepare_create=common.drop_status,
            prepare_update=common.keep_status,
            validate=_validate_claim,
            validate_update=_update_claim,
            status_prepare_update=common.keep_spec,
            status_validate_update=_update_claim_status,
            has_generation=False,
        ),
    ),
    Kind(
        group=GROUP,
        version="v1",
        kind="ResourceClaimTemplate",
        resource="resourceclaimtemplates",
        namespaced=True,
        storage_prefix="resourceclaimtemplates",
        singular="resourceclaimtemplate",
        columns=(common.NAME, common.AGE),
        strategy=Strategy(
            default=_default_template,
            validate=_validate_template,
            validate_update=_update_claim,
            has_generation=False,
        ),
    ),
    Kind(
        group=GROUP,
        version="v1",
        kind="ResourceSlice",
        resource="resourceslices",
        namespaced=False,
        storage_prefix="resourceslices",
        singular="resourceslice",
        columns=(
            common.NAME,
            column("Node", common.text("spec", "nodeName")),
            column("Driver", common.text("spec", "driver")),
            column("Pool", common.text("spec", "pool", "name")),
            common.AGE,
        ),
        strategy=Strategy(
            validate=_validate_slice,
            validate_update=_update_slice,
            fields=common.status_fields(*SLICE_FIELDS),
        ),
        selectable_fields=SLICE_FIELDS,
    ),
)
