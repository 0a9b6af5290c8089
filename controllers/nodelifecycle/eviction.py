"""Taint-based eviction: pods that do not tolerate a NoExecute taint leave, at once or after
`tolerationSeconds`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from controllers import objects as o
from controllers import pods
from controllers import taints as tt
from controllers.objects import Object
from controllers.podgc import failed_status, patch_status
from controllers.runtime import Context, Controller, ignore_not_found, on_node
from kubeclient.informer import Informer
from kubeclient.resources import NODES, PODS


@dataclass(frozen=True, slots=True)
class Verdict:
    """`at` is when the pod has to leave (seconds since the epoch); None: it may stay."""

    at: float | None


def compute_verdict(pod: Object, taints: Sequence[Object], now: float) -> Verdict:
    """How long a pod may stay on a node with these taints.

    The shortest tolerationSeconds of all matching tolerations counts, from the moment the newest taint was
    added (its timeAdded, so that a restarted manager does not begin the wait again); a taint without a time
    counts from now.
    """
    executing = [taint for taint in taints if taint.get("effect") == tt.NO_EXECUTE]
    if not executing:
        return Verdict(None)
    tolerations = o.spec(pod).get("tolerations") or ()
    if tt.untolerated(executing, tolerations, (tt.NO_EXECUTE,)):
        return Verdict(now)
    used = [t for t in tolerations if any(tt.tolerates(t, taint) for taint in executing)]
    seconds = [int(t["tolerationSeconds"]) for t in used if t.get("tolerationSeconds") is not None]
    if not seconds:
        return Verdict(None)
    start = max((o.parse_time(taint.get("timeAdded")) or now) for taint in executing)
    return Verdict(start + max(min(seconds), 0))


class TaintEvictionController(Controller):
    """Keys are pods. A pod is looked at when it or its node's taints change, and when its time has come."""

    name: ClassVar[str] = "taint-eviction-controller"
    account: ClassVar[str] = "node-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, workers=8)
        self.nodes = ctx.informers.informer(NODES)
        self.nodes.add_handler(self._on_node, self._on_node_update)
        self.pods: Informer = ctx.informers.informer(PODS)
        self.pods.add_handler(self.enqueue, self._on_pod_update, self._on_pod_gone)
        self._since: dict[str, float] = {}  # pod key -> start of the wait, for taints that carry no time
        self._marked: set[str] = set()

    async def sync(self, key: str) -> float | None:
        pod = self.pods.store.get(key)
        node = self.nodes.store.get(pods.node_name(pod)) if pod else None
        if pod is None or node is None or o.is_terminating(pod):
            return None
        now = self.clock.now()
        verdict = compute_verdict(pod, tt.taints(node), self._since.setdefault(key, now))
        if verdict.at is None:
            self._since.pop(key, None)
            if key in self._marked:
                self._marked.discard(key)
                self.event(pod, PODS, "TaintManagerEviction", f"Cancelling deletion of Pod {key}")
            return None
        if key not in self._marked and verdict.at > now:
            self._marked.add(key)
        if verdict.at > now:
            return verdict.at - now
        await self._evict(key, pod)
        return None

    async def _evict(self, key: str, pod: Object) -> None:
        self.event(pod, PODS, "TaintManagerEviction", f"Marking for deletion Pod {key}")
        reason, text = "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"
        marked = {**failed_status(pod, reason, text, self.clock.now()), "phase": pods.phase(pod)}
        if await patch_status(self.client, pod, marked) is None:
            return
        options = {"preconditions": {"uid": o.uid(pod)}}
        await ignore_not_found(self.client.delete(PODS, o.name(pod), o.namespace(pod), options=options))

    def _on_node(self, node: Object) -> None:
        for pod in on_node(self.pods, o.name(node)):
            self.enqueue(pod)

    def _on_node_update(self, old: Object, new: Object) -> None:
        if o.spec(old).get("taints") != o.spec(new).get("taints"):
            self._on_node(new)

    def _on_pod_update(self, old: Object, new: Object) -> None:
        tolerations = [o.spec(side).get("tolerations") for side in (old, new)]
        if pods.node_name(old) != pods.node_name(new) or tolerations[0] != tolerations[1]:
            self.enqueue(new)

    def _on_pod_gone(self, pod: Object) -> None:
        self._since.pop(o.key(pod), None)
        self._marked.discard(o.key(pod))
