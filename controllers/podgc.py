"""Pod garbage collection: pods of vanished nodes, terminating pods no kubelet will finish, too many finished
pods.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from controllers import objects as o
from controllers import pods, taints
from controllers.objects import Object
from controllers.runtime import Context, Periodic, ignore_not_found
from kubeclient.resources import NODES, PODS
from kubeclient.rest import RestClient

PERIOD = 20.0
QUARANTINE = 40.0  # seconds a node has to be missing before its pods are collected


@dataclass(frozen=True, slots=True)
class Plan:
    """Pods to remove at once (grace 0), by why."""

    terminated: tuple[Object, ...] = ()
    orphaned: tuple[Object, ...] = ()
    unscheduled: tuple[Object, ...] = ()
    out_of_service: tuple[Object, ...] = ()


def compute_plan(
    everyone: Sequence[Object], nodes: Mapping[str, Object], vanished: Collection[str], threshold: int
) -> Plan:
    """`vanished` are node names known to be gone; `threshold` <= 0 keeps every finished pod."""
    finished = sorted(
        (p for p in everyone if pods.is_finished(p)), key=lambda p: (o.created_at(p), o.name(p))
    )
    surplus = finished[: max(len(finished) - threshold, 0)] if threshold > 0 else []
    return Plan(
        terminated=tuple(surplus),
        orphaned=tuple(p for p in everyone if pods.node_name(p) in vanished),
        unscheduled=tuple(p for p in everyone if o.is_terminating(p) and not pods.node_name(p)),
        out_of_service=tuple(
            p for p in everyone if o.is_terminating(p) and _is_out_of_service(nodes.get(pods.node_name(p)))
        ),
    )


def _is_out_of_service(node: Object | None) -> bool:
    """An administrator declared the node dead (KEP-2268), and it is not Ready."""
    if node is None or o.condition_status(node, "Ready") == "True":
        return False
    return any(taint.get("key") == taints.OUT_OF_SERVICE for taint in taints.taints(node))


def failed_status(pod: Object, reason: str, message: str, now: float) -> Object:
    """The pod's status with phase Failed and the DisruptionTarget condition (KEP-3329)."""
    target = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": o.format_time(now),
    }
    conditions = o.set_condition(o.status(pod).get("conditions") or [], target)
    return {**o.status(pod), "phase": "Failed", "conditions": conditions}


async def patch_status(client: RestClient, pod: Object, status: Object) -> Object | None:
    """Write phase and conditions of exactly this version of the pod; None when it is gone.

    A patch, because that is the one verb on pods/status that the bootstrap roles give.
    """
    version = {"uid": o.uid(pod), "resourceVersion": o.meta(pod)["resourceVersion"]}
    body = {"metadata": version, "status": {part: status[part] for part in ("phase", "conditions")}}
    return await ignore_not_found(
        client.patch(PODS, o.name(pod), body, o.namespace(pod), subresource="status")
    )


class PodGarbageCollector(Periodic):
    name: ClassVar[str] = "pod-garbage-collector-controller"
    account: ClassVar[str] = "pod-garbage-collector"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, period=PERIOD)
        self.pods = ctx.informers.informer(PODS)
        self.nodes = ctx.informers.informer(NODES)
        self._missing_since: dict[str, float] = {}

    async def step(self) -> None:
        everyone = self.pods.store.list()
        nodes = {o.name(node): node for node in self.nodes.store.list()}
        vanished = await self._vanished({pods.node_name(p) for p in everyone} - {""}, nodes)
        plan = compute_plan(everyone, nodes, vanished, self.ctx.options.terminated_pod_gc_threshold)
        for pod in [*plan.terminated, *plan.unscheduled, *plan.out_of_service]:
            await self._remove(pod)
        for pod in plan.orphaned:
            await self._fail_and_remove(pod)

    async def _vanished(self, used: Collection[str], nodes: Mapping[str, Object]) -> set[str]:
        """Nodes that pods name and nobody has seen for a while; each is asked for live before it counts as
        gone.
        """
        now = self.clock.monotonic()
        missing = {name: self._missing_since.get(name, now) for name in used if name not in nodes}
        self._missing_since = missing
        gone = set()
        for name, since in missing.items():
            if now - since >= QUARANTINE and await ignore_not_found(self.client.get(NODES, name)) is None:
                gone.add(name)
        return gone

    async def _fail_and_remove(self, pod: Object) -> None:
        if not pods.is_finished(pod):
            reason, message = "DeletionByPodGC", "PodGC: node no longer exists"
            status = failed_status(pod, reason, message, self.clock.now())
            if await patch_status(self.client, pod, status) is None:
                return
        await self._remove(pod)

    async def _remove(self, pod: Object) -> None:
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": o.uid(pod)}}
        where = {"pod": o.key(pod), "node": pods.node_name(pod), "phase": pods.phase(pod)}
        self.log.info("removing pod", extra=where)
        await ignore_not_found(self.client.delete(PODS, o.name(pod), o.namespace(pod), options=options))
