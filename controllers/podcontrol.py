"""Creating and deleting pods on behalf of an owner, with events, slow start and read-your-own-writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from apimachinery import errors
from controllers import objects as o
from controllers import pods
from controllers.objects import Object
from controllers.runtime import Controller
from controllers.written import Written
from kubeclient.resources import GVR, PODS

SLOW_START = 1  # the first batch of creations; each following one is twice as large


def slow_start_batches(count: int, initial: int = SLOW_START) -> Iterator[int]:
    """1, 2, 4, ... adding up to `count`: a quota or a bad template fails one request, not five hundred."""
    size = initial
    while count > 0:
        batch = min(size, count)
        yield batch
        count -= batch
        size *= 2


@dataclass(frozen=True, slots=True)
class PodControl:
    """Pod writes of one controller. Every write is remembered in `written` under the owner's key."""

    controller: Controller
    owner_gvr: GVR
    written: Written

    async def create(
        self, owner: Object, template: Object, *, pod_name: str = "", prefix: str = ""
    ) -> Object:
        """Create one pod of `owner` from `template`; records SuccessfulCreate or FailedCreate."""
        reference = o.owner_reference(owner, self.owner_gvr.api_version, self.owner_gvr.kind)
        pod = pods.from_template(template, owner, reference, pod_name=pod_name, prefix=prefix)
        try:
            created = await self.controller.client.create(PODS, pod, o.namespace(owner))
        except errors.StatusError as error:
            # A namespace going away refuses new content; that is no news worth an event.
            if not namespace_terminating(error):
                self.controller.warn(owner, self.owner_gvr, "FailedCreate", f"Error creating: {error}")
            raise
        self.written.wrote(o.key(owner), created)
        self.controller.event(owner, self.owner_gvr, "SuccessfulCreate", f"Created pod: {o.name(created)}")
        return created

    async def create_many(
        self, owner: Object, templates: Sequence[Object], prefixes: Sequence[str] = ()
    ) -> None:
        """Create a pod per template in slow-start batches; a batch with a failure is the last, and its error
        is raised. `prefixes`, if given, holds each pod's generateName.
        """
        start, named = 0, prefixes or [""] * len(templates)
        pairs = list(zip(templates, named, strict=True))
        for size in slow_start_batches(len(templates)):
            batch = [self.create(owner, one, prefix=prefix) for one, prefix in pairs[start : start + size]]
            failure = _first_failure(await asyncio.gather(*batch, return_exceptions=True))
            if isinstance(failure, errors.StatusError) and namespace_terminating(failure):
                return  # the namespace takes its owner along; there is nothing to try again
            if failure is not None:
                raise failure
            start += size

    async def delete(self, owner: Object, pod: Object) -> None:
        """Delete exactly this pod (by UID); one already gone is fine. Records SuccessfulDelete or
        FailedDelete.
        """
        try:
            await self.controller.client.delete(
                PODS, o.name(pod), o.namespace(pod), options={"preconditions": {"uid": o.uid(pod)}}
            )
        except errors.StatusError as error:
            if errors.is_not_found(error) or errors.is_conflict(error):
                self.written.deleted(o.key(owner), pod)
                return
            self.controller.warn(owner, self.owner_gvr, "FailedDelete", f"Error deleting: {error}")
            raise
        self.written.deleted(o.key(owner), pod)
        self.controller.event(owner, self.owner_gvr, "SuccessfulDelete", f"Deleted pod: {o.name(pod)}")

    async def delete_many(self, owner: Object, victims: Sequence[Object]) -> None:
        """Delete all of them; the first error is raised after every one was tried."""
        results = await asyncio.gather(*(self.delete(owner, pod) for pod in victims), return_exceptions=True)
        failure = _first_failure(results)
        if failure is not None:
            raise failure


def owner_key(pod: Object, kind: str) -> str | None:
    """The work-queue key of the pod's controller when that is of `kind`."""
    reference = o.controller_of(pod)
    if reference is None or reference.get("kind") != kind:
        return None
    return f"{o.namespace(pod)}/{reference['name']}"


def enqueue_owner(
    controller: Controller, kind: str, orphan: Callable[[Object], None]
) -> Callable[[Object], None]:
    """A handler that wakes the owner of a dependent, or `orphan` (whoever may adopt it) when it has none."""

    def handle(dependent: Object) -> None:
        key = owner_key(dependent, kind)
        if key is not None:
            controller.queue.add(key)
        elif o.controller_of(dependent) is None:
            orphan(dependent)

    return handle


def namespace_terminating(error: errors.StatusError) -> bool:
    """The API refused new content in a namespace that is going away."""
    causes = (error.status.get("details") or {}).get("causes") or ()
    return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


def _first_failure(results: Sequence[object]) -> Exception | None:
    for result in results:
        if isinstance(result, asyncio.CancelledError):
            raise result
    return next((result for result in results if isinstance(result, Exception)), None)
