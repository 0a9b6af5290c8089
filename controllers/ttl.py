"""The annotation node.alpha.kubernetes.io/ttl: how long a kubelet may keep Secrets and ConfigMaps before it
asks again. The more nodes, the longer.
"""

from __future__ import annotations

from typing import ClassVar

from controllers import objects as o
from controllers.objects import Object
from controllers.runtime import Context, Controller, ignore_not_found
from kubeclient.resources import NODES

ANNOTATION = "node.alpha.kubernetes.io/ttl"
# fewest nodes (below: one step down), most nodes (above: one step up), seconds
BOUNDARIES = ((0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, 10**9, 300))


def next_step(step: int, nodes: int) -> int:
    """The row of the table for so many nodes. Rows overlap, so that a cluster at a limit does not sway."""
    while step + 1 < len(BOUNDARIES) and nodes > BOUNDARIES[step][1]:
        step += 1
    while step and nodes < BOUNDARIES[step][0]:
        step -= 1
    return step


class TTLController(Controller):
    name: ClassVar[str] = "ttl-controller"
    account: ClassVar[str] = "ttl-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.nodes = self.watch(NODES, self._on_node)
        self._step = 0

    async def sync(self, key: str) -> float | None:
        node = self.nodes.store.get(key)
        if node is None:
            return None
        seconds = str(BOUNDARIES[self._step][2])
        if o.annotations_of(node).get(ANNOTATION) != seconds:
            body = {"metadata": {"annotations": {ANNOTATION: seconds}}}
            await ignore_not_found(self.client.patch(NODES, key, body))
        return None

    def _on_node(self, node: Object) -> None:
        step = next_step(self._step, len(self.nodes.store.list()))
        if step == self._step:
            self.enqueue(node)
            return
        self._step = step
        for other in self.nodes.store.list():
            self.enqueue(other)
