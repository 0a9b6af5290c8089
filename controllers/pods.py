"""What controllers need to know about pods: readiness, activity, which of them to give up first. Pure."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence

from controllers import objects as o
from controllers.objects import Object

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_PHASE_ORDER = {"Pending": 0, "Unknown": 1, "Running": 2}


def phase(pod: Object) -> str:
    return str(o.status(pod).get("phase", "Pending"))


def node_name(pod: Object) -> str:
    return str(o.spec(pod).get("nodeName") or "")


def is_finished(pod: Object) -> bool:
    """Succeeded or Failed: its containers will not run again."""
    return phase(pod) in ("Succeeded", "Failed")


def is_active(pod: Object) -> bool:
    """Counts towards the replicas of its owner."""
    return not is_finished(pod) and not o.is_terminating(pod)


def is_ready(pod: Object) -> bool:
    return o.condition_status(pod, "Ready") == "True"


def ready_since(pod: Object) -> float:
    """When the pod last became ready (seconds since the epoch); 0.0 if it is not."""
    found = o.condition(pod, "Ready")
    return o.parse_time(found.get("lastTransitionTime")) if found and found.get("status") == "True" else 0.0


def is_available(pod: Object, min_ready_seconds: int, now: float) -> bool:
    """Ready for at least `min_ready_seconds`."""
    if not is_ready(pod):
        return False
    return min_ready_seconds == 0 or 0 < ready_since(pod) <= now - min_ready_seconds


def available_in(pods: Iterable[Object], min_ready_seconds: int, now: float) -> float | None:
    """Seconds until the next ready pod becomes available; None when none is on its way."""
    if min_ready_seconds == 0:
        return None
    waits = [
        ready_since(pod) + min_ready_seconds - now
        for pod in pods
        if is_ready(pod) and not is_available(pod, min_ready_seconds, now)
    ]
    return max(min(waits), 0.0) if waits else None


def restarts(pod: Object) -> int:
    return sum(int(c.get("restartCount", 0)) for c in o.status(pod).get("containerStatuses") or ())


def deletion_cost(pod: Object) -> int:
    try:
        return int(o.annotations_of(pod).get(DELETION_COST, "0"))
    except ValueError:
        return 0


def from_template(
    template: Object, owner: Object, reference: Object, *, pod_name: str = "", prefix: str = ""
) -> Object:
    """A new pod of `owner`: the template's metadata and spec, a name or generateName (`prefix`, or the
    owner's name), and the controlling reference.
    """
    source = o.meta(template)
    metadata: Object = {"namespace": o.namespace(owner), "ownerReferences": [reference]}
    if pod_name:
        metadata["name"] = pod_name
    else:
        metadata["generateName"] = prefix or generate_name(o.name(owner))
    for part in ("labels", "annotations", "finalizers"):
        if source.get(part):
            metadata[part] = source[part].copy()
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": dict(template.get("spec") or {})}


def generate_name(base: str) -> str:
    """`<base>-` for generateName; a base that leaves no room for the random suffix is cut by the API
    server.
    """
    return f"{base}-"


def rank_for_deletion(pods: Sequence[Object], same_node: Mapping[str, int], now: float) -> list[Object]:
    """Pods in the order a scale-down gives them up (kube-controller-manager `ActivePodsWithRanks`).

    `same_node[uid]` is how many related pods run on the pod's node: crowded nodes are relieved first. Ages
    are compared by powers of two (KEP-2185), so that of pods of about the same age not always the youngest
    goes.
    """

    def compare(a: Object, b: Object) -> int:
        for left, right in _fixed_ranks(a, b, same_node):
            if left != right:
                return -1 if left < right else 1
        if is_ready(a) and (by_age := _younger_first(a, b, ready_since(a), ready_since(b), now)):
            return by_age
        if restarts(a) != restarts(b):
            return -1 if restarts(a) > restarts(b) else 1
        return _younger_first(a, b, o.created_at(a), o.created_at(b), now)

    return sorted(pods, key=functools.cmp_to_key(compare))


def _fixed_ranks(a: Object, b: Object, same_node: Mapping[str, int]) -> Iterable[tuple[int, int]]:
    yield int(bool(node_name(a))), int(bool(node_name(b)))
    yield _PHASE_ORDER.get(phase(a), 0), _PHASE_ORDER.get(phase(b), 0)
    yield int(is_ready(a)), int(is_ready(b))
    yield deletion_cost(a), deletion_cost(b)
    yield -same_node.get(o.uid(a), 0), -same_node.get(o.uid(b), 0)


def _younger_first(a: Object, b: Object, since_a: float, since_b: float, now: float) -> int:
    if since_a == since_b:
        return 0
    if not since_a or not since_b:
        return -1 if not since_a else 1
    bucket_a, bucket_b = _bucket(now - since_a), _bucket(now - since_b)
    if bucket_a != bucket_b:
        return -1 if bucket_a < bucket_b else 1
    return -1 if o.uid(a) < o.uid(b) else 1


def _bucket(age: float) -> int:
    return int(math.log2(age)) if age >= 1 else 0
