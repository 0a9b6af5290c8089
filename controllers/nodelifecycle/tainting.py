"""NoSchedule taints follow a node's conditions and `spec.unschedulable` as soon as these change: a node that
has become ready takes pods at once, and one that is cordoned none.
"""

from __future__ import annotations

from typing import ClassVar

from controllers import objects as o
from controllers.nodelifecycle import health as hp
from controllers.objects import Object
from controllers.runtime import Context, Controller, ignore_not_found
from kubeclient.resources import NODES

WORKERS = 8


class NodeTaintController(Controller):
    """A part of the node lifecycle controller. Keys are nodes."""

    name: ClassVar[str] = "node-lifecycle-controller-taints"
    account: ClassVar[str] = "node-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, workers=WORKERS, component="node-controller")
        self.nodes = self.watch(NODES, self._on_node)

    async def sync(self, key: str) -> float | None:
        node = self.nodes.store.get(key)
        taints = hp.schedule_taints(node, self.clock.now()) if node is not None else None
        if node is not None and taints is not None:
            await ignore_not_found(self.client.update(NODES, hp.with_taints(node, taints)))
        return None

    def _on_node(self, node: Object) -> None:
        """Most changes of a node are heartbeats, which call for nothing."""
        if hp.schedule_taints(node, self.clock.now()) is not None:
            self.queue.add(o.name(node))
