"""The service loop (cloud-provider `controllers/service`): a queue of Services; all of them again when
the nodes that stand behind them change.
"""

from __future__ import annotations

from typing import ClassVar

from apimachinery import meta
from cloudcontroller.cloud import CloudError
from cloudcontroller.loops import Context, Keyed, Object, gone_is_fine
from cloudcontroller.services import plan
from kubeclient.resources import NODES, SERVICES

# A cloud is not to be hammered: the real controller's numbers, seconds.
FIRST_RETRY, LONGEST_RETRY = 5.0, 300.0


class ServiceController(Keyed):
    """Invariant: an address is in `taken` from before it is announced until after it is withdrawn, so no two
    Services are ever given one, whatever the informer has seen by then.
    """

    name: ClassVar[str] = "service-lb-controller"
    component: ClassVar[str] = "service-controller"

    def __init__(self, ctx: Context) -> None:
        workers = ctx.options.concurrent_service_syncs
        super().__init__(ctx, workers=workers, first=FIRST_RETRY, longest=LONGEST_RETRY)
        self.nodes = ctx.informers.informer(NODES)
        self.services = ctx.informers.informer(SERVICES)
        self.services.add_handler(self._enqueue, lambda _, new: self._enqueue(new), self._enqueue)
        self.nodes.add_handler(
            self._nodes_changed, lambda _, new: self._nodes_changed(new), self._nodes_changed
        )
        self._taken: dict[str, str] = {}  # address -> key of the Service
        self._targets: tuple[str, ...] = ()
        self._written: dict[str, int] = {}  # key -> revision of our last write to the Service
        self._ended: dict[str, str] = {}  # key -> uid of a deleted Service that we have let go

    async def run(self) -> None:
        """What is announced for nobody (the manager died between two writes) is withdrawn first."""
        for service in self.services.store.list():
            if plan.wish(service).balancer or plan.wish(service).finalizer:
                for address in plan.ingress_ips(service):
                    self._taken.setdefault(address, meta.key_of(service))
        try:
            for address in await self.cloud.list_balancers():
                if address not in self._taken:
                    self.log.info("withdrawing an address of nobody", extra={"address": address})
                    await self.cloud.delete_balancer(address)
        except CloudError as error:
            self.log.warning("leftover balancers stay: %s", error)
        await super().run()

    async def sync(self, key: str) -> None:
        if int(self.services.resource_version or 0) < self._written.get(key, 0):
            return  # the store does not show our own write yet; the event that shows it comes back here
        service = self.services.store.get(key)
        if service is None:
            self._written.pop(key, None)
            self._ended.pop(key, None)
            await self._withdraw(key)
            return
        if self._ended.get(key) == meta.uid_of(service):
            return  # its removal, which has no revision of its own, is on its way to the store
        wish = plan.wish(service)
        try:
            if wish.balancer:
                await self._ensure(key, service)
            elif wish.finalizer or self._address_of(key):
                await self._end(key, service)
        except (CloudError, plan.AddressUnavailable) as error:
            verb = "ensure" if wish.balancer else "delete"
            text = f"Error syncing load balancer: failed to {verb} load balancer: {error}"
            self.event(service, SERVICES, "SyncLoadBalancerFailed", text, "Warning")
            raise CloudError(str(error)) from error

    # -- one service -----------------------------------------------------------------------------------------

    async def _ensure(self, key: str, service: Object) -> None:
        others = {address for address, holder in self._taken.items() if holder != key}
        address = plan.choose_address(service, self.cloud.pool, others, self._address_of(key))
        fresh = plan.ingress_ips(service) != [address]
        if fresh:
            self.event(service, SERVICES, "EnsuringLoadBalancer", "Ensuring load balancer")
        if plan.FINALIZER not in meta.finalizers_of(service):
            finalizers = [*meta.finalizers_of(service), plan.FINALIZER]
            service = await self._set_finalizers(service, finalizers)
        for old in [each for each, holder in self._taken.items() if holder == key and each != address]:
            await self._release(old)
        self._taken[address] = key
        await self.cloud.ensure_balancer(plan.balancer(service, address, self._behind(service)))
        if fresh:
            await self._set_status(service, plan.status_of(address))
            self.event(service, SERVICES, "EnsuredLoadBalancer", "Ensured load balancer")

    def _behind(self, service: Object) -> tuple[str, ...]:
        behind = plan.targets(self.nodes.store.list())
        if not behind:
            text = "There are no available nodes for LoadBalancer"
            self.event(service, SERVICES, "UnAvailableLoadBalancer", text, "Warning")
        return behind

    async def _end(self, key: str, service: Object) -> None:
        """The Service is going, or is of another type (or class) now."""
        self.event(service, SERVICES, "DeletingLoadBalancer", "Deleting load balancer")
        await self._withdraw(key)
        with gone_is_fine():
            if plan.ingress_ips(service):
                service = await self._set_status(service, None)
            if plan.FINALIZER in meta.finalizers_of(service):
                rest = [each for each in meta.finalizers_of(service) if each != plan.FINALIZER]
                await self._set_finalizers(service, rest)
        if meta.is_deleting(service):
            self._ended[key] = meta.uid_of(service)
        self.event(service, SERVICES, "DeletedLoadBalancer", "Deleted load balancer")

    async def _withdraw(self, key: str) -> None:
        for address in self._address_of(key):
            await self._release(address)

    async def _release(self, address: str) -> None:
        await self.cloud.delete_balancer(address)
        del self._taken[address]

    def _address_of(self, key: str) -> list[str]:
        return [address for address, holder in self._taken.items() if holder == key]

    # -- writes ----------------------------------------------------------------------------------------------

    async def _set_finalizers(self, service: Object, finalizers: list[str]) -> Object:
        version = {"resourceVersion": service["metadata"]["resourceVersion"]}
        return await self._patch(service, {"metadata": {**version, "finalizers": finalizers}})

    async def _set_status(self, service: Object, balancer: Object | None) -> Object:
        body = {"status": {"loadBalancer": balancer}}
        return await self._patch(service, body, subresource="status")

    async def _patch(self, service: Object, body: Object, subresource: str | None = None) -> Object:
        name, namespace = meta.name_of(service), meta.namespace_of(service)
        written = await self.client.patch(SERVICES, name, body, namespace, subresource=subresource)
        self._written[meta.key_of(service)] = int(written["metadata"]["resourceVersion"])
        return written

    # -- what wakes it ---------------------------------------------------------------------------------------

    def _enqueue(self, service: Object) -> None:
        self.queue.add(meta.key_of(service))

    def _nodes_changed(self, _: Object) -> None:
        """Heartbeats change nodes all the time; balancers care for which there are."""
        now = plan.targets(self.nodes.store.list())
        if now != self._targets:
            self._targets = now
            for service in self.services.store.list():
                if plan.wish(service).balancer:
                    self._enqueue(service)
