"""From watch events to queue and columns: which pods wait, which are placed, and what a change may
unblock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from scheduler.budgets import compile_budget
from scheduler.columns import Columns
from scheduler.framework import ClusterEvent
from scheduler.podinfo import PodInfo, compile_pod
from scheduler.queue import SchedulingQueue
from scheduler.volumes import key_of

Object = dict[str, Any]


def is_terminal(pod: Object) -> bool:
    """A pod that ended holds no resources."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def node_change(old: Object, new: Object) -> ClusterEvent:
    """What about a node changed that could matter to a waiting pod."""
    event = ClusterEvent(0)
    if (old.get("status") or {}).get("allocatable") != (new.get("status") or {}).get("allocatable"):
        event |= ClusterEvent.NODE_ALLOCATABLE
    if old["metadata"].get("labels") != new["metadata"].get("labels"):
        event |= ClusterEvent.NODE_LABELS
    before, after = old.get("spec") or {}, new.get("spec") or {}
    if before.get("taints") != after.get("taints") or before.get("unschedulable") != after.get(
        "unschedulable"
    ):
        event |= ClusterEvent.NODE_TAINTS
    return event


class Cluster:
    """The scheduler's view of the cluster. Handlers are plain functions, called by the informers in order."""

    def __init__(self, columns: Columns, queue: SchedulingQueue, responsible_for: Collection[str]) -> None:
        self.columns = columns
        self.queue = queue
        self._names = responsible_for
        self._assumed: dict[str, str] = {}  # pod key -> uid, placed here before the API says so
        self._nominated: dict[str, tuple[PodInfo, str]] = {}  # pods that were promised a node
        self.on_change: Callable[[], None] = lambda: None

    # -- assuming -------------------------------------------------------------------------------------------

    def assume(self, info: PodInfo, node: str) -> None:
        """Count the pod on its node while the binding is on its way, as the API will show it."""
        self._assumed[info.key] = info.uid
        self.columns.add_pod(replace(info, node_name=node), node)

    def forget(self, info: PodInfo) -> None:
        """The binding failed; unless the API has shown the pod placed meanwhile, take it off again."""
        if self._assumed.get(info.key) == info.uid:
            del self._assumed[info.key]
            self.columns.remove_pod(info.key)
            self._happened(ClusterEvent.POD_REMOVED)

    # -- promises -------------------------------------------------------------------------------------------

    @property
    def nominated(self) -> list[tuple[PodInfo, str]]:
        """Waiting pods for which room was made, and where."""
        return list(self._nominated.values())

    def nominate(self, info: PodInfo, node: str) -> None:
        """Keep room on a node for a pod; "" takes the promise back."""
        if node:
            self._nominated[info.key] = (info, node)
        else:
            self._nominated.pop(info.key, None)

    # -- pods -----------------------------------------------------------------------------------------------

    def pod_added(self, pod: Object) -> None:
        self._see_pod(pod)

    def pod_updated(self, old: Object, new: Object) -> None:
        if old["metadata"].get("uid") != new["metadata"].get("uid"):
            self.pod_deleted(old)
        self._see_pod(new)

    def _see_pod(self, pod: Object) -> None:
        if is_terminal(pod):
            self.pod_deleted(pod)
            return
        info = compile_pod(pod)
        if info.node_name:
            self._see_placed(info)
        elif info.terminating:
            self.queue.delete(info.key)
            self.nominate(info, "")
        elif info.scheduler_name in self._names and self._assumed.get(info.key) != info.uid:
            self.nominate(info, info.nominated_node)
            self.queue.add(info)
            self.on_change()

    def _see_placed(self, info: PodInfo) -> None:
        assumed = self._assumed.pop(info.key, None) is not None
        self.nominate(info, "")
        self.queue.delete(info.key)
        known = self.columns.pods.get(info.key)
        if known is None or known.info != info:
            self.columns.add_pod(info, info.node_name)
            self._happened(ClusterEvent.POD_PLACED)
            return
        self.columns.note_status(info)
        if assumed:  # counted already, but only now is it certain
            self._happened(ClusterEvent.POD_PLACED)

    def pod_deleted(self, pod: Object) -> None:
        key = f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"
        self.queue.delete(key)
        self._assumed.pop(key, None)
        if self._nominated.pop(key, None) is not None:
            self._happened(ClusterEvent.POD_REMOVED)  # the room kept for it is free
        if key in self.columns.pods:
            self.columns.remove_pod(key)
            self._happened(ClusterEvent.POD_REMOVED)

    # -- nodes and namespaces -------------------------------------------------------------------------------

    def node_added(self, node: Object) -> None:
        self.columns.set_node(node)
        self._happened(ClusterEvent.NODE_ADDED)

    def node_updated(self, old: Object, new: Object) -> None:
        self.columns.set_node(new)
        self._happened(node_change(old, new))

    def node_deleted(self, node: Object) -> None:
        self.columns.remove_node(node["metadata"]["name"])
        self._happened(ClusterEvent.POD_REMOVED)

    def namespace_seen(self, namespace: Object) -> None:
        meta = namespace["metadata"]
        self.columns.set_namespace_labels(meta["name"], meta.get("labels") or {})
        self._happened(ClusterEvent.NAMESPACE_LABELS)

    def namespace_updated(self, old: Object, new: Object) -> None:
        if old["metadata"].get("labels") != new["metadata"].get("labels"):
            self.namespace_seen(new)

    def namespace_deleted(self, namespace: Object) -> None:
        self.columns.set_namespace_labels(namespace["metadata"]["name"], None)

    # -- what plugins consult -------------------------------------------------------------------------------

    def budget_seen(self, budget: Object) -> None:
        meta = budget["metadata"]
        self.columns.budgets[f"{meta['namespace']}/{meta['name']}"] = compile_budget(budget)

    def budget_deleted(self, budget: Object) -> None:
        meta = budget["metadata"]
        self.columns.budgets.pop(f"{meta['namespace']}/{meta['name']}", None)

    def claim_seen(self, claim: Object) -> None:
        self.columns.volumes.claims[key_of(claim)] = claim
        self._happened(ClusterEvent.VOLUMES)

    def claim_deleted(self, claim: Object) -> None:
        self.columns.volumes.claims.pop(key_of(claim), None)
        self._happened(ClusterEvent.VOLUMES)

    def volume_seen(self, volume: Object) -> None:
        self.columns.volumes.set_volume(volume)
        self._happened(ClusterEvent.VOLUMES)

    def class_seen(self, storage_class: Object) -> None:
        self.columns.volumes.classes[storage_class["metadata"]["name"]] = storage_class
        self._happened(ClusterEvent.VOLUMES)

    def class_deleted(self, storage_class: Object) -> None:
        self.columns.volumes.classes.pop(storage_class["metadata"]["name"], None)

    def csi_node_seen(self, csi_node: Object) -> None:
        self.columns.volumes.csi_nodes[csi_node["metadata"]["name"]] = csi_node
        self._happened(ClusterEvent.VOLUMES)

    def csi_node_deleted(self, csi_node: Object) -> None:
        self.columns.volumes.csi_nodes.pop(csi_node["metadata"]["name"], None)

    def _happened(self, event: ClusterEvent) -> None:
        if event:
            self.queue.on_event(event)
            self.on_change()
