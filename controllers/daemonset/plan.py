"""Which node gets a daemon pod, which pod goes: placement and rolling update of a DaemonSet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from controllers import nodeselector, pods, taints
from controllers import objects as o
from controllers.history import HASH_LABEL
from controllers.objects import Object

BURST = 250

_TOLERATED: Sequence[tuple[str, str]] = (
    (taints.NOT_READY, taints.NO_EXECUTE),
    (taints.UNREACHABLE, taints.NO_EXECUTE),
    (taints.DISK_PRESSURE, taints.NO_SCHEDULE),
    (taints.MEMORY_PRESSURE, taints.NO_SCHEDULE),
    (taints.PID_PRESSURE, taints.NO_SCHEDULE),
    (taints.UNSCHEDULABLE, taints.NO_SCHEDULE),
)

NodePods = Mapping[str, Sequence[Object]]  # node name -> this set's pods there, oldest first


@dataclass(frozen=True, slots=True)
class Plan:
    """Nodes that get a pod, pods that go, and which of those go because they had failed."""

    create: tuple[str, ...] = ()
    delete: tuple[Object, ...] = ()
    failed: tuple[Object, ...] = field(default=())


def daemon_tolerations(pod_spec: Object) -> list[Object]:
    """The template's tolerations and those every daemon pod has: a daemon stays where others are driven
    out.
    """
    out = list(pod_spec.get("tolerations") or ())
    extra = [*_TOLERATED]
    if pod_spec.get("hostNetwork"):
        extra.append((taints.NETWORK_UNAVAILABLE, taints.NO_SCHEDULE))
    for key, effect in extra:
        toleration = {"key": key, "operator": "Exists", "effect": effect}
        if toleration not in out:
            out.append(toleration)
    return out


def template_for(ds: Object, node_name: str, revision_hash: str) -> Object:
    """The pod template pinned to one node.

    The pin is a node affinity on the field metadata.name, which replaces the template's own required terms:
    those were already decided here, and the scheduler still checks resources and ports.
    """
    template = o.spec(ds)["template"]
    spec = dict(template["spec"])
    spec["tolerations"] = daemon_tolerations(spec)
    affinity = dict(spec.get("affinity") or {})
    pin = [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node_name]}]}]
    affinity["nodeAffinity"] = {
        **(affinity.get("nodeAffinity") or {}),
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": pin},
    }
    spec["affinity"] = affinity
    labels = {**o.labels(template), HASH_LABEL: revision_hash}
    return {"metadata": {**o.meta(template), "labels": labels}, "spec": spec}


def target_node(pod: Object) -> str:
    """The node a daemon pod runs on or is pinned to; "" when it is neither."""
    if pods.node_name(pod):
        return pods.node_name(pod)
    affinity = (o.spec(pod).get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    for term in required.get("nodeSelectorTerms") or ():
        for requirement in term.get("matchFields") or ():
            values = requirement.get("values") or []
            by_name = requirement.get("key") == "metadata.name" and requirement.get("operator") == "In"
            if by_name and len(values) == 1:
                return str(values[0])
    return ""


def by_node(mine: Iterable[Object]) -> dict[str, list[Object]]:
    """Node name -> pods there, oldest first."""
    out: dict[str, list[Object]] = {}
    for pod in sorted(mine, key=lambda p: (o.created_at(p), o.name(p))):
        out.setdefault(target_node(pod), []).append(pod)
    return out


@dataclass(frozen=True, slots=True)
class Fit:
    """`run`: a pod belongs here. `stay`: one that is already here may remain (only NoExecute drives it
    out).
    """

    run: bool
    stay: bool


def fit(ds: Object, node: Object) -> Fit:
    """Should this set run on this node?"""
    spec = o.spec(ds)["template"]["spec"]
    pinned = spec.get("nodeName")
    if (pinned and pinned != o.name(node)) or not nodeselector.matches(spec, node):
        return Fit(run=False, stay=False)
    tolerations = daemon_tolerations(spec)
    if not taints.untolerated(taints.taints(node), tolerations, (taints.NO_SCHEDULE, taints.NO_EXECUTE)):
        return Fit(run=True, stay=True)
    return Fit(run=False, stay=not taints.untolerated(taints.taints(node), tolerations, (taints.NO_EXECUTE,)))


def compute_placement(
    ds: Object, nodes: Sequence[Object], placed: NodePods, current_hash: str, now: float
) -> Plan:
    """Pods to make and to delete so that every fitting node has one, before any rolling update."""
    create: list[str] = []
    delete: list[Object] = []
    failed: list[Object] = []
    for node in nodes:
        verdict, here = fit(ds, node), placed.get(o.name(node), ())
        if verdict.run and not here:
            create.append(o.name(node))
        elif verdict.stay and here:
            finished = [pod for pod in here if pods.is_finished(pod) and not o.is_terminating(pod)]
            failed += [pod for pod in finished if pods.phase(pod) == "Failed"]
            running = [pod for pod in here if not pods.is_finished(pod) and not o.is_terminating(pod)]
            delete += finished + _surplus(ds, running, current_hash, now)
            if verdict.run and finished and not running and all(pods.is_finished(pod) for pod in here):
                continue  # the replacement is made once the finished pod is gone
        elif not verdict.stay:
            delete += [pod for pod in here if not o.is_terminating(pod)]
    known = {o.name(node) for node in nodes}
    for where, here in placed.items():
        if where not in known:
            delete += [pod for pod in here if not o.is_terminating(pod) and not pods.node_name(pod)]
    return Plan(tuple(create[:BURST]), tuple(delete[:BURST]), tuple(failed))


def _surplus(ds: Object, running: Sequence[Object], current_hash: str, now: float) -> list[Object]:
    """Of several running pods on one node the oldest stays; during a surge, one old and one new may stand
    together.
    """
    if len(running) <= 1:
        return []
    if limits(ds, 1).surge == 0:
        return list(running[1:])
    old = [pod for pod in running if not _is_current(pod, current_hash)]
    new = [pod for pod in running if _is_current(pod, current_hash)]
    min_ready = int(o.spec(ds).get("minReadySeconds") or 0)
    gone = [*old[1:], *new[1:]]
    if old and new and pods.is_available(new[0], min_ready, now):
        gone.append(old[0])
    return gone


@dataclass(frozen=True, slots=True)
class Limits:
    surge: int
    unavailable: int


def limits(ds: Object, desired: int) -> Limits:
    """maxSurge and maxUnavailable against the number of nodes, both rounded up; never both zero."""
    rolling = (o.spec(ds).get("updateStrategy") or {}).get("rollingUpdate") or {}
    surge = o.scaled_value(rolling.get("maxSurge", 0), desired, round_up=True)
    unavailable = o.scaled_value(rolling.get("maxUnavailable", 1), desired, round_up=True)
    return Limits(surge, max(unavailable, 0 if surge else 1))


def compute_rolling(
    ds: Object, nodes: Sequence[Object], placed: NodePods, current_hash: str, now: float
) -> Plan:
    """The next step of a rolling update over the nodes that should run a pod."""
    wanted = [node for node in nodes if fit(ds, node).run]
    allowed = limits(ds, len(wanted))
    min_ready = int(o.spec(ds).get("minReadySeconds") or 0)
    pairs = [(o.name(node), *_old_and_new(placed.get(o.name(node), ()), current_hash)) for node in wanted]

    def available(pod: Object) -> bool:
        return pods.is_available(pod, min_ready, now) and not o.is_terminating(pod)

    at_once: list[tuple[str, Object]] = []  # already down: replacing these costs no availability
    candidates: list[tuple[str, Object]] = []
    used = 0
    for where, old, new in pairs:
        if allowed.surge:
            used += bool(new and old and not available(new))
        else:
            used += not (new and available(new)) if old is None or new else not available(old)
        if old is not None and new is None and not o.is_terminating(old):
            (candidates if available(old) else at_once).append((where, old))
    budget = max((allowed.surge or allowed.unavailable) - used, 0)
    chosen = at_once + candidates[:budget]
    if allowed.surge:
        return Plan(create=tuple(where for where, _ in chosen)[:BURST])
    return Plan(delete=tuple(old for _, old in chosen)[:BURST])


def _old_and_new(here: Sequence[Object], current_hash: str) -> tuple[Object | None, Object | None]:
    alive = [pod for pod in here if not pods.is_finished(pod)]
    new = next((pod for pod in alive if _is_current(pod, current_hash)), None)
    old = next((pod for pod in alive if not _is_current(pod, current_hash)), None)
    return old, new


def _is_current(pod: Object, current_hash: str) -> bool:
    return o.labels(pod).get(HASH_LABEL) == current_hash


def compute_status(
    ds: Object, nodes: Sequence[Object], placed: NodePods, current_hash: str, now: float
) -> Object:
    """The whole `status`."""
    count = dict.fromkeys(("desired", "current", "misscheduled", "ready", "updated", "available"), 0)
    min_ready = int(o.spec(ds).get("minReadySeconds") or 0)
    for node in nodes:
        here = [pod for pod in placed.get(o.name(node), ()) if not o.is_terminating(pod)]
        if not fit(ds, node).run:
            count["misscheduled"] += bool(here)
            continue
        count["desired"] += 1
        count["current"] += bool(here)
        count["ready"] += any(pods.is_ready(pod) for pod in here)
        count["available"] += any(pods.is_available(pod, min_ready, now) for pod in here)
        count["updated"] += any(_is_current(pod, current_hash) for pod in here)
    out: Object = {
        "currentNumberScheduled": count["current"],
        "numberMisscheduled": count["misscheduled"],
        "desiredNumberScheduled": count["desired"],
        "numberReady": count["ready"],
        "observedGeneration": o.generation(ds),
    }
    optional = {
        "updatedNumberScheduled": count["updated"],
        "numberAvailable": count["available"],
        "numberUnavailable": count["desired"] - count["available"],
        "collisionCount": o.status(ds).get("collisionCount"),
        "conditions": o.status(ds).get("conditions"),
    }
    out.update({name: value for name, value in optional.items() if value})
    return out
