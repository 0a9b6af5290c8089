"""The route loop: every `--route-reconciliation-period` the cloud's routes are compared with the nodes' pod
CIDRs.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import ClassVar

from apimachinery import errors
from controllers import objects as o
from controllers.cloud import Cloud, CloudError, Route
from controllers.objects import Object
from controllers.route.plan import compute_plan, network_condition
from controllers.runtime import Context, Periodic, ignore_not_found
from kubeclient.resources import NODES


class RouteController(Periodic):
    name: ClassVar[str] = "node-route-controller"
    account: ClassVar[str] = "route-controller"

    def __init__(self, ctx: Context, cloud: Cloud) -> None:
        super().__init__(ctx, period=ctx.options.route_reconciliation_period, component="route_controller")
        self.cloud = cloud
        self.nodes = ctx.informers.informer(NODES)
        self._wake = asyncio.Event()
        self.nodes.add_handler(lambda _: self._wake.set(), self._on_update, lambda _: self._wake.set())

    async def step(self) -> None:
        self._wake.clear()
        nodes = self.nodes.store.list()
        try:
            plan = compute_plan(nodes, await self.cloud.list_routes(), self.ctx.options.cluster_cidr)
            for route in plan.delete:
                self.log.info("deleting route", extra={"cidr": route.cidr, "via": route.target})
                await self.cloud.delete_route(route)
        except CloudError as error:
            self.log.warning("cloud: %s", error)
            return
        failed = {route for route in plan.create if not await self._created(route, nodes)}
        for node in nodes:
            mine = plan.wanted[o.name(node)]
            if mine:
                await self._set_condition(node, routed=not failed.intersection(mine))

    async def pause(self) -> None:
        """A new or changed node does not wait for the period to pass."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.period):
                await self._wake.wait()

    async def _created(self, route: Route, nodes: list[Object]) -> bool:
        try:
            await self.cloud.create_route(route)
        except CloudError as error:
            self.log.warning("route not created: %s", error, extra={"cidr": route.cidr})
            node = next((n for n in nodes if route.cidr in (o.spec(n).get("podCIDRs") or ())), None)
            if node is not None:
                text = f"Could not create route for node {o.name(node)} {route.cidr}: {error}"
                self.event(node, NODES, "FailedToCreateRoute", text, "Warning")
            return False
        self.log.info("created route", extra={"cidr": route.cidr, "via": route.target})
        return True

    async def _set_condition(self, node: Object, *, routed: bool) -> None:
        conditions = network_condition(node, routed, self.clock.now())
        if conditions is not None:
            version = {"uid": o.uid(node), "resourceVersion": o.meta(node)["resourceVersion"]}
            body = {"metadata": version, "status": {"conditions": conditions}}
            try:
                await ignore_not_found(self.client.patch(NODES, o.name(node), body, subresource="status"))
            except errors.StatusError as error:
                if not errors.is_conflict(error):
                    raise
                self._wake.set()  # the kubelet was faster; look again

    def _on_update(self, old: Object, new: Object) -> None:
        addresses = [o.status(side).get("addresses") for side in (old, new)]
        if o.spec(old).get("podCIDRs") != o.spec(new).get("podCIDRs") or addresses[0] != addresses[1]:
            self._wake.set()
