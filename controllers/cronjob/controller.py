"""The CronJob loop."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Sequence
from email.utils import format_datetime
from typing import ClassVar

from apimachinery import errors
from controllers import objects as o
from controllers.cronjob import plan as cp
from controllers.cronjob import schedule as cron
from controllers.objects import Object
from controllers.podcontrol import enqueue_owner, namespace_terminating
from controllers.runtime import SETTLE_RETRY, Context, Controller, controlled, ignore_not_found
from kubeclient.resources import CRONJOBS, JOBS

TOO_MANY = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
FORBIDDEN = "Not starting job because prior execution is running and concurrency policy is Forbid"


class CronJobController(Controller):
    name: ClassVar[str] = "cronjob-controller"
    account: ClassVar[str] = "cronjob-controller"

    def __init__(self, ctx: Context) -> None:
        super().__init__(ctx, workers=ctx.options.concurrent_cron_job_syncs)
        self.crons = self.watch(CRONJOBS, self.enqueue)
        self.jobs = self.watch(JOBS, enqueue_owner(self, CRONJOBS.kind, lambda _: None))
        self.wrote_jobs = self.written_to(JOBS)
        self.wrote_crons = self.written_to(CRONJOBS)

    async def sync(self, key: str) -> float | None:
        cj = self.crons.store.get(key)
        if cj is None:
            self.wrote_jobs.forget(key)
            self.wrote_crons.forget(key)
            return None
        if not (self.wrote_jobs.settled(key) and self.wrote_crons.settled(key)):
            return SETTLE_RETRY
        mine = controlled(self.jobs, o.namespace(cj), o.uid(cj))
        review = cp.compute_review(cj, mine, await self._missing(cj, mine))
        for kind, reason, message in review.events:
            self.event(cj, CRONJOBS, reason, message, kind)
        if review.status != o.status(cj):
            written = await self._write_status(cj, review.status)
            if written is None:
                return None
            cj = written
        for job in review.surplus:
            await self._delete_job(cj, job)
        if o.is_terminating(cj) or o.spec(cj).get("suspend"):
            return None
        return await self._run(cj)

    async def _missing(self, cj: Object, mine: Sequence[Object]) -> list[str]:
        """UIDs listed as active that neither the cache nor the API has."""
        known, out = {o.uid(job) for job in mine}, []
        for ref in o.status(cj).get("active") or ():
            if ref.get("uid") in known:
                continue
            found = await ignore_not_found(self.client.get(JOBS, ref["name"], o.namespace(cj)))
            if found is None or o.uid(found) != ref.get("uid"):
                out.append(ref.get("uid", ""))
        return out

    async def _run(self, cj: Object) -> float | None:
        """Start what is due; the seconds until the next time."""
        text, now = o.spec(cj).get("schedule", ""), self.clock.now()
        try:
            zone = cp.zone_of(cj)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError) as error:
            message = f'invalid timeZone: "{o.spec(cj).get("timeZone")}": {error}'
            self.warn(cj, CRONJOBS, "UnknownTimeZone", message)
            return None
        try:
            plan = cron.parse(text)
        except cron.BadSchedule as error:
            self.warn(cj, CRONJOBS, "UnparseableSchedule", f'unparseable schedule: "{text}" : {error}')
            return None
        due = cp.compute_due(cj, o.status(cj), plan, zone, now)
        if due.many:
            self.warn(cj, CRONJOBS, "TooManyMissedTimes", TOO_MANY)
        if due.at is not None:
            cj = await self._start(cj, due.at, zone, now) or cj
        return cp.seconds_to_next(plan, o.status(cj), zone, now)

    async def _start(self, cj: Object, at: float, zone: dt.tzinfo, now: float) -> Object | None:
        """Make the job of one time if policy and deadline allow; the CronJob with its new status."""
        deadline, active = o.spec(cj).get("startingDeadlineSeconds"), o.status(cj).get("active") or []
        if deadline is not None and at + float(deadline) < now:
            when = format_datetime(dt.datetime.fromtimestamp(int(at), zone))
            self.warn(cj, CRONJOBS, "MissSchedule", f"Missed scheduled time to start a job: {when}")
            return None
        policy = o.spec(cj).get("concurrencyPolicy", "Allow")
        if policy == "Forbid" and active:
            self.event(cj, CRONJOBS, "JobAlreadyActive", FORBIDDEN)
            return None
        if policy == "Replace":
            for ref in active:
                await self._delete_job(cj, {"metadata": {**ref}})
            active = []
        job = await self._create_job(cj, at, zone)
        if job is None:
            return None
        status = {
            **o.status(cj),
            "active": [*(ref for ref in active if ref.get("uid") != o.uid(job)), cp.reference(job)],
            "lastScheduleTime": o.format_time(at),
        }
        return await self._write_status(cj, status)

    async def _create_job(self, cj: Object, at: float, zone: dt.tzinfo) -> Object | None:
        """The job of that time; one that a predecessor made is as good. None when the namespace goes."""
        body = cp.build_job(cj, at, zone)
        try:
            job = await self.client.create(JOBS, body, o.namespace(cj))
        except errors.StatusError as error:
            if namespace_terminating(error):
                return None
            if not errors.is_already_exists(error):
                self.warn(cj, CRONJOBS, "FailedCreate", f"Error creating job: {error}")
                raise
            job = await self.client.get(JOBS, o.name(body), o.namespace(cj))
            if not o.is_controlled_by(job, cj):
                self.warn(cj, CRONJOBS, "FailedCreate", f"Error creating job: {error}")
                raise
            return job
        self.wrote_jobs.wrote(o.key(cj), job)
        self.event(cj, CRONJOBS, "SuccessfulCreate", f"Created job {o.name(job)}")
        return job

    async def _delete_job(self, cj: Object, job: Object) -> None:
        options = {"propagationPolicy": "Background", "preconditions": {"uid": o.uid(job)}}
        try:
            await self.client.delete(JOBS, o.name(job), o.namespace(cj), options=options)
        except errors.StatusError as error:
            if not errors.is_not_found(error) and not errors.is_conflict(error):
                self.warn(cj, CRONJOBS, "FailedDelete", f"Deleted job: {error}")
                raise
            return
        self.wrote_jobs.deleted(o.key(cj), job)
        self.event(cj, CRONJOBS, "SuccessfulDelete", f"Deleted job {o.name(job)}")

    async def _write_status(self, cj: Object, status: Object) -> Object | None:
        written = await ignore_not_found(
            self.client.update(CRONJOBS, o.with_status(cj, status), subresource="status")
        )
        if written is not None:
            self.wrote_crons.wrote(o.key(cj), written)
        return written
