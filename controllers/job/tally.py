"""Counting a Job's finished pods exactly once (KEP-2307). Pure.

A pod carries a finalizer until it is counted. First its UID goes into status.uncountedTerminatedPods, then
its finalizer is removed, then the UID leaves the list and the counter grows: at whichever step a manager
dies, the next one sees which it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from controllers import objects as o
from controllers import pods
from controllers.job import indexes, policy
from controllers.objects import Object

FINALIZER = "batch.kubernetes.io/job-tracking"
MOST_UNCOUNTED = 500  # UIDs in the status at once


@dataclass(frozen=True, slots=True)
class Tally:
    """The job's pods, sorted and counted."""

    active: tuple[Object, ...]
    terminating: int
    succeeded: int  # counters as they are written to the status, without what is still uncounted
    failed: int
    uncounted_succeeded: tuple[str, ...]
    uncounted_failed: tuple[str, ...]
    release: tuple[Object, ...]  # may lose their finalizer once this tally is stored
    completed: frozenset[int] = frozenset()
    failed_indexes: frozenset[int] = frozenset()
    fail_job: str = ""  # the message of the failure policy's FailJob
    failures: tuple[Object, ...] = field(default=())  # failed pods that are not ignored
    tracked: bool = False  # some pod still has the finalizer

    @property
    def all_succeeded(self) -> int:
        return self.succeeded + len(self.uncounted_succeeded)

    @property
    def all_failed(self) -> int:
        return self.failed + len(self.uncounted_failed)


def is_indexed(job: Object) -> bool:
    return bool(o.spec(job).get("completionMode") == "Indexed")


def per_index(job: Object) -> bool:
    return is_indexed(job) and o.spec(job).get("backoffLimitPerIndex") is not None


def replaces_only_failed(job: Object) -> bool:
    """A terminating pod keeps its place until it has ended (KEP-3939)."""
    spec = o.spec(job)
    return spec.get("podReplacementPolicy") == "Failed" or spec.get("podFailurePolicy") is not None


def is_tracked(pod: Object) -> bool:
    return FINALIZER in o.finalizers(pod)


def is_failed(job: Object, pod: Object) -> bool:
    """Failed, or being deleted: such a pod may vanish without ever reporting how it ended."""
    if pods.phase(pod) == "Failed":
        return True
    if not o.is_terminating(pod) or pods.phase(pod) == "Succeeded":
        return False
    return not replaces_only_failed(job) or not pods.node_name(pod)


def compute_tally(job: Object, mine: Sequence[Object]) -> Tally:
    """Everything the decisions and the status need to know about the pods."""
    completed, broken = _index_sets(job, mine)
    status = o.status(job)
    listed = status.get("uncountedTerminatedPods") or {}
    tracked = {o.uid(pod) for pod in mine if is_tracked(pod)}
    waiting = {part: [uid for uid in listed.get(part) or () if uid in tracked] for part in _PARTS}
    flushed = {part: len(listed.get(part) or ()) - len(waiting[part]) for part in _PARTS}
    held = held_back(job, mine, completed, broken)
    release: list[Object] = []
    for pod in mine:
        part = _part(job, pod)
        if part is None or not is_tracked(pod) or o.uid(pod) in held:
            continue
        known = o.uid(pod) in waiting["succeeded"] or o.uid(pod) in waiting["failed"]
        if not known and _counts(job, pod, part):
            if len(waiting["succeeded"]) + len(waiting["failed"]) >= MOST_UNCOUNTED:
                continue
            waiting[part].append(o.uid(pod))
        release.append(pod)
    failed = [pod for pod in mine if is_failed(job, pod)]
    verdicts = [policy.judge(job, pod) for pod in failed]
    stored = int(status.get("succeeded") or 0) + flushed["succeeded"]
    return Tally(
        active=tuple(pod for pod in mine if pods.is_active(pod)),
        terminating=sum(o.is_terminating(pod) and not pods.is_finished(pod) for pod in mine),
        succeeded=len(completed) if is_indexed(job) else stored,
        failed=int(status.get("failed") or 0) + flushed["failed"],
        uncounted_succeeded=tuple(waiting["succeeded"]),
        uncounted_failed=tuple(waiting["failed"]),
        release=tuple(release),
        completed=frozenset(completed),
        failed_indexes=frozenset(broken),
        fail_job=next((v.message for v in verdicts if v.action == "FailJob"), ""),
        failures=tuple(p for p, v in zip(failed, verdicts, strict=True) if v.action != "Ignore"),
        tracked=bool(tracked),
    )


_PARTS = ("succeeded", "failed")


def _part(job: Object, pod: Object) -> str | None:
    if pods.phase(pod) == "Succeeded":
        return "succeeded"
    return "failed" if is_failed(job, pod) else None


def _counts(job: Object, pod: Object, part: str) -> bool:
    """Indexed successes are counted by their index; ignored failures and strange indexes not at all."""
    if is_indexed(job):
        valid = 0 <= indexes.index_of(pod) < int(o.spec(job).get("completions") or 0)
        if part == "succeeded" or not valid:
            return False
    return part == "succeeded" or policy.judge(job, pod).action != "Ignore"


def _index_sets(job: Object, mine: Sequence[Object]) -> tuple[set[int], set[int]]:
    """(completed, failed) indexes: those in the status and those the pods add."""
    if not is_indexed(job):
        return set(), set()
    below = int(o.spec(job).get("completions") or 0)
    completed = indexes.parse(o.status(job).get("completedIndexes"), below)
    tracked = [pod for pod in mine if is_tracked(pod) and 0 <= indexes.index_of(pod) < below]
    completed |= {indexes.index_of(pod) for pod in tracked if pods.phase(pod) == "Succeeded"}
    if not per_index(job):
        return completed, set()
    broken = indexes.parse(o.status(job).get("failedIndexes"), below)
    for pod in tracked:
        if is_failed(job, pod) and _index_is_lost(job, pod):
            broken.add(indexes.index_of(pod))
    return completed, broken - completed


def _index_is_lost(job: Object, pod: Object) -> bool:
    action = policy.judge(job, pod).action
    if action == "FailIndex":
        return True
    return action != "Ignore" and indexes.failures_of(pod) >= int(o.spec(job)["backoffLimitPerIndex"])


def last_failed(job: Object, mine: Sequence[Object]) -> dict[int, Object]:
    """Per index the failed, still tracked pod of its last attempt."""
    out: dict[int, Object] = {}
    for pod in mine:
        if is_tracked(pod) and is_failed(job, pod):
            index = indexes.index_of(pod)
            if index not in out or _attempt(pod) > _attempt(out[index]):
                out[index] = pod
    return out


def _attempt(pod: Object) -> tuple[int, float]:
    return indexes.failures_of(pod) + indexes.ignored_failures_of(pod), o.created_at(pod)


def held_back(job: Object, mine: Sequence[Object], completed: set[int], broken: set[int]) -> frozenset[str]:
    """UIDs of failed pods that keep their finalizer until a successor carries on their failure count
    (KEP-3850); otherwise the count of an index would be lost with its pod.
    """
    over = any(o.condition_status(job, kind) == "True" for kind in ("FailureTarget", "SuccessCriteriaMet"))
    if not per_index(job) or over or o.is_terminating(job):
        return frozenset()
    out = set()
    below = int(o.spec(job).get("completions") or 0)
    newest: dict[int, tuple[int, float]] = {}
    for pod in mine:
        index = indexes.index_of(pod)
        if not is_failed(job, pod):
            newest[index] = max(newest.get(index, (-1, 0.0)), _attempt(pod))
    for index, pod in last_failed(job, mine).items():
        if not 0 <= index < below or index in completed or index in broken:
            continue
        if newest.get(index, (-1, 0.0)) <= _attempt(pod):
            out.add(o.uid(pod))
    return frozenset(out)
