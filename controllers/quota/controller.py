"""The ResourceQuota loop: status.used as it is, again after every change and at least every few minutes.

Admission charges what is created; what is given back when something ends or is deleted comes from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from apimachinery import quantity
from apimachinery.quantity import ZERO
from controllers import objects as o
from controllers.discovery import Surface, discover
from controllers.objects import Object
from controllers.quota import usage as qu
from controllers.runtime import SETTLE_RETRY, Context, Controller, ignore_not_found, in_namespace
from kubeclient.informer import Informer
from kubeclient.resources import (
    CONFIGMAPS,
    GVR,
    PERSISTENTVOLUMECLAIMS,
    PODS,
    REPLICATIONCONTROLLERS,
    RESOURCEQUOTAS,
    SECRETS,
    SERVICES,
)

COUNT = "count/"
_OBJECTS = {gvr.resource: gvr for gvr in (CONFIGMAPS, REPLICATIONCONTROLLERS, RESOURCEQUOTAS, SECRETS)}
PAGE = 500


def compute_status(quota: Object, used: Mapping[str, quantity.Quantity]) -> Object:
    """`hard` as specified and, of what is used, that which `hard` limits."""
    hard = {name: quantity.canonical(value) for name, value in (o.spec(quota).get("hard") or {}).items()}
    return {"hard": hard, "used": {name: str(used.get(name, ZERO)) for name in hard}}


def counted(name: str) -> tuple[str, str] | None:
    """(group, resource) of a `count/<resource>[.<group>]` limit that is not counted elsewhere."""
    if not name.startswith(COUNT):
        return None
    resource, _, group = name.removeprefix(COUNT).partition(".")
    if not group and resource in ("pods", "services", "persistentvolumeclaims", *_OBJECTS):
        return None
    return group, resource


class ResourceQuotaController(Controller):
    name: ClassVar[str] = "resourcequota-controller"
    account: ClassVar[str] = "resourcequota-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, workers=ctx.options.concurrent_resource_quota_syncs)
        self.quotas = self.watch(RESOURCEQUOTAS, self._on_quota)
        self.pods = self.watch(PODS, self._on_object)
        self.services = self.watch(SERVICES, self._on_object)
        self.claims = self.watch(PERSISTENTVOLUMECLAIMS, self._on_object)
        self.counted: dict[str, Informer] = {
            resource: self.watch(gvr, self._on_object)
            for resource, gvr in _OBJECTS.items()
            if gvr != RESOURCEQUOTAS
        }
        self.counted[RESOURCEQUOTAS.resource] = self.quotas
        self.written = self.written_to(RESOURCEQUOTAS)
        self._surface = Surface()

    async def sync(self, key: str) -> float | None:
        quota = self.quotas.store.get(key)
        if quota is None:
            self.written.forget(key)
            return None
        if not self.written.settled(key):
            return SETTLE_RETRY
        status = compute_status(quota, await self._used(quota))
        if status != o.status(quota):
            written = await ignore_not_found(
                self.client.update(RESOURCEQUOTAS, o.with_status(quota, status), subresource="status")
            )
            if written is not None:
                self.written.wrote(key, written)
        return self.ctx.options.resource_quota_sync_period

    async def _used(self, quota: Object) -> qu.Usage:
        namespace, now = o.namespace(quota), self.clock.now()

        def sum_of(informer: Informer, usage: Callable[[Object], qu.Usage]) -> qu.Usage:
            return qu.total(in_namespace(informer, namespace), usage)

        mine = [pod for pod in in_namespace(self.pods, namespace) if qu.in_scope(quota, pod)]
        used = qu.total(mine, lambda pod: qu.pod_usage(pod, now))
        if o.spec(quota).get("scopes") or o.spec(quota).get("scopeSelector"):
            return used  # scopes select pods and nothing else
        used = qu.add(used, sum_of(self.services, qu.service_usage))
        used = qu.add(used, sum_of(self.claims, qu.claim_usage))
        for resource, informer in self.counted.items():
            number = quantity.parse(len(in_namespace(informer, namespace)))
            used = qu.add(used, {resource: number, COUNT + resource: number})
        for name in o.spec(quota).get("hard") or {}:
            if (other := counted(name)) is not None:
                used[name] = quantity.parse(await self._count(other, namespace))
        return used

    async def _count(self, wanted: tuple[str, str], namespace: str) -> int:
        """Objects of a resource no informer here holds; 0 for one that is not served."""
        gvr = await self._resource(wanted)
        if gvr is None or not gvr.namespaced:
            return 0
        number, following = 0, None
        while True:
            page = await self.client.list(gvr, namespace, limit=PAGE, continue_=following)
            number += len(page.get("items") or ())
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return number

    async def _resource(self, wanted: tuple[str, str]) -> GVR | None:
        for _ in range(2):
            for entry in self._surface.resources:
                if (entry.gvr.group, entry.gvr.resource) == wanted:
                    return entry.gvr
            self._surface = await discover(self.client)
        return None

    def _on_quota(self, quota: Object) -> None:
        self.enqueue(quota)
        self._on_object(quota)

    def _on_object(self, obj: Object) -> None:
        for quota in in_namespace(self.quotas, o.namespace(obj)):
            self.enqueue(quota)
