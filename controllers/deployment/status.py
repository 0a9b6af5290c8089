"""A Deployment's status: counts, and the conditions `kubectl rollout status` waits for. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from controllers import objects as o
from controllers.deployment.rollout import bounds
from controllers.objects import Object

NO_DEADLINE = 2**31 - 1
PROGRESSING = "Progressing"
COMPLETE = "NewReplicaSetAvailable"
TIMED_OUT = "ProgressDeadlineExceeded"
PAUSED = "DeploymentPaused"


def make_condition(kind: str, status: str, reason: str, message: str, now: float) -> Object:
    stamp = o.format_time(now)
    return {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastUpdateTime": stamp,
        "lastTransitionTime": stamp,
    }


def put_condition(conditions: Sequence[Object], new: Object) -> list[Object]:
    """Replace the condition of that type unless status and reason are the same; a same status keeps its
    transition time.
    """
    old = o.find_condition(conditions, new["type"])
    if old is not None and old.get("status") == new["status"]:
        if old.get("reason") == new["reason"]:
            return list(conditions)
        new = {**new, "lastTransitionTime": old.get("lastTransitionTime")}
    return [*o.drop_condition(conditions, new["type"]), new]


def has_deadline(deployment: Object) -> bool:
    seconds = o.spec(deployment).get("progressDeadlineSeconds")
    return seconds is not None and int(seconds) != NO_DEADLINE


def compute_status(
    deployment: Object, new: Object | None, old: Sequence[Object], now: float, *, rolling_out: bool
) -> Object:
    """The whole new `status`. `deployment.status` may already carry conditions noted earlier in the same
    sync.

    `rolling_out` is False while the Deployment is paused or only being scaled: progress is not judged then.
    """
    everyone = [*([new] if new else []), *old]
    out = _counts(deployment, new, everyone)
    conditions = put_condition(o.status(deployment).get("conditions") or [], _available(deployment, out, now))
    if rolling_out:
        conditions = _progress(deployment, out, conditions, new, now)
        conditions = _replica_failure(conditions, new, old, now)
    out["conditions"] = conditions
    return out


def _counts(deployment: Object, new: Object | None, everyone: Sequence[Object]) -> Object:
    available = _sum(everyone, "availableReplicas")
    counts = {
        "replicas": _sum(everyone, "replicas"),
        "updatedReplicas": int(o.status(new).get("replicas") or 0) if new else 0,
        "readyReplicas": _sum(everyone, "readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(sum(o.replicas(rs) for rs in everyone) - available, 0),
        "observedGeneration": o.generation(deployment),
        "collisionCount": o.status(deployment).get("collisionCount") or 0,
    }
    return {name: count for name, count in counts.items() if count}


def _available(deployment: Object, out: Object, now: float) -> Object:
    enough = out.get("availableReplicas", 0) >= o.replicas(deployment) - bounds(deployment).unavailable
    if enough:
        text = "Deployment has minimum availability."
        return make_condition("Available", "True", "MinimumReplicasAvailable", text, now)
    text = "Deployment does not have minimum availability."
    return make_condition("Available", "False", "MinimumReplicasUnavailable", text, now)


def is_complete(deployment: Object, out: Object) -> bool:
    """Every pod is of the new template and available, and no old one is left."""
    wanted = o.replicas(deployment)
    counts = [out.get(name, 0) for name in ("updatedReplicas", "replicas", "availableReplicas")]
    return counts == [wanted] * 3 and out.get("observedGeneration", 0) >= o.generation(deployment)


def _progress(
    deployment: Object, out: Object, conditions: list[Object], new: Object | None, now: float
) -> list[Object]:
    if not has_deadline(deployment):
        return o.drop_condition(conditions, PROGRESSING)
    current = o.find_condition(conditions, PROGRESSING)
    settled = out.get("replicas", 0) == out.get("updatedReplicas", 0)
    if settled and current is not None and current.get("reason") == COMPLETE:
        return conditions
    subject = f'ReplicaSet "{o.name(new)}"' if new else f'Deployment "{o.name(deployment)}"'
    if is_complete(deployment, out):
        text = f"{subject} has successfully progressed."
        return put_condition(conditions, make_condition(PROGRESSING, "True", COMPLETE, text, now))
    if _moved(o.status(deployment), out, o.replicas(deployment)):
        text = f"{subject} is progressing."
        fresh = make_condition(PROGRESSING, "True", "ReplicaSetUpdated", text, now)
        if current is not None and current.get("status") == "True":
            fresh["lastTransitionTime"] = current.get("lastTransitionTime")
        return [
            *o.drop_condition(conditions, PROGRESSING),
            fresh,
        ]  # replaced whole: lastUpdateTime restarts the clock
    if timed_out(deployment, current, now):
        text = f"{subject} has timed out progressing."
        return put_condition(conditions, make_condition(PROGRESSING, "False", TIMED_OUT, text, now))
    return conditions


def _moved(before: Object, after: Object, wanted: int) -> bool:
    def old_pods(counts: Object) -> int:
        return int(counts.get("replicas") or 0) - int(counts.get("updatedReplicas") or 0)

    grew = any(
        after.get(name, 0) > int(before.get(name) or 0)
        for name in ("updatedReplicas", "readyReplicas", "availableReplicas")
    )
    return grew or old_pods(after) < old_pods(before)


def timed_out(deployment: Object, current: Object | None, now: float) -> bool:
    """No progress for `progressDeadlineSeconds` since the Progressing condition was last touched."""
    if current is None or current.get("reason") in (COMPLETE, PAUSED):
        return False
    if current.get("reason") == TIMED_OUT:
        return True
    since = o.parse_time(current.get("lastUpdateTime"))
    return since + int(o.spec(deployment)["progressDeadlineSeconds"]) < now


def deadline_in(deployment: Object, out: Object, now: float) -> float | None:
    """Seconds until the progress deadline can pass; None when it cannot."""
    current = o.find_condition(out.get("conditions") or (), PROGRESSING)
    if not has_deadline(deployment) or current is None or is_complete(deployment, out):
        return None
    if current.get("reason") in (COMPLETE, TIMED_OUT, PAUSED):
        return None
    since = o.parse_time(current.get("lastUpdateTime"))
    return max(since + int(o.spec(deployment)["progressDeadlineSeconds"]) - now, 0.0) + 1.0


def _replica_failure(
    conditions: list[Object], new: Object | None, old: Sequence[Object], now: float
) -> list[Object]:
    """The first ReplicaSet's failure, the new one's first, shown on the Deployment."""
    for rs in [*([new] if new else []), *old]:
        found = o.condition(rs, "ReplicaFailure")
        if found is not None:
            reason, message = str(found.get("reason", "")), str(found.get("message", ""))
            return put_condition(conditions, make_condition("ReplicaFailure", "True", reason, message, now))
    return o.drop_condition(conditions, "ReplicaFailure")


def paused_condition(deployment: Object, now: float) -> list[Object] | None:
    """Conditions after noting a pause or a resume; None when there is nothing to note.

    A paused Deployment must not run into its deadline, so both restart the clock.
    """
    if not has_deadline(deployment):
        return None
    conditions = o.status(deployment).get("conditions") or []
    current = o.find_condition(conditions, PROGRESSING)
    if current is not None and current.get("reason") == TIMED_OUT:
        return None  # a rollout that already failed stays failed
    noted = current is not None and current.get("reason") == PAUSED
    paused = bool(o.spec(deployment).get("paused"))
    if paused and not noted:
        text = "Deployment is paused"
        return put_condition(conditions, make_condition(PROGRESSING, "Unknown", PAUSED, text, now))
    if not paused and noted:
        text = "Deployment is resumed"
        return put_condition(
            conditions, make_condition(PROGRESSING, "Unknown", "DeploymentResumed", text, now)
        )
    return None


def _sum(sets: Sequence[Object], field: str) -> int:
    return sum(int(o.status(rs).get(field) or 0) for rs in sets)
