"""VolumeBinding: a pod goes where its claims' volumes can be reached; claims that wait for their first
consumer are bound, or provisioned, for the node that was chosen.
"""

from __future__ import annotations

import numpy as np

from kubeclient.resources import PERSISTENTVOLUMECLAIMS, PERSISTENTVOLUMES
from scheduler.columns import Columns, Rows
from scheduler.framework import ClusterEvent, Handle, Object, Refusal, Verdict
from scheduler.plugins import matching
from scheduler.podinfo import NodeTerm, PodInfo, Requirement
from scheduler.tallies import Mask
from scheduler.volumes import NO_PROVISIONER, SELECTED_NODE, Plan, class_of, is_bound

_MISSING = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
_CONFLICT = "node(s) had volume node affinity conflict"
_NONE_FREE = "node(s) didn't find available persistent volumes to bind"


def _topology(storage_class: Object) -> tuple[NodeTerm, ...] | None:
    """A class's allowedTopologies; None when it can provision everywhere."""
    terms = storage_class.get("allowedTopologies") or ()
    return (
        tuple(
            NodeTerm(
                tuple(
                    Requirement(each["key"], "In", tuple(each["values"]))
                    for each in term.get("matchLabelExpressions") or ()
                ),
                (),
            )
            for term in terms
        )
        or None
    )


class VolumeBinding:
    name = "VolumeBinding"
    events = ClusterEvent.VOLUMES | ClusterEvent.NODE_ADDED | ClusterEvent.NODE_LABELS
    local_filter = False

    def __init__(self, timeout: float = 600.0) -> None:
        self._timeout = timeout  # seconds to wait for claims to be bound (bindTimeoutSeconds)

    def pre_filter(self, pod: PodInfo, nodes: Columns) -> Refusal | None:
        for key, claim in nodes.volumes.claims_of(pod):
            name = key.partition("/")[2]
            if claim is None:
                return Refusal(self.name, f'persistentvolumeclaim "{name}" not found')
            if (claim.get("status") or {}).get("phase") == "Lost":
                volume = claim["spec"].get("volumeName", "")
                text = f'persistentvolumeclaim "{name}" bound to non-existent persistentvolume "{volume}"'
                return Refusal(self.name, text)
            if claim["metadata"].get("deletionTimestamp"):
                return Refusal(self.name, f'persistentvolumeclaim "{name}" is being deleted')
            if not is_bound(claim) and not nodes.volumes.waits_for_consumer(claim):
                return Refusal(self.name, "pod has unbound immediate PersistentVolumeClaims")
        return None

    def filter(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Verdict | None:
        if not pod.claims:
            return None
        reachable, missing = self._bound(pod, nodes, rows)
        satisfied = self._delayed(pod, nodes, rows)

        def reasons(position: int) -> list[str]:
            out = [] if satisfied[position] else [_NONE_FREE]
            if not reachable[position]:
                out.append(_CONFLICT)
            return [*out, _MISSING] if missing else out

        passes = reachable & satisfied
        if missing:
            passes = np.zeros_like(passes)
        kinds = reachable.astype(np.int64) * 2 + satisfied
        return Verdict(passes, reasons, final=True, kinds=lambda fallen: kinds[fallen])

    def _bound(self, pod: PodInfo, nodes: Columns, rows: Rows) -> tuple[Mask, bool]:
        """Where all bound volumes can be reached; and whether one of them does not exist."""
        out: Mask = np.ones_like(nodes.live[rows])
        missing = False
        for _, claim in nodes.volumes.claims_of(pod):
            if claim is None or not is_bound(claim):
                continue
            volume = claim["spec"]["volumeName"]
            missing = missing or volume not in nodes.volumes.volumes
            out &= _reach(volume, nodes, rows)
        return out, missing

    def _delayed(self, pod: PodInfo, nodes: Columns, rows: Rows) -> Mask:
        """Where every claim that waits finds a volume of its own, or can get one made."""
        out: Mask = np.ones_like(nodes.live[rows])
        claims = nodes.volumes.delayed(pod)
        if len(claims) == 1:
            key, claim = claims[0]
            found = _provisionable(claim, nodes, rows)
            for volume in nodes.volumes.candidates(key, claim):
                found = found | _reach(volume, nodes, rows)
            return out & found & _selected(claim, nodes, rows)
        if claims:
            indices = range(nodes.top)[rows] if isinstance(rows, slice) else rows.tolist()
            for position, row in enumerate(indices):
                out[position] = bool(nodes.live[row]) and _plan(pod, nodes, row) is not None
        return out

    # -- acting ---------------------------------------------------------------------------------------------

    def reserve(self, pod: PodInfo, node: str, nodes: Columns) -> str | None:
        row = nodes.row_of.get(node)
        plan = _plan(pod, nodes, row) if pod.claims and row is not None else Plan()
        if plan is None:
            return _NONE_FREE
        if plan != Plan():
            nodes.volumes.reserve(pod, plan)
        return None

    def unreserve(self, pod: PodInfo, node: str, nodes: Columns) -> None:
        nodes.volumes.release(pod)

    async def pre_bind(self, handle: Handle, pod: PodInfo, node: str) -> None:
        """Say which volume or node is meant, and wait until the volume controller has bound all claims."""
        volumes = handle.columns.volumes
        plan = volumes.plans.get(pod.uid)
        if plan is None:
            return
        for name, key in plan.static:
            claim, volume = volumes.claims[key], volumes.volumes[name]
            meta = claim["metadata"]
            reference = {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                **{field: meta[field] for field in ("namespace", "name", "uid", "resourceVersion")},
            }
            annotations = volume["metadata"].get("annotations") or {}
            metadata = volume["metadata"] | {
                "annotations": annotations | {"pv.kubernetes.io/bound-by-controller": "yes"}
            }
            spec = volume["spec"] | {"claimRef": reference}
            await handle.update(PERSISTENTVOLUMES, volume | {"metadata": metadata, "spec": spec})
        for key in plan.provisioned:
            claim = volumes.claims[key]
            annotations = (claim["metadata"].get("annotations") or {}) | {SELECTED_NODE: node}
            metadata = claim["metadata"] | {"annotations": annotations}
            await handle.update(PERSISTENTVOLUMECLAIMS, claim | {"metadata": metadata})
        await handle.changed(lambda: _all_bound(pod, handle.columns), self._timeout)
        volumes.release(pod)


def _all_bound(pod: PodInfo, nodes: Columns) -> bool:
    return all(claim is not None and is_bound(claim) for _, claim in nodes.volumes.claims_of(pod))


def _reach(volume: str, nodes: Columns, rows: Rows) -> Mask:
    terms = nodes.volumes.affinity_of(volume)
    everywhere: Mask = np.ones_like(nodes.live[rows])
    return everywhere if terms is None else matching.any_term(terms, nodes, rows)


def _selected(claim: Object, nodes: Columns, rows: Rows) -> Mask:
    """A claim that is being provisioned for a node is for that node only."""
    node = (claim["metadata"].get("annotations") or {}).get(SELECTED_NODE)
    everywhere: Mask = np.ones_like(nodes.live[rows])
    return everywhere if not node else matching.named((node,), nodes, rows)


def _provisionable(claim: Object, nodes: Columns, rows: Rows) -> Mask:
    storage_class = nodes.volumes.classes.get(class_of(claim), {})
    nowhere: Mask = np.zeros_like(nodes.live[rows])
    if storage_class.get("provisioner", NO_PROVISIONER) == NO_PROVISIONER:
        return nowhere
    terms = _topology(storage_class)
    return ~nowhere if terms is None else matching.any_term(terms, nodes, rows)


def _plan(pod: PodInfo, nodes: Columns, row: int) -> Plan | None:
    """A volume of its own for every waiting claim, the smallest that does; None when one goes without."""
    rows = np.array([row], dtype=np.intp)
    taken: dict[str, str] = {}
    made: list[str] = []
    for key, claim in nodes.volumes.delayed(pod):
        if not _selected(claim, nodes, rows)[0]:
            return None
        free = (name for name in nodes.volumes.candidates(key, claim) if name not in taken)
        found = next((name for name in free if _reach(name, nodes, rows)[0]), None)
        if found is not None:
            taken[found] = key
        elif _provisionable(claim, nodes, rows)[0]:
            made.append(key)
        else:
            return None
    return Plan(tuple(taken.items()), tuple(made))
