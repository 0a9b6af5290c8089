"""What the entries share: reading specs, columns, and the usual ways of a strategy with a status."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from apimachinery import field, meta, quantity, selectors
from apimachinery.errors import Cause
from apimachinery.scheme import Column, Object
from apimachinery.table import AGE, NAME, NONE, UNKNOWN, Since, labels_text

__all__ = ["AGE", "NAME", "NONE", "UNKNOWN", "Since", "labels_text"]

ALL = ("all",)


def spec_of(obj: Mapping[str, Any]) -> dict[str, Any]:
    return obj.get("spec") or {}


def status_of(obj: Mapping[str, Any]) -> dict[str, Any]:
    return obj.get("status") or {}


def spec_for(obj: Object) -> Object:
    """The spec, made when it is absent: for defaulting."""
    spec: Object = obj.setdefault("spec", {})
    return spec


def column(name: str, cell: Callable[[Object], Any], type: str = "string", *, wide: bool = False) -> Column:
    return Column(name, cell, type=type, priority=1 if wide else 0)


def number(*path: str) -> Callable[[Object], int]:
    """A cell with the integer at a path; 0 when it is absent."""

    def cell(obj: Object) -> int:
        return int(dig(obj, *path) or 0)

    return cell


def text(*path: str, absent: str = "") -> Callable[[Object], str]:
    def cell(obj: Object) -> str:
        value = dig(obj, *path)
        return str(value) if value not in (None, "") else absent

    return cell


def dig(obj: Any, *path: str) -> Any:
    """The value below a path of keys; None when any of them is missing."""
    for part in path:
        if not isinstance(obj, Mapping):
            return None
        obj = obj.get(part)
    return obj


def selector_text(selector: Mapping[str, Any] | None) -> str:
    """A LabelSelector as kubectl prints it."""
    if selector is None:
        return NONE
    return str(selectors.label_selector_from(selector)) or NONE


def containers_cell(*path: str) -> Callable[[Object], str]:
    """The names of the containers of the pod spec at a path."""
    return lambda obj: ",".join(item.get("name", "") for item in dig(obj, *path, "containers") or ())


def images_cell(*path: str) -> Callable[[Object], str]:
    return lambda obj: ",".join(item.get("image", "") for item in dig(obj, *path, "containers") or ())


TEMPLATE = ("spec", "template", "spec")
CONTAINERS = column("Containers", containers_cell(*TEMPLATE), wide=True)
IMAGES = column("Images", images_cell(*TEMPLATE), wide=True)
SELECTOR = column("Selector", lambda obj: selector_text(spec_of(obj).get("selector")), wide=True)


# -- steps of a strategy ------------------------------------------------------------------------------------


def drop_status(obj: Object) -> None:
    """A create may not set the status."""
    obj["status"] = {}


def keep_status(new: Object, old: Object) -> None:
    """An update of the object leaves its status as it was."""
    restore(new, old, "status")


def keep_spec(new: Object, old: Object) -> None:
    """An update of the status leaves the spec as it was, and labels too."""
    restore(new, old, "spec")
    restore(new.setdefault("metadata", {}), old.get("metadata") or {}, "labels")


def restore(new: Object, old: Mapping[str, Any], name: str) -> None:
    if name in old:
        new[name] = old[name]
    else:
        new.pop(name, None)


def revalidate(rule: Callable[[Object], Iterable[Cause]]) -> Callable[[Object, Object], Iterable[Cause]]:
    """An update obeys the rules of a create, and no others."""
    return lambda new, _old: rule(new)


def status_fields(*paths: str) -> Callable[[Object], Mapping[str, str]]:
    """Selectable fields read straight from their dotted paths."""
    split = [(path, path.split(".")) for path in paths]

    def fields(obj: Object) -> Mapping[str, str]:
        return {path: scalar(dig(obj, *parts)) for path, parts in split}

    return fields


def scalar(value: Any) -> str:
    """A selectable field's value as text: Go's spelling of booleans, nothing for absent."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


# -- rules --------------------------------------------------------------------------------------------------


def immutable(path: str, new: Any, old: Any) -> Iterator[Cause]:
    if new != old:
        yield field.immutable(path, new)


def one_of(path: str, value: Any, allowed: Iterable[str], *, needed: bool = True) -> Iterator[Cause]:
    """An enumerated string."""
    if not value:
        if needed:
            yield field.required(path)
    elif value not in allowed:
        yield field.not_supported(path, value, allowed)


def non_negative(path: str, value: int | None) -> Iterator[Cause]:
    if value is not None and value < 0:
        yield field.invalid(path, value, "must be greater than or equal to 0")


def subdomain(path: str, value: str) -> Iterator[Cause]:
    for problem in meta.dns1123_subdomain(value):
        yield field.invalid(path, value, problem)


def label(path: str, value: str) -> Iterator[Cause]:
    for problem in meta.dns1123_label(value):
        yield field.invalid(path, value, problem)


def path_segment(path: str, value: str) -> Iterator[Cause]:
    """A name that can stand in a URL by itself."""
    for problem in meta.path_segment(value):
        yield field.invalid(path, value, problem)


def port_number(path: str, value: int) -> Iterator[Cause]:
    if not 1 <= value <= 65535:
        yield field.invalid(path, value, "must be between 1 and 65535, inclusive")


def unique(path: str, key: str, items: Iterable[Mapping[str, Any]]) -> Iterator[Cause]:
    """No two items may share the value under `key`."""
    seen: set[Any] = set()
    for at, item in enumerate(items):
        value = item.get(key)
        if value in seen:
            yield field.duplicate(f"{path}[{at}].{key}", value)
        seen.add(value)


_STANDARD = frozenset({"cpu", "memory", "ephemeral-storage", "storage", "pods"})


def resource_name(path: str, name: str) -> Iterator[Cause]:
    problems = meta.qualified_name(name)
    for problem in problems:
        yield field.invalid(path, name, problem)
    if not problems and "/" not in name and name not in _STANDARD and not name.startswith("hugepages-"):
        yield field.invalid(path, name, "must be a standard resource type or fully qualified")


def quantity_value(path: str, name: str, value: str) -> Iterator[Cause]:
    """A resource amount: not negative, whole where the resource is counted in wholes."""
    amount = quantity.parse(value)
    if amount < quantity.ZERO:
        yield field.invalid(path, value, "must be greater than or equal to 0")
    elif name not in _STANDARD - {"pods"} and amount.milli() % 1000:
        yield field.invalid(path, value, "must be an integer")


def resource_list(path: str, resources: Mapping[str, str]) -> Iterator[Cause]:
    for name, value in resources.items():
        yield from resource_name(f"{path}[{name}]", name)
        yield from quantity_value(f"{path}[{name}]", name, value)


_PERCENT = "%"


def int_or_percent(path: str, value: int | str) -> Iterator[Cause]:
    """A count or a percentage that is not negative."""
    if isinstance(value, int):
        yield from non_negative(path, value)
    elif not (value.endswith(_PERCENT) and value[:-1].isdigit()):
        yield field.invalid(
            path,
            value,
            "a valid percent string must be a numeric string followed by an ending '%' "
            "(e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
        )


def at_most_whole(path: str, value: int | str) -> Iterator[Cause]:
    if isinstance(value, str) and value[:-1].isdigit() and int(value[:-1]) > 100:
        yield field.invalid(path, value, "must not be greater than 100%")


def is_zero(value: int | str | None) -> bool:
    """Whether a count or percentage is nothing."""
    return value in (None, 0) or (isinstance(value, str) and value.rstrip(_PERCENT).strip("0") == "")
