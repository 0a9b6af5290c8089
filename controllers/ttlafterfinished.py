"""Finished Jobs are deleted `ttlSecondsAfterFinished` after their end (KEP-592)."""

from __future__ import annotations

from typing import ClassVar

from apimachinery import errors
from controllers import objects as o
from controllers.objects import Object
from controllers.runtime import Context, Controller, ignore_not_found
from kubeclient.resources import JOBS


def seconds_left(job: Object, now: float) -> float | None:
    """Seconds the job has left, negative when it is overdue; None when it has no end."""
    ttl = o.spec(job).get("ttlSecondsAfterFinished")
    if ttl is None or o.is_terminating(job):
        return None
    for kind in ("Complete", "Failed"):
        found = o.condition(job, kind)
        if found is not None and found.get("status") == "True":
            return o.parse_time(found.get("lastTransitionTime")) + float(ttl) - now
    return None


class TTLAfterFinishedController(Controller):
    name: ClassVar[str] = "ttl-after-finished-controller"
    account: ClassVar[str] = "ttl-after-finished-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, workers=ctx.options.concurrent_ttl_after_finished_syncs)
        self.jobs = self.watch(JOBS, self.enqueue)

    async def sync(self, key: str) -> float | None:
        job = self.jobs.store.get(key)
        left = seconds_left(job, self.clock.now()) if job is not None else None
        if job is None or left is None:
            return None
        if left > 0:
            return left
        # Asked for once more: the TTL may have been raised since, and deletion cannot be taken back.
        fresh = await ignore_not_found(self.client.get(JOBS, o.name(job), o.namespace(job)))
        left = seconds_left(fresh, self.clock.now()) if fresh is not None else None
        if fresh is None or left is None or left > 0:
            return left
        version = {"uid": o.uid(fresh), "resourceVersion": o.meta(fresh)["resourceVersion"]}
        options = {"propagationPolicy": "Foreground", "preconditions": version}
        try:
            await self.client.delete(JOBS, o.name(job), o.namespace(job), options=options)
        except errors.StatusError as error:
            if not errors.is_not_found(error):
                raise
        return None
