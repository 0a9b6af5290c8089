"""Claims that ask for more than they have: whoever provisioned the volume is called to grow it."""

from __future__ import annotations

from typing import ClassVar

from apimachinery import quantity
from controllers import objects as o
from controllers.objects import Object
from controllers.runtime import Context, Controller
from controllers.volumes import model as m
from kubeclient.resources import PERSISTENTVOLUMECLAIMS, PERSISTENTVOLUMES

RESIZER = "volume.kubernetes.io/storage-resizer"


def wants_more(claim: Object) -> bool:
    """Bound, and its request is above what its status says it has."""
    have = (o.status(claim).get("capacity") or {}).get("storage")
    if o.status(claim).get("phase") != "Bound" or have is None or o.is_terminating(claim):
        return False
    return quantity.parse(str(have)) < m.requested(claim)


class VolumeExpanderController(Controller):
    """No volume is grown in here, as in-tree plugins of the real one do: it says whom it waits for."""

    name: ClassVar[str] = "persistentvolume-expander-controller"
    account: ClassVar[str] = "expand-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, component="volume_expand")
        self.claims = self.watch(PERSISTENTVOLUMECLAIMS, self.enqueue)
        self.volumes = ctx.informers.informer(PERSISTENTVOLUMES)

    async def sync(self, key: str) -> float | None:
        claim = self.claims.store.get(key)
        if claim is None or not wants_more(claim):
            return None
        volume = self.volumes.store.get(str(o.spec(claim).get("volumeName")))
        if volume is None or not m.refers_to(volume, claim):
            return None
        provisioner = o.annotations_of(volume).get(m.PROVISIONED_BY, "")
        if provisioner and o.annotations_of(claim).get(RESIZER) != provisioner:
            notes = {"metadata": {"annotations": {RESIZER: provisioner}}}
            await self.client.patch(PERSISTENTVOLUMECLAIMS, o.name(claim), notes, o.namespace(claim))
        text = "waiting for an external controller to expand this PVC"
        self.event(claim, PERSISTENTVOLUMECLAIMS, "ExternalExpanding", text)
        return None
