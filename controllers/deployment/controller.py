"""The Deployment loop: claim ReplicaSets, decide, take one step, write the status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from apimachinery import errors, selectors
from controllers import objects as o
from controllers import pods
from controllers.claims import Claimer
from controllers.deployment import revisions, rollout
from controllers.deployment import status as st
from controllers.objects import Object
from controllers.podcontrol import enqueue_owner, owner_key
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
from kubeclient.resources import DEPLOYMENTS, PODS, REPLICASETS


class HashCollision(TryAgain):
    """The name for the new ReplicaSet is taken by another template; the next sync hashes differently."""


class DeploymentController(Controller):
    name: ClassVar[str] = "deployment-controller"
    account: ClassVar[str] = "deployment-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, workers=ctx.options.concurrent_deployment_syncs)
        self.deployments = self.watch(DEPLOYMENTS, self.enqueue)
        self.sets = self.watch(REPLICASETS, enqueue_owner(self, DEPLOYMENTS.kind, self._enqueue_adopters))
        self.pods = self.watch(PODS, self._on_pod)
        self.written = self.written_to(REPLICASETS)
        self.claimer = Claimer(self.client, DEPLOYMENTS, REPLICASETS)

    async def sync(self, key: str) -> float | None:
        deployment = self.deployments.store.get(key)
        if deployment is None:
            self.written.forget(key)
            return None
        if not self.written.settled(key):
            return SETTLE_RETRY
        selector = selectors.label_selector_from(o.spec(deployment).get("selector"))
        if selector.is_empty:
            text = "This deployment is selecting all pods. A non-empty selector is required."
            self.warn(deployment, DEPLOYMENTS, "SelectingAll", text)
            return None
        owned = await self.claimer.claim(
            deployment,
            lambda rs: selector.matches(o.labels(rs)),
            claimable(self.sets, deployment),
        )
        noted = st.paused_condition(deployment, self.clock.now())
        if noted is not None:
            deployment = _with_conditions(deployment, noted)
        return await self._step(deployment, owned)

    async def _step(self, deployment: Object, owned: list[Object]) -> float | None:
        """One step towards the wanted state. At most one kind of change per sync; its events bring the
        next.
        """
        if o.is_terminating(deployment):
            return await self._finish(
                deployment, revisions.find_new(deployment, owned), owned, rolling_out=False
            )
        if o.spec(deployment).get("paused") or rollout.is_scaling_event(deployment, owned):
            return await self._scale_only(deployment, owned)
        if rollout.is_rolling(deployment):
            return await self._roll(deployment, owned)
        return await self._recreate(deployment, owned)

    async def _scale_only(self, deployment: Object, owned: list[Object]) -> float | None:
        new = revisions.find_new(deployment, owned)
        owned = await self._apply(
            deployment, rollout.compute_scaling(deployment, new, _others(owned, new)), owned
        )
        new = _again(new, owned)
        if o.spec(deployment).get("paused"):
            await self._clean_up(deployment, _others(owned, new))
        return await self._finish(deployment, new, owned, rolling_out=False)

    async def _roll(self, deployment: Object, owned: list[Object]) -> float | None:
        deployment, new, owned = await self._ensure_new(deployment, owned)
        steps = rollout.compute_rolling(deployment, new, _others(owned, new))
        owned = await self._apply(deployment, steps, owned)
        if not steps and st.is_complete(deployment, o.status(deployment)):
            await self._clean_up(deployment, _others(owned, new))
        return await self._finish(deployment, _again(new, owned), owned, rolling_out=True)

    async def _recreate(self, deployment: Object, owned: list[Object]) -> float | None:
        new = revisions.find_new(deployment, owned)
        steps = rollout.scale_to_zero(_others(owned, new))
        if steps:
            owned = await self._apply(deployment, steps, owned)
            return await self._finish(deployment, _again(new, owned), owned, rolling_out=True)
        if self._old_pods_run(deployment, _others(owned, new)):
            return await self._finish(deployment, new, owned, rolling_out=True)
        deployment, new, owned = await self._ensure_new(deployment, owned)
        size = o.replicas(deployment)
        if o.replicas(new) != size:
            owned = await self._apply(deployment, [rollout.Scale(o.name(new), o.replicas(new), size)], owned)
        elif st.is_complete(deployment, o.status(deployment)):
            await self._clean_up(deployment, _others(owned, new))
        return await self._finish(deployment, _again(new, owned), owned, rolling_out=True)

    def _old_pods_run(self, deployment: Object, old: Sequence[Object]) -> bool:
        """A pod of an old template that has not finished, terminating ones included (Recreate never
        overlaps).
        """
        namespace = o.namespace(deployment)
        left = (pod for rs in old for pod in controlled(self.pods, namespace, o.uid(rs)))
        return any(not pods.is_finished(pod) for pod in left)

    # -- the new ReplicaSet ----------------------------------------------------------------------------------

    async def _ensure_new(
        self, deployment: Object, owned: list[Object]
    ) -> tuple[Object, Object, list[Object]]:
        """The ReplicaSet of the current template, made if need be, with its revision written on both
        objects.
        """
        new = revisions.find_new(deployment, owned)
        number = revisions.max_revision(_others(owned, new)) + 1
        if new is None:
            deployment, new = await self._create_new(deployment, owned, number)
            owned = [*(rs for rs in owned if o.uid(rs) != o.uid(new)), new]
        else:
            new = await self._renew(deployment, new, number)
            owned = [new if o.uid(rs) == o.uid(new) else rs for rs in owned]
            conditions = o.status(deployment).get("conditions") or []
            if st.has_deadline(deployment) and o.find_condition(conditions, st.PROGRESSING) is None:
                text = f'Found new replica set "{o.name(new)}"'
                deployment = self._note(deployment, "True", "FoundNewReplicaSet", text)
        return await self._write_revision(deployment, revisions.revision(new)), new, owned

    async def _renew(self, deployment: Object, new: Object, number: int) -> Object:
        wanted = revisions.renewed_annotations(deployment, new, number)
        min_ready = int(o.spec(deployment).get("minReadySeconds") or 0)
        if wanted == o.annotations_of(new) and min_ready == int(o.spec(new).get("minReadySeconds") or 0):
            return new
        changed = {
            **new,
            "metadata": {**o.meta(new), "annotations": wanted},
            "spec": {**o.spec(new), "minReadySeconds": min_ready},
        }
        answer = await self.client.update(REPLICASETS, changed)
        self.written.wrote(o.key(deployment), answer)
        return answer

    async def _create_new(
        self, deployment: Object, owned: list[Object], number: int
    ) -> tuple[Object, Object]:
        reference = o.owner_reference(deployment, DEPLOYMENTS.api_version, DEPLOYMENTS.kind)
        size = rollout.new_size(deployment, None, owned)
        body = revisions.build_new(
            deployment, reference, size=size, maximum=rollout.maximum(deployment), new_revision=number
        )
        try:
            created = await self.client.create(REPLICASETS, body, o.namespace(deployment))
        except errors.StatusError as error:
            if errors.is_already_exists(error):
                return deployment, await self._existing(deployment, body)
            await self._note_create_error(deployment, owned, body, error)
            raise
        self.written.wrote(o.key(deployment), created)
        if size > 0:
            text = f"Scaled up replica set {o.name(created)} from 0 to {size}"
            self.event(deployment, DEPLOYMENTS, "ScalingReplicaSet", text)
        text = f'Created new replica set "{o.name(created)}"'
        return self._note(deployment, "True", "NewReplicaSetCreated", text), created

    async def _existing(self, deployment: Object, body: Object) -> Object:
        """Somebody has the name: this controller before a crash (take it), or a hash collision (count it)."""
        found = await self.client.get(REPLICASETS, o.name(body), o.namespace(deployment))
        same = revisions.same_template(o.spec(found)["template"], o.spec(body)["template"])
        if same and o.is_controlled_by(found, deployment):
            return found
        count = int(o.status(deployment).get("collisionCount") or 0) + 1
        bumped = {**o.status(deployment), "collisionCount": count}
        await self.client.update(DEPLOYMENTS, o.with_status(deployment, bumped), subresource="status")
        raise HashCollision(o.name(body))

    async def _note_create_error(
        self, deployment: Object, owned: list[Object], body: Object, error: errors.StatusError
    ) -> None:
        text = f'Failed to create new replica set "{o.name(body)}": {error}'
        noted = self._note(deployment, "False", "ReplicaSetCreateError", text)
        await self._finish(noted, None, owned, rolling_out=False)

    async def _write_revision(self, deployment: Object, number: int) -> Object:
        """The revision annotation on the Deployment itself, which `kubectl rollout` reads."""
        if revisions.revision(deployment) == number:
            return deployment
        annotations = {**o.annotations_of(deployment), revisions.REVISION: str(number)}
        body = {**deployment, "metadata": {**o.meta(deployment), "annotations": annotations}}
        answer = await self.client.update(DEPLOYMENTS, body)
        return {**deployment, "metadata": o.meta(answer)}

    def _note(self, deployment: Object, status: str, reason: str, message: str) -> Object:
        if not st.has_deadline(deployment):
            return deployment
        fresh = st.make_condition(st.PROGRESSING, status, reason, message, self.clock.now())
        return _with_conditions(
            deployment, st.put_condition(o.status(deployment).get("conditions") or [], fresh)
        )

    # -- carrying out ----------------------------------------------------------------------------------------

    async def _apply(
        self, deployment: Object, steps: Sequence[rollout.Scale], owned: list[Object]
    ) -> list[Object]:
        """Scale ReplicaSets; `owned` with the answers in place of what was changed."""
        by_name = {o.name(rs): rs for rs in owned}
        desired, maximum = o.replicas(deployment), rollout.maximum(deployment)
        for step in steps:
            rs = by_name[step.name]
            annotations = revisions.size_annotations(rs, desired=desired, maximum=maximum)
            if step.size == step.before and annotations == o.annotations_of(rs):
                continue
            changed = {
                **rs,
                "metadata": {**o.meta(rs), "annotations": annotations},
                "spec": {**o.spec(rs), "replicas": step.size},
            }
            by_name[step.name] = await self.client.update(REPLICASETS, changed)
            self.written.wrote(o.key(deployment), by_name[step.name])
            if step.size != step.before:
                way = "up" if step.size > step.before else "down"
                text = f"Scaled {way} replica set {step.name} from {step.before} to {step.size}"
                self.event(deployment, DEPLOYMENTS, "ScalingReplicaSet", text)
        return [by_name[o.name(rs)] for rs in owned]

    async def _clean_up(self, deployment: Object, old: Sequence[Object]) -> None:
        for rs in revisions.obsolete(deployment, old):
            options = {"preconditions": {"uid": o.uid(rs)}, "propagationPolicy": "Background"}
            call = self.client.delete(REPLICASETS, o.name(rs), o.namespace(rs), options=options)
            if await ignore_not_found(call) is not None:
                self.written.deleted(o.key(deployment), rs)

    async def _finish(
        self, deployment: Object, new: Object | None, owned: Sequence[Object], *, rolling_out: bool
    ) -> float | None:
        now = self.clock.now()
        fresh = st.compute_status(deployment, new, _others(owned, new), now, rolling_out=rolling_out)
        cached = self.deployments.store.get(o.key(deployment))
        if cached is None or fresh != o.status(cached):
            await ignore_not_found(
                self.client.update(DEPLOYMENTS, o.with_status(deployment, fresh), subresource="status")
            )
        return st.deadline_in(deployment, fresh, now) if rolling_out else None

    # -- waking up -------------------------------------------------------------------------------------------

    def _enqueue_adopters(self, rs: Object) -> None:
        if o.is_terminating(rs):
            return
        for deployment in in_namespace(self.deployments, o.namespace(rs)):
            if selectors.label_selector_from(o.spec(deployment).get("selector")).matches(o.labels(rs)):
                self.enqueue(deployment)

    def _on_pod(self, pod: Object) -> None:
        """A Recreate rollout waits for old pods to be gone; nothing else here depends on single pods."""
        set_key = owner_key(pod, REPLICASETS.kind)
        rs = self.sets.store.get(set_key) if set_key else None
        key = owner_key(rs, DEPLOYMENTS.kind) if rs else None
        deployment = self.deployments.store.get(key) if key else None
        if deployment is not None and not rollout.is_rolling(deployment):
            self.enqueue(deployment)


def _others(owned: Sequence[Object], new: Object | None) -> list[Object]:
    return [rs for rs in owned if new is None or o.uid(rs) != o.uid(new)]


def _again(new: Object | None, owned: Sequence[Object]) -> Object | None:
    """The new ReplicaSet as it is after a step."""
    return None if new is None else next((rs for rs in owned if o.uid(rs) == o.uid(new)), new)


def _with_conditions(deployment: Object, conditions: list[Object]) -> Object:
    return o.with_status(deployment, {**o.status(deployment), "conditions": conditions})
