"""What a CronJob does now: which run is due, which finished jobs are history, what its status says. Pure."""

from __future__ import annotations

import datetime as dt
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass

from controllers import objects as o
from controllers.cronjob import schedule as cron
from controllers.objects import Object
from kubeclient.resources import CRONJOBS, JOBS

SCHEDULED_AT = "batch.kubernetes.io/cronjob-scheduled-timestamp"
MANY_MISSED = 100


def verdict(job: Object) -> str:
    """Complete, Failed, or "" while the job is not finished."""
    return next((kind for kind in ("Complete", "Failed") if o.condition_status(job, kind) == "True"), "")


def zone_of(cj: Object) -> dt.tzinfo:
    """Raises zoneinfo.ZoneInfoNotFoundError or ValueError; without a zone it is UTC."""
    name = o.spec(cj).get("timeZone")
    return zoneinfo.ZoneInfo(name) if name else dt.UTC


# -- what has become of the jobs -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Review:
    """The status brought up to date with the jobs there are, and what there is to say about it."""

    status: Object
    events: tuple[tuple[str, str, str], ...] = ()  # (type, reason, message)
    surplus: tuple[Object, ...] = ()  # finished jobs beyond the history limits, oldest first


def compute_review(cj: Object, mine: Sequence[Object], missing: Sequence[str] = ()) -> Review:
    """`mine` are the jobs this CronJob controls, `missing` the UIDs of active ones that the API no longer
    has.

    lastScheduleTime never falls behind a job that is there: should the manager have died after making it, the
    run is not made again once the job has become history.
    """
    status = dict(o.status(cj))
    lost = [ref for ref in status.get("active") or () if ref.get("uid") in missing]
    events = [("Normal", "MissingJob", f"Active job went missing: {ref.get('name')}") for ref in lost]
    active = [ref for ref in status.get("active") or () if ref.get("uid") not in missing]
    for job in sorted(mine, key=o.name):
        listed, ended = any(ref.get("uid") == o.uid(job) for ref in active), verdict(job)
        if listed and ended:
            active = [ref for ref in active if ref.get("uid") != o.uid(job)]
            text = f"Saw completed job: {o.name(job)}, condition: {ended}"
            events.append(("Normal", "SawCompletedJob", text))
        elif not listed and not ended:
            active = [*active, reference(job)]
        if ended == "Complete":
            done = o.status(job).get("completionTime")
            if o.parse_time(done) > o.parse_time(status.get("lastSuccessfulTime")):
                status["lastSuccessfulTime"] = done
        at = _scheduled_time(job)
        if at > o.parse_time(status.get("lastScheduleTime")):
            status["lastScheduleTime"] = o.format_time(at)
    status.pop("active", None)
    if active:
        status["active"] = active
    return Review(status, tuple(events), _surplus(cj, mine))


def _scheduled_time(job: Object) -> float:
    text = o.annotations_of(job).get(SCHEDULED_AT)
    try:
        return dt.datetime.fromisoformat(text).timestamp() if text else 0.0
    except ValueError:
        return 0.0


def _surplus(cj: Object, mine: Sequence[Object]) -> tuple[Object, ...]:
    out: list[Object] = []
    for kind, limit in (("Complete", "successfulJobsHistoryLimit"), ("Failed", "failedJobsHistoryLimit")):
        keep = o.spec(cj).get(limit)
        ended = [job for job in mine if verdict(job) == kind and not o.is_terminating(job)]
        ended.sort(key=lambda job: (o.parse_time(o.status(job).get("startTime")), o.name(job)))
        if keep is not None:
            out += ended[: max(len(ended) - int(keep), 0)]
    return tuple(out)


# -- what is due ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Due:
    """The latest time that was named and has not been acted on; `many` when over a hundred were missed."""

    at: float | None
    many: bool = False


def compute_due(cj: Object, status: Object, plan: cron.Schedule, zone: dt.tzinfo, now: float) -> Due:
    """Looks back to the last run or the creation, but no further than startingDeadlineSeconds."""
    earliest = o.parse_time(status.get("lastScheduleTime")) or o.created_at(cj)
    deadline = o.spec(cj).get("startingDeadlineSeconds")
    if deadline is not None:
        earliest = max(earliest, now - float(deadline))
    first = plan.next_after(earliest, zone)
    if first is None or first > now:
        return Due(None)
    second = plan.next_after(first, zone)
    if second is None or second > now:
        return Due(first)
    latest = _latest(plan, zone, first, second, now)
    return Due(latest, many=(now - first) / max(second - first, 1.0) > MANY_MISSED)


def _latest(plan: cron.Schedule, zone: dt.tzinfo, first: float, second: float, now: float) -> float:
    """The last time not after `now`: start from some periods back instead of counting through a year."""
    if isinstance(plan, cron.Every):
        return first + (now - first) // plan.seconds * plan.seconds
    gap, back = second - first, 2
    at: float = first
    while now - back * gap > first:  # widen until a time lies inside
        candidate = plan.next_after(now - back * gap, zone)
        if candidate is not None and candidate <= now:
            at = candidate
            break
        back *= 2
    while (following := plan.next_after(at, zone)) is not None and following <= now:
        at = following
    return at


def seconds_to_next(plan: cron.Schedule, status: Object, zone: dt.tzinfo, now: float) -> float | None:
    """Until the schedule names its next time. `@every` counts from the last run."""
    since = now
    if isinstance(plan, cron.Every) and status.get("lastScheduleTime"):
        since = max(o.parse_time(status["lastScheduleTime"]), now - plan.seconds)
    following = plan.next_after(since, zone)
    return None if following is None else max(following - now, 0.0) + 0.1


# -- the job -------------------------------------------------------------------------------------------------


def job_name(cj: Object, at: float) -> str:
    """Fixed by the minute it is for, so that one run is never made twice."""
    return f"{o.name(cj)}-{int(at) // 60}"


def build_job(cj: Object, at: float, zone: dt.tzinfo) -> Object:
    template = o.spec(cj)["jobTemplate"]
    stamp = dt.datetime.fromtimestamp(int(at), zone).isoformat().replace("+00:00", "Z")
    metadata: Object = {
        "name": job_name(cj, at),
        "namespace": o.namespace(cj),
        "annotations": {**o.annotations_of(template), SCHEDULED_AT: stamp},
        "ownerReferences": [o.owner_reference(cj, CRONJOBS.api_version, CRONJOBS.kind)],
    }
    if o.labels(template):
        metadata["labels"] = dict(o.labels(template))
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]}


def reference(job: Object) -> Object:
    """An entry of status.active."""
    return {
        "apiVersion": JOBS.api_version,
        "kind": JOBS.kind,
        "name": o.name(job),
        "namespace": o.namespace(job),
        "resourceVersion": str(o.meta(job).get("resourceVersion", "")),
        "uid": o.uid(job),
    }
