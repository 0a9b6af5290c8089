"""The garbage collector's loop: watch everything, keep the graph, ask the API before anything is deleted."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import ClassVar

from apimachinery import errors
from controllers import objects as o
from controllers.discovery import Surface, discover
from controllers.garbage.graph import FOREGROUND, ORPHAN, Graph, Identity, Node, Work, judge
from controllers.objects import Object
from controllers.runtime import Context, TryAgain, gather_limited, ignore_not_found
from kubeclient.resources import EVENTS, GVR
from kubeclient.rest import ConnectionFailed
from kubeclient.workqueue import WorkQueue

DISCOVERY_PERIOD = 30.0
ABSENT_CACHE = 500  # owners known to be gone, by UID; UIDs never come back
IGNORED = {(EVENTS.group, "events"), ("events.k8s.io", "events")}


class GarbageCollector:
    """Two queues of UIDs, both served by `--concurrent-gc-syncs` workers."""

    name: ClassVar[str] = "garbage-collector-controller"
    account: ClassVar[str] = "generic-garbage-collector"

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.client = ctx.client_for(self.account)
        self.clock = ctx.clock
        self.graph = Graph()
        self.surface = Surface()
        self.to_delete: WorkQueue[str] = WorkQueue(ctx.clock, name="garbage_collector_attempt_to_delete")
        self.to_orphan: WorkQueue[str] = WorkQueue(ctx.clock, name="garbage_collector_attempt_to_orphan")
        self.recorder = ctx.recorder("garbage-collector-controller")
        self.log = logging.getLogger(f"controllers.{self.name}")
        self._watched: set[tuple[str, str]] = set()
        self._absent: OrderedDict[str, None] = OrderedDict()

    async def run(self) -> None:
        await self._discover_until_it_answers()
        await self._all_synced()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_discovery(), name=f"{self.name}-discovery")
            for number in range(self.ctx.options.concurrent_gc_syncs):
                group.create_task(
                    self._worker(self.to_delete, self.attempt_to_delete), name=f"gc-delete-{number}"
                )
            for number in range(4):
                group.create_task(
                    self._worker(self.to_orphan, self.attempt_to_orphan), name=f"gc-orphan-{number}"
                )

    # -- what exists -----------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Ask what the server serves and watch what is new."""
        surface = await discover(self.client)
        for failure in surface.failures:
            self.log.warning("discovery incomplete: %s", failure)
        if not surface.failures or not self.surface.resources:
            self.surface = surface
        for resource in surface.resources:
            at = (resource.gvr.group, resource.gvr.resource)
            if (
                {"list", "watch", "delete"} <= resource.verbs
                and at not in IGNORED
                and at not in self._watched
            ):
                self._watched.add(at)
                self._watch(resource.gvr)

    def _watch(self, gvr: GVR) -> None:
        def put(obj: Object) -> None:
            self._enqueue(self.graph.put(gvr, obj))

        def gone(obj: Object) -> None:
            self._note_absent(o.uid(obj))
            self._enqueue(self.graph.remove(o.uid(obj)))

        self.ctx.informers.informer(gvr).add_handler(put, lambda _old, new: put(new), gone)

    def _enqueue(self, work: Work) -> None:
        for uid in work.delete:
            self.to_delete.add(uid)
        for uid in work.orphan:
            self.to_orphan.add(uid)

    async def _discover_until_it_answers(self) -> None:
        while True:
            try:
                await self.refresh()
                return
            except (errors.StatusError, ConnectionFailed, TimeoutError) as error:
                self.log.warning("discovery failed, trying again: %s", error)
                await self.clock.sleep(1.0)

    async def _follow_discovery(self) -> None:
        while True:
            await self.clock.sleep(DISCOVERY_PERIOD)
            await self._discover_until_it_answers()

    async def _all_synced(self) -> None:
        """Nothing is judged on half a graph. Says what it waits for; a resource that never syncs is not
        waited for.
        """
        try:
            await self.ctx.informers.wait_synced(60.0)
        except TimeoutError as error:
            self.log.warning("starting without all resources: %s", error)

    # -- workers ---------------------------------------------------------------------------------------------

    async def _worker(self, queue: WorkQueue[str], act: Callable[[str], Awaitable[None]]) -> None:
        while True:
            uid = await queue.get()
            try:
                await act(uid)
                queue.forget(uid)
            except (errors.StatusError, ConnectionFailed, TimeoutError, TryAgain) as error:
                self.log.debug("trying again: %s", error, extra={"uid": uid})
                queue.add_rate_limited(uid)
            except Exception:
                self.log.exception("failed", extra={"uid": uid})
                queue.add_rate_limited(uid)
            finally:
                queue.done(uid)

    async def attempt_to_delete(self, uid: str) -> None:
        """Delete the object if nothing keeps it; bring a foreground deletion forward."""
        node = self.graph.node(uid)
        if node is None or node.virtual or node.identity.resource is None:
            return
        if node.terminating and not node.deleting_dependents:
            return
        live = await self._live(node.identity)
        if live is None:
            self._enqueue(self.graph.remove(uid))
            return
        if node.deleting_dependents:
            await self._advance_foreground(node, live)
            return
        # The graph may not have heard yet that somebody else has asked it to go.
        if o.owner_references(live) and not o.is_terminating(live):
            await self._judge(node, live)

    async def _advance_foreground(self, node: Node, live: Object) -> None:
        blocking = node.blocking
        if not blocking:
            await self._remove_finalizer(node.identity, live, FOREGROUND)
            return
        for dependent in blocking:
            if not dependent.deleting_dependents:
                self.to_delete.add(dependent.identity.uid)

    async def _judge(self, node: Node, live: Object) -> None:
        states: dict[str, list[str]] = {"solid": [], "dangling": [], "waiting": []}
        for reference in o.owner_references(live):
            states[await self._owner_state(node, reference)].append(reference["uid"])
        verdict = judge(node, states["solid"], states["dangling"], states["waiting"])
        gvr = node.identity.resource
        assert gvr is not None
        if verdict.drop:
            kept = [r for r in o.owner_references(live) if r["uid"] not in verdict.drop]
            await self._write_owners(gvr, live, kept)
        if verdict.unblock:
            freed = [{**r, "blockOwnerDeletion": False} for r in o.owner_references(live)]
            live = await self._write_owners(gvr, live, freed) or live
        if verdict.delete:
            self.log.info("deleting %s", node.identity, extra={"policy": verdict.delete})
            # The version is a precondition too: an owner reference added meanwhile must not be overlooked.
            options = {
                "preconditions": {"uid": o.uid(live), "resourceVersion": o.meta(live)["resourceVersion"]},
                "propagationPolicy": verdict.delete,
            }
            call = self.client.delete(gvr, o.name(live), o.namespace(live) or None, options=options)
            await ignore_not_found(call)

    async def _owner_state(self, node: Node, reference: Object) -> str:
        """ "solid", "dangling" or "waiting", from the graph's memory of the dead or from the API."""
        uid = reference["uid"]
        if uid in self._absent:
            return "dangling"
        gvr = self.surface.by_kind(reference["apiVersion"], reference["kind"])
        if gvr is None:
            # Perhaps a custom kind not discovered yet: nothing may be deleted on ignorance.
            raise TryAgain(f"owner kind {reference['apiVersion']}/{reference['kind']} is unknown")
        if gvr.namespaced and not node.identity.namespace:
            self._warn_namespace(node, reference)
            raise TryAgain("a cluster-scoped object cannot have a namespaced owner")
        namespace = node.identity.namespace if gvr.namespaced else None
        owner = await ignore_not_found(self.client.get(gvr, reference["name"], namespace))
        if owner is None or o.uid(owner) != uid:
            self._note_absent_in(uid, gvr, node)
            return "dangling"
        return "waiting" if o.is_terminating(owner) and FOREGROUND in o.finalizers(owner) else "solid"

    def _note_absent_in(self, uid: str, gvr: GVR, node: Node) -> None:
        """Remember an absent owner, unless it lives in another namespace: others may rightly refer to it
        there.
        """
        known = self.graph.node(uid)
        if known is not None and not known.virtual:
            reference = f"owner {known.identity} does not exist in namespace {node.identity.namespace!r}"
            self.recorder.event(
                _involved(node.identity), "Warning", "OwnerRefInvalidNamespace", f"ownerRef: {reference}"
            )
            return
        self._note_absent(uid)

    def _warn_namespace(self, node: Node, reference: Object) -> None:
        text = f"ownerRef [{reference['apiVersion']}/{reference['kind']}, name: {reference['name']}, uid: "
        text += f'{reference["uid"]}] does not exist in namespace ""'
        self.recorder.event(_involved(node.identity), "Warning", "OwnerRefInvalidNamespace", text)

    def _note_absent(self, uid: str) -> None:
        self._absent[uid] = None
        while len(self._absent) > ABSENT_CACHE:
            self._absent.popitem(last=False)

    # -- orphaning -------------------------------------------------------------------------------------------

    async def attempt_to_orphan(self, uid: str) -> None:
        """Take the owner's reference off all its dependents, then let the owner go."""
        node = self.graph.node(uid)
        if node is None or not node.orphaning:
            return
        dependents = list(node.dependents.values())
        await gather_limited(lambda d=d: self._release(d, uid) for d in dependents)  # type: ignore[misc]
        live = await self._live(node.identity)
        if live is not None:
            await self._remove_finalizer(node.identity, live, ORPHAN)

    async def _release(self, dependent: Node, owner_uid: str) -> None:
        live = await self._live(dependent.identity)
        if live is None or dependent.identity.resource is None:
            return
        kept = [r for r in o.owner_references(live) if r["uid"] != owner_uid]
        if len(kept) != len(o.owner_references(live)):
            await self._write_owners(dependent.identity.resource, live, kept)

    # -- writes ----------------------------------------------------------------------------------------------

    async def _live(self, identity: Identity) -> Object | None:
        """The object as the API has it now; None when it is gone or another has its name."""
        assert identity.resource is not None
        found = await ignore_not_found(
            self.client.get(identity.resource, identity.name, identity.namespace or None)
        )
        return found if found is not None and o.uid(found) == identity.uid else None

    async def _write_owners(self, gvr: GVR, live: Object, references: list[Object]) -> Object | None:
        """Replace the owner references of exactly this version of the object (a conflict is tried again)."""
        metadata = {
            "uid": o.uid(live),
            "resourceVersion": o.meta(live)["resourceVersion"],
            "ownerReferences": references or None,
        }
        call = self.client.patch(gvr, o.name(live), {"metadata": metadata}, o.namespace(live) or None)
        return await ignore_not_found(call)

    async def _remove_finalizer(self, identity: Identity, live: Object, finalizer: str) -> None:
        if finalizer not in o.finalizers(live):
            return
        kept = [f for f in o.finalizers(live) if f != finalizer]
        assert identity.resource is not None
        metadata = {
            "uid": o.uid(live),
            "resourceVersion": o.meta(live)["resourceVersion"],
            "finalizers": kept or None,
        }
        patch = {"metadata": metadata}
        await ignore_not_found(
            self.client.patch(identity.resource, identity.name, patch, identity.namespace or None)
        )


def _involved(identity: Identity) -> Object:
    return {
        "apiVersion": identity.api_version,
        "kind": identity.kind,
        "metadata": {"name": identity.name, "namespace": identity.namespace, "uid": identity.uid},
    }
