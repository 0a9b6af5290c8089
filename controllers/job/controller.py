"""The Job loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from apimachinery import errors, selectors
from controllers import objects as o
from controllers.claims import Claimer
from controllers.job import plan as jp
from controllers.job import tally as jt
from controllers.objects import Object
from controllers.podcontrol import PodControl, enqueue_owner
from controllers.runtime import (
    SETTLE_RETRY,
    Context,
    Controller,
    claimable,
    ignore_not_found,
    in_namespace,
)
from kubeclient.resources import JOBS, PODS
from kubeclient.rest import ConnectionFailed

MANAGED_HERE = "kubernetes.io/job-controller"
ORPHAN = "orphan:"  # prefix of keys that name a pod left without its job


class JobController(Controller):
    name: ClassVar[str] = "job-controller"
    account: ClassVar[str] = "job-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, workers=ctx.options.concurrent_job_syncs)
        self.jobs = self.watch(JOBS, self.enqueue)
        self.pods = self.watch(PODS, enqueue_owner(self, JOBS.kind, self._on_orphan))
        self.wrote_jobs = self.written_to(JOBS)
        self.wrote_pods = self.written_to(PODS)
        self.control = PodControl(self, JOBS, self.wrote_pods)
        self.claimer = Claimer(self.client, JOBS, PODS, jt.FINALIZER)

    async def sync(self, key: str) -> float | None:
        if key.startswith(ORPHAN):
            await self._let_go(self.pods.store.get(key.removeprefix(ORPHAN)))
            return None
        job = self.jobs.store.get(key)
        if job is None:
            self.wrote_jobs.forget(key)
            self.wrote_pods.forget(key)
            await self._release_all(key)
            return None
        if jp.is_finished(job) or (o.spec(job).get("managedBy") or MANAGED_HERE) != MANAGED_HERE:
            return None
        if not (self.wrote_jobs.settled(key) and self.wrote_pods.settled(key)):
            return SETTLE_RETRY
        selector = selectors.label_selector_from(o.spec(job).get("selector"))
        mine = await self.claimer.claim(
            job, lambda pod: selector.matches(o.labels(pod)), claimable(self.pods, job)
        )
        return await self._sync_job(job, mine)

    async def _sync_job(self, job: Object, mine: Sequence[Object]) -> float | None:
        now = self.clock.now()
        tally = jt.compute_tally(job, mine)
        over = jp.compute_ending(job, tally, mine, now)
        plan = jp.compute_plan(job, tally, mine, over, now)
        failure: Exception | None = None
        try:
            await self._execute(job, plan, mine)
        except (errors.StatusError, ConnectionFailed, TimeoutError) as error:
            failure = error
        made = plan.create if failure is None else 0
        active = len(tally.active) + made - len(plan.discard) - len(plan.end)
        status = jp.compute_status(job, tally, over, active, now)
        await self._write_status(job, status)
        # Only now, that the status names them, may the counted pods go.
        await self._release(o.key(job), tally.release)
        if failure is not None:
            raise failure
        deadline = jp.deadline_left(o.with_status(job, status), now)
        return min((max(w, 0.0) for w in (plan.wait, deadline) if w is not None), default=None)

    async def _execute(self, job: Object, plan: jp.Plan, mine: Sequence[Object]) -> None:
        if plan.discard:
            await self._release(o.key(job), plan.discard)
            await self.control.delete_many(job, plan.discard)
        if plan.end:
            await self.control.delete_many(job, plan.end)
        if plan.create:
            before = jt.last_failed(job, mine) if jt.per_index(job) else {}
            places: Sequence[int | None] = plan.indexes or [None] * plan.create
            templates = [jp.build_template(job, place, before.get(place or 0)) for place in places]
            prefixes = [jp.name_prefix(job, place) for place in places]
            await self.control.create_many(job, templates, prefixes)

    async def _write_status(self, job: Object, new: Object) -> None:
        old = o.status(job)
        if new == {"uncountedTerminatedPods": {}, "ready": 0, "terminating": 0, **old}:
            return
        written = await ignore_not_found(
            self.client.update(JOBS, o.with_status(job, new), subresource="status")
        )
        if written is None:
            return
        self.wrote_jobs.wrote(o.key(job), written)
        self._announce(job, old, new)

    def _announce(self, job: Object, old: Object, new: Object) -> None:
        """Events for what changed in the conditions."""
        before = {(c["type"], c["status"]) for c in old.get("conditions") or ()}
        for condition in new.get("conditions") or ():
            if (condition["type"], condition["status"]) in before:
                continue
            match condition["type"], condition["status"]:
                case "Suspended", "True":
                    self.event(job, JOBS, "Suspended", "Job suspended")
                case "Suspended", "False":
                    self.event(job, JOBS, "Resumed", "Job resumed")
                case "Complete", "True":
                    self.event(job, JOBS, "Completed", "Job completed")
                case "Failed", "True":
                    self.warn(job, JOBS, condition["reason"], condition["message"])

    # -- finalizers ------------------------------------------------------------------------------------------

    async def _release(self, key: str, released: Sequence[Object]) -> None:
        results = await asyncio.gather(
            *(self._remove_finalizer(key, pod) for pod in released if jt.is_tracked(pod)),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _remove_finalizer(self, key: str, pod: Object) -> None:
        """Bound to the version that was read: a finalizer somebody else adds meanwhile stays."""
        kept = [name for name in o.finalizers(pod) if name != jt.FINALIZER]
        body = {
            "metadata": {
                "uid": o.uid(pod),
                "resourceVersion": o.meta(pod)["resourceVersion"],
                "finalizers": kept or None,
            }
        }
        try:
            written = await self.client.patch(PODS, o.name(pod), body, o.namespace(pod))
        except errors.StatusError as error:
            if errors.is_not_found(error):
                return
            raise
        self.wrote_pods.wrote(key, written)

    async def _release_all(self, key: str) -> None:
        """The job is gone: nobody counts its pods any more."""
        namespace, name = o.split_key(key)
        for pod in in_namespace(self.pods, namespace):
            owner = o.controller_of(pod)
            if jt.is_tracked(pod) and owner and owner.get("kind") == JOBS.kind and owner.get("name") == name:
                await self._remove_finalizer(key, pod)
        self.wrote_pods.forget(key)

    async def _let_go(self, pod: Object | None) -> None:
        if pod is not None and jt.is_tracked(pod) and o.controller_of(pod) is None:
            key = ORPHAN + o.key(pod)
            await self._remove_finalizer(key, pod)
            self.wrote_pods.forget(key)

    def _on_orphan(self, pod: Object) -> None:
        """Orphaned when its job was deleted; or one that a job with a manual selector may adopt."""
        if jt.is_tracked(pod):
            self.queue.add(ORPHAN + o.key(pod))
        if o.is_terminating(pod):
            return
        for job in in_namespace(self.jobs, o.namespace(pod)):
            if selectors.label_selector_from(o.spec(job).get("selector")).matches(o.labels(pod)):
                self.enqueue(job)
