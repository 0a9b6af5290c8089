"""A Job's pod failure policy (KEP-3329), success policy (KEP-3998) and back-off. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from controllers import objects as o
from controllers import pods
from controllers.job import indexes
from controllers.objects import Object

FIRST_BACKOFF, LONGEST_BACKOFF = 10.0, 600.0  # seconds before a failed pod is replaced


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the failure policy says about one failed pod. Without a matching rule the failure counts."""

    action: str = "Count"  # Count, Ignore, FailIndex or FailJob
    message: str = ""


def judge(job: Object, pod: Object) -> Verdict:
    """The first rule that matches decides."""
    rules = (o.spec(job).get("podFailurePolicy") or {}).get("rules") or ()
    for number, rule in enumerate(rules):
        action = str(rule.get("action", "Count"))
        ending = f"matching {action} rule at index {number}"
        if (codes := rule.get("onExitCodes")) is not None:
            found = _exit_code(codes, pod)
            if found is not None:
                name, code = found
                return Verdict(
                    action, f"Container {name} for pod {o.key(pod)} failed with exit code {code} {ending}"
                )
        for pattern in rule.get("onPodConditions") or ():
            if o.condition_status(pod, pattern["type"]) == pattern.get("status", "True"):
                return Verdict(action, f"Pod {o.key(pod)} has condition {pattern['type']} {ending}")
    return Verdict()


def _exit_code(requirement: Object, pod: Object) -> tuple[str, int] | None:
    """The first container that ended with a failing exit code which the requirement asks for."""
    wanted, values = requirement.get("containerName"), requirement.get("values") or ()
    status = o.status(pod)
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        ended = (container.get("state") or {}).get("terminated")
        if ended is None or (wanted and container.get("name") != wanted):
            continue
        code = int(ended.get("exitCode", 0))
        if code != 0 and (code in values) == (requirement.get("operator") == "In"):
            return str(container.get("name")), code
    return None


def success_rule(job: Object, succeeded: Collection[int]) -> int | None:
    """The number of the first success rule that the succeeded indexes fulfil."""
    below = int(o.spec(job).get("completions") or 0)
    for number, rule in enumerate((o.spec(job).get("successPolicy") or {}).get("rules") or ()):
        done = set(succeeded)
        if rule.get("succeededIndexes") is not None:
            asked = indexes.parse(rule["succeededIndexes"], below)
            done &= asked
            enough = len(done) >= int(rule.get("succeededCount") or len(asked))
        else:
            enough = len(done) >= int(rule.get("succeededCount") or below)
        if enough:
            return number
    return None


# -- back-off ------------------------------------------------------------------------------------------------


def finished_at(pod: Object, now: float) -> float:
    """When the pod's last container ended; failing that, when it was deleted or lost its readiness."""
    status = o.status(pod)
    ends = [
        o.parse_time(((c.get("state") or {}).get("terminated") or {}).get("finishedAt"))
        for c in status.get("containerStatuses") or ()
    ]
    if ends and all(ends):
        return max(ends)
    if o.is_terminating(pod):
        return min(o.parse_time(o.meta(pod)["deletionTimestamp"]), now)
    ready = o.condition(pod, "Ready")
    return o.parse_time(ready.get("lastTransitionTime")) if ready else o.created_at(pod)


def delay_after(failures: int) -> float:
    """Seconds to wait after so many failures in a row: 10 s, doubled each time, at most ten minutes."""
    if failures <= 0:
        return 0.0
    return float(min(FIRST_BACKOFF * 2.0 ** min(failures - 1, 30), LONGEST_BACKOFF))


def backoff_left(failed: Sequence[Object], succeeded: Iterable[Object], now: float) -> float:
    """Seconds until a replacement may be made: the failures since the last success count.

    Read from the pods and not remembered, so that a new manager waits as its predecessor would have.
    """
    last_success = max((finished_at(pod, now) for pod in succeeded), default=0.0)
    ends = [at for at in (finished_at(pod, now) for pod in failed) if at > last_success]
    return max(max(ends) + delay_after(len(ends)) - now, 0.0) if ends else 0.0


def index_backoff_left(last_failed: Object, ignored: bool, now: float) -> float:
    """The same for one index: its failures are counted in the pod's annotation."""
    failures = indexes.failures_of(last_failed) + (not ignored)
    return max(finished_at(last_failed, now) + delay_after(failures) - now, 0.0)


def restarts_exhausted(job: Object, mine: Iterable[Object]) -> bool:
    """With restartPolicy OnFailure the restarts of running pods use up the back-off limit."""
    template = (o.spec(job).get("template") or {}).get("spec") or {}
    if template.get("restartPolicy") != "OnFailure":
        return False
    limit, count = int(o.spec(job).get("backoffLimit", 6)), 0
    for pod in mine:
        if pods.phase(pod) in ("Running", "Pending") and not o.is_terminating(pod):
            status = o.status(pod)
            for part in ("initContainerStatuses", "containerStatuses"):
                count += sum(int(c.get("restartCount", 0)) for c in status.get(part) or ())
    return count > 0 if limit == 0 else count >= limit
