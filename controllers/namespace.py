"""Namespace: delete everything in a terminating namespace, then let it go."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from apimachinery import errors
from controllers import objects as o
from controllers.discovery import Discovered, discover
from controllers.objects import Object
from controllers.runtime import (
    Context,
    Controller,
    count_in_namespace,
    gather_limited,
    ignore_not_found,
)
from kubeclient.resources import GVR, NAMESPACES, PODS

FINALIZER = "kubernetes"
AT_ONCE = 4  # resources of a namespace that are looked at side by side
RETRY = 5.0  # seconds between looks at content that does not go away by itself


@dataclass(slots=True)
class Found:
    """What one pass over a namespace's resources has met."""

    remaining: dict[str, int] = field(default_factory=dict)  # "pods." -> objects left
    finalizers: dict[str, int] = field(default_factory=dict)  # finalizer -> objects that carry it
    content_errors: list[str] = field(default_factory=list)
    discovery_errors: list[str] = field(default_factory=list)
    grace: float = 0.0  # longest time pods still have to terminate, seconds

    @property
    def empty(self) -> bool:
        return not self.remaining and not self.content_errors and not self.discovery_errors


def is_due(namespace: Object) -> bool:
    """Terminating, and our finalizer is still on it."""
    return o.is_terminating(namespace) and FINALIZER in (o.spec(namespace).get("finalizers") or ())


def without_finalizer(namespace: Object) -> Object:
    """The body for the `finalize` subresource."""
    kept = [f for f in o.spec(namespace).get("finalizers") or () if f != FINALIZER]
    return {**namespace, "spec": {**o.spec(namespace), "finalizers": kept}}


def count_left(found: Found, gvr: GVR, items: Sequence[Object], now: float) -> None:
    """Add what a list of one resource still holds to `found`."""
    if not items:
        return
    found.remaining[f"{gvr.resource}.{gvr.group}"] = len(items)
    for item in items:
        for finalizer in o.finalizers(item):
            found.finalizers[finalizer] = found.finalizers.get(finalizer, 0) + 1
    if gvr[:3] == PODS[:3]:
        ends = [o.parse_time(o.meta(item).get("deletionTimestamp")) for item in items]
        found.grace = max([found.grace, *(end - now for end in ends if end)])


def compute_conditions(old: Sequence[Object], found: Found, now: float) -> list[Object]:
    """The namespace's conditions, worded as Kubernetes words them; healthy ones appear only once they had
    failed.
    """
    out = list(old)
    for kind, (bad, good_reason, good, bad_reason, text) in _verdicts(found).items():
        before = o.find_condition(out, kind)
        if before is None and not bad:
            continue
        fresh: Object = {
            "type": kind,
            "status": "True" if bad else "False",
            "reason": bad_reason if bad else good_reason,
            "message": text if bad else good,
            "lastTransitionTime": o.format_time(now),
        }
        if before is not None and before.get("status") == fresh["status"]:
            fresh["lastTransitionTime"] = before.get("lastTransitionTime")
        out = o.set_condition(out, fresh)
    return out


def _verdicts(found: Found) -> Mapping[str, tuple[bool, str, str, str, str]]:
    left = ", ".join(f"{name} has {n} resource instances" for name, n in sorted(found.remaining.items()))
    held = ", ".join(f"{name} in {n} resource instances" for name, n in sorted(found.finalizers.items()))
    return {
        "NamespaceDeletionDiscoveryFailure": (
            bool(found.discovery_errors),
            "ResourcesDiscovered",
            "All resources successfully discovered",
            "DiscoveryFailed",
            "Discovery failed for some groups, " + "; ".join(found.discovery_errors),
        ),
        "NamespaceDeletionContentFailure": (
            bool(found.content_errors),
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
            "ContentDeletionFailed",
            "Failed to delete all resource types, " + "; ".join(found.content_errors),
        ),
        "NamespaceContentRemaining": (
            bool(found.remaining),
            "ContentRemoved",
            "All content successfully removed",
            "SomeResourcesRemain",
            f"Some resources are remaining: {left}",
        ),
        "NamespaceFinalizersRemaining": (
            bool(found.finalizers),
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
            "SomeFinalizersRemain",
            f"Some content in the namespace has finalizers remaining: {held}",
        ),
    }


def next_look(since: float, found: Found, now: float) -> float:
    """Seconds until the content is looked at again: soon at first, since most pods go before their grace is
    over, then at intervals of a quarter of the time it has taken; after half of a grace at the latest.
    """
    longest = min(found.grace / 2 + 1, RETRY * 3) if found.grace > 0 else RETRY / 2
    return min(max((now - since) / 4, 1.0), longest)


class NamespaceController(Controller):
    name: ClassVar[str] = "namespace-controller"
    account: ClassVar[str] = "namespace-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, workers=ctx.options.concurrent_namespace_syncs)
        self.namespaces = self.watch(NAMESPACES, self._on_namespace)
        self.pods = self.watch(PODS)
        self.pods.add_handler(on_delete=self._on_pod_gone)

    async def sync(self, key: str) -> float | None:
        namespace = self.namespaces.store.get(key)
        if namespace is None or not is_due(namespace):
            return None
        found = await self._delete_content(key)
        if not found.empty:
            await self._write_conditions(namespace, found)
            return next_look(o.parse_time(o.meta(namespace)["deletionTimestamp"]), found, self.clock.now())
        fresh = await ignore_not_found(self.client.get(NAMESPACES, key))
        if fresh is None or o.uid(fresh) != o.uid(namespace) or not is_due(fresh):
            return None
        call = self.client.update(NAMESPACES, without_finalizer(fresh), subresource="finalize")
        answer = await ignore_not_found(call)
        return RETRY if answer is not None and is_due(answer) else None

    async def _delete_content(self, namespace: str) -> Found:
        found = Found()
        surface = await discover(self.client)
        found.discovery_errors += surface.failures
        wanted = [
            each for each in surface.resources if each.gvr.namespaced and {"delete", "list"} <= each.verbs
        ]
        wanted.sort(key=lambda each: each.gvr[:3] != PODS[:3])  # what takes longest to go is asked first
        calls = (functools.partial(self._delete_resource, namespace, each, found) for each in wanted)
        await gather_limited(calls, AT_ONCE)
        return found

    async def _delete_resource(self, namespace: str, resource: Discovered, found: Found) -> None:
        gvr = resource.gvr
        try:
            items = (await self.client.list(gvr, namespace))["items"]
            if not all(o.meta(item).get("deletionTimestamp") for item in items):  # others were asked before
                await self._delete_items(namespace, resource, items)
                items = (await self.client.list(gvr, namespace))["items"]
            count_left(found, gvr, items, self.clock.now())
        except errors.StatusError as error:
            if error.code not in (404, 405):
                found.content_errors.append(f"{gvr.qualified}: {error}")

    async def _delete_items(self, namespace: str, resource: Discovered, items: Sequence[Object]) -> None:
        gvr, background = resource.gvr, {"propagationPolicy": "Background"}
        if "deletecollection" in resource.verbs:
            await self.client.delete_collection(gvr, namespace, options=background)
            return
        for item in items:
            await ignore_not_found(self.client.delete(gvr, o.name(item), namespace, options=background))

    async def _write_conditions(self, namespace: Object, found: Found) -> None:
        old = o.status(namespace).get("conditions") or []
        new = compute_conditions(old, found, self.clock.now())
        if new != old:
            status = {**o.status(namespace), "conditions": new}
            await ignore_not_found(
                self.client.update(NAMESPACES, o.with_status(namespace, status), subresource="status")
            )

    def _on_namespace(self, namespace: Object) -> None:
        if is_due(namespace):
            self.enqueue(namespace)

    def _on_pod_gone(self, pod: Object) -> None:
        """The last pod is what a namespace usually waits for: no need to wait for the next look too."""
        namespace = self.namespaces.store.get(o.namespace(pod))
        if namespace is not None and not count_in_namespace(self.pods, o.name(namespace)):
            self._on_namespace(namespace)
