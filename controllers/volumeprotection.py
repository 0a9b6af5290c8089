"""Claims that pods use, volumes that are bound, and classes of attributes that either of them names are not
removed under them: a finalizer holds them (StorageObjectInUseProtection, KEP-3751).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

from controllers import objects as o
from controllers import pods
from controllers.objects import Object
from controllers.runtime import Context, Controller, ignore_not_found, in_namespace
from kubeclient.resources import (
    GVR,
    PERSISTENTVOLUMECLAIMS,
    PERSISTENTVOLUMES,
    PODS,
    VOLUMEATTRIBUTESCLASSES,
)
from kubeclient.rest import RestClient

CLAIM_FINALIZER = "kubernetes.io/pvc-protection"
VOLUME_FINALIZER = "kubernetes.io/pv-protection"
CLASS_FINALIZER = "kubernetes.io/vac-protection"


def claims_of(pod: Object) -> Iterator[str]:
    """Names of the claims the pod's volumes stand on; an ephemeral volume's is `<pod>-<volume>`."""
    for volume in o.spec(pod).get("volumes") or ():
        if volume.get("persistentVolumeClaim"):
            yield str(volume["persistentVolumeClaim"]["claimName"])
        elif volume.get("ephemeral") is not None:
            yield f"{o.name(pod)}-{volume['name']}"


def uses(pod: Object, claim: Object) -> bool:
    """A pod that has ended, or that no node has, uses nothing."""
    if pods.is_finished(pod) or not pods.node_name(pod):
        return False
    return o.name(claim) in claims_of(pod)


def compute_finalizers(obj: Object, finalizer: str, in_use: bool) -> list[str] | None:
    """The finalizers the object should have; None when it has them. One that goes is let go once unused, and
    none is given to it then.
    """
    have = list(o.finalizers(obj))
    if not o.is_terminating(obj):
        return None if finalizer in have else [*have, finalizer]
    if finalizer in have and not in_use:
        return [name for name in have if name != finalizer]
    return None


class ClaimProtectionController(Controller):
    name: ClassVar[str] = "persistentvolumeclaim-protection-controller"
    account: ClassVar[str] = "pvc-protection-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.claims = self.watch(PERSISTENTVOLUMECLAIMS, self.enqueue)
        self.pods = self.watch(PODS, self._on_pod)

    async def sync(self, key: str) -> float | None:
        claim = self.claims.store.get(key)
        if claim is None:
            return None
        in_use = self._in_use(claim, in_namespace(self.pods, o.namespace(claim)))
        finalizers = compute_finalizers(claim, CLAIM_FINALIZER, in_use)
        if finalizers is None:
            return None
        if o.is_terminating(claim):
            # A pod the cache does not know yet would lose its volume, and this cannot be taken back.
            live = await self.client.list(PODS, o.namespace(claim))
            if self._in_use(claim, live["items"]):
                return 1.0
        await write_finalizers(self.client, PERSISTENTVOLUMECLAIMS, claim, finalizers)
        return None

    @staticmethod
    def _in_use(claim: Object, everyone: Iterable[Object]) -> bool:
        return any(uses(pod, claim) for pod in everyone)

    def _on_pod(self, pod: Object) -> None:
        for name in claims_of(pod):
            self.queue.add(f"{o.namespace(pod)}/{name}")


class VolumeProtectionController(Controller):
    name: ClassVar[str] = "persistentvolume-protection-controller"
    account: ClassVar[str] = "pv-protection-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.volumes = self.watch(PERSISTENTVOLUMES, self.enqueue)

    async def sync(self, key: str) -> float | None:
        volume = self.volumes.store.get(key)
        if volume is None:
            return None
        bound = o.status(volume).get("phase") == "Bound"
        finalizers = compute_finalizers(volume, VOLUME_FINALIZER, bound)
        if finalizers is not None:
            await write_finalizers(self.client, PERSISTENTVOLUMES, volume, finalizers)
        return None


def classes_of(obj: Object) -> set[str]:
    """The classes of attributes that a claim or a volume has, is being changed to, or asks for."""
    modifying = o.status(obj).get("modifyVolumeStatus") or {}
    named = (
        o.spec(obj).get("volumeAttributesClassName"),
        o.status(obj).get("currentVolumeAttributesClassName"),
        modifying.get("targetVolumeAttributesClassName"),
    )
    return {str(name) for name in named if name}


class ClassProtectionController(Controller):
    name: ClassVar[str] = "volumeattributesclass-protection-controller"
    account: ClassVar[str] = "volumeattributesclass-protection-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx)
        self.classes = self.watch(VOLUMEATTRIBUTESCLASSES, self.enqueue)
        self.users = [self.watch(gvr, self._on_user) for gvr in (PERSISTENTVOLUMECLAIMS, PERSISTENTVOLUMES)]

    async def sync(self, key: str) -> float | None:
        found = self.classes.store.get(key)
        if found is None:
            return None
        in_use = any(key in classes_of(each) for users in self.users for each in users.store.list())
        finalizers = compute_finalizers(found, CLASS_FINALIZER, in_use)
        if finalizers is None:
            return None
        if o.is_terminating(found):
            for gvr in (PERSISTENTVOLUMECLAIMS, PERSISTENTVOLUMES):
                if any(key in classes_of(each) for each in (await self.client.list(gvr))["items"]):
                    return 1.0  # the cache does not know this user yet
        await write_finalizers(self.client, VOLUMEATTRIBUTESCLASSES, found, finalizers)
        return None

    def _on_user(self, obj: Object) -> None:
        """Also one that has just let go of a class: those that wait for it are few."""
        for each in self.classes.store.list():
            if o.is_terminating(each):
                self.enqueue(each)


async def write_finalizers(client: RestClient, gvr: GVR, obj: Object, finalizers: list[str]) -> None:
    """An update, because patch is no verb of these accounts."""
    body = {**obj, "metadata": {**o.meta(obj), "finalizers": finalizers}}
    await ignore_not_found(client.update(gvr, body))
