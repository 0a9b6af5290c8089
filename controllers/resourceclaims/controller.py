"""The loop over pods that ask for devices, and over claims."""

from __future__ import annotations

from typing import ClassVar

from apimachinery import errors
from controllers import objects as o
from controllers import pods
from controllers.objects import Object
from controllers.resourceclaims import plan as rc
from controllers.runtime import SETTLE_RETRY, Context, Controller, controlled, ignore_not_found
from kubeclient.resources import PODS, RESOURCECLAIMS, RESOURCECLAIMTEMPLATES
from kubeclient.rest import MERGE

POD, CLAIM = "pod:", "claim:"  # what a key names
WORKERS = 10


class ResourceClaimController(Controller):
    name: ClassVar[str] = "resourceclaim-controller"
    account: ClassVar[str] = "resource-claim-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, workers=WORKERS, component="resource_claim")
        self.pods = self.watch(PODS, self._on_pod)
        self.claims = self.watch(RESOURCECLAIMS, self._on_claim)
        self.templates = ctx.informers.informer(RESOURCECLAIMTEMPLATES)
        self.written = self.written_to(RESOURCECLAIMS)

    async def sync(self, key: str) -> float | None:
        if not self.written.settled(key):
            return SETTLE_RETRY
        if key.startswith(POD):
            pod = self.pods.store.get(key.removeprefix(POD))
            if pod is None:
                self.written.forget(key)
            else:
                await self._sync_pod(key, pod)
        else:
            claim = self.claims.store.get(key.removeprefix(CLAIM))
            if claim is None:
                self.written.forget(key)
            else:
                await self._sync_claim(key, claim)
        return None

    # -- pods ------------------------------------------------------------------------------------------------

    async def _sync_pod(self, key: str, pod: Object) -> None:
        mine = controlled(self.claims, o.namespace(pod), o.uid(pod))
        plan = rc.compute_pod(pod, mine)
        made = dict(plan.found or {})
        for entry in plan.make:
            made[entry["name"]] = await self._make(key, pod, entry)
        if made:
            body = {
                "metadata": {"uid": o.uid(pod)},
                "status": {"resourceClaimStatuses": rc.build_statuses(pod, made)},
            }
            await ignore_not_found(
                self.client.patch(
                    PODS, o.name(pod), body, o.namespace(pod), content_type=MERGE, subresource="status"
                )
            )
        if pods.node_name(pod):
            await self._reserve(pod)

    async def _make(self, key: str, pod: Object, entry: Object) -> str:
        """Make the claim of one entry; returns its name."""
        try:
            name, namespace = entry["resourceClaimTemplateName"], o.namespace(pod)
            template = self.templates.store.get(f"{namespace}/{name}")
            if template is None:
                template = await self.client.get(RESOURCECLAIMTEMPLATES, name, namespace)
            claim = rc.build_claim(pod, entry, template)
            created = await self.client.create(RESOURCECLAIMS, claim, namespace)
        except errors.StatusError as error:
            text = f"PodResourceClaim {entry['name']}: {error}"
            self.warn(pod, PODS, "FailedResourceClaimCreation", text)
            raise
        self.written.wrote(key, created)
        return o.name(created)

    async def _reserve(self, pod: Object) -> None:
        for name in rc.claims_of(pod):
            claim = self.claims.store.get(f"{o.namespace(pod)}/{name}")
            status = rc.compute_reservation(claim, pod) if claim is not None else None
            if claim is not None and status is not None:
                await self._write_status(claim, status)

    # -- claims ----------------------------------------------------------------------------------------------

    async def _sync_claim(self, key: str, claim: Object) -> None:
        plan = rc.compute_claim(claim, await self._living(claim))
        if plan.status is not None:
            claim = await self._write_status(claim, plan.status)
            self.written.wrote(key, claim)
        if plan.let_go:
            kept = [name for name in o.finalizers(claim) if name != rc.FINALIZER]
            body = {**claim, "metadata": {**o.meta(claim), "finalizers": kept}}
            await ignore_not_found(self.client.update(RESOURCECLAIMS, body))
        if plan.delete:
            options = {"preconditions": {"uid": o.uid(claim)}}
            await ignore_not_found(
                self.client.delete(RESOURCECLAIMS, o.name(claim), o.namespace(claim), options=options)
            )

    async def _living(self, claim: Object) -> dict[str, Object]:
        """The claim's pods by UID. One that the cache does not have is asked for: it may only just have been
        made, and its devices would be given to another.
        """
        owner, namespace = o.controller_of(claim), o.namespace(claim)
        wanted = {user["uid"]: user["name"] for user in rc.users(claim) if rc.is_pod(user)}
        found = {}
        for uid, name in wanted.items():
            pod = self.pods.store.get(f"{namespace}/{name}")
            if pod is None or o.uid(pod) != uid:
                pod = await ignore_not_found(self.client.get(PODS, name, namespace))
            if pod is not None and o.uid(pod) == uid:
                found[uid] = pod
        if owner is not None and owner["uid"] not in wanted:
            pod = self.pods.store.get(f"{namespace}/{owner['name']}")
            if pod is not None and o.uid(pod) == owner["uid"]:
                found[owner["uid"]] = pod
        return found

    async def _write_status(self, claim: Object, status: Object) -> Object:
        return await self.client.update(RESOURCECLAIMS, o.with_status(claim, status), subresource="status")

    # -- waking up -------------------------------------------------------------------------------------------

    def _on_pod(self, pod: Object) -> None:
        if not rc.entries(pod):
            return
        self.queue.add(POD + o.key(pod))
        for name in rc.claims_of(pod):
            self.queue.add(f"{CLAIM}{o.namespace(pod)}/{name}")

    def _on_claim(self, claim: Object) -> None:
        """Also its pod: a claim that was deleted under it is made again, an allocated one may be reserved."""
        self.queue.add(CLAIM + o.key(claim))
        owner = o.controller_of(claim)
        if owner is not None and owner.get("kind") == "Pod":
            self.queue.add(f"{POD}{o.namespace(claim)}/{owner['name']}")
