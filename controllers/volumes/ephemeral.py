"""Generic ephemeral volumes: a claim per volume, made for the pod and owned by it (KEP-1698)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from apimachinery import errors
from controllers import objects as o
from controllers import pods
from controllers.objects import Object
from controllers.runtime import Context, Controller
from kubeclient.resources import PERSISTENTVOLUMECLAIMS, PODS


def wanted_claims(pod: Object) -> Iterator[tuple[str, Object]]:
    """Volume name and claim of each ephemeral volume, with the pod as the claim's controller."""
    owner = o.owner_reference(pod, PODS.api_version, PODS.kind)
    for volume in o.spec(pod).get("volumes") or ():
        template = (volume.get("ephemeral") or {}).get("volumeClaimTemplate")
        if template is None:
            continue
        given = template.get("metadata") or {}
        metadata: Object = {part: given[part] for part in ("labels", "annotations") if given.get(part)}
        metadata |= {"name": f"{o.name(pod)}-{volume['name']}", "ownerReferences": [owner]}
        kind = {"apiVersion": PERSISTENTVOLUMECLAIMS.api_version, "kind": PERSISTENTVOLUMECLAIMS.kind}
        yield volume["name"], {**kind, "metadata": metadata, "spec": template.get("spec") or {}}


class EphemeralVolumeController(Controller):
    """Keys are pods'."""

    name: ClassVar[str] = "ephemeral-volume-controller"
    account: ClassVar[str] = "ephemeral-volume-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(
            ctx, workers=ctx.options.concurrent_ephemeralvolume_syncs, component="ephemeral_volume"
        )
        self.pods = self.watch(PODS, self._on_pod)
        self.claims = self.watch(PERSISTENTVOLUMECLAIMS, self._on_claim)

    async def sync(self, key: str) -> float | None:
        pod = self.pods.store.get(key)
        if pod is None or o.is_terminating(pod) or pods.is_finished(pod):
            return None
        for volume, claim in wanted_claims(pod):
            try:
                await self._ensure(pod, claim)
            except errors.StatusError as error:
                self.warn(pod, PODS, "FailedBinding", f"ephemeral volume {volume}: {error}")
                raise
        return None

    async def _ensure(self, pod: Object, claim: Object) -> None:
        """The names are fixed, so a repeated create meets its own work. Raises StatusError."""
        name, namespace = o.name(claim), o.namespace(pod)
        found = self.claims.store.get(f"{namespace}/{name}")
        if found is None:
            try:
                await self.client.create(PERSISTENTVOLUMECLAIMS, claim, namespace)
                return
            except errors.StatusError as error:
                if not errors.is_already_exists(error):
                    raise
            found = await self.client.get(PERSISTENTVOLUMECLAIMS, name, namespace)
        if not o.is_controlled_by(found, pod):
            text = (
                f"PVC {namespace}/{name} was not created for pod {namespace}/{o.name(pod)} (pod is not owner)"
            )
            raise errors.conflict("", PERSISTENTVOLUMECLAIMS.resource, name, text)

    def _on_pod(self, pod: Object) -> None:
        if any(volume.get("ephemeral") is not None for volume in o.spec(pod).get("volumes") or ()):
            self.enqueue(pod)

    def _on_claim(self, claim: Object) -> None:
        """A claim that is removed under its pod is made again."""
        owner = o.controller_of(claim)
        if owner is not None and owner.get("kind") == PODS.kind:
            self.queue.add(f"{o.namespace(claim)}/{owner.get('name')}")
