"""The DaemonSet loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from apimachinery import selectors
from componentbase.backoff import Backoff
from controllers import history, pods
from controllers import objects as o
from controllers.claims import Claimer
from controllers.daemonset import plan as dp
from controllers.objects import Object
from controllers.podcontrol import PodControl, enqueue_owner
from controllers.runtime import (
    SETTLE_RETRY,
    Context,
    Controller,
    TryAgain,
    claimable,
    controlled,
    ignore_not_found,
    in_namespace,
)
from kubeclient.resources import CONTROLLERREVISIONS, DAEMONSETS, NODES, PODS

FAILED_POD_BACKOFF = (1.0, 900.0)  # seconds, first and longest, before a failed daemon pod is replaced


class DaemonSetController(Controller):
    name: ClassVar[str] = "daemonset-controller"
    account: ClassVar[str] = "daemon-set-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, workers=ctx.options.concurrent_daemonset_syncs)
        self.sets = self.watch(DAEMONSETS, self.enqueue)
        self.pods = self.watch(PODS, enqueue_owner(self, DAEMONSETS.kind, self._enqueue_adopters))
        self.nodes = self.ctx.informers.informer(NODES)
        self.nodes.add_handler(self._all, self._on_node_update, self._all)
        self.revisions = self.watch(CONTROLLERREVISIONS, enqueue_owner(self, DAEMONSETS.kind, lambda _: None))
        self.written = self.written_to(PODS)
        self.control = PodControl(self, DAEMONSETS, self.written)
        self.claimer = Claimer(self.client, DAEMONSETS, PODS)
        self._failed: dict[tuple[str, str], tuple[Backoff, float]] = {}

    async def sync(self, key: str) -> float | None:
        ds = self.sets.store.get(key)
        if ds is None:
            self.written.forget(key)
            self._failed = {at: entry for at, entry in self._failed.items() if at[0] != key}
            return None
        if not self.written.settled(key):
            return SETTLE_RETRY
        selector = selectors.label_selector_from(o.spec(ds).get("selector"))
        if selector.is_empty:
            text = "This daemon set is selecting all pods. A non-empty selector is required."
            self.warn(ds, DAEMONSETS, "SelectingAll", text)
            return None
        if o.is_terminating(ds):
            return None
        mine = await self.claimer.claim(
            ds, lambda pod: selector.matches(o.labels(pod)), claimable(self.pods, ds)
        )
        current, past = await self._revision(ds, mine)
        wait = await self._place(ds, mine, history.hash_of(current))
        await history.drop_surplus(self.client, past)
        return wait

    async def _revision(self, ds: Object, mine: Sequence[Object]) -> tuple[Object, history.History]:
        owned = controlled(self.revisions, o.namespace(ds), o.uid(ds))
        in_use = {o.labels(pod).get(history.HASH_LABEL, "") for pod in mine}
        past = history.compute_history(ds, owned, in_use)
        try:
            return await history.ensure_current(self.client, ds, DAEMONSETS, past), past
        except history.NameCollision as collision:
            count = int(o.status(ds).get("collisionCount") or 0) + 1
            await self._write_status(ds, {**o.status(ds), "collisionCount": count})
            raise TryAgain(str(collision)) from collision

    async def _place(self, ds: Object, mine: Sequence[Object], current: str) -> float | None:
        """Placement first; only a set that stands everywhere goes on with its rolling update."""
        now = self.clock.now()
        nodes, placed = sorted(self.nodes.store.list(), key=o.name), dp.by_node(mine)
        plan = dp.compute_placement(ds, nodes, placed, current, now)
        plan, wait = self._back_off_failed(ds, plan)
        strategy = (o.spec(ds).get("updateStrategy") or {}).get("type", "RollingUpdate")
        if not plan.create and not plan.delete and strategy == "RollingUpdate":
            plan = dp.compute_rolling(ds, nodes, placed, current, now)
        error: Exception | None = None
        try:
            await self._execute(ds, plan, current)
        except Exception as failure:  # the status is written all the same, then this is raised
            error = failure
        await self._write_status(ds, dp.compute_status(ds, nodes, placed, current, now))
        if error is not None:
            raise error
        soon = pods.available_in(mine, int(o.spec(ds).get("minReadySeconds") or 0), now)
        return min((w for w in (wait, soon) if w is not None), default=None)

    async def _execute(self, ds: Object, plan: dp.Plan, current: str) -> None:
        if plan.create:
            await self.control.create_many(ds, [dp.template_for(ds, node, current) for node in plan.create])
        if plan.delete:
            await self.control.delete_many(ds, plan.delete)

    def _back_off_failed(self, ds: Object, plan: dp.Plan) -> tuple[dp.Plan, float | None]:
        """Leave failed pods where their node's back-off has not passed; the seconds until the next may go."""
        now, waiting, held = self.clock.monotonic(), [], set()
        for pod in plan.failed:
            at = (o.key(ds), dp.target_node(pod))
            backoff, until = self._failed.get(at, (Backoff(*FAILED_POD_BACKOFF), 0.0))
            if now < until:
                held.add(o.uid(pod))
                waiting.append(until - now)
                continue
            self._failed[at] = (backoff, now + backoff.next())
            text = f"Found failed daemon pod {o.key(pod)} on node {dp.target_node(pod)}, will try to kill it"
            self.warn(ds, DAEMONSETS, "FailedDaemonPod", text)
        kept = tuple(pod for pod in plan.delete if o.uid(pod) not in held)
        return dp.Plan(plan.create, kept, plan.failed), min(waiting, default=None)

    async def _write_status(self, ds: Object, new: Object) -> None:
        if new != o.status(ds):
            await ignore_not_found(
                self.client.update(DAEMONSETS, o.with_status(ds, new), subresource="status")
            )

    # -- waking up -------------------------------------------------------------------------------------------

    def _all(self, _node: Object) -> None:
        for ds in self.sets.store.list():
            self.enqueue(ds)

    def _on_node_update(self, old: Object, new: Object) -> None:
        """Heartbeats change nothing here; labels and taints do."""
        if o.labels(old) != o.labels(new) or o.spec(old).get("taints") != o.spec(new).get("taints"):
            self._all(new)

    def _enqueue_adopters(self, pod: Object) -> None:
        if o.is_terminating(pod):
            return
        for ds in in_namespace(self.sets, o.namespace(pod)):
            if selectors.label_selector_from(o.spec(ds).get("selector")).matches(o.labels(pod)):
                self.enqueue(ds)
