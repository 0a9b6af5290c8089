"""From watch events to queue and columns: which pods wait, which are placed, and what a change may
unblock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from scheduler.columns import Columns
from scheduler.framework import ClusterEvent
from scheduler.podinfo import PodInfo, compile_pod
from scheduler.queue import SchedulingQueue

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
        self.on_change: Callable[[], None] = lambda: None

    # -- assuming -------------------------------------------------------------------------------------------

    def assume(self, info: PodInfo, node: str) -> None:
        """Count the pod on its node while the binding is on its way."""
        self._assumed[info.key] = info.uid
        self.columns.add_pod(info, node)

    def forget(self, info: PodInfo) -> None:
        """The binding failed; unless the API has shown the pod placed meanwhile, take it off again."""
        if self._assumed.get(info.key) == info.uid:
            del self._assumed[info.key]
            self.columns.remove_pod(info.key)
            self._happened(ClusterEvent.POD_REMOVED)

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
            self._assumed.pop(info.key, None)
            self.queue.delete(info.key)
            known = self.columns.pods.get(info.key)
            if known is None or known.info != info:
                self.columns.add_pod(info, info.node_name)
                self._happened(ClusterEvent.POD_PLACED)
        elif pod["metadata"].get("deletionTimestamp"):
            self.queue.delete(info.key)
        elif info.scheduler_name in self._names and self._assumed.get(info.key) != info.uid:
            self.queue.add(info)
            self.on_change()

    def pod_deleted(self, pod: Object) -> None:
        key = f"{pod['metadata'].get('namespace', '')}/{pod['metadata']['name']}"
        self.queue.delete(key)
        self._assumed.pop(key, None)
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

    def _happened(self, event: ClusterEvent) -> None:
        if event:
            self.queue.on_event(event)
            self.on_change()
