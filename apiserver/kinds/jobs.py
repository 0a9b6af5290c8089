"""Jobs and CronJobs."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterator, Mapping
from typing import Any

from apimachinery import field, meta
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common, jobpolicies
from apiserver.kinds.common import NONE, Since, column, spec_of, status_of
from apiserver.kinds.podrules import validate_template
from apiserver.kinds.podspec import default_template

BACKOFF_LIMIT = 6
RESTART_POLICIES = ("OnFailure", "Never")
MAX_INDEXED = 100_000
IMMUTABLE = (
    *("selector", "completionMode", "podFailurePolicy", "successPolicy"),
    *("backoffLimitPerIndex", "managedBy"),
)
_UID_LABELS = ("batch.kubernetes.io/controller-uid", "controller-uid")
_NAME_LABELS = ("batch.kubernetes.io/job-name", "job-name")


# -- Job ----------------------------------------------------------------------------------------------------


def _default(job: Object) -> None:
    spec = common.spec_for(job)
    default_template(spec.setdefault("template", {}))
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = 1
    spec.setdefault("parallelism", 1)
    spec.setdefault("backoffLimit", 2**31 - 1 if "backoffLimitPerIndex" in spec else BACKOFF_LIMIT)
    spec.setdefault("completionMode", "NonIndexed")
    spec.setdefault("suspend", False)
    if "podReplacementPolicy" not in spec:
        spec["podReplacementPolicy"] = "Failed" if "podFailurePolicy" in spec else "TerminatingOrFailed"
    labels = common.dig(spec, "template", "metadata", "labels")
    if labels:
        job.setdefault("metadata", {}).setdefault("labels", dict(labels))


def _prepare_create(job: Object) -> None:
    """A job selects its pods by its own uid, unless told to leave the selector alone."""
    job["status"] = {}
    spec = spec_of(job)
    uid, name = meta.uid_of(job), meta.name_of(job)
    if spec.get("manualSelector") or not uid:
        return
    labels = spec["template"].setdefault("metadata", {}).setdefault("labels", {})
    labels.update(dict.fromkeys(_UID_LABELS, uid))
    labels.update(dict.fromkeys(_NAME_LABELS, name))
    spec.setdefault("selector", {}).setdefault("matchLabels", {})[_UID_LABELS[0]] = uid


def validate_job_spec(spec: Mapping[str, Any], path: str) -> Iterator[Cause]:
    """The rules that a Job and the template in a CronJob share."""
    for name in (
        "parallelism",
        "completions",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "activeDeadlineSeconds",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ):
        yield from common.non_negative(f"{path}.{name}", spec.get(name))
    mode = spec.get("completionMode")
    if mode:
        yield from common.one_of(f"{path}.completionMode", mode, ("Indexed", "NonIndexed"))
    if mode == "Indexed":
        if spec.get("completions") is None:
            yield field.required(f"{path}.completions", "when completion mode is Indexed")
        if (spec.get("parallelism") or 0) > MAX_INDEXED:
            detail = f"must be less than or equal to {MAX_INDEXED} when completion mode is Indexed"
            yield field.invalid(f"{path}.parallelism", spec["parallelism"], detail)
    yield from jobpolicies.validate(spec, path)
    template = spec.get("template") or {}
    yield from validate_template(template, f"{path}.template")
    policy = (template.get("spec") or {}).get("restartPolicy")
    if policy not in RESTART_POLICIES:
        yield field.required(f"{path}.template.spec.restartPolicy", 'valid values: "OnFailure", "Never"')


def _validate(job: Object) -> Iterator[Cause]:
    yield from validate_job_spec(spec_of(job), "spec")


def _validate_update(new: Object, old: Object) -> Iterator[Cause]:
    yield from _validate(new)
    fresh, stored = spec_of(new), spec_of(old)
    indexed = stored.get("completionMode") == "Indexed" and fresh.get("completions") == fresh.get(
        "parallelism"
    )
    if not indexed:
        yield from common.immutable("spec.completions", fresh.get("completions"), stored.get("completions"))
    for name in IMMUTABLE:
        yield from common.immutable(f"spec.{name}", fresh.get(name), stored.get(name))
    if not (stored.get("suspend") and not status_of(old).get("startTime")):
        yield from common.immutable("spec.template", fresh.get("template"), stored.get("template"))


def _has(job: Object, condition: str) -> bool:
    conditions = status_of(job).get("conditions") or ()
    return any(item.get("type") == condition and item.get("status") == "True" for item in conditions)


def _status(job: Object) -> str:
    for condition, shown in (("Complete", "Complete"), ("Failed", "Failed")):
        if _has(job, condition):
            return shown
    if meta.is_deleting(job):
        return "Terminating"
    if _has(job, "Suspended"):
        return "Suspended"
    return "FailureTarget" if _has(job, "FailureTarget") else "Running"


def _completions(job: Object) -> str:
    spec, done = spec_of(job), status_of(job).get("succeeded", 0)
    if spec.get("completions") is not None:
        return f"{done}/{spec['completions']}"
    parallel = spec.get("parallelism") or 0
    return f"{done}/1 of {parallel}" if parallel > 1 else f"{done}/1"


def _duration(job: Object) -> Since | str:
    status = status_of(job)
    if not status.get("startTime"):
        return ""
    return Since(status["startTime"], until=status.get("completionTime"))


def _fields(job: Object) -> Mapping[str, str]:
    return {"status.successful": str(status_of(job).get("succeeded", 0))}


JOB = Kind(
    group="batch",
    version="v1",
    kind="Job",
    resource="jobs",
    namespaced=True,
    storage_prefix="jobs",
    singular="job",
    categories=common.ALL,
    subresources=("status",),
    columns=(
        common.NAME,
        column("Status", _status),
        column("Completions", _completions),
        column("Duration", _duration),
        common.AGE,
        common.CONTAINERS,
        common.IMAGES,
        common.SELECTOR,
    ),
    strategy=Strategy(
        default=_default,
        prepare_create=_prepare_create,
        prepare_update=common.keep_status,
        validate=_validate,
        validate_update=_validate_update,
        status_prepare_update=common.keep_spec,
        fields=_fields,
        default_propagation="Orphan",
    ),
    selectable_fields=("status.successful",),
)


# -- CronJob ------------------------------------------------------------------------------------------------

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
# minute, hour, day of month, month, day of week: lowest, highest, names from the lowest on
_CRON_FIELDS: tuple[tuple[int, int, list[str]], ...] = (
    (0, 59, []),
    (0, 23, []),
    (1, 31, []),
    (1, 12, _MONTHS),
    (0, 6, _DAYS),
)
_NICKNAMES = frozenset({"@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"})


def cron_problem(schedule: str) -> str | None:
    """What is wrong with a cron schedule (five fields, a nickname, or `@every <duration>`); None when nothing
    is.
    """
    if schedule.startswith("@"):
        every = re.fullmatch(r"@every (\d+(\.\d+)?(h|m|s|ms))+", schedule)
        return None if schedule in _NICKNAMES or every else f"unrecognized descriptor: {schedule}"
    parts = schedule.split()
    if len(parts) != len(_CRON_FIELDS):
        return f"expected exactly 5 fields, found {len(parts)}: [{' '.join(parts)}]"
    for part, (low, high, names) in zip(parts, _CRON_FIELDS, strict=True):
        for item in part.split(","):
            if problem := _range_problem(item, low, high, names):
                return problem
    return None


def _range_problem(item: str, low: int, high: int, names: list[str]) -> str | None:
    span, slash, step = item.partition("/")
    if slash and (not step.isdigit() or int(step) == 0):
        return f"step of range should be a positive number: {item}"
    if span in ("*", "?"):
        return None
    start, dash, end = span.partition("-")
    bounds = []
    for text in (start, end) if dash else (start,):
        if text.lower() in names:
            bounds.append(names.index(text.lower()) + low)
        elif text.isdigit():
            bounds.append(int(text))
        else:
            return f'failed to parse int from {text}: strconv.Atoi: parsing "{text}": invalid syntax'
    if bounds[0] < low:
        return f"beginning of range ({bounds[0]}) below minimum ({low}): {item}"
    if bounds[-1] > high:
        return f"end of range ({bounds[-1]}) above maximum ({high}): {item}"
    if bounds[0] > bounds[-1]:
        return f"beginning of range ({bounds[0]}) beyond end of range ({bounds[-1]}): {item}"
    return None


def _default_cron(cron: Object) -> None:
    spec = common.spec_for(cron)
    spec.setdefault("concurrencyPolicy", "Allow")
    spec.setdefault("suspend", False)
    spec.setdefault("successfulJobsHistoryLimit", 3)
    spec.setdefault("failedJobsHistoryLimit", 1)
    job = spec.setdefault("jobTemplate", {})
    job.setdefault("metadata", {})
    default_template(job.setdefault("spec", {}).setdefault("template", {}))


def _validate_cron(cron: Object) -> Iterator[Cause]:
    spec = spec_of(cron)
    schedule, zone = spec.get("schedule", ""), spec.get("timeZone")
    if not schedule:
        yield field.required("spec.schedule")
    elif problem := cron_problem(schedule):
        yield field.invalid("spec.schedule", schedule, problem)
    if "TZ" in schedule:
        detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        yield field.invalid("spec.schedule", schedule, detail)
    if zone is not None and not _known_zone(zone):
        yield field.invalid("spec.timeZone", zone, f"unknown time zone {zone}")
    for name in ("startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
        yield from common.non_negative(f"spec.{name}", spec.get(name))
    policies = ("Allow", "Forbid", "Replace")
    yield from common.one_of("spec.concurrencyPolicy", spec.get("concurrencyPolicy"), policies)
    yield from validate_job_spec(common.dig(spec, "jobTemplate", "spec") or {}, "spec.jobTemplate.spec")
    if len(meta.name_of(cron)) > 52:
        yield field.invalid("metadata.name", meta.name_of(cron), "must be no more than 52 characters")


def _known_zone(zone: str) -> bool:
    try:
        zoneinfo.ZoneInfo(zone)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return zone.lower() != "local"


def _last_schedule(cron: Object) -> Since | str:
    last = status_of(cron).get("lastScheduleTime")
    return Since(last) if last else NONE


_JOB_POD = ("spec", "jobTemplate", "spec", "template", "spec")

CRON_JOB = Kind(
    group="batch",
    version="v1",
    kind="CronJob",
    resource="cronjobs",
    namespaced=True,
    storage_prefix="cronjobs",
    singular="cronjob",
    short_names=("cj",),
    categories=common.ALL,
    subresources=("status",),
    columns=(
        common.NAME,
        column("Schedule", common.text("spec", "schedule")),
        column("Timezone", common.text("spec", "timeZone", absent=NONE)),
        column("Suspend", lambda cron: "True" if spec_of(cron).get("suspend") else "False"),
        column("Active", lambda cron: len(status_of(cron).get("active") or ()), "integer"),
        column("Last Schedule", _last_schedule),
        common.AGE,
        column("Containers", common.containers_cell(*_JOB_POD), wide=True),
        column("Images", common.images_cell(*_JOB_POD), wide=True),
        column(
            "Selector",
            lambda cron: common.selector_text(common.dig(cron, "spec", "jobTemplate", "spec", "selector")),
            wide=True,
        ),
    ),
    strategy=Strategy(
        default=_default_cron,
        prepare_create=common.drop_status,
        prepare_update=common.keep_status,
        validate=_validate_cron,
        validate_update=common.revalidate(_validate_cron),
        status_prepare_update=common.keep_spec,
    ),
)

KINDS = (JOB, CRON_JOB)
