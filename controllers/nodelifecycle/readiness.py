"""Pods of nodes that are not ready are not ready either: Services stop sending to them.

Keys are pods, each written on its own and by several workers: a zone of many nodes takes thousands of pods
along, and neither the verdict about its next node nor one pod's conflict may wait for all of them.
"""

from __future__ import annotations

from typing import ClassVar

from controllers import objects as o
from controllers import pods
from controllers.objects import Object
from controllers.runtime import Context, Controller, ignore_not_found, on_node
from kubeclient.resources import NODES, PODS

WORKERS = 8


def compute_not_ready(pod: Object, node: Object | None, now: float) -> list[Object] | None:
    """The pod's conditions with Ready taken back; None when it may keep it.

    A node without a Ready condition has not reported yet: of its pods nothing is known to be wrong.
    """
    ready = o.condition(pod, "Ready")
    if ready is None or ready.get("status") != "True" or not is_down(node):
        return None
    condition = {**ready, "status": "False", "lastTransitionTime": o.format_time(now)}
    return o.set_condition(o.status(pod).get("conditions") or [], condition)


def is_down(node: Object | None) -> bool:
    """The node reports that it is not ready, or was found silent."""
    return node is not None and o.condition_status(node, "Ready") not in ("", "True")


class PodReadinessController(Controller):
    """A part of the node lifecycle controller."""

    name: ClassVar[str] = "node-lifecycle-controller-pods"
    account: ClassVar[str] = "node-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, workers=WORKERS, component="node-controller")
        self.nodes = ctx.informers.informer(NODES)
        self.nodes.add_handler(self._on_node, lambda _, new: self._on_node(new))
        self.pods = ctx.informers.informer(PODS)
        self.pods.add_handler(self._on_pod, lambda _, new: self._on_pod(new))

    async def sync(self, key: str) -> float | None:
        pod = self.pods.store.get(key)
        if pod is None:
            return None
        conditions = compute_not_ready(pod, self.nodes.store.get(pods.node_name(pod)), self.clock.now())
        if conditions is None:
            return None
        body = o.with_status(pod, {**o.status(pod), "conditions": conditions})
        if await ignore_not_found(self.client.update(PODS, body, subresource="status")):
            self.warn(pod, PODS, "NodeNotReady", "Node is not ready")
        return None

    def _on_node(self, node: Object) -> None:
        if is_down(node):
            for pod in on_node(self.pods, o.name(node)):
                self._enqueue_ready(pod)

    def _on_pod(self, pod: Object) -> None:
        if is_down(self.nodes.store.get(pods.node_name(pod))):
            self._enqueue_ready(pod)

    def _enqueue_ready(self, pod: Object) -> None:
        if pods.is_ready(pod):
            self.enqueue(pod)
