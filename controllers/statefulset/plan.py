"""One step of a StatefulSet: which ordinals are made, restarted, given up or updated next. Pure.

OrderedReady takes one step at a time, upwards to create and downwards to delete, and none before the pods it
stands on are available; Parallel takes them all. The rolling update goes from the highest ordinal down to the
partition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from controllers import objects as o
from controllers import pods
from controllers.objects import Object
from controllers.statefulset import claims as pvc
from controllers.statefulset import identity


@dataclass(frozen=True, slots=True)
class View:
    """What a decision is made on. `claims` are the namespace's by name; `now` is seconds since the epoch."""

    sts: Object
    mine: Sequence[Object]
    current: str  # names of ControllerRevisions
    update: str
    claims: Mapping[str, Object] = field(default_factory=dict)
    now: float = 0.0

    @property
    def min_ready(self) -> int:
        return int(o.spec(self.sts).get("minReadySeconds") or 0)

    def available(self, pod: Object | None) -> bool:
        """Running, ready for long enough, and staying."""
        return (
            pod is not None
            and pods.phase(pod) == "Running"
            and not o.is_terminating(pod)
            and pods.is_available(pod, self.min_ready, self.now)
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """`restart` are pods that ended and will be made again; `delete` are condemned or outdated ones."""

    create: tuple[int, ...] = ()
    restart: tuple[Object, ...] = ()
    delete: tuple[Object, ...] = ()
    claim_for: tuple[Object, ...] = ()  # pending pods some of whose claims are missing


def is_parallel(sts: Object) -> bool:
    return bool(o.spec(sts).get("podManagementPolicy") == "Parallel")


def strategy(sts: Object) -> str:
    return str((o.spec(sts).get("updateStrategy") or {}).get("type") or "RollingUpdate")


def _rolling(sts: Object) -> Object:
    return (o.spec(sts).get("updateStrategy") or {}).get("rollingUpdate") or {}


def partition(sts: Object) -> int:
    return int(_rolling(sts).get("partition") or 0)


def revision_for(view: View, ordinal: int) -> str:
    """The revision a new pod of this ordinal is made from: the old one below the partition."""
    below = ordinal < identity.start_ordinal(view.sts) + partition(view.sts)
    return view.current if strategy(view.sts) == "RollingUpdate" and below else view.update


def compute_plan(view: View) -> Plan:
    """The next step; empty while something has to be waited for."""
    if o.is_terminating(view.sts):
        return Plan()
    by_ordinal = {identity.ordinal_of(pod): pod for pod in view.mine}
    wanted = identity.ordinals(view.sts)
    replicas = {ordinal: by_ordinal.get(ordinal) for ordinal in wanted}
    condemned = [by_ordinal[n] for n in sorted(by_ordinal, reverse=True) if n >= 0 and n not in wanted]
    create, restart, claim_for, blocked = _replicas(view, replicas)
    if blocked:
        return Plan(create, restart, (), claim_for)
    gone, blocked = _condemned(view, replicas, condemned)
    if blocked or strategy(view.sts) == "OnDelete":
        return Plan(create, restart, gone, claim_for)
    outdated = compute_update(view, replicas)
    return Plan(create, restart, (*gone, *(p for p in outdated if p not in restart)), claim_for)


def _replicas(
    view: View, replicas: Mapping[int, Object | None]
) -> tuple[tuple[int, ...], tuple[Object, ...], tuple[Object, ...], bool]:
    """(create, restart, claim_for, blocked) over the ordinals that should exist, lowest first."""
    create: list[int] = []
    restart: list[Object] = []
    claim_for: list[Object] = []
    monotonic, stop = not is_parallel(view.sts), False
    for ordinal, pod in replicas.items():
        if pod is None:
            if not pvc.stale(view.sts, ordinal, None, view.claims):
                create.append(ordinal)
            stop = True
        elif pods.is_finished(pod):
            if not o.is_terminating(pod):
                restart.append(pod)
            stop = True
        else:
            if pods.phase(pod) == "Pending" and pvc.missing(view.sts, ordinal, view.claims):
                claim_for.append(pod)
            stop = not view.available(pod)
        if monotonic and stop:
            return tuple(create), tuple(restart), tuple(claim_for), True
    return tuple(create), tuple(restart), tuple(claim_for), False


def _condemned(
    view: View, replicas: Mapping[int, Object | None], condemned: Sequence[Object]
) -> tuple[tuple[Object, ...], bool]:
    """(delete, blocked), highest ordinal first.

    In order, an unhealthy pod holds up the others, except the lowest unhealthy one of all: that one may go,
    since nothing below it is waited for.
    """
    if is_parallel(view.sts):
        return tuple(pod for pod in condemned if not o.is_terminating(pod)), False
    first = _first_unhealthy(view, [*replicas.values(), *condemned])
    for pod in condemned:
        if o.is_terminating(pod) or (not view.available(pod) and pod is not first):
            return (), True
        return (pod,), True
    return (), False


def _first_unhealthy(view: View, everyone: Iterable[Object | None]) -> Object | None:
    unhealthy = [p for p in everyone if p is not None and (o.is_terminating(p) or not _running_and_ready(p))]
    return min(unhealthy, key=identity.ordinal_of, default=None)


def _running_and_ready(pod: Object) -> bool:
    return pods.phase(pod) == "Running" and pods.is_ready(pod)


def compute_update(view: View, replicas: Mapping[int, Object | None]) -> tuple[Object, ...]:
    """The outdated pods to delete now, so that they come back with the update revision."""
    lowest = identity.start_ordinal(view.sts) + partition(view.sts)
    targets = [(n, replicas[n]) for n in sorted(replicas, reverse=True) if n >= lowest]
    raw = _rolling(view.sts).get("maxUnavailable")
    if raw is None:
        return _one_by_one(view, targets)
    allowed = max(o.scaled_value(raw, o.replicas(view.sts), round_up=True), 1)
    unavailable = sum(not view.available(pod) for pod in replicas.values())
    outdated = [pod for _, pod in targets if pod is not None and _is_outdated(view, pod)]
    return tuple(outdated[: max(allowed - unavailable, 0)])


def _one_by_one(view: View, targets: Iterable[tuple[int, Object | None]]) -> tuple[Object, ...]:
    for _, pod in targets:
        if pod is not None and _is_outdated(view, pod):
            return (pod,)
        if not view.available(pod):
            return ()
    return ()


def _is_outdated(view: View, pod: Object) -> bool:
    return identity.revision_of(pod) != view.update and not o.is_terminating(pod)


def compute_status(view: View, collisions: int | None) -> Object:
    """The whole `status`. A rolling update is complete, and the update revision the current one, when every
    replica is updated and ready.
    """
    alive = [pod for pod in view.mine if not o.is_terminating(pod)]
    ready = [pod for pod in view.mine if _running_and_ready(pod)]
    available = sum(view.available(pod) for pod in view.mine)
    updated = sum(identity.revision_of(pod) == view.update for pod in alive)
    current = sum(identity.revision_of(pod) == view.current for pod in alive)
    wanted, name = o.replicas(view.sts), view.current
    if strategy(view.sts) == "RollingUpdate" and updated == len(ready) == len(view.mine) == wanted:
        current, name = updated, view.update
    out: Object = {
        "replicas": len(view.mine),
        "availableReplicas": available,
        "observedGeneration": o.generation(view.sts),
        "currentRevision": name,
        "updateRevision": view.update,
        "collisionCount": collisions or 0,
    }
    counts = {"readyReplicas": len(ready), "currentReplicas": current, "updatedReplicas": updated}
    out.update({part: count for part, count in counts.items() if count})
    if o.status(view.sts).get("conditions"):
        out["conditions"] = o.status(view.sts)["conditions"]
    return out
