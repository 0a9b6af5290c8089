"""Two loops over Nodes: one that makes a node of a new instance, one that ends the node of an instance that
is no more.
"""

from __future__ import annotations

from typing import ClassVar

from apimachinery import errors, meta
from cloudcontroller.cloud import CloudError
from cloudcontroller.loops import Context, Object, Periodic, gone_is_fine
from cloudcontroller.nodes import conditions, plan
from cloudcontroller.nodes.conditions import SHUT_DOWN, UNINITIALIZED
from kubeclient.resources import NODES
from kubeclient.rest import ConnectionFailed


class NodeController(Periodic):
    """Gives a node its providerID, labels and addresses, then takes the taint that kept pods away; looks
    again at all of them every `--node-status-update-frequency`.
    """

    name: ClassVar[str] = "cloud-node-controller"
    component: ClassVar[str] = "cloud-node-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, period=ctx.options.node_status_update_frequency)
        self.nodes = ctx.informers.informer(NODES)
        self.nodes.add_handler(self.wake, self._on_update, lambda _: None)

    def _on_update(self, old: Object, new: Object) -> None:
        if conditions.has_taint(new, UNINITIALIZED) or meta.labels_of(old) != meta.labels_of(new):
            self.wake()

    async def step(self) -> None:
        for node in self.nodes.store.list():
            try:
                await self._look_at(node)
            except (errors.StatusError, ConnectionFailed, CloudError, plan.WrongAddress) as error:
                # One node that cannot be told must not keep the others from starting.
                self.log.warning("node not updated: %s", error, extra={"node": meta.name_of(node)})
                self.clock.call_later(self.ctx.options.node_monitor_period, self.wake)

    async def _look_at(self, node: Object) -> None:
        name = meta.name_of(node)
        instance = await self.cloud.instance(name, plan.provider_id(node))
        if instance is None:
            if conditions.has_taint(node, UNINITIALIZED):
                raise CloudError(f"no instance of the name {name}")
            return
        addresses = plan.addresses(node, instance)
        with gone_is_fine():
            if addresses is not None:
                # A merge patch: a strategic one would add the list to what is there.
                change = {"status": {"addresses": addresses}}
                node = await self.client.patch(NODES, name, change, subresource="status")
            if body := plan.initialisation(node, instance):
                # The list of taints is replaced whole: only if nobody has added one meanwhile. A conflict
                # comes back as an event, and so as another look.
                body.setdefault("metadata", {})["resourceVersion"] = node["metadata"]["resourceVersion"]
                await self.client.patch(NODES, name, body)
                self.log.info("node initialized", extra={"node": name, "id": instance.provider_id})


class NodeLifecycleController(Periodic):
    """Every `--node-monitor-period`: a node that is silent because its instance is gone is deleted, one whose
    instance is switched off is tainted until it is on again.
    """

    name: ClassVar[str] = "cloud-node-lifecycle-controller"
    component: ClassVar[str] = "cloud-node-lifecycle-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, period=ctx.options.node_monitor_period)
        self.nodes = ctx.informers.informer(NODES)

    async def step(self) -> None:
        for node in self.nodes.store.list():
            try:
                await self._look_at(node)
            except (errors.StatusError, ConnectionFailed, CloudError) as error:
                self.log.warning("node not judged: %s", error, extra={"node": meta.name_of(node)})

    async def _look_at(self, node: Object) -> None:
        if not plan.is_silent(node):
            if conditions.has_taint(node, SHUT_DOWN):
                await self._set_taints(node, conditions.without_taint(node, SHUT_DOWN))
            return
        if conditions.has_taint(node, UNINITIALIZED):
            return  # not yet known to be of this cloud
        instance = await self.cloud.instance(meta.name_of(node), plan.provider_id(node))
        if instance is None:
            await self._delete(node)
        elif await self.cloud.is_shut_down(instance):
            taints = plan.with_shutdown_taint(node, self.clock.now())
            if taints is not None:
                await self._set_taints(node, taints)

    async def _delete(self, node: Object) -> None:
        name = meta.name_of(node)
        text = f"Deleting node {name} because it does not exist in the cloud provider"
        self.event(node, NODES, "DeletingNode", text)
        self.log.info("deleting node: it is not in the cloud", extra={"node": name})
        with gone_is_fine():
            options = {"preconditions": {"uid": meta.uid_of(node)}}
            await self.client.delete(NODES, name, options=options)

    async def _set_taints(self, node: Object, taints: list[Object]) -> None:
        version = {"resourceVersion": node["metadata"]["resourceVersion"]}
        with gone_is_fine():
            body = {"metadata": version, "spec": {"taints": taints or None}}
            await self.client.patch(NODES, meta.name_of(node), body)
