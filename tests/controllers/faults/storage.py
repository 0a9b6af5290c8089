"""Stories of claims and volumes."""

from __future__ import annotations

from controllers import objects as o
from controllers.attachdetach import MANAGED, AttachDetachController
from controllers.localpath import plan as lp
from controllers.localpath.controller import LocalPathController
from controllers.objects import Object
from controllers.runtime import Context
from controllers.volumeprotection import (
    ClaimProtectionController,
    ClassProtectionController,
    VolumeProtectionController,
)
from controllers.volumes import EphemeralVolumeController, VolumeBinderController, VolumeExpanderController
from kubeclient import resources as r
from tests.controllers import make
from tests.controllers.faults.stage import Admin, Stage
from tests.controllers.faults.story import Phase, Story
from tests.controllers.faults.workloads import deleted, ready_node
from tests.controllers.test_controllers_volumes import claim, volume

MODE = "WaitForFirstConsumer"


def provisioner(ctx: Context) -> LocalPathController:
    return LocalPathController(ctx, lp.Settings())


def plain_volume(name: str, size: str) -> Object:
    found = volume(name, size, phase="")
    spec = {part: value for part, value in found["spec"].items() if part != "local"}
    return {**found, "spec": {**spec, "hostPath": {"path": "/x"}}}


async def two_volumes(api: Admin) -> None:
    for number in range(2):
        await api.create(r.PERSISTENTVOLUMES, plain_volume(f"v{number}", f"{6 + number}Gi"))


async def two_claims(api: Admin) -> None:
    for number, size in enumerate(("5Gi", "7Gi")):
        await api.create(r.PERSISTENTVOLUMECLAIMS, {**claim(f"c{number}", size), "status": {}})


async def phases(api: Admin) -> tuple[list[str], list[str]]:
    volumes = [str(o.status(each).get("phase")) for each in await api.all(r.PERSISTENTVOLUMES)]
    claims = [str(o.status(each).get("phase")) for each in await api.all(r.PERSISTENTVOLUMECLAIMS)]
    return volumes, claims


async def all_free(api: Admin) -> bool:
    return await phases(api) == (["Available", "Available"], [])


async def all_bound(api: Admin) -> bool:
    return await phases(api) == (["Bound", "Bound"], ["Bound", "Bound"])


async def one_released(api: Admin) -> bool:
    return await phases(api) == (["Released", "Bound"], ["Bound"])


async def pod_with_volumes(api: Admin) -> None:
    """A claim that is to be provisioned on n1, as the scheduler asks for it, and an ephemeral one."""
    await ready_node(api, "n1", **{lp.HOSTNAME: "n1"})
    provided = {
        "provisioner": lp.Settings().provisioner,
        "volumeBindingMode": MODE,
        "allowVolumeExpansion": True,
    }
    await api.create(r.STORAGECLASSES, {"metadata": {"name": "local-path"}, **provided})
    notes = {"volume.kubernetes.io/selected-node": "n1"}
    wanted = claim(storageClassName="local-path", annotations=notes)
    await api.create(r.PERSISTENTVOLUMECLAIMS, {**wanted, "status": {}})
    template = {"metadata": {"annotations": notes}, "spec": claim(storageClassName="local-path")["spec"]}
    volumes = [
        {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "tmp", "ephemeral": {"volumeClaimTemplate": template}},
    ]
    spec = {**make.TEMPLATE["spec"], "nodeName": "n1", "volumes": volumes}
    await api.create(r.PODS, {"metadata": {"name": "user"}, "spec": spec})


async def both_are_made(api: Admin) -> bool:
    made = await phases(api) == (["Bound", "Bound"], ["Bound", "Bound"])
    return made and not await api.all(r.PODS, "kube-system")


async def helpers_work(on: Stage) -> None:
    """Pods with a command end well at once; others run until they are told to go."""
    for pod in await on.admin.all(r.PODS):
        name, namespace, phase = o.name(pod), o.namespace(pod), o.status(pod).get("phase", "Pending")
        if o.is_terminating(pod):
            await on.admin.delete(r.PODS, name, namespace, gracePeriodSeconds=0)
        elif phase == "Pending":
            wanted = "Succeeded" if namespace == "kube-system" else "Running"
            await on.admin.status(r.PODS, name, {"phase": wanted}, namespace)


async def ask_for_more(api: Admin) -> None:
    await api.patch(
        r.PERSISTENTVOLUMECLAIMS, "data", {"spec": {"resources": {"requests": {"storage": "9Gi"}}}}
    )


async def grown(api: Admin) -> bool:
    found = await api.get(r.PERSISTENTVOLUMECLAIMS, "data")
    return bool((o.status(found).get("capacity") or {}).get("storage") == "9Gi")


async def let_go(api: Admin) -> None:
    """The claim is deleted under the pod that uses it, and then the pod."""
    await api.delete(r.PERSISTENTVOLUMECLAIMS, "data")
    await api.delete(r.PERSISTENTVOLUMECLAIMS, "user-tmp")
    await api.delete(r.PODS, "user", gracePeriodSeconds=0)


async def nothing_left(api: Admin) -> bool:
    return await phases(api) == ([], []) and not await api.all(r.PODS)


DRIVER = "disk.example.com"


async def pod_with_a_remote_disk(api: Admin) -> None:
    await ready_node(api, "n1")
    await api.patch(r.NODES, "n1", {"metadata": {"annotations": {MANAGED: "true"}}})
    disk = plain_volume("disk", "5Gi")
    csi = {"csi": {"driver": DRIVER, "volumeHandle": "1"}}
    spec = {part: value for part, value in disk["spec"].items() if part != "hostPath"} | csi
    await api.create(r.PERSISTENTVOLUMES, {**disk, "spec": spec})
    await api.create(r.PERSISTENTVOLUMECLAIMS, {**claim("data", "5Gi", volumeName="disk"), "status": {}})
    volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]
    spec = {**make.TEMPLATE["spec"], "nodeName": "n1", "volumes": volumes}
    await api.create(r.PODS, {"metadata": {"name": "user"}, "spec": spec})


async def attacher_works(on: Stage) -> None:
    """What is asked for is attached; kubelets do nothing."""
    for each in await on.admin.all(r.VOLUMEATTACHMENTS):
        if not o.status(each).get("attached"):
            await on.admin.status(r.VOLUMEATTACHMENTS, o.name(each), {"attached": True})


async def attachments(api: Admin) -> tuple[int, int]:
    """Those that are asked for, and those that the node's kubelet has heard of."""
    told = o.status(await api.get(r.NODES, "n1")).get("volumesAttached") or []
    return len(await api.all(r.VOLUMEATTACHMENTS)), len(told)


async def disk_is_attached(api: Admin) -> bool:
    return await attachments(api) == (1, 1)


async def disk_is_given_back(api: Admin) -> bool:
    return await attachments(api) == (0, 0)


CLASS: Object = {"metadata": {"name": "gold"}, "driverName": DRIVER, "parameters": {"iops": "9"}}


async def class_and_claim(api: Admin) -> None:
    await api.create(r.VOLUMEATTRIBUTESCLASSES, CLASS)
    wanted = claim("data", "5Gi", volumeAttributesClassName="gold")
    await api.create(r.PERSISTENTVOLUMECLAIMS, {**wanted, "status": {}})


async def class_is_held(api: Admin) -> bool:
    return "kubernetes.io/vac-protection" in o.finalizers(await api.get(r.VOLUMEATTRIBUTESCLASSES, "gold"))


async def class_and_its_user_go(api: Admin) -> None:
    await api.delete(r.VOLUMEATTRIBUTESCLASSES, "gold")
    assert await class_is_held(api)
    await api.delete(r.PERSISTENTVOLUMECLAIMS, "data")


async def no_class(api: Admin) -> bool:
    return not await api.all(r.VOLUMEATTRIBUTESCLASSES)


STORIES = {
    "attachment": Story(
        [AttachDetachController],
        [
            Phase(pod_with_a_remote_disk, disk_is_attached),
            Phase(deleted(r.PODS, "user", gracePeriodSeconds=0), disk_is_given_back),
        ],
        play=attacher_works,
    ),
    "class of attributes": Story(
        [ClassProtectionController, ClaimProtectionController],
        [Phase(class_and_claim, class_is_held), Phase(class_and_its_user_go, no_class)],
        leaves_nothing=True,
    ),
    "binding": Story(
        [VolumeBinderController, ClaimProtectionController, VolumeProtectionController],
        [
            Phase(two_volumes, all_free),
            Phase(two_claims, all_bound),
            Phase(deleted(r.PERSISTENTVOLUMECLAIMS, "c0"), one_released),
        ],
    ),
    "provisioning": Story(
        [
            VolumeBinderController,
            VolumeExpanderController,
            EphemeralVolumeController,
            ClaimProtectionController,
            VolumeProtectionController,
            provisioner,
        ],
        [
            Phase(pod_with_volumes, both_are_made),
            Phase(ask_for_more, grown),
            Phase(let_go, nothing_left),
        ],
        play=helpers_work,
    ),
}
