"""PriorityClasses and RuntimeClasses."""

from __future__ import annotations

from collections.abc import Iterator

from apimachinery import field, meta
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import column, number

HIGHEST_USER_PRIORITY = 1_000_000_000
SYSTEM_CLASSES = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
_PREEMPTION = ("Never", "PreemptLowerPriority")


def _default(priority: Object) -> None:
    priority.setdefault("preemptionPolicy", "PreemptLowerPriority")
    priority.setdefault("value", 0)


def _validate(priority: Object) -> Iterator[Cause]:
    name, value = meta.name_of(priority), priority.get("value", 0)
    if name.startswith("system-"):
        if SYSTEM_CLASSES.get(name) != value or priority.get("globalDefault"):
            detail = "priority class names with 'system-' prefix are reserved for system use only"
            yield field.forbidden(
                "metadata.name", f"{detail}. error: {name} is not a known system priority class"
            )
    elif value > HIGHEST_USER_PRIORITY:
        detail = f"maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"
        yield field.forbidden("value", detail)
    yield from common.one_of("preemptionPolicy", priority.get("preemptionPolicy"), _PREEMPTION, needed=False)


def _validate_update(new: Object, old: Object) -> Iterator[Cause]:
    if new.get("value") != old.get("value"):
        yield field.forbidden("value", "may not be changed in an update.")
    if new.get("preemptionPolicy") != old.get("preemptionPolicy"):
        yield field.invalid("preemptionPolicy", new.get("preemptionPolicy"), field.IMMUTABLE)


PRIORITY_CLASS = Kind(
    group="scheduling.k8s.io",
    version="v1",
    kind="PriorityClass",
    resource="priorityclasses",
    namespaced=False,
    storage_prefix="priorityclasses",
    singular="priorityclass",
    short_names=("pc",),
    columns=(
        common.NAME,
        column("Value", number("value"), "integer"),
        column("Global-Default", lambda item: bool(item.get("globalDefault")), "boolean"),
        common.AGE,
        column("PreemptionPolicy", common.text("preemptionPolicy")),
    ),
    strategy=Strategy(default=_default, validate=_validate, validate_update=_validate_update),
)


def _validate_runtime(runtime: Object) -> Iterator[Cause]:
    handler = runtime.get("handler", "")
    if not handler:
        yield field.required("handler")
    else:
        yield from common.label("handler", handler)
    overhead = common.dig(runtime, "overhead", "podFixed")
    if overhead:
        yield from common.resource_list("overhead.podFixed", overhead)


def _validate_runtime_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from common.immutable("handler", new.get("handler"), old.get("handler"))


RUNTIME_CLASS = Kind(
    group="node.k8s.io",
    version="v1",
    kind="RuntimeClass",
    resource="runtimeclasses",
    namespaced=False,
    storage_prefix="runtimeclasses",
    singular="runtimeclass",
    columns=(common.NAME, column("Handler", common.text("handler")), common.AGE),
    strategy=Strategy(
        validate=_validate_runtime,
        validate_update=_validate_runtime_update,
        has_generation=False,
        allow_create_on_update=True,
    ),
)

KINDS = (PRIORITY_CLASS, RUNTIME_CLASS)
