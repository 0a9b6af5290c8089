"""PodDisruptionBudgets: how many of the selected pods may be evicted now. The eviction subresource reads the
status written here and takes its part in `disruptedPods`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from apimachinery import errors, selectors
from controllers import objects as o
from controllers import pods
from controllers.objects import Object
from controllers.podgc import patch_status
from controllers.runtime import SETTLE_RETRY, Context, Controller, in_namespace
from controllers.scaletargets import NoScale, ScaleTargets
from kubeclient.resources import (
    DEPLOYMENTS,
    PODDISRUPTIONBUDGETS,
    PODS,
    REPLICASETS,
    REPLICATIONCONTROLLERS,
    STATEFULSETS,
)

DELETION_TIMEOUT = 120.0  # seconds an evicted pod may take until its deletion shows
STALE_TARGET = 120.0  # seconds after which a DisruptionTarget condition without deletion is withdrawn
POD = "pod:"  # prefix of keys that name a pod with a DisruptionTarget condition
UNMANAGED = (
    "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a "
    "result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "
    'To account for these pods please set ".spec.minAvailable" field of the PDB to an integer value.'
)


@dataclass(frozen=True, slots=True)
class Need:
    """Of `expected` pods `desired` have to be healthy."""

    expected: int
    desired: int


def compute_need(spec: Object, selected: int, scale: int) -> Need:
    """`selected` pods match; `scale` is the sum of what their controllers want."""
    if spec.get("maxUnavailable") is not None:
        lost = o.scaled_value(spec["maxUnavailable"], scale, round_up=True)
        return Need(scale, max(scale - lost, 0))
    least = spec.get("minAvailable")
    if isinstance(least, str):
        return Need(scale, o.scaled_value(least, scale, round_up=True))
    return Need(selected, 1 if least is None else int(least))


def needs_scale(spec: Object) -> bool:
    """An integer minAvailable is the one bound that can be judged without knowing the controllers."""
    return spec.get("maxUnavailable") is not None or isinstance(spec.get("minAvailable"), str)


@dataclass(frozen=True, slots=True)
class Disrupted:
    """Evictions under way (name -> time), those that did not come to pass, seconds until the next expires."""

    pods: Mapping[str, str]
    failed: tuple[Object, ...] = ()
    wait: float | None = None


def compute_disrupted(pdb: Object, selected: Sequence[Object], now: float) -> Disrupted:
    known = o.status(pdb).get("disruptedPods") or {}
    kept, failed, waits = {}, [], []
    for pod in selected:
        stamp = known.get(o.name(pod))
        if stamp is None or o.is_terminating(pod):
            continue
        left = o.parse_time(stamp) + DELETION_TIMEOUT - now
        if left <= 0:
            failed.append(pod)
        else:
            kept[o.name(pod)] = stamp
            waits.append(left)
    return Disrupted(kept, tuple(failed), min(waits, default=None))


def compute_status(
    pdb: Object, selected: Sequence[Object], need: Need, disrupted: Disrupted, now: float
) -> Object:
    """The whole `status`."""
    healthy = sum(
        pods.is_ready(pod) and not o.is_terminating(pod) and o.name(pod) not in disrupted.pods
        for pod in selected
    )
    allowed = max(healthy - need.desired, 0) if need.expected > 0 else 0
    reason = "SufficientPods" if allowed else "InsufficientPods"
    out: Object = {
        "observedGeneration": o.generation(pdb),
        "disruptionsAllowed": allowed,
        "currentHealthy": healthy,
        "desiredHealthy": need.desired,
        "expectedPods": need.expected,
        "conditions": _conditions(pdb, "True" if allowed else "False", reason, "", now),
    }
    if disrupted.pods:
        out["disruptedPods"] = dict(disrupted.pods)
    return out


def failed_status(pdb: Object, message: str, now: float) -> Object:
    """Nothing may be evicted while the numbers are not known."""
    conditions = _conditions(pdb, "False", "SyncFailed", message, now)
    return {**o.status(pdb), "disruptionsAllowed": 0, "conditions": conditions}


def _conditions(pdb: Object, value: str, reason: str, message: str, now: float) -> list[Object]:
    old = o.status(pdb).get("conditions") or []
    found = o.find_condition(old, "DisruptionAllowed") or {}
    same = found.get("status") == value
    new = {
        "type": "DisruptionAllowed",
        "status": value,
        "reason": reason,
        "message": message,
        "observedGeneration": o.generation(pdb),
        "lastTransitionTime": found["lastTransitionTime"] if same else o.format_time(now),
    }
    return o.set_condition(old, new)


def stale_target_in(pod: Object, now: float) -> float | None:
    """Seconds until the pod's DisruptionTarget condition is to be withdrawn; None when it is not."""
    found = o.condition(pod, "DisruptionTarget")
    if found is None or found.get("status") != "True" or o.is_terminating(pod) or pods.is_finished(pod):
        return None
    return o.parse_time(found.get("lastTransitionTime")) + STALE_TARGET - now


class DisruptionController(Controller):
    name: ClassVar[str] = "disruption-controller"
    account: ClassVar[str] = "disruption-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, component="controllermanager")
        self.budgets = self.watch(PODDISRUPTIONBUDGETS, self.enqueue)
        self.pods = self.watch(PODS, self._on_pod)
        self.owners = {
            gvr.kind: self.watch(gvr, self._on_owner)
            for gvr in (DEPLOYMENTS, REPLICASETS, REPLICATIONCONTROLLERS, STATEFULSETS)
        }
        self.scales = ScaleTargets(self.client)
        self.written = self.written_to(PODDISRUPTIONBUDGETS)

    async def sync(self, key: str) -> float | None:
        if key.startswith(POD):
            return await self._withdraw(self.pods.store.get(key.removeprefix(POD)))
        pdb = self.budgets.store.get(key)
        if pdb is None:
            self.written.forget(key)
            return None
        if not self.written.settled(key):
            return SETTLE_RETRY
        try:
            return await self._sync_budget(pdb)
        except (NoScale, ValueError) as error:
            text = f"Failed to calculate the number of expected pods: {error}"
            self.warn(pdb, PODDISRUPTIONBUDGETS, "CalculateExpectedPodCountFailed", text)
            await self._write(pdb, failed_status(pdb, str(error), self.clock.now()))
            return None

    async def _sync_budget(self, pdb: Object) -> float | None:
        selected, now = self._selected(pdb), self.clock.now()
        if not selected:
            self.event(pdb, PODDISRUPTIONBUDGETS, "NoPods", "No matching pods found")
        scale = await self._scale(pdb, selected) if needs_scale(o.spec(pdb)) else 0
        need = compute_need(o.spec(pdb), len(selected), scale)
        disrupted = compute_disrupted(pdb, selected, now)
        for pod in disrupted.failed:
            text = f"Pod was expected by PDB {o.key(pdb)} to be deleted but it wasn't"
            self.warn(pod, PODS, "NotDeleted", text)
        await self._write(pdb, compute_status(pdb, selected, need, disrupted, now))
        return disrupted.wait

    async def _write(self, pdb: Object, status: Object) -> None:
        """Against the version read: an eviction that took its part meanwhile makes this a conflict."""
        if status == o.status(pdb):
            return
        try:
            written = await self.client.update(
                PODDISRUPTIONBUDGETS, o.with_status(pdb, status), subresource="status"
            )
        except errors.StatusError as error:
            if errors.is_not_found(error):
                return
            raise
        self.written.wrote(o.key(pdb), written)

    # -- the pods and who wants them -------------------------------------------------------------------------

    def _selected(self, pdb: Object) -> list[Object]:
        """An empty selector is everyone in the namespace, an absent one nobody."""
        if o.spec(pdb).get("selector") is None:
            return []
        selector = selectors.label_selector_from(o.spec(pdb)["selector"])
        everyone = in_namespace(self.pods, o.namespace(pdb))
        return [pod for pod in everyone if selector.is_empty or selector.matches(o.labels(pod))]

    async def _scale(self, pdb: Object, selected: Sequence[Object]) -> int:
        """The sum of what the pods' controllers want. Raises NoScale."""
        sizes: dict[str, int] = {}
        unmanaged = False
        for pod in selected:
            reference = o.controller_of(pod)
            if reference is None:
                unmanaged = True
            elif reference["uid"] not in sizes:
                sizes[reference["uid"]] = 0
                uid, size = await self._scale_of(o.namespace(pod), reference)
                sizes[uid] = size
        if unmanaged:
            text = UNMANAGED.format(selector=o.spec(pdb)["selector"])
            self.warn(pdb, PODDISRUPTIONBUDGETS, "UnmanagedPods", text)
        return sum(sizes.values())

    async def _scale_of(self, namespace: str, reference: Object) -> tuple[str, int]:
        """(UID, replicas) of the owner, or of its Deployment when it is a Deployment's ReplicaSet."""
        informer = self.owners.get(reference["kind"])
        if informer is None:
            try:
                _, scale = await self.scales.get(
                    reference["apiVersion"], reference["kind"], namespace, reference["name"]
                )
            except errors.StatusError as error:
                if errors.is_not_found(error):
                    raise NoScale(f"{reference['kind']} {namespace}/{reference['name']}: {error}") from error
                raise
            return reference["uid"], int((scale.get("spec") or {}).get("replicas") or 0)
        owner = informer.store.get(f"{namespace}/{reference['name']}")
        if owner is None or o.uid(owner) != reference["uid"]:
            return reference["uid"], 0
        parent = o.controller_of(owner)
        if reference["kind"] == REPLICASETS.kind and parent is not None and parent["kind"] in self.owners:
            return await self._scale_of(namespace, parent)
        return o.uid(owner), o.replicas(owner)

    async def _withdraw(self, pod: Object | None) -> float | None:
        left = stale_target_in(pod, self.clock.now()) if pod is not None else None
        if pod is None or left is None or left > 0:
            return left
        stamp = o.format_time(self.clock.now())
        withdrawn = {"type": "DisruptionTarget", "status": "False", "lastTransitionTime": stamp}
        conditions = o.set_condition(o.status(pod).get("conditions") or [], withdrawn)
        await patch_status(self.client, pod, {"phase": pods.phase(pod), "conditions": conditions})
        return None

    # -- waking up -------------------------------------------------------------------------------------------

    def _on_pod(self, pod: Object) -> None:
        for pdb in in_namespace(self.budgets, o.namespace(pod)):
            selector = o.spec(pdb).get("selector")
            if selector is None:
                continue
            compiled = selectors.label_selector_from(selector)
            if compiled.is_empty or compiled.matches(o.labels(pod)):
                self.enqueue(pdb)
        if o.condition_status(pod, "DisruptionTarget") == "True":
            self.queue.add(POD + o.key(pod))

    def _on_owner(self, owner: Object) -> None:
        """A scaled controller changes what is expected."""
        for pdb in in_namespace(self.budgets, o.namespace(owner)):
            if needs_scale(o.spec(pdb)):
                self.enqueue(pdb)
