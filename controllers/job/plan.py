"""What one sync of a Job does: whether it is over, which pods are made and given up, and its status. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controllers import objects as o
from controllers import pods
from controllers.job import indexes, policy
from controllers.job import tally as jt
from controllers.job.tally import Tally
from controllers.objects import Object

BURST = 500  # pods made or deleted in one sync


@dataclass(frozen=True, slots=True)
class Ending:
    """The job is over: `kind` is Failed or Complete."""

    kind: str
    reason: str
    message: str

    @property
    def interim(self) -> str:
        """The condition that announces the end while pods are still going (KEP-3998)."""
        return "FailureTarget" if self.kind == "Failed" else "SuccessCriteriaMet"


REACHED = Ending("Complete", "CompletionsReached", "Reached expected number of succeeded pods")


@dataclass(frozen=True, slots=True)
class Plan:
    """`create` is a number of pods, `indexes` the indexes of those of an Indexed job. Pods in `discard` are
    deleted without being counted, those in `end` count as failed. `wait` is seconds until more can be done.
    """

    create: int = 0
    indexes: tuple[int, ...] = ()
    discard: tuple[Object, ...] = ()
    end: tuple[Object, ...] = ()
    wait: float | None = None


def is_finished(job: Object) -> bool:
    return any(o.condition_status(job, kind) == "True" for kind in ("Complete", "Failed"))


def is_suspended(job: Object) -> bool:
    return bool(o.spec(job).get("suspend"))


# -- is it over? ---------------------------------------------------------------------------------------------


def compute_ending(job: Object, tally: Tally, mine: Sequence[Object], now: float) -> Ending | None:
    """Why the job is over, or None. What was announced once stands."""
    for kind, interim in (("Failed", "FailureTarget"), ("Complete", "SuccessCriteriaMet")):
        found = o.condition(job, interim)
        if found is not None and found.get("status") == "True":
            return Ending(kind, str(found.get("reason", "")), str(found.get("message", "")))
    if tally.fail_job:
        return Ending("Failed", "PodFailurePolicy", tally.fail_job)
    limit = int(o.spec(job).get("backoffLimit", 6))
    if tally.all_failed > limit or policy.restarts_exhausted(job, mine):
        return Ending("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
    if (left := deadline_left(job, now)) is not None and left <= 0:
        return Ending("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
    return _ending_by_index(job, tally) or (REACHED if _is_complete(job, tally) else None)


def _ending_by_index(job: Object, tally: Tally) -> Ending | None:
    if not jt.is_indexed(job):
        return None
    spec, broken = o.spec(job), len(tally.failed_indexes)
    if spec.get("maxFailedIndexes") is not None and broken > int(spec["maxFailedIndexes"]):
        text = "Job has exceeded the specified maximal number of failed indexes"
        return Ending("Failed", "MaxFailedIndexesExceeded", text)
    if broken and broken + len(tally.completed) >= int(spec.get("completions") or 0):
        return Ending("Failed", "FailedIndexes", "Job has failed indexes")
    rule = policy.success_rule(job, tally.completed)
    return None if rule is None else Ending("Complete", "SuccessPolicy", f"Matched rules at index {rule}")


def _is_complete(job: Object, tally: Tally) -> bool:
    """Enough successes and nobody working any more; without `completions` one success is enough."""
    wanted = o.spec(job).get("completions")
    enough = tally.all_succeeded > 0 if wanted is None else tally.all_succeeded >= int(wanted)
    return enough and not tally.active


def deadline_left(job: Object, now: float) -> float | None:
    """Seconds of activeDeadlineSeconds that are left; None without a deadline or before the start."""
    seconds, start = o.spec(job).get("activeDeadlineSeconds"), o.status(job).get("startTime")
    if seconds is None or not start or is_suspended(job):
        return None
    return o.parse_time(start) + float(seconds) - now


# -- pods ----------------------------------------------------------------------------------------------------


def compute_plan(job: Object, tally: Tally, mine: Sequence[Object], over: Ending | None, now: float) -> Plan:
    """Which pods are made and given up."""
    if over is not None:
        return Plan(end=tally.active[:BURST])
    if o.is_terminating(job):
        return Plan()
    if is_suspended(job):
        return Plan(discard=tally.active[:BURST])
    parallelism = int(o.spec(job).get("parallelism", 1))
    completions = o.spec(job).get("completions")
    if completions is not None:
        wanted = max(min(int(completions) - tally.all_succeeded, parallelism), 0)
        if jt.per_index(job):
            wanted = max(min(wanted, int(completions) - len(tally.completed | tally.failed_indexes)), 0)
    else:
        wanted = len(tally.active) if tally.all_succeeded else parallelism
    surplus = _surplus(job, tally, max(len(tally.active) - wanted, 0), now)
    if surplus:
        return Plan(discard=surplus[:BURST])
    going = tally.terminating if jt.replaces_only_failed(job) else 0
    missing = min(wanted - len(tally.active) - going, BURST)
    if missing <= 0:
        return Plan()
    return _creation(job, tally, mine, missing, now)


def _creation(job: Object, tally: Tally, mine: Sequence[Object], missing: int, now: float) -> Plan:
    if jt.per_index(job):
        return _creation_per_index(job, tally, mine, missing, now)
    done = [pod for pod in mine if pods.phase(pod) == "Succeeded"]
    left = policy.backoff_left(tally.failures, done, now)
    if left > 0:
        return Plan(wait=left)
    if not jt.is_indexed(job):
        return Plan(create=missing)
    chosen = _free_indexes(job, tally, mine)[:missing]
    return Plan(create=len(chosen), indexes=tuple(chosen))


def _creation_per_index(job: Object, tally: Tally, mine: Sequence[Object], missing: int, now: float) -> Plan:
    """Every index backs off for itself."""
    last = jt.last_failed(job, mine)
    chosen: list[int] = []
    waits: list[float] = []
    for index in _free_indexes(job, tally, mine):
        pod, left = last.get(index), 0.0
        if pod is not None:
            left = policy.index_backoff_left(pod, policy.judge(job, pod).action == "Ignore", now)
        if left > 0:
            waits.append(left)
        elif len(chosen) < missing:
            chosen.append(index)
    return Plan(create=len(chosen), indexes=tuple(chosen), wait=min(waits, default=None))


def _free_indexes(job: Object, tally: Tally, mine: Sequence[Object]) -> list[int]:
    """Indexes that nobody has completed, lost or works on."""
    busy = {indexes.index_of(pod) for pod in tally.active}
    if jt.replaces_only_failed(job):
        busy |= {indexes.index_of(p) for p in mine if o.is_terminating(p) and not pods.is_finished(p)}
    below = int(o.spec(job).get("completions") or 0)
    return [n for n in range(below) if n not in busy | tally.completed | tally.failed_indexes]


def _surplus(job: Object, tally: Tally, at_least: int, now: float) -> tuple[Object, ...]:
    """Active pods to give up: those whose index is done, double or out of range, then the least ready."""
    out: list[Object] = []
    rest = list(tally.active)
    if jt.is_indexed(job):
        out, rest = _needless(job, tally)
    if len(out) < at_least:
        if jt.is_indexed(job):
            rest.sort(key=indexes.index_of, reverse=True)
        else:
            rest = pods.rank_for_deletion(rest, {}, now)
        out += rest[: at_least - len(out)]
    return tuple(out)


def _needless(job: Object, tally: Tally) -> tuple[list[Object], list[Object]]:
    below, taken = int(o.spec(job).get("completions") or 0), set(tally.completed | tally.failed_indexes)
    out, rest = [], []
    for pod in sorted(tally.active, key=lambda p: (not pods.is_ready(p), o.created_at(p), o.name(p))):
        index = indexes.index_of(pod)
        if not 0 <= index < below or index in taken:
            out.append(pod)
        else:
            taken.add(index)
            rest.append(pod)
    return out, rest


# -- new pods ------------------------------------------------------------------------------------------------


def build_template(job: Object, index: int | None, before: Object | None) -> Object:
    """The pod template of one pod; `before` is the failed pod of the same index it replaces."""
    template = o.spec(job)["template"]
    metadata = dict(template.get("metadata") or {})
    metadata["finalizers"] = [*(metadata.get("finalizers") or ()), jt.FINALIZER]
    spec = dict(template["spec"])
    if index is not None:
        annotations = {**(metadata.get("annotations") or {}), indexes.INDEX: str(index)}
        if jt.per_index(job):
            annotations |= _failure_counts(job, before)
        metadata["annotations"] = annotations
        metadata["labels"] = {**(metadata.get("labels") or {}), indexes.INDEX: str(index)}
        spec["hostname"] = spec.get("hostname") or f"{o.name(job)}-{index}"
        for part in ("initContainers", "containers"):
            if spec.get(part):
                spec[part] = [_with_index(container) for container in spec[part]]
    return {"metadata": metadata, "spec": spec}


def name_prefix(job: Object, index: int | None) -> str:
    return f"{o.name(job)}-" if index is None else f"{o.name(job)}-{index}-"


def _failure_counts(job: Object, before: Object | None) -> dict[str, str]:
    if before is None:
        return {indexes.FAILURES: "0"}
    ignored = policy.judge(job, before).action == "Ignore"
    out = {indexes.FAILURES: str(indexes.failures_of(before) + (not ignored))}
    skipped = indexes.ignored_failures_of(before) + ignored
    return {**out, indexes.IGNORED_FAILURES: str(skipped)} if skipped else out


def _with_index(container: Object) -> Object:
    env = container.get("env") or []
    if any(variable.get("name") == "JOB_COMPLETION_INDEX" for variable in env):
        return container
    source = {"fieldRef": {"apiVersion": "v1", "fieldPath": f"metadata.annotations['{indexes.INDEX}']"}}
    return {**container, "env": [*env, {"name": "JOB_COMPLETION_INDEX", "valueFrom": source}]}


# -- status --------------------------------------------------------------------------------------------------


def compute_status(job: Object, tally: Tally, over: Ending | None, active: int, now: float) -> Object:
    """The whole `status`; `active` is the number of active pods after this sync's writes."""
    stamp, old = o.format_time(now), o.status(job)
    out = {part: old[part] for part in ("startTime", "conditions", "completionTime") if old.get(part)}
    conditions = list(out.pop("conditions", []))
    conditions, restarted = _suspension(job, conditions, over, stamp)
    if restarted is False:
        out.pop("startTime", None)
    elif restarted or (not old.get("startTime") and not is_suspended(job)):
        out["startTime"] = stamp
    counts = {
        "active": active,
        "terminating": tally.terminating,
        "ready": sum(pods.is_ready(pod) for pod in tally.active),
        "succeeded": tally.succeeded,
        "failed": tally.failed,
    }
    out |= {part: count for part, count in counts.items() if count or part in ("terminating", "ready")}
    uncounted = {"succeeded": list(tally.uncounted_succeeded), "failed": list(tally.uncounted_failed)}
    out["uncountedTerminatedPods"] = {part: uids for part, uids in uncounted.items() if uids}
    if jt.is_indexed(job):
        if tally.completed:
            out["completedIndexes"] = indexes.text_of(tally.completed)
        if jt.per_index(job):
            out["failedIndexes"] = indexes.text_of(tally.failed_indexes)
    if over is not None:
        conditions = o.set_condition_once(
            conditions, condition(over.interim, over.reason, over.message, stamp)
        )
        if not (active or tally.terminating or tally.tracked or any(uncounted.values())):
            conditions = o.set_condition_once(
                conditions, condition(over.kind, over.reason, over.message, stamp)
            )
            if over.kind == "Complete":
                out.setdefault("completionTime", stamp)
    if conditions:
        out["conditions"] = conditions
    return out


def condition(kind: str, reason: str, message: str, stamp: str, status: str = "True") -> Object:
    return {
        "type": kind,
        "status": status,
        "lastProbeTime": stamp,
        "lastTransitionTime": stamp,
        "reason": reason,
        "message": message,
    }


def _suspension(
    job: Object, conditions: list[Object], over: Ending | None, stamp: str
) -> tuple[list[Object], bool | None]:
    """The conditions, and whether the job was just resumed (True), suspended (False) or neither."""
    found = o.find_condition(conditions, "Suspended")
    was = found is not None and found.get("status") == "True"
    if over is not None or was == is_suspended(job):
        return conditions, None
    if was:
        new = condition("Suspended", "JobResumed", "Job resumed", stamp, "False")
        return o.set_condition(conditions, new), True
    return o.set_condition(conditions, condition("Suspended", "JobSuspended", "Job suspended", stamp)), False
