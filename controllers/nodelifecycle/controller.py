"""The node monitor: every `--node-monitor-period` it compares what nodes have posted with what was known
before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from apimachinery import errors
from controllers import objects as o
from controllers import pods
from controllers.nodelifecycle import health as hp
from controllers.objects import Object
from controllers.runtime import Context, Periodic, ignore_not_found
from kubeclient.ratelimit import TokenBucket
from kubeclient.resources import LEASES, NODES, PODS
from kubeclient.rest import ConnectionFailed

LEASE_NAMESPACE = "kube-node-lease"


class NodeLifecycleController(Periodic):
    name: ClassVar[str] = "node-lifecycle-controller"
    account: ClassVar[str] = "node-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, period=ctx.options.node_monitor_period, component="node-controller")
        self.nodes = ctx.informers.informer(NODES)
        self.leases = ctx.informers.informer(LEASES, namespace=LEASE_NAMESPACE)
        self.pods = ctx.informers.informer(PODS)
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

    async def step(self) -> None:
        nodes = sorted(self.nodes.store.list(), key=o.name)
        self._note_arrivals(nodes)
        fresh: list[Object] = []
        for node in nodes:
            try:
                fresh.append(await self._look_at(node))
            except (errors.StatusError, ConnectionFailed) as error:
                # One node that cannot be written must not keep the others from being judged.
                self.log.warning("node not updated, trying again: %s", error, extra={"node": o.name(node)})
                fresh.append(node)
        await self._taint_for_eviction(fresh)

    async def _look_at(self, node: Object) -> Object:
        """Judge one node; the node as it is after conditions and NoSchedule taints were written."""
        name, now = o.name(node), self.clock.now()
        lease = self.leases.store.get(f"{LEASE_NAMESPACE}/{name}")
        seen = hp.observe(node, lease, self._seen.get(name), self.clock.monotonic(), self.grace)
        self._seen[name] = seen
        if hp.is_silent(seen, self.clock.monotonic()):
            conditions = hp.unknown_conditions(node, now)
            if conditions is not None:
                status = {**o.status(node), "conditions": conditions}
                node = await self.client.update(NODES, o.with_status(node, status), subresource="status")
        taints = hp.schedule_taints(node, now)
        if taints is not None:
            node = await self._write_taints(node, taints)
        await self._on_readiness(node)
        return node

    async def _on_readiness(self, node: Object) -> None:
        """When a node has stopped being ready, its pods are not ready either: Services stop sending to
        them.
        """
        name, ready = o.name(node), hp.ready_status(node)
        before = self._ready.get(name)
        if ready == "True":
            self._ready[name] = ready
            return
        if before == "True":
            self.event(node, NODES, "NodeNotReady", f"Node {name} status is now: NodeNotReady")
        # Also a manager that has just started marks the pods: its predecessor may have died before it could.
        if before != ready and o.condition(node, "Ready") is not None:
            await self._mark_pods_not_ready(name)
        self._ready[name] = ready

    async def _mark_pods_not_ready(self, node_name: str) -> None:
        for pod in self.pods.store.list():
            if pods.node_name(pod) != node_name or not pods.is_ready(pod):
                continue
            found = o.condition(pod, "Ready") or {}
            stamp = o.format_time(self.clock.now())
            condition = {**found, "status": "False", "lastTransitionTime": stamp}
            conditions = o.set_condition(o.status(pod).get("conditions") or [], condition)
            body = o.with_status(pod, {**o.status(pod), "conditions": conditions})
            await ignore_not_found(self.client.update(PODS, body, subresource="status"))
            self.event(pod, PODS, "NodeNotReady", "Node is not ready", "Warning")

    async def _taint_for_eviction(self, nodes: Sequence[Object]) -> None:
        """NoExecute taints come off at once and go on at the zone's rate."""
        states = hp.zone_states(nodes, self.rates.unhealthy_threshold)
        allowed = hp.eviction_rates(states, hp.zone_sizes(nodes), self.rates)
        stopped = states and all(state is hp.ZoneState.FULL for state in states.values())
        for node in nodes:
            taints = hp.execute_taints(node, self.clock.now())
            if taints is None:
                continue
            if hp.ready_status(node) != "True" and (stopped or not self._may_evict(node, allowed)):
                continue
            try:
                await self._write_taints(node, taints)
            except (errors.StatusError, ConnectionFailed) as error:
                self.log.warning("taint not written, trying again: %s", error, extra={"node": o.name(node)})

    def _may_evict(self, node: Object, allowed: dict[str, float]) -> bool:
        zone = hp.zone_of(node)
        rate, now = allowed.get(zone, 0.0), self.clock.monotonic()
        if rate <= 0:
            return False
        if zone not in self._buckets or self._buckets[zone][0] != rate:
            self._buckets[zone] = (rate, TokenBucket(rate, 1, now))
        return self._buckets[zone][1].try_take(now)

    async def _write_taints(self, node: Object, taints: Sequence[Object]) -> Object:
        body = {**node, "spec": {**o.spec(node), "taints": list(taints)}}
        return await self.client.update(NODES, body)

    def _note_arrivals(self, nodes: Sequence[Object]) -> None:
        current = {o.name(node): node for node in nodes}
        for name in current.keys() - self._seen.keys():
            text = f"Node {name} event: Registered Node {name} in Controller"
            self.event(current[name], NODES, "RegisteredNode", text)
        for name in self._seen.keys() - current.keys():
            self.log.info("node removed", extra={"node": name})
            self._seen.pop(name)
            self._ready.pop(name, None)
