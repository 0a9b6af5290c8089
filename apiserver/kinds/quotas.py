"""LimitRanges and ResourceQuotas. Their enforcement is admission's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from apimachinery import field, quantity
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apimachinery.table import CREATED_AT
from apiserver.kinds import common
from apiserver.kinds.common import column, spec_of, status_of

_LIMIT_TYPES = ("Container", "PersistentVolumeClaim", "Pod")


def _default_limits(limit_range: Object) -> None:
    """A container's default request is its default limit, else the minimum; its default limit the maximum."""
    for item in common.spec_for(limit_range).get("limits") or ():
        if item.get("type") != "Container":
            continue
        default = {**(item.get("max") or {}), **(item.get("default") or {})}
        request = {**(item.get("min") or {}), **default, **(item.get("defaultRequest") or {})}
        for name, value in (("default", default), ("defaultRequest", request)):
            if value:
                item[name] = value


def _validate_limits(limit_range: Object) -> Iterator[Cause]:
    seen: set[str] = set()
    for at, item in enumerate(spec_of(limit_range).get("limits") or ()):
        path = f"spec.limits[{at}]"
        kind = item.get("type", "")
        if not kind:
            yield field.required(f"{path}.type")
        if kind in seen:
            yield field.duplicate(f"{path}.type", kind)
        seen.add(kind)
        if kind and kind not in _LIMIT_TYPES and "/" not in kind:
            yield field.invalid(f"{path}.type", kind, "must be a standard limit type or fully qualified")
        if kind == "Pod":
            for name in ("default", "defaultRequest"):
                if item.get(name):
                    detail = f"may not be specified when `type` is '{kind}'"
                    yield field.forbidden(f"{path}.{name}", detail)
        yield from _ordered(item, path)


# Each pair: what may not exceed what, and how the latter is called.
_ORDER = (
    ("min", "max"),
    ("min", "defaultRequest"),
    ("min", "default"),
    ("defaultRequest", "max"),
    ("defaultRequest", "default"),
    ("default", "max"),
)


def _ordered(item: Mapping[str, Any], path: str) -> Iterator[Cause]:
    for low, high in _ORDER:
        for name, value in (item.get(low) or {}).items():
            bound = (item.get(high) or {}).get(name)
            if bound is not None and quantity.parse(value) > quantity.parse(bound):
                detail = f"{low} value {value} is greater than {high} value {bound}"
                yield field.invalid(f"{path}.{low}[{name}]", value, detail)


LIMIT_RANGE = Kind(
    group="",
    version="v1",
    kind="LimitRange",
    resource="limitranges",
    namespaced=True,
    storage_prefix="limitranges",
    singular="limitrange",
    short_names=("limits",),
    columns=(common.NAME, CREATED_AT),
    strategy=Strategy(
        default=_default_limits,
        validate=_validate_limits,
        validate_update=common.revalidate(_validate_limits),
        has_generation=False,
        allow_create_on_update=True,
    ),
)


# -- ResourceQuota ------------------------------------------------------------------------------------------

_SCOPES = (
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
)


def _validate_quota(quota: Object) -> Iterator[Cause]:
    spec = spec_of(quota)
    for name, value in (spec.get("hard") or {}).items():
        path = f"spec.hard[{name}]"
        if quantity.parse(value) < quantity.ZERO:
            yield field.invalid(path, value, "must be greater than or equal to 0")
    scopes = spec.get("scopes") or ()
    for scope in scopes:
        if scope not in _SCOPES:
            yield field.invalid("spec.scopes", list(scopes), "unsupported scope")
    for pair in (("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")):
        if set(pair) <= set(scopes):
            yield field.invalid("spec.scopes", list(scopes), "conflicting scopes")


def _validate_quota_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate_quota(new)
    yield from common.immutable("spec.scopes", spec_of(new).get("scopes"), spec_of(old).get("scopes"))


def _usage(*, limits: bool) -> Callable[[Object], str]:
    def cell(quota: Object) -> str:
        status = status_of(quota)
        hard, used = status.get("hard") or {}, status.get("used") or {}
        names = sorted(name for name in hard if name.startswith("limits.") is limits)
        return ", ".join(f"{name}: {used.get(name, '0')}/{hard[name]}" for name in names)

    return cell


RESOURCE_QUOTA = Kind(
    group="",
    version="v1",
    kind="ResourceQuota",
    resource="resourcequotas",
    namespaced=True,
    storage_prefix="resourcequotas",
    singular="resourcequota",
    short_names=("quota",),
    subresources=("status",),
    columns=(
        common.NAME,
        column("Request", _usage(limits=False)),
        column("Limit", _usage(limits=True)),
        common.AGE,
    ),
    strategy=Strategy(
        prepare_create=common.drop_status,
        prepare_update=common.keep_status,
        validate=_validate_quota,
        validate_update=_validate_quota_update,
        status_prepare_update=common.keep_spec,
        has_generation=False,
        allow_create_on_update=True,
    ),
)

KINDS = (LIMIT_RANGE, RESOURCE_QUOTA)
