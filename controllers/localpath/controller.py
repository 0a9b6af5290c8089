"""The loop of the provisioner: one key per volume (`pvc-<uid>`), one step at a time (`plan.next_step`)."""

from __future__ import annotations

from typing import ClassVar

from apimachinery import errors
from controllers import objects as o
from controllers.latest import Latest
from controllers.localpath import plan as p
from controllers.localpath.plan import Settings, Step
from controllers.objects import Object
from controllers.runtime import SETTLE_RETRY, Context, Controller, TryAgain, ignore_not_found
from controllers.volumes import model as m
from controllers.written import Written
from kubeclient.resources import NODES, PERSISTENTVOLUMECLAIMS, PERSISTENTVOLUMES, PODS, STORAGECLASSES


class LocalPathController(Controller):
    name: ClassVar[str] = "local-path-provisioner"
    account: ClassVar[str] = ""

    def __init__(self, ctx: Context, settings: Settings) -> None:
        super().__init__(ctx, workers=4, component=settings.provisioner)
        self.settings = settings
        self.claims = self.watch(PERSISTENTVOLUMECLAIMS, lambda claim: self.queue.add(p.volume_name(claim)))
        self.claims.add_index("volume", lambda claim: (p.volume_name(claim),))
        self.volume_informer = self.watch(PERSISTENTVOLUMES, self.enqueue)
        self.volumes = Latest(self.volume_informer)
        self.classes = ctx.informers.informer(STORAGECLASSES)
        self.nodes = ctx.informers.informer(NODES)
        self.nodes.add_index("hostname", lambda node: (o.labels(node).get(p.HOSTNAME, ""),))
        self.helpers = ctx.informers.informer(
            PODS, namespace=settings.namespace, label_selector=p.VOLUME_LABEL
        )
        self.helpers.add_index("volume", lambda pod: (o.labels(pod).get(p.VOLUME_LABEL, ""),))
        self.helpers.add_handler(self._on_helper, lambda _, new: self._on_helper(new), self._on_helper)
        self.written = {PODS: Written(self.helpers), PERSISTENTVOLUMES: Written(self.volume_informer)}

    async def sync(self, key: str) -> float | None:
        if not all(written.settled(key) for written in self.written.values()):
            return SETTLE_RETRY
        view = self._view(key)
        if view.volume is not None and not p.is_ours(view.volume, self.settings):
            return None
        step = p.next_step(view, self.settings)
        if step is Step.NOTHING and view.claim is not None and view.volume is not None:
            await self._grow(view.claim, view.volume, view.storage_class)
        try:
            await self._take(step, key, view)
        except p.Unprovisionable as error:
            text = f'failed to provision volume with StorageClass "{m.class_of(view.claim or {})}": {error}'
            self.warn(view.claim or {}, PERSISTENTVOLUMECLAIMS, "ProvisioningFailed", text)
        return None

    def _view(self, key: str) -> p.View:
        claim = next(iter(self.claims.store.by_index("volume", key)), None)
        volume = self.volumes.get(key)
        helpers = {o.labels(h).get(p.TASK_LABEL, ""): h for h in self.helpers.store.by_index("volume", key)}
        storage_class = self.classes.store.get(m.class_of(claim)) if claim is not None else None
        return p.View(claim, storage_class, volume, helpers, self._node(volume, helpers) is not None)

    def _node(self, volume: Object | None, helpers: dict[str, Object]) -> Object | None:
        """The node that the volume is on, or that it was being made on."""
        if volume is not None:
            return next(iter(self.nodes.store.by_index("hostname", p.hostname_of(volume))), None)
        names = [str(o.spec(pod).get("nodeName", "")) for pod in helpers.values()]
        return self.nodes.store.get(names[0]) if names else None

    # -- steps -----------------------------------------------------------------------------------------------

    async def _take(self, step: Step, key: str, view: p.View) -> None:
        match step:
            case Step.START_MAKE:
                assert view.claim is not None
                await self._start_make(key, view.claim, p.check(view.claim, view.storage_class))
            case Step.CREATE_VOLUME:
                await self._create_volume(key, view)
            case Step.START_REMOVE:
                if view.volume is None or await self._still_must_go(view.volume):
                    node_object = self._node(view.volume, dict(view.helpers))
                    await self._start(p.REMOVE, key, o.name(node_object or {}))
            case Step.DROP_VOLUME:
                assert view.volume is not None
                await self._drop_volume(key, view.volume)
            case Step.RETRY:
                await self._clean(key, view)
                raise TryAgain(self._failed(key, view))
            case Step.CLEAN:
                await self._clean(key, view)

    async def _start_make(self, key: str, claim: Object, node: str) -> None:
        """A node that is gone is taken out of the claim, so that the scheduler chooses another."""
        if self.nodes.store.get(node) is None:
            notes = {name: v for name, v in o.annotations_of(claim).items() if name != m.SELECTED_NODE}
            body = {**claim, "metadata": {**o.meta(claim), "annotations": notes}}
            await self.client.update(PERSISTENTVOLUMECLAIMS, body)
            raise p.Unprovisionable(f'node "{node}" not found')
        text = f'External provisioner is provisioning volume for claim "{o.key(claim)}"'
        self.event(claim, PERSISTENTVOLUMECLAIMS, "Provisioning", text)
        await self._start(p.MAKE, key, node)

    async def _start(self, task: str, key: str, node: str) -> None:
        body = p.helper(task, key, node, self.settings)
        try:
            made = await self.client.create(PODS, body, self.settings.namespace)
        except errors.StatusError as error:
            if not errors.is_already_exists(error):
                raise
            raise TryAgain(f"{key}: its helper pod exists and is not shown yet") from error
        self.written[PODS].wrote(key, made)

    async def _create_volume(self, key: str, view: p.View) -> None:
        assert view.claim is not None
        node = p.check(view.claim, view.storage_class)
        hostname = o.labels(self.nodes.store.get(node) or {}).get(p.HOSTNAME, node)
        volume = p.new_volume(view.claim, view.storage_class or {}, hostname, self.settings)
        try:
            made = await self.client.create(PERSISTENTVOLUMES, volume)
        except errors.StatusError as error:
            if not errors.is_already_exists(error):
                raise
            raise TryAgain(f"{key}: the volume exists and is not shown yet") from error
        self.written[PERSISTENTVOLUMES].wrote(key, made)
        text = f"Successfully provisioned volume {key}"
        self.event(view.claim, PERSISTENTVOLUMECLAIMS, "ProvisioningSucceeded", text)

    async def _still_must_go(self, cached: Object) -> bool:
        """Removing data cannot be taken back, so the volume is asked for once more."""
        live = await ignore_not_found(self.client.get(PERSISTENTVOLUMES, o.name(cached)))
        return live is not None and o.uid(live) == o.uid(cached) and p.must_go(live)

    async def _drop_volume(self, key: str, volume: Object) -> None:
        if not o.is_terminating(volume):
            options = {"preconditions": {"uid": o.uid(volume)}}
            await ignore_not_found(self.client.delete(PERSISTENTVOLUMES, key, options=options))
            self.written[PERSISTENTVOLUMES].deleted(key, volume)
        live = await ignore_not_found(self.client.get(PERSISTENTVOLUMES, key))
        if live is None or p.FINALIZER not in o.finalizers(live):
            return
        left = [name for name in o.finalizers(live) if name != p.FINALIZER]
        body = {**live, "metadata": {**o.meta(live), "finalizers": left}}
        updated = await ignore_not_found(self.client.update(PERSISTENTVOLUMES, body))
        if updated is not None:
            self.volumes.wrote(updated)

    async def _clean(self, key: str, view: p.View) -> None:
        for pod in view.helpers.values():
            options = {"preconditions": {"uid": o.uid(pod)}, "gracePeriodSeconds": 0}
            call = self.client.delete(PODS, o.name(pod), o.namespace(pod), options=options)
            await ignore_not_found(call)
            self.written[PODS].deleted(key, pod)

    async def _grow(self, claim: Object, volume: Object, storage_class: Object | None) -> None:
        """The volume first: its size is what a repeated look compares."""
        size = p.grown(claim, volume, storage_class)
        if not size:
            return
        if m.capacity(volume) < m.size(size):
            body = {**volume, "spec": {**o.spec(volume), "capacity": {"storage": size}}}
            self.volumes.wrote(await self.client.update(PERSISTENTVOLUMES, body))
        status = {**o.status(claim), "capacity": {"storage": size}}
        await self.client.update(PERSISTENTVOLUMECLAIMS, o.with_status(claim, status), subresource="status")
        text = "Resize volume succeeded"
        self.event(claim, PERSISTENTVOLUMECLAIMS, "VolumeResizeSuccessful", text)

    def _failed(self, key: str, view: p.View) -> str:
        """Why a helper failed, told to whoever waits for it."""
        text = f"{key}: a helper pod failed: {_failures(view)}"
        if view.volume is not None:
            self.warn(view.volume, PERSISTENTVOLUMES, "VolumeFailedDelete", text)
        elif view.claim is not None:
            self.warn(view.claim, PERSISTENTVOLUMECLAIMS, "ProvisioningFailed", text)
        return text

    def _on_helper(self, pod: Object) -> None:
        self.queue.add(o.labels(pod).get(p.VOLUME_LABEL, ""))


def _failures(view: p.View) -> str:
    failed = (pod for pod in view.helpers.values() if o.status(pod).get("phase") == "Failed")
    return "; ".join(f"{o.name(pod)} on {o.spec(pod).get('nodeName')}: {_why(pod)}" for pod in failed)


def _why(pod: Object) -> str:
    for found in o.status(pod).get("containerStatuses") or ():
        ended = (found.get("state") or {}).get("terminated") or {}
        return (
            f"exit code {ended.get('exitCode')} {ended.get('message') or ended.get('reason') or ''}".strip()
        )
    return str(o.status(pod).get("message") or o.status(pod).get("reason") or "no reason given")
