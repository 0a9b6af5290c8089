"""The route loop: every `--route-reconciliation-period` the cloud's routes are compared with the nodes' pod
CIDRs.
"""

from __future__ import annotations

from typing import ClassVar

from apimachinery import errors, meta
from cloudcontroller.cloud import CloudError, Route
from cloudcontroller.loops import Context, Object, Periodic, gone_is_fine
from cloudcontroller.routes.plan import compute_plan, network_condition
from kubeclient.resources import NODES


class RouteController(Periodic):
    """A new or changed node does not wait for the period to pass."""

    name: ClassVar[str] = "node-route-controller"
    component: ClassVar[str] = "route_controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, period=ctx.options.route_reconciliation_period)
        self.nodes = ctx.informers.informer(NODES)
        self.nodes.add_handler(self.wake, self._on_update, self.wake)

    async def step(self) -> None:
        nodes = self.nodes.store.list()
        plan = compute_plan(nodes, await self.cloud.list_routes(), self.ctx.options.cluster_cidr)
        for route in plan.delete:
            self.log.info("deleting route", extra={"cidr": route.cidr, "via": route.target})
            await self.cloud.delete_route(route)
        failed = {route for route in plan.create if not await self._created(route, nodes)}
        for node in nodes:
            mine = plan.wanted[meta.name_of(node)]
            if mine:
                await self._set_condition(node, routed=not failed.intersection(mine))

    async def _created(self, route: Route, nodes: list[Object]) -> bool:
        try:
            await self.cloud.create_route(route)
        except CloudError as error:
            self.log.warning("route not created: %s", error, extra={"cidr": route.cidr})
            node = next((n for n in nodes if route.cidr in (n["spec"].get("podCIDRs") or ())), None)
            if node is not None:
                text = f"Could not create route for node {meta.name_of(node)} {route.cidr}: {error}"
                self.event(node, NODES, "FailedToCreateRoute", text, "Warning")
            return False
        self.log.info("created route", extra={"cidr": route.cidr, "via": route.target})
        return True

    async def _set_condition(self, node: Object, *, routed: bool) -> None:
        conditions = network_condition(node, routed, self.clock.now())
        if conditions is None:
            return
        version = {"uid": meta.uid_of(node), "resourceVersion": node["metadata"]["resourceVersion"]}
        body = {"metadata": version, "status": {"conditions": conditions}}
        try:
            with gone_is_fine():
                await self.client.patch(NODES, meta.name_of(node), body, subresource="status")
        except errors.StatusError as error:
            if not errors.is_conflict(error):
                raise
            self.wake()  # the kubelet was faster; look again

    def _on_update(self, old: Object, new: Object) -> None:
        addresses = [(side.get("status") or {}).get("addresses") for side in (old, new)]
        ranges = [(side.get("spec") or {}).get("podCIDRs") for side in (old, new)]
        if ranges[0] != ranges[1] or addresses[0] != addresses[1]:
            self.wake()
