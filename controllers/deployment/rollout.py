"""How a Deployment's ReplicaSets are to be scaled: rolling update, recreate, and proportional scaling.
Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from controllers import objects as o
from controllers.deployment import revisions
from controllers.objects import Object


@dataclass(frozen=True, slots=True)
class Scale:
    """Give ReplicaSet `name` this size. `before` is its size now; equal when only its annotations are
    renewed.
    """

    name: str
    before: int
    size: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """Fenceposts of a rolling update in pods (absolute numbers)."""

    surge: int
    unavailable: int


def is_rolling(deployment: Object) -> bool:
    return str((o.spec(deployment).get("strategy") or {}).get("type", "RollingUpdate")) == "RollingUpdate"


def bounds(deployment: Object) -> Bounds:
    """maxSurge (rounded up) and maxUnavailable (rounded down); both zero would stand still, so one pod may be
    missing.

    Recreate has neither.
    """
    total = o.replicas(deployment)
    if not is_rolling(deployment):
        return Bounds(0, 0)
    rolling = (o.spec(deployment).get("strategy") or {}).get("rollingUpdate") or {}
    surge = o.scaled_value(rolling.get("maxSurge", "25%"), total, round_up=True)
    unavailable = o.scaled_value(rolling.get("maxUnavailable", "25%"), total, round_up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return Bounds(surge, min(unavailable, total))


def maximum(deployment: Object) -> int:
    return o.replicas(deployment) + bounds(deployment).surge


def new_size(deployment: Object, new: Object | None, everyone: Sequence[Object]) -> int:
    """How large the new ReplicaSet may be now, given all the others."""
    wanted, current = o.replicas(deployment), o.replicas(new) if new else 0
    if not is_rolling(deployment):
        return wanted
    room = maximum(deployment) - _total(everyone)
    return current if room <= 0 else current + min(room, wanted - current)


def compute_rolling(deployment: Object, new: Object, old: Sequence[Object]) -> list[Scale]:
    """The next step of a rolling update; empty when it has to wait for pods, or is done.

    Either the new ReplicaSet grows or old ones shrink: one kind of step per sync, each decided on what is
    observed.
    """
    wanted, current = o.replicas(deployment), o.replicas(new)
    size = wanted if current > wanted else new_size(deployment, new, [new, *old])
    if size != current:
        return [Scale(o.name(new), current, size)]
    return _shrink_old(deployment, new, old)


def _shrink_old(deployment: Object, new: Object, old: Sequence[Object]) -> list[Scale]:
    minimum_available = o.replicas(deployment) - bounds(deployment).unavailable
    new_unavailable = o.replicas(new) - _available(new)
    budget = _total([new, *old]) - minimum_available - new_unavailable
    if budget <= 0 or _total(old) == 0:
        return []
    sizes = {o.name(rs): o.replicas(rs) for rs in old}
    by_age = sorted(old, key=lambda rs: (o.created_at(rs), o.name(rs)))
    for rs in by_age:  # pods that do not serve cost nothing to give up
        cut = min(budget, max(o.replicas(rs) - _available(rs), 0))
        sizes[o.name(rs)] -= cut
        budget -= cut
    spare = sum(_available(rs) for rs in [new, *old]) - minimum_available
    for rs in by_age:
        cut = max(min(spare, sizes[o.name(rs)]), 0)
        sizes[o.name(rs)] -= cut
        spare -= cut
    return [
        Scale(o.name(rs), o.replicas(rs), sizes[o.name(rs)])
        for rs in by_age
        if sizes[o.name(rs)] != o.replicas(rs)
    ]


def scale_to_zero(sets: Iterable[Object]) -> list[Scale]:
    return [Scale(o.name(rs), o.replicas(rs), 0) for rs in sets if o.replicas(rs) > 0]


def is_scaling_event(deployment: Object, everyone: Iterable[Object]) -> bool:
    """True when `spec.replicas` changed since an active ReplicaSet was last sized."""
    for rs in everyone:
        desired = o.annotations_of(rs).get(revisions.DESIRED)
        if o.replicas(rs) > 0 and desired is not None and desired != str(o.replicas(deployment)):
            return True
    return False


def compute_scaling(deployment: Object, new: Object | None, old: Sequence[Object]) -> list[Scale]:
    """Reach a changed `spec.replicas` without moving the rollout on (also what a paused Deployment does)."""
    everyone = [*([new] if new else []), *old]
    active = [rs for rs in everyone if o.replicas(rs) > 0]
    only = _active_or_latest(new, old, active)
    if only is not None:
        return [Scale(o.name(only), o.replicas(only), o.replicas(deployment))]
    if new is not None and _is_saturated(deployment, new):
        return scale_to_zero(old)
    return _proportional(deployment, active) if is_rolling(deployment) else []


def _active_or_latest(new: Object | None, old: Sequence[Object], active: Sequence[Object]) -> Object | None:
    if len(active) == 1:
        return active[0]
    if active:
        return None
    return new or max(old, key=lambda rs: (o.created_at(rs), o.name(rs)), default=None)


def _is_saturated(deployment: Object, new: Object) -> bool:
    desired = o.annotations_of(new).get(revisions.DESIRED)
    wanted = o.replicas(deployment)
    return o.replicas(new) == wanted and desired == str(wanted) and _available(new) == wanted


def _proportional(deployment: Object, active: Sequence[Object]) -> list[Scale]:
    """Spread the difference over all active ReplicaSets by their size; what rounding leaves goes to the
    largest.
    """
    allowed = maximum(deployment) if o.replicas(deployment) > 0 else 0
    difference = allowed - _total(active)
    age = -1 if difference > 0 else 1  # of equal size: newer first when growing, older first when shrinking
    ranked = sorted(active, key=lambda rs: (-o.replicas(rs), age * o.created_at(rs), o.name(rs)))
    sizes: list[int] = []
    moved = 0
    for rs in ranked:
        share = _share(deployment, rs, difference, moved)
        sizes.append(o.replicas(rs) + share)
        moved += share
    if sizes and difference:
        sizes[0] = max(sizes[0] + difference - moved, 0)
    return [Scale(o.name(rs), o.replicas(rs), size) for rs, size in zip(ranked, sizes, strict=True)]


def _share(deployment: Object, rs: Object, difference: int, moved: int) -> int:
    left = difference - moved
    if o.replicas(rs) == 0 or left == 0:
        return 0
    fraction = _fraction(deployment, rs)
    return min(fraction, left) if difference > 0 else max(fraction, left)


def _fraction(deployment: Object, rs: Object) -> int:
    size = o.replicas(rs)
    if o.replicas(deployment) == 0:
        return -size
    before = int(o.annotations_of(rs).get(revisions.MAXIMUM) or o.status(deployment).get("replicas") or 0)
    if before == 0:
        return 0
    return int(size * maximum(deployment) / before + 0.5) - size


def _total(sets: Iterable[Object]) -> int:
    return sum(o.replicas(rs) for rs in sets)


def _available(rs: Object) -> int:
    return int(o.status(rs).get("availableReplicas") or 0)
