"""Which volume a claim gets (kube's `FindMatchingVolume` and `checkVolumeSatisfyClaim`). Pure."""

from __future__ import annotations

from collections.abc import Iterable

from apimachinery import selectors
from controllers import objects as o
from controllers.objects import Object
from controllers.volumes import model as m


def find(claim: Object, volumes: Iterable[Object], *, only_promised: bool = False) -> Object | None:
    """The volume promised to the claim, else the smallest that satisfies it; None when nothing does.

    Equals are told apart by name, so that every replay chooses the same. `only_promised`: the scheduler is to
    choose (WaitForFirstConsumer), so nothing but what was promised to the claim is taken.
    """
    wanted, best = m.requested(claim), None
    for volume in sorted(volumes, key=o.name):
        if o.is_terminating(volume) or m.capacity(volume) < wanted or m.mode_of(volume) != m.mode_of(claim):
            continue
        if m.refers_to(volume, claim):
            return volume
        if only_promised or not _is_free(volume) or not _suits(volume, claim):
            continue
        if best is None or m.capacity(volume) < m.capacity(best):
            best = volume
    return best


def _is_free(volume: Object) -> bool:
    return m.claim_ref(volume) is None and o.status(volume).get("phase") == "Available"


def _suits(volume: Object, claim: Object) -> bool:
    selector = o.spec(claim).get("selector")
    if selector and not selectors.label_selector_from(selector).matches(o.labels(volume)):
        return False
    same_class = m.class_of(volume) == m.class_of(claim)
    return same_class and m.access_modes(claim) <= m.access_modes(volume)


def mismatch(volume: Object, claim: Object) -> str:
    """Why the volume that a claim asks for by name cannot serve it; "" when it can."""
    if o.is_terminating(volume):
        return f'the volume is marked for deletion "{o.name(volume)}"'
    if m.capacity(volume) < m.requested(claim):
        return "requested PV is too small"
    if m.class_of(volume) != m.class_of(claim):
        return "storageClassName does not match"
    if m.mode_of(volume) != m.mode_of(claim):
        return "incompatible volumeMode"
    if not m.access_modes(claim) <= m.access_modes(volume):
        return "incompatible accessMode"
    return ""
