"""The StatefulSet loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from apimachinery import errors, selectors
from controllers import history, pods
from controllers import objects as o
from controllers.claims import Claimer
from controllers.objects import Object
from controllers.podcontrol import enqueue_owner, namespace_terminating
from controllers.runtime import (
    SETTLE_RETRY,
    Context,
    Controller,
    TryAgain,
    claimable,
    controlled,
    ignore_not_found,
    in_namespace,
)
from controllers.statefulset import claims as pvc
from controllers.statefulset import identity
from controllers.statefulset.plan import Plan, View, compute_plan, compute_status, revision_for
from kubeclient.resources import CONTROLLERREVISIONS, PERSISTENTVOLUMECLAIMS, PODS, STATEFULSETS
from kubeclient.rest import ConnectionFailed

BATCH = 100  # pods of a Parallel set made or deleted at once


class StatefulSetController(Controller):
    name: ClassVar[str] = "statefulset-controller"
    account: ClassVar[str] = "statefulset-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, workers=ctx.options.concurrent_statefulset_syncs)
        self.sets = self.watch(STATEFULSETS, self.enqueue)
        self.pods = self.watch(PODS, enqueue_owner(self, STATEFULSETS.kind, self._enqueue_adopters))
        self.claims = self.watch(PERSISTENTVOLUMECLAIMS, self._on_claim)
        self.revisions = self.watch(
            CONTROLLERREVISIONS, enqueue_owner(self, STATEFULSETS.kind, lambda _: None)
        )
        self.wrote_pods = self.written_to(PODS)
        self.wrote_claims = self.written_to(PERSISTENTVOLUMECLAIMS)
        self.claimer = Claimer(self.client, STATEFULSETS, PODS)

    async def sync(self, key: str) -> float | None:
        sts = self.sets.store.get(key)
        if sts is None:
            self.wrote_pods.forget(key)
            self.wrote_claims.forget(key)
            return None
        if not (self.wrote_pods.settled(key) and self.wrote_claims.settled(key)):
            return SETTLE_RETRY
        selector = selectors.label_selector_from(o.spec(sts).get("selector"))
        mine = await self.claimer.claim(
            sts,
            lambda pod: selector.matches(o.labels(pod)) and identity.is_member(sts, pod),
            claimable(self.pods, sts),
        )
        by_name, past = await self._revisions(sts, mine)
        view = self._view(sts, mine, by_name)
        failure = await self._step(view, by_name)
        await self._write_status(sts, compute_status(view, o.status(sts).get("collisionCount")))
        await history.drop_surplus(self.client, past)
        if failure is not None:
            raise failure
        return pods.available_in(mine, view.min_ready, view.now)

    # -- what is known ---------------------------------------------------------------------------------------

    async def _revisions(
        self, sts: Object, mine: Sequence[Object]
    ) -> tuple[dict[str, Object], history.History]:
        """The owned revisions by name, the update revision last, and what their history still needs."""
        owned = controlled(self.revisions, o.namespace(sts), o.uid(sts))
        names = {identity.revision_of(pod) for pod in mine} | {o.status(sts).get("currentRevision")}
        in_use = {history.hash_of(r) for r in owned if o.name(r) in names}
        past = history.compute_history(sts, owned, in_use)
        try:
            latest = await history.ensure_current(self.client, sts, STATEFULSETS, past)
        except history.NameCollision as collision:
            count = int(o.status(sts).get("collisionCount") or 0) + 1
            await self._write_status(sts, {"replicas": 0, **o.status(sts), "collisionCount": count})
            raise TryAgain(str(collision)) from collision
        by_name = {o.name(r): r for r in owned if o.name(r) != o.name(latest)}
        return {**by_name, o.name(latest): latest}, past

    def _view(self, sts: Object, mine: Sequence[Object], by_name: dict[str, Object]) -> View:
        update = next(reversed(by_name))
        current = str(o.status(sts).get("currentRevision") or "")
        return View(
            sts=sts,
            mine=mine,
            current=current if current in by_name else update,
            update=update,
            claims={o.name(c): c for c in in_namespace(self.claims, o.namespace(sts))},
            now=self.clock.now(),
        )

    # -- one step --------------------------------------------------------------------------------------------

    async def _step(self, view: View, by_name: dict[str, Object]) -> Exception | None:
        """Carry out the plan; a failure is returned, so that the status is written all the same."""
        try:
            await self._execute(view, compute_plan(view), by_name)
        except errors.StatusError as error:
            return None if namespace_terminating(error) else error
        except (ConnectionFailed, TimeoutError, TryAgain) as error:
            return error
        return None

    async def _execute(self, view: View, plan: Plan, by_name: dict[str, Object]) -> None:
        if not o.is_terminating(view.sts):
            await self._repair(view)
        for pod in plan.restart:
            await self._restart(view.sts, pod)
        for pod in plan.claim_for:
            await self._make_claims(view, identity.ordinal_of(pod))
        for start in range(0, len(plan.create), BATCH):
            batch = plan.create[start : start + BATCH]
            await _all(*(self._create(view, ordinal, by_name) for ordinal in batch))
        for start in range(0, len(plan.delete), BATCH):
            await _all(*(self._delete(view.sts, pod) for pod in plan.delete[start : start + BATCH]))

    async def _repair(self, view: View) -> None:
        """Labels of pods and owners of claims; a condemned pod's claims are handed to it before it goes."""
        key = o.key(view.sts)
        for pod in view.mine:
            for claim in pvc.reowned(view.sts, pod, view.claims):
                written = await ignore_not_found(self.client.update(PERSISTENTVOLUMECLAIMS, claim))
                if written is not None:
                    self.wrote_claims.wrote(key, written)
            fixed = None if o.is_terminating(pod) else identity.repaired(view.sts, pod)
            if fixed is not None:
                self.wrote_pods.wrote(key, await self.client.update(PODS, fixed))

    async def _create(self, view: View, ordinal: int, by_name: dict[str, Object]) -> None:
        sts, revision = view.sts, revision_for(view, ordinal)
        name = identity.pod_name(sts, ordinal)
        going = pvc.terminating(sts, ordinal, view.claims)
        if going:
            text = (
                f"create Pod {name} in StatefulSet {o.name(sts)} failed error: pvc {going} is being deleted"
            )
            self.warn(sts, STATEFULSETS, "FailedCreate", text)
            raise TryAgain(text)
        await self._make_claims(view, ordinal)
        template = by_name[revision]["data"]["spec"]["template"]
        template = {part: value for part, value in template.items() if part != "$patch"}
        try:
            made = await self.client.create(
                PODS, identity.build_pod(sts, template, revision, ordinal), o.namespace(sts)
            )
        except errors.StatusError as error:
            if not errors.is_already_exists(error) and not namespace_terminating(error):
                text = f"create Pod {name} in StatefulSet {o.name(sts)} failed error: {error}"
                self.warn(sts, STATEFULSETS, "FailedCreate", text)
            raise
        self.wrote_pods.wrote(o.key(sts), made)
        text = f"create Pod {name} in StatefulSet {o.name(sts)} successful"
        self.event(sts, STATEFULSETS, "SuccessfulCreate", text)

    async def _make_claims(self, view: View, ordinal: int) -> None:
        sts, pod = view.sts, identity.pod_name(view.sts, ordinal)
        for claim in pvc.missing(sts, ordinal, view.claims):
            where = f"Claim {o.name(claim)} Pod {pod} in StatefulSet {o.name(sts)}"
            try:
                made = await self.client.create(PERSISTENTVOLUMECLAIMS, claim, o.namespace(sts))
            except errors.StatusError as error:
                if errors.is_already_exists(error):
                    continue
                self.warn(sts, STATEFULSETS, "FailedCreate", f"create {where} failed error: {error}")
                raise
            self.wrote_claims.wrote(o.key(sts), made)
            self.event(sts, STATEFULSETS, "SuccessfulCreate", f"create {where} success")

    async def _restart(self, sts: Object, pod: Object) -> None:
        if pods.phase(pod) == "Failed":
            reason, what = "RecreatingFailedPod", "failed"
        else:
            reason, what = "RecreatingTerminatedPod", "terminated"
        self.warn(
            sts, STATEFULSETS, reason, f"StatefulSet {o.key(sts)} is recreating {what} Pod {o.name(pod)}"
        )
        await self._delete(sts, pod)

    async def _delete(self, sts: Object, pod: Object) -> None:
        where = f"delete Pod {o.name(pod)} in StatefulSet {o.name(sts)}"
        options = {"preconditions": {"uid": o.uid(pod)}}
        try:
            await self.client.delete(PODS, o.name(pod), o.namespace(pod), options=options)
        except errors.StatusError as error:
            if not errors.is_not_found(error) and not errors.is_conflict(error):
                self.warn(sts, STATEFULSETS, "FailedDelete", f"{where} failed error: {error}")
                raise
        self.wrote_pods.deleted(o.key(sts), pod)
        self.event(sts, STATEFULSETS, "SuccessfulDelete", f"{where} successful")

    async def _write_status(self, sts: Object, new: Object) -> None:
        if new != o.status(sts):
            await ignore_not_found(
                self.client.update(STATEFULSETS, o.with_status(sts, new), subresource="status")
            )

    def _on_claim(self, claim: Object) -> None:
        """By name: a claim may have any owner or none, and a set waits until a stale one is gone."""
        for sts in in_namespace(self.sets, o.namespace(claim)):
            prefixes = tuple(f"{o.name(t)}-{o.name(sts)}-" for t in identity.claim_templates(sts))
            if o.name(claim).startswith(prefixes):
                self.enqueue(sts)

    def _enqueue_adopters(self, pod: Object) -> None:
        if o.is_terminating(pod):
            return
        for sts in in_namespace(self.sets, o.namespace(pod)):
            if identity.is_member(sts, pod):
                self.enqueue(sts)


async def _all(*calls: object) -> None:
    """Run all; the first failure is raised after every one has ended."""
    results = await asyncio.gather(*calls, return_exceptions=True)  # type: ignore[call-overload]
    for result in results:
        if isinstance(result, BaseException):
            raise result
