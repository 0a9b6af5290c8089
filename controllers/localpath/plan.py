"""What is to be done next about one volume, from what claims, volumes and helper pods say. Pure.

A volume is a directory on a node, made and removed by a pod that runs there for a moment. Its name is
`pvc-<uid of the claim>`, and so are the names of everything made for it: whoever starts over, after whatever
was interrupted, finds what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from controllers import objects as o
from controllers.objects import Object
from controllers.volumes import model as m
from kubeclient.resources import PERSISTENTVOLUMES

HOSTNAME = "kubernetes.io/hostname"
VOLUME_LABEL = "local-path.hardway.dev/volume"
TASK_LABEL = "local-path.hardway.dev/task"
FINALIZER = "external-provisioner.volume.kubernetes.io/finalizer"  # sig-storage-lib-external-provisioner's
MAKE, REMOVE = "make", "remove"
_MODES = {"ReadWriteOnce", "ReadWriteOncePod"}


class Unprovisionable(Exception):
    """The claim asks for something these volumes are not; the message names it."""


class Settings(NamedTuple):
    """`provisioner`: the name storage classes call it by; `directory`: where volumes are, on every node."""

    provisioner: str = "hardway.dev/local-path"
    directory: str = "/var/lib/local-path"
    namespace: str = "kube-system"
    helper_image: str = "busybox:1.35"


class Step(Enum):
    """The next thing to do; whoever does it looks again afterwards."""

    NOTHING = "nothing"
    WAIT = "wait"  # for a helper pod
    START_MAKE = "start making"
    CREATE_VOLUME = "create the volume"
    START_REMOVE = "start removing"
    DROP_VOLUME = "the directory is gone: so is the volume"
    RETRY = "a helper failed: remove it and try again"
    CLEAN = "remove helper pods that nobody needs"


@dataclass(frozen=True, slots=True)
class View:
    """Everything there is about one volume. `helpers` are its pods by task; `nodes` the names there are."""

    claim: Object | None
    storage_class: Object | None
    volume: Object | None
    helpers: Mapping[str, Object]
    node_exists: bool = True


def volume_name(claim: Object) -> str:
    return f"pvc-{o.uid(claim)}"


def wants_volume(claim: Object, settings: Settings) -> bool:
    """The binder has called us, and the claim has neither volume nor intention to go."""
    called = o.annotations_of(claim).get(m.STORAGE_PROVISIONER) == settings.provisioner
    return called and not o.spec(claim).get("volumeName") and not o.is_terminating(claim)


def is_ours(volume: Object, settings: Settings) -> bool:
    return o.annotations_of(volume).get(m.PROVISIONED_BY) == settings.provisioner


def must_go(volume: Object) -> bool:
    """Given up by its claim, or deleted itself, and its data is not to be kept. A volume that is deleted
    while it is bound waits until it no longer is.
    """
    if o.spec(volume).get("persistentVolumeReclaimPolicy") != "Delete":
        return False
    phase = o.status(volume).get("phase")
    unbound = phase in ("Released", "Failed") or (phase != "Bound" and o.is_terminating(volume))
    return unbound and (not o.is_terminating(volume) or FINALIZER in o.finalizers(volume))


def may_go(volume: Object) -> bool:
    """Deleted, and its data is to be kept: all there is to do is to let go of it."""
    kept = o.spec(volume).get("persistentVolumeReclaimPolicy") != "Delete"
    return kept and o.is_terminating(volume) and FINALIZER in o.finalizers(volume)


def next_step(view: View, settings: Settings) -> Step:
    """From the states of claim, volume and helpers to one step."""
    if any(o.is_terminating(pod) for pod in view.helpers.values()):
        return Step.WAIT
    if view.volume is not None:
        if may_go(view.volume):
            return Step.DROP_VOLUME
        if not must_go(view.volume):
            return Step.CLEAN if view.helpers else Step.NOTHING
        return _removing(view) if view.node_exists else Step.DROP_VOLUME
    if view.claim is not None and wants_volume(view.claim, settings):
        return _making(view)
    if MAKE in view.helpers or REMOVE in view.helpers:  # the claim went away while its directory was made
        return _removing(view) if view.node_exists else Step.CLEAN
    return Step.NOTHING


def _making(view: View) -> Step:
    if REMOVE in view.helpers:
        return Step.CLEAN
    return _by_phase(view.helpers.get(MAKE), Step.START_MAKE, Step.CREATE_VOLUME)


def _removing(view: View) -> Step:
    """Never while the directory is still being made."""
    make = view.helpers.get(MAKE)
    if make is not None and o.status(make).get("phase") not in ("Succeeded", "Failed"):
        return Step.WAIT
    done = Step.CLEAN if view.volume is None else Step.DROP_VOLUME
    return _by_phase(view.helpers.get(REMOVE), Step.START_REMOVE, done)


def _by_phase(pod: Object | None, absent: Step, succeeded: Step) -> Step:
    if pod is None:
        return absent
    phase = o.status(pod).get("phase")
    return {"Succeeded": succeeded, "Failed": Step.RETRY}.get(str(phase), Step.WAIT)


# -- what is made --------------------------------------------------------------------------------------------


def check(claim: Object, storage_class: Object | None) -> str:
    """The node the volume is for. Raises Unprovisionable."""
    if storage_class is None:
        raise Unprovisionable(f'storageclass.storage.k8s.io "{m.class_of(claim)}" not found')
    node = o.annotations_of(claim).get(m.SELECTED_NODE, "")
    if not node:
        raise Unprovisionable("no node was selected: volumeBindingMode must be WaitForFirstConsumer")
    if m.mode_of(claim) != "Filesystem":
        raise Unprovisionable(f"volumeMode {m.mode_of(claim)} is not supported")
    if others := sorted(m.access_modes(claim) - _MODES):
        raise Unprovisionable(f"access mode {others[0]} is not supported: the volume is on one node")
    if o.spec(claim).get("selector"):
        raise Unprovisionable("claim.spec.selector is not supported")
    for source in ("dataSource", "dataSourceRef"):
        if o.spec(claim).get(source):
            raise Unprovisionable(f"claim.spec.{source} is not supported")
    for name in sorted(storage_class.get("parameters") or {}):
        raise Unprovisionable(f"storage class parameter {name!r} is not supported")
    if storage_class.get("mountOptions"):
        raise Unprovisionable("mountOptions of the storage class are not supported: nothing is mounted")
    return node


def path_of(volume: str, settings: Settings) -> str:
    return f"{settings.directory}/{volume}"


def new_volume(claim: Object, storage_class: Object, hostname: str, settings: Settings) -> Object:
    """The PersistentVolume, promised to its claim; `hostname` is the label of the node it is on."""
    expression = {"key": HOSTNAME, "operator": "In", "values": [hostname]}
    return {
        "apiVersion": PERSISTENTVOLUMES.api_version,
        "kind": PERSISTENTVOLUMES.kind,
        "metadata": {
            "name": volume_name(claim),
            "annotations": {m.PROVISIONED_BY: settings.provisioner},
            "finalizers": [FINALIZER],
        },
        "spec": {
            "capacity": {"storage": o.spec(claim)["resources"]["requests"]["storage"]},
            "accessModes": list(o.spec(claim).get("accessModes") or ()),
            "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": storage_class.get("reclaimPolicy") or "Delete",
            "storageClassName": o.name(storage_class),
            "claimRef": m.reference_to(claim),
            "local": {"path": path_of(volume_name(claim), settings)},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}},
        },
    }


def hostname_of(volume: Object) -> str:
    """The label value of the node that a volume of ours is on."""
    terms = ((o.spec(volume).get("nodeAffinity") or {}).get("required") or {}).get("nodeSelectorTerms") or ()
    rules = [rule for term in terms for rule in term.get("matchExpressions") or () if rule["key"] == HOSTNAME]
    return str(rules[0]["values"][0]) if rules else ""


def helper(task: str, volume: str, node: str, settings: Settings) -> Object:
    """The pod that makes or removes the directory. It is bound from the start: no scheduler has a say."""
    inside = f"/volumes/{volume}"
    command = ["mkdir", "-m", "0777", "-p", inside] if task == MAKE else ["rm", "-rf", inside]
    container = {
        "name": task,
        "image": settings.helper_image,
        "imagePullPolicy": "IfNotPresent",
        "command": command,
        "volumeMounts": [{"name": "volumes", "mountPath": "/volumes"}],
    }
    source = {"path": settings.directory, "type": "DirectoryOrCreate"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{task}-{volume}",
            "namespace": settings.namespace,
            "labels": {VOLUME_LABEL: volume, TASK_LABEL: task},
        },
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
            "volumes": [{"name": "volumes", "hostPath": source}],
        },
    }


# -- growing -------------------------------------------------------------------------------------------------


def grown(claim: Object, volume: Object, storage_class: Object | None) -> str:
    """The size a bound volume is to have, "" when it has it. Directories have no size of their own, so what
    is granted is what was asked for.
    """
    allowed = (storage_class or {}).get("allowVolumeExpansion")
    if not allowed or o.status(claim).get("phase") != "Bound" or not m.refers_to(volume, claim):
        return ""
    have = (o.status(claim).get("capacity") or {}).get("storage", "0")
    asked = str(o.spec(claim)["resources"]["requests"]["storage"])
    enough = m.requested(claim) <= m.capacity(volume) and m.requested(claim) <= m.size(have)
    return "" if enough else asked
