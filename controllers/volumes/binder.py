"""The persistent-volume binder: claims are bound to volumes, volumes without claim are given up or back.

One worker, because every claim chooses among all volumes; keys of claims have a namespace, keys of volumes
have none. What is decided stands in `controllers.volumes.plan`.
"""

from __future__ import annotations

from typing import ClassVar

from controllers import objects as o
from controllers.latest import Latest
from controllers.objects import Object
from controllers.runtime import Context, Controller, ignore_not_found, in_namespace
from controllers.volumeprotection import claims_of
from controllers.volumes import model as m
from controllers.volumes import plan as p
from kubeclient.resources import PERSISTENTVOLUMECLAIMS, PERSISTENTVOLUMES, PODS, STORAGECLASSES


class VolumeBinderController(Controller):
    name: ClassVar[str] = "persistentvolume-binder-controller"
    account: ClassVar[str] = "persistent-volume-binder"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, component="persistentvolume-controller")
        self.claim_informer = ctx.informers.informer(PERSISTENTVOLUMECLAIMS)
        self.volume_informer = ctx.informers.informer(PERSISTENTVOLUMES)
        self.volume_informer.add_index("claim", _promised_to)
        self.claims, self.volumes = Latest(self.claim_informer), Latest(self.volume_informer)
        self.watch(PERSISTENTVOLUMECLAIMS, self._on_claim)
        self.watch(PERSISTENTVOLUMES, self._on_volume)
        self.classes = self.watch(STORAGECLASSES, lambda _: self._ask_unbound())
        self.pods = ctx.informers.informer(PODS)

    async def sync(self, key: str) -> float | None:
        if "/" in key:
            return await self._sync_claim(key)
        await self._sync_volume(key)
        return None

    # -- claims ----------------------------------------------------------------------------------------------

    async def _sync_claim(self, key: str) -> float | None:
        """A claim that waits is looked at again after the sync period: its news may be nobody's event."""
        claim = self.claims.get(key)
        if claim is None:
            return None
        classes = {o.name(each): each for each in self.classes.store.list()}
        decided = p.plan_claim(claim, self._all_volumes(), classes, self._waiting_pods(claim))
        if decided.bind is not None:
            await self._bind(decided.bind, claim)
            return None
        if decided.assign_class:
            spec = {**o.spec(claim), "storageClassName": decided.assign_class}
            await self._update_claim({**claim, "spec": spec})
            return None
        if decided.provisioner:
            claim = await self._call_provisioner(claim, decided.provisioner)
        changed = p.claim_status(claim, decided.phase) if decided.phase else None
        if decided.note is not None and (decided.phase != "Lost" or changed is not None):
            self.event(
                claim, PERSISTENTVOLUMECLAIMS, decided.note.reason, decided.note.message, decided.note.type
            )
        if changed is not None:
            await self._set_claim_status(claim, changed)
        return self.ctx.options.pvclaimbinder_sync_period if decided.phase == "Pending" else None

    async def _bind(self, volume: Object, claim: Object) -> None:
        """The volume's side first: from there on no other claim can get it. Each write repairs what is
        missing, so the next sync goes on where this one was interrupted.
        """
        if (new := p.promised(volume, claim)) is not None:
            volume = self.volumes.wrote(await self.client.update(PERSISTENTVOLUMES, new))
        volume = await self._set_phase(volume, "Bound", "")
        if (new := p.named(claim, volume)) is not None:
            claim = await self._update_claim(new)
        if (status := p.claim_status(claim, "Bound", volume)) is not None:
            await self._set_claim_status(claim, status)

    async def _call_provisioner(self, claim: Object, provisioner: str) -> Object:
        notes = {m.STORAGE_PROVISIONER: provisioner, m.BETA_STORAGE_PROVISIONER: provisioner}
        if notes.items() <= o.annotations_of(claim).items():
            return claim
        return await self._update_claim(m.annotated(claim, **notes))

    async def _update_claim(self, claim: Object) -> Object:
        return self.claims.wrote(await self.client.update(PERSISTENTVOLUMECLAIMS, claim))

    async def _set_claim_status(self, claim: Object, status: Object) -> None:
        new = o.with_status(claim, status)
        self.claims.wrote(await self.client.update(PERSISTENTVOLUMECLAIMS, new, subresource="status"))

    def _all_volumes(self) -> dict[str, Object]:
        return {o.name(each): each for each in self.volume_informer.store.list()} | dict(
            self.volumes.pending()
        )

    def _waiting_pods(self, claim: Object) -> tuple[str, ...]:
        users = (
            pod for pod in in_namespace(self.pods, o.namespace(claim)) if o.name(claim) in claims_of(pod)
        )
        return tuple(sorted(o.name(pod) for pod in users if not o.spec(pod).get("nodeName")))

    # -- volumes ---------------------------------------------------------------------------------------------

    async def _sync_volume(self, key: str) -> None:
        volume = self.volumes.get(key)
        if volume is None:
            return
        decided = p.plan_volume(volume, await self._claim_of(volume))
        if decided.unbind:
            volume = self.volumes.wrote(await self.client.update(PERSISTENTVOLUMES, p.unbound(volume)))
            decided = p.VolumePlan(phase="Available")
        if decided.ask_claim:
            self._ask_claim(volume)
        if decided.note is not None:
            self.event(
                volume, PERSISTENTVOLUMES, decided.note.reason, decided.note.message, decided.note.type
            )
        if decided.phase:
            await self._set_phase(volume, decided.phase, decided.message)

    async def _claim_of(self, volume: Object) -> Object | None:
        """The claim the volume was promised to. Its absence is asked for: a volume given up may be deleted,
        and that cannot be taken back.
        """
        ref = m.claim_ref(volume) or {}
        if not ref.get("uid"):
            return None
        namespace, name = str(ref.get("namespace", "")), str(ref.get("name", ""))
        cached = self.claims.get(f"{namespace}/{name}")
        if cached is not None and o.uid(cached) == ref["uid"]:
            return cached
        live = await ignore_not_found(self.client.get(PERSISTENTVOLUMECLAIMS, name, namespace))
        return live if live is not None and o.uid(live) == ref["uid"] else None

    async def _set_phase(self, volume: Object, phase: str, message: str) -> Object:
        now = o.format_time(self.clock.now())
        status = p.volume_status(volume, phase, message, now)
        if status is None:
            return volume
        new = o.with_status(volume, status)
        return self.volumes.wrote(await self.client.update(PERSISTENTVOLUMES, new, subresource="status"))

    # -- who is looked at after what -------------------------------------------------------------------------

    def _on_claim(self, claim: Object) -> None:
        self.enqueue(claim)
        if name := o.spec(claim).get("volumeName"):
            self.queue.add(str(name))
        for volume in self.volume_informer.store.by_index("claim", o.key(claim)):
            self.enqueue(volume)

    def _on_volume(self, volume: Object) -> None:
        self.enqueue(volume)
        if m.claim_ref(volume) is not None:
            self._ask_claim(volume)
        elif o.status(volume).get("phase") == "Available":
            self._ask_unbound()

    def _ask_claim(self, volume: Object) -> None:
        for key in _promised_to(volume):
            self.queue.add(key)

    def _ask_unbound(self) -> None:
        for claim in self.claim_informer.store.list():
            if not o.spec(claim).get("volumeName"):
                self.enqueue(claim)


def _promised_to(volume: Object) -> tuple[str, ...]:
    """The key of the claim that a volume refers to."""
    ref = m.claim_ref(volume)
    return () if ref is None else (f"{ref.get('namespace', '')}/{ref.get('name', '')}",)
