"""Leases: heartbeats and leader election."""

from __future__ import annotations

from collections.abc import Iterator

from apimachinery import field
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import column, spec_of


def _validate(lease: Object) -> Iterator[Cause]:
    spec = spec_of(lease)
    seconds, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    if seconds is not None and seconds <= 0:
        yield field.invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0")
    if transitions is not None and transitions < 0:
        yield field.invalid("spec.leaseTransitions", transitions, "must be greater than or equal to 0")
    if (
        spec.get("strategy")
        and not spec.get("preferredHolder")
        and spec["strategy"] != "OldestEmulationVersion"
    ):
        yield from common.one_of("spec.strategy", spec["strategy"], ("OldestEmulationVersion",))


KINDS = (
    Kind(
        group="coordination.k8s.io",
        version="v1",
        kind="Lease",
        resource="leases",
        namespaced=True,
        storage_prefix="leases",
        singular="lease",
        columns=(common.NAME, column("Holder", common.text("spec", "holderIdentity")), common.AGE),
        strategy=Strategy(
            validate=_validate,
            validate_update=common.revalidate(_validate),
            has_generation=False,
            allow_create_on_update=True,
            allow_unconditional_update=False,
        ),
    ),
)
