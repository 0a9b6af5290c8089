"""PodDisruptionBudgets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from apimachinery import field, selectors
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import column, number, spec_of

_COUNTS = ("disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods")


def _prepare_create(budget: Object) -> None:
    budget["status"] = dict.fromkeys(_COUNTS, 0)


def _validate(budget: Object) -> Iterator[Cause]:
    spec = spec_of(budget)
    if "minAvailable" in spec and "maxUnavailable" in spec:
        yield field.invalid("spec", dict(spec), "minAvailable and maxUnavailable cannot be both set")
    for name in ("minAvailable", "maxUnavailable"):
        if name in spec:
            yield from common.int_or_percent(f"spec.{name}", spec[name])
            yield from common.at_most_whole(f"spec.{name}", spec[name])
    if spec.get("selector") is not None:
        yield from selectors.validate_label_selector(spec["selector"], "spec.selector")
    policies = ("AlwaysAllow", "IfHealthyBudget")
    policy = spec.get("unhealthyPodEvictionPolicy")
    yield from common.one_of("spec.unhealthyPodEvictionPolicy", policy, policies, needed=False)


def _status_validate(new: Object, _old: Object) -> Iterator[Cause]:
    for name in _COUNTS:
        yield from common.non_negative(f"status.{name}", common.dig(new, "status", name))


def _bound(name: str) -> Callable[[Object], str]:
    return lambda budget: str(spec_of(budget).get(name, "N/A"))


KINDS = (
    Kind(
        group="policy",
        version="v1",
        kind="PodDisruptionBudget",
        resource="poddisruptionbudgets",
        namespaced=True,
        storage_prefix="poddisruptionbudgets",
        singular="poddisruptionbudget",
        short_names=("pdb",),
        subresources=("status",),
        columns=(
            common.NAME,
            column("Min Available", _bound("minAvailable")),
            column("Max Unavailable", _bound("maxUnavailable")),
            column("Allowed Disruptions", number("status", "disruptionsAllowed"), "integer"),
            common.AGE,
        ),
        strategy=Strategy(
            prepare_create=_prepare_create,
            prepare_update=common.keep_status,
            validate=_validate,
            validate_update=common.revalidate(_validate),
            status_prepare_update=common.keep_spec,
            status_validate_update=_status_validate,
        ),
    ),
)
