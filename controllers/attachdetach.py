"""Attach and detach: a CSI volume is attached to a node before the node's kubelet mounts it.

A VolumeAttachment asks the driver's attacher to do it, and the node's `status.volumesAttached` tells the
kubelet that it is done. Only nodes whose kubelet leaves this to the controller are looked at
(`MANAGED`), and only drivers that want it (`CSIDriver.spec.attachRequired`). A volume that is going is taken
off the node's status first, so that no pod is given it any more, and then asked to be detached; while
the kubelet has it mounted (`status.volumesInUse`) it stays, unless the node is out of service.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from apimachinery import errors
from controllers import objects as o
from controllers import pods
from controllers import taints as tt
from controllers.objects import Object
from controllers.runtime import Context, Controller, ignore_not_found, in_namespace, on_node
from controllers.volumeprotection import claims_of
from kubeclient.informer import Informer
from kubeclient.resources import (
    CSIDRIVERS,
    NODES,
    PERSISTENTVOLUMECLAIMS,
    PERSISTENTVOLUMES,
    PODS,
    VOLUMEATTACHMENTS,
)

MANAGED = "volumes.kubernetes.io/controller-managed-attach-detach"
SHARED = frozenset({"ReadWriteMany", "ReadOnlyMany"})
RETRY = 10.0  # seconds before a volume that another node has is tried again


def csi_of(volume: Object) -> Object:
    return o.spec(volume).get("csi") or {}


def unique_name(volume: Object) -> str:
    """What kubelet and controller call a volume in a node's status."""
    csi = csi_of(volume)
    return f"kubernetes.io/csi/{csi.get('driver')}^{csi.get('volumeHandle')}"


def attachment_name(volume: Object, node: str) -> str:
    """The same for everybody who wants the volume there, so that nothing is attached twice."""
    csi = csi_of(volume)
    text = f"{csi.get('volumeHandle')}{csi.get('driver')}{node}"
    return f"csi-{hashlib.sha256(text.encode()).hexdigest()}"


def attachable(volume: Object, drivers: Mapping[str, Object]) -> bool:
    """A driver that has registered nothing is attached."""
    driver = drivers.get(csi_of(volume).get("driver", ""))
    return bool(csi_of(volume)) and (driver is None or o.spec(driver).get("attachRequired") is not False)


def is_managed(node: Object) -> bool:
    return o.annotations_of(node).get(MANAGED) == "true"


def compute_wanted(
    on_it: Iterable[Object], claims: Mapping[str, Object], volumes: Mapping[str, Object]
) -> dict[str, Object]:
    """The volumes, by name, that the pods of a node stand on. One that is ending still has its own."""
    found = {}
    for pod in on_it:
        for name in () if pods.is_finished(pod) else claims_of(pod):
            claim = claims.get(f"{o.namespace(pod)}/{name}")
            volume = volumes.get(o.spec(claim).get("volumeName", "")) if claim is not None else None
            if volume is not None:
                found[o.name(volume)] = volume
    return found


@dataclass(frozen=True, slots=True)
class Plan:
    """`attached` is the node's `status.volumesAttached`; `blocked` are volumes another node has."""

    attach: tuple[Object, ...] = ()
    detach: tuple[Object, ...] = ()
    blocked: tuple[Object, ...] = ()
    attached: tuple[Object, ...] = ()


def compute_plan(
    node: str,
    state: Object | None,
    wanted: Mapping[str, Object],
    attachments: Sequence[Object],
    volumes: Mapping[str, Object],
) -> Plan:
    """`state` is the Node, None when it is gone; `attachments` are those of all nodes."""
    mine = {volume_of(each): each for each in attachments if o.spec(each).get("nodeName") == node}
    taken = {volume_of(each) for each in attachments if o.spec(each).get("nodeName") != node}
    missing = [volume for name, volume in wanted.items() if name not in mine]
    blocked = [v for v in missing if o.name(v) in taken and not SHARED & set(o.spec(v)["accessModes"])]
    in_use = set(_in_use(state))
    detach, attached = [], []
    for name, attachment in mine.items():
        volume = volumes.get(name)
        mounted = volume is not None and unique_name(volume) in in_use
        if o.is_terminating(attachment):
            continue
        if name not in wanted and not mounted:
            detach.append(attachment)
        elif volume is not None and o.status(attachment).get("attached"):
            attached.append({"name": unique_name(volume), "devicePath": ""})
    return Plan(
        attach=tuple(v for v in missing if v not in blocked),
        detach=tuple(detach),
        blocked=tuple(blocked),
        attached=tuple(sorted(attached, key=lambda entry: entry["name"])),
    )


def volume_of(attachment: Object) -> str:
    return str((o.spec(attachment).get("source") or {}).get("persistentVolumeName") or "")


def _in_use(node: Object | None) -> Sequence[str]:
    """A node that is gone, or out of service, has nothing mounted (KEP-2268)."""
    if node is None or any(taint.get("key") == tt.OUT_OF_SERVICE for taint in tt.taints(node)):
        return ()
    return o.status(node).get("volumesInUse") or ()


class AttachDetachController(Controller):
    """Keys are nodes."""

    name: ClassVar[str] = "persistentvolume-attach-detach-controller"
    account: ClassVar[str] = "attachdetach-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, component="attachdetach-controller")
        self.nodes = self.watch(NODES, self.enqueue)
        self.pods = self.watch(PODS, self._on_pod)
        self.claims = self.watch(PERSISTENTVOLUMECLAIMS, self._on_claim)
        self.volumes = ctx.informers.informer(PERSISTENTVOLUMES)
        self.drivers = ctx.informers.informer(CSIDRIVERS)
        self.attachments = ctx.informers.informer(VOLUMEATTACHMENTS)
        self.attachments.add_handler(self._on_attachment, self._on_attachment_update, self._on_attachment)

    async def sync(self, key: str) -> float | None:
        node = self.nodes.store.get(key)
        if node is not None and not is_managed(node):
            return None
        drivers, volumes = _by_name(self.drivers), _by_name(self.volumes)
        volumes = {name: volume for name, volume in volumes.items() if attachable(volume, drivers)}
        claims = {o.key(claim): claim for claim in self.claims.store.list()}
        wanted = compute_wanted(on_node(self.pods, key), claims, volumes) if node is not None else {}
        mine = [each for each in self.attachments.store.list() if is_csi(each)]
        plan = compute_plan(key, node, wanted, mine, volumes)
        if node is not None and list(plan.attached) != (o.status(node).get("volumesAttached") or []):
            status = {**o.status(node), "volumesAttached": list(plan.attached)}
            await self.client.update(NODES, o.with_status(node, status), subresource="status")
        for volume in plan.attach:
            await self._attach(volume, key)
        for attachment in plan.detach:
            options = {"preconditions": {"uid": o.uid(attachment)}}
            await ignore_not_found(self.client.delete(VOLUMEATTACHMENTS, o.name(attachment), options=options))
        for volume in plan.blocked:
            text = "Volume is already exclusively attached to one node and can't be attached to another"
            self._tell(key, o.name(volume), f'Multi-Attach error for volume "{o.name(volume)}" {text}')
        return RETRY if plan.blocked else None

    async def _attach(self, volume: Object, node: str) -> None:
        spec = {
            "attacher": csi_of(volume)["driver"],
            "nodeName": node,
            "source": {"persistentVolumeName": o.name(volume)},
        }
        body = {"metadata": {"name": attachment_name(volume, node)}, "spec": spec}
        try:
            await self.client.create(VOLUMEATTACHMENTS, body)
        except errors.StatusError as error:
            if not errors.is_already_exists(error):
                raise

    def _tell(self, node: str, volume: str, message: str, *, good: bool = False) -> None:
        """Say it to every pod of the node that has the volume."""
        reason, kind = ("SuccessfulAttachVolume", "Normal") if good else ("FailedAttachVolume", "Warning")
        for pod in on_node(self.pods, node):
            for name in claims_of(pod):
                claim = self.claims.store.get(f"{o.namespace(pod)}/{name}")
                if claim is not None and o.spec(claim).get("volumeName") == volume:
                    self.event(pod, PODS, reason, message, kind)

    # -- waking up -------------------------------------------------------------------------------------------

    def _on_pod(self, pod: Object) -> None:
        if pods.node_name(pod) and any(claims_of(pod)):
            self.queue.add(pods.node_name(pod))

    def _on_claim(self, claim: Object) -> None:
        for pod in in_namespace(self.pods, o.namespace(claim)):
            if pods.node_name(pod) and o.name(claim) in claims_of(pod):
                self.queue.add(pods.node_name(pod))

    def _on_attachment(self, attachment: Object) -> None:
        self.queue.add(str(o.spec(attachment).get("nodeName", "")))

    def _on_attachment_update(self, old: Object, new: Object) -> None:
        self._on_attachment(new)
        node, volume = str(o.spec(new).get("nodeName", "")), volume_of(new)
        if o.status(new).get("attached") and not o.status(old).get("attached"):
            self._tell(node, volume, f'AttachVolume.Attach succeeded for volume "{volume}" ', good=True)
        failed = o.status(new).get("attachError")
        if failed and failed != o.status(old).get("attachError"):
            why = failed.get("message", "")
            self._tell(node, volume, f'AttachVolume.Attach failed for volume "{volume}" : {why}')


def is_csi(attachment: Object) -> bool:
    """Made under the name this controller gives; anybody else's is left alone."""
    return o.name(attachment).startswith("csi-") and bool(volume_of(attachment))


def _by_name(informer: Informer) -> dict[str, Object]:
    return {o.name(each): each for each in informer.store.list()}
