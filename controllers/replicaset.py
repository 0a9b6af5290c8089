"""ReplicaSet and ReplicationController: keep so many pods of one template running.

One implementation for both, as in Kubernetes; a `Flavour` says what differs (kind, selector, who else is
related).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from apimachinery import errors, selectors
from controllers import objects as o
from controllers import pods
from controllers.claims import Claimer
from controllers.objects import Object
from controllers.podcontrol import PodControl, enqueue_owner, owner_key
from controllers.runtime import (
    SETTLE_RETRY,
    Context,
    Controller,
    claimable,
    controlled,
    ignore_not_found,
    in_namespace,
)
from kubeclient.resources import GVR, PODS, REPLICASETS, REPLICATIONCONTROLLERS
from kubeclient.rest import ConnectionFailed

BURST = 500  # the most pods one sync creates or deletes
PROMPT, LAG, MAX_LAG = 100, 0.00125, 0.5  # replicas counted at once, seconds for each more, and at most
Matcher = Callable[[Mapping[str, str]], bool]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one sync does: so many pods made, these pods given up."""

    create: int = 0
    delete: tuple[Object, ...] = ()


def compute_plan(owner: Object, mine: Sequence[Object], related: Sequence[Object], now: float) -> Plan:
    """Compare active pods with `spec.replicas`; `related` are the active pods of the owner's siblings, itself
    included.
    """
    active = [pod for pod in mine if pods.is_active(pod)]
    difference = o.replicas(owner) - len(active)
    if o.is_terminating(owner) or difference == 0:
        return Plan()
    if difference > 0:
        return Plan(create=min(difference, BURST))
    per_node: dict[str, int] = {}
    for pod in related:
        if pods.is_active(pod) and (node := pods.node_name(pod)):
            per_node[node] = per_node.get(node, 0) + 1
    crowding = {o.uid(pod): per_node.get(pods.node_name(pod), 0) for pod in active}
    ranked = pods.rank_for_deletion(active, crowding, now)
    return Plan(delete=tuple(ranked[: min(-difference, BURST)]))


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the last attempt to reach the wanted number did not succeed."""

    reason: str  # FailedCreate or FailedDelete
    message: str


def compute_status(owner: Object, mine: Sequence[Object], failure: Failure | None, now: float) -> Object:
    """The whole `status` of the owner, given its claimed pods; equal to the old one when nothing changed."""
    active = [pod for pod in mine if pods.is_active(pod)]
    ready = [pod for pod in active if pods.is_ready(pod)]
    template_labels = o.labels(o.spec(owner).get("template") or {})
    min_ready = int(o.spec(owner).get("minReadySeconds") or 0)
    counts = {
        "fullyLabeledReplicas": sum(template_labels.items() <= o.labels(pod).items() for pod in active),
        "readyReplicas": len(ready),
        "availableReplicas": sum(pods.is_available(pod, min_ready, now) for pod in ready)
        if min_ready
        else len(ready),
    }
    out: Object = {"replicas": len(active), "observedGeneration": o.generation(owner)}
    out.update({field: count for field, count in counts.items() if count})
    conditions = _failure_conditions(o.status(owner).get("conditions") or [], failure, now)
    if conditions:
        out["conditions"] = conditions
    return out


def _failure_conditions(old: Sequence[Object], failure: Failure | None, now: float) -> list[Object]:
    if failure is None:
        return o.drop_condition(old, "ReplicaFailure")
    if o.find_condition(old, "ReplicaFailure") is not None:
        return list(old)
    return o.set_condition(
        old,
        {
            "type": "ReplicaFailure",
            "status": "True",
            "reason": failure.reason,
            "message": failure.message,
            "lastTransitionTime": o.format_time(now),
        },
    )


def status_lag(replicas: int) -> float:
    """Seconds for which pods that became ready are counted together: none for a small set, half a second for
    one of five hundred, whose every count costs a look at all its pods and a write that wakes its Deployment.
    """
    return min(max(replicas - PROMPT, 0) * LAG, MAX_LAG)


def _belongs_elsewhere(old: Object, new: Object) -> bool:
    """Another owner's, an orphan's or another pod's event than before."""
    return (
        o.uid(old) != o.uid(new)
        or o.labels(old) != o.labels(new)
        or o.owner_references(old) != o.owner_references(new)
    )


@dataclass(frozen=True, slots=True)
class Flavour:
    """What differs between the two kinds."""

    gvr: GVR
    selector: Callable[[Object], Matcher]


def _label_selector(owner: Object) -> Matcher:
    return selectors.label_selector_from(o.spec(owner).get("selector") or {}).matches


def _label_map(owner: Object) -> Matcher:
    return selectors.from_set(o.spec(owner).get("selector") or {}).matches


class _Replicas(Controller):
    """The loop of both controllers."""

    flavour: ClassVar[Flavour]

    def __init__(self, ctx: Context, *, workers: int) -> None:
        super().__init__(ctx, workers=workers)
        gvr = self.flavour.gvr
        self.owners = self.watch(gvr, self.enqueue)
        self._wake = enqueue_owner(self, gvr.kind, self._enqueue_adopters)
        self.pods = ctx.informers.informer(PODS)
        self.pods.add_handler(self._wake, self._on_pod_update, self._wake)
        self.written = self.written_to(PODS)
        self.control = PodControl(self, gvr, self.written)
        self.claimer = Claimer(self.client, gvr, PODS)

    async def sync(self, key: str) -> float | None:
        owner = self.owners.store.get(key)
        if owner is None:
            self.written.forget(key)
            return None
        if not self.written.settled(key):
            return SETTLE_RETRY
        matches = self.flavour.selector(owner)
        candidates = claimable(self.pods, owner)
        mine = await self.claimer.claim(owner, lambda pod: matches(o.labels(pod)), candidates)
        related = self._related(owner) if len(mine) > o.replicas(owner) else ()
        plan = compute_plan(owner, mine, related, self.clock.now())
        failure, error = await self._execute(owner, plan)
        now = self.clock.now()
        await self._write_status(owner, compute_status(owner, mine, failure, now))
        if error is not None:
            raise error
        return pods.available_in(mine, int(o.spec(owner).get("minReadySeconds") or 0), now)

    async def _execute(self, owner: Object, plan: Plan) -> tuple[Failure | None, Exception | None]:
        try:
            if plan.create:
                await self.control.create_many(owner, [o.spec(owner)["template"]] * plan.create)
            if plan.delete:
                await self.control.delete_many(owner, plan.delete)
        except (errors.StatusError, ConnectionFailed, TimeoutError) as error:
            return Failure("FailedCreate" if plan.create else "FailedDelete", str(error)), error
        return None, None

    async def _write_status(self, owner: Object, new: Object) -> None:
        if new == o.status(owner):
            return
        await ignore_not_found(
            self.client.update(self.flavour.gvr, o.with_status(owner, new), subresource="status")
        )

    def _related(self, owner: Object) -> list[Object]:
        """Pods of every sibling under the same controller (old and new ReplicaSets of one Deployment), and
        its own. Only who is to go is chosen by them.
        """
        parent, namespace = o.controller_of(owner), o.namespace(owner)
        siblings = {o.uid(owner)}
        if parent is not None:
            siblings |= {o.uid(other) for other in controlled(self.owners, namespace, parent["uid"])}
        return [pod for uid in siblings for pod in controlled(self.pods, namespace, uid)]

    def _on_pod_update(self, old: Object, new: Object) -> None:
        """What changes how many pods there are is acted on at once, readiness only counted, soon; nothing
        else of a pod's status matters here.
        """
        if _belongs_elsewhere(old, new):
            self._wake(old)
            self._wake(new)
        elif pods.is_active(old) != pods.is_active(new):
            self._wake(new)
        elif o.condition(old, "Ready") != o.condition(new, "Ready"):
            key = owner_key(new, self.flavour.gvr.kind)
            owner = self.owners.store.get(key) if key is not None else None
            if key is not None and owner is not None:
                self.queue.add_after(key, status_lag(o.replicas(owner)))

    def _enqueue_adopters(self, pod: Object) -> None:
        if o.is_terminating(pod):
            return
        for owner in in_namespace(self.owners, o.namespace(pod)):
            if self.flavour.selector(owner)(o.labels(pod)):
                self.enqueue(owner)


class ReplicaSetController(_Replicas):
    name: ClassVar[str] = "replicaset-controller"
    account: ClassVar[str] = "replicaset-controller"
    flavour: ClassVar[Flavour] = Flavour(REPLICASETS, _label_selector)


class ReplicationControllerController(_Replicas):
    name: ClassVar[str] = "replicationcontroller-controller"
    account: ClassVar[str] = "replication-controller"
    flavour: ClassVar[Flavour] = Flavour(REPLICATIONCONTROLLERS, _label_map)
