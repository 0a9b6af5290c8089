"""The node monitor: every `--node-monitor-period` it compares what nodes have posted with what was known
before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import ClassVar

from apimachinery import errors
from controllers import objects as o
from controllers.nodelifecycle import health as hp
from controllers.nodelifecycle.readiness import PodReadinessController
from controllers.nodelifecycle.tainting import NodeTaintController
from controllers.objects import Object
from controllers.runtime import Context, Periodic, gather_limited
from kubeclient.ratelimit import TokenBucket
from kubeclient.resources import LEASES, NODES
from kubeclient.rest import ConnectionFailed

LEASE_NAMESPACE = "kube-node-lease"
WORKERS = 8  # nodes written at once


class NodeLifecycleController(Periodic):
    name: ClassVar[str] = "node-lifecycle-controller"
    account: ClassVar[str] = "node-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, period=ctx.options.node_monitor_period, component="node-controller")
        self.nodes = ctx.informers.informer(NODES)
        self.leases = ctx.informers.informer(LEASES, namespace=LEASE_NAMESPACE)
        self.parts = (NodeTaintController(ctx), PodReadinessController(ctx))
        opts = ctx.options
        self.grace = hp.Grace(opts.node_monitor_grace_period, opts.node_startup_grace_period)
        self.rates = hp.Rates(
            opts.node_eviction_rate,
            opts.secondary_node_eviction_rate,
            opts.large_cluster_size_threshold,
            opts.unhealthy_zone_threshold,
        )
        self._seen: dict[str, hp.Seen] = {}
        self._ready: dict[str, str] = {}
        self._buckets: dict[str, tuple[float, TokenBucket]] = {}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(super().run(), name=self.name)
            for part in self.parts:
                group.create_task(part.run(), name=part.name)

    async def step(self) -> None:
        nodes = sorted(self.nodes.store.list(), key=o.name)
        self._note_arrivals(nodes)
        fresh = {o.name(node): node for node in nodes}

        async def carry_out(node: Object) -> None:
            fresh[o.name(node)] = await self._written(node, self._write_conditions)

        silent = [node for node in nodes if self._unknown(node) is not None]
        await gather_limited((partial(carry_out, node) for node in silent), WORKERS)
        for node in fresh.values():
            self._on_readiness(node)
        await self._taint_for_eviction(list(fresh.values()))

    def _unknown(self, node: Object) -> list[Object] | None:
        """The conditions to write about a node that has fallen silent."""
        name, monotonic = o.name(node), self.clock.monotonic()
        lease = self.leases.store.get(f"{LEASE_NAMESPACE}/{name}")
        seen = hp.observe(node, lease, self._seen.get(name), monotonic, self.grace)
        self._seen[name] = seen
        return hp.unknown_conditions(node, self.clock.now()) if hp.is_silent(seen, monotonic) else None

    async def _write_conditions(self, node: Object) -> Object:
        conditions = self._unknown(node)
        if conditions is None:
            return node
        status = {**o.status(node), "conditions": conditions}
        return await self.client.update(NODES, o.with_status(node, status), subresource="status")

    async def _written(self, node: Object, write: Callable[[Object], Awaitable[Object]]) -> Object:
        """The node after `write`, which decides again on the node as it is when the cached one is out of date
        (a busy cluster's always are). One that cannot be written must not keep the others from being
        judged: the next pass looks at it again.
        """
        try:
            try:
                return await write(node)
            except errors.StatusError as error:
                if not errors.is_conflict(error):
                    raise
                return await write(await self.client.get(NODES, o.name(node)))
        except (errors.StatusError, ConnectionFailed) as error:
            self.log.warning("node not written, trying again: %s", error, extra={"node": o.name(node)})
            return node

    def _on_readiness(self, node: Object) -> None:
        """Say that a node has stopped being ready; its pods are seen to in `readiness.py`."""
        name, ready = o.name(node), hp.ready_status(node)
        if ready != "True" and self._ready.get(name) == "True":
            self.event(node, NODES, "NodeNotReady", f"Node {name} status is now: NodeNotReady")
        self._ready[name] = ready

    async def _taint_for_eviction(self, nodes: Sequence[Object]) -> None:
        """NoExecute taints come off at once and go on at the zone's rate. When every zone is down all come
        off: it is this side that is cut off, and what it said before is in doubt, too.
        """
        states = hp.zone_states(nodes, self.rates.unhealthy_threshold)
        allowed = hp.eviction_rates(states, hp.zone_sizes(nodes), self.rates)

        evicting = not all(state is hp.ZoneState.FULL for state in states.values())
        due = [
            node
            for node in nodes
            if hp.execute_taints(node, self.clock.now(), evicting=evicting) is not None
            and (not evicting or hp.ready_status(node) == "True" or self._may_evict(node, allowed))
        ]
        write = partial(self._write_execute_taints, evicting=evicting)
        await gather_limited((partial(self._written, node, write) for node in due), WORKERS)

    async def _write_execute_taints(self, node: Object, *, evicting: bool) -> Object:
        taints = hp.execute_taints(node, self.clock.now(), evicting=evicting)
        return node if taints is None else await self.client.update(NODES, hp.with_taints(node, taints))

    def _may_evict(self, node: Object, allowed: dict[str, float]) -> bool:
        zone = hp.zone_of(node)
        rate, now = allowed.get(zone, 0.0), self.clock.monotonic()
        if rate <= 0:
            return False
        if zone not in self._buckets or self._buckets[zone][0] != rate:
            self._buckets[zone] = (rate, TokenBucket(rate, 1, now))
        return self._buckets[zone][1].try_take(now)

    def _note_arrivals(self, nodes: Sequence[Object]) -> None:
        current = {o.name(node): node for node in nodes}
        for name in current.keys() - self._seen.keys():
            text = f"Node {name} event: Registered Node {name} in Controller"
            self.event(current[name], NODES, "RegisteredNode", text)
        for name in self._seen.keys() - current.keys():
            self.log.info("node removed", extra={"node": name})
            self._seen.pop(name)
            self._ready.pop(name, None)
