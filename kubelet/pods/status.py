"""The status of a pod as its API object shows it: phase, conditions, container states. Pure.

Phases and reasons are Kubernetes': a pod is Pending until its init containers are done and every container
has started, Running while one runs or will be restarted, Succeeded or Failed when none will run again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from kubelet.pods.observed import CREATED, EXITED, RUNNING, ContainerView, PodView
from kubelet.pods.plan import restartable, should_restart
from kubelet.pods.resources import qos_class

OVER = ("Succeeded", "Failed")
DISRUPTED = ("Evicted", "Terminated")
RESIZE_CONDITIONS = ("PodResizePending", "PodResizeInProgress")
OWN_CONDITIONS = (
    "PodReadyToStartContainers",
    "Initialized",
    "Ready",
    "ContainersReady",
    "PodScheduled",
    "DisruptionTarget",
    *RESIZE_CONDITIONS,
)

Status = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a container is not running: a reason that Kubernetes knows, and a message."""

    reason: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the status is made from, beside spec and observation."""

    now: float
    host_ips: tuple[str, ...]
    waiting: Mapping[str, Waiting] = field(default_factory=dict)
    """By container name: why the last attempt to start it did not succeed."""
    ready: Mapping[str, bool] = field(default_factory=dict)
    """By container id: the readiness verdict, for containers that have a readiness probe."""
    started: Mapping[str, bool] = field(default_factory=dict)
    """By container id: the startup verdict, for containers that have a startup probe."""
    failed: tuple[str, str] | None = None
    """Reason and message when the kubelet itself ended or refused the pod (Evicted, OutOfcpu, ...)."""
    terminating: bool = False
    finished: bool = False
    """Nothing of the pod runs any more, and nothing will."""
    given: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By container id: the resources that it holds now."""
    runtime_name: str = "containerd"
    resize: tuple[str, str, str] | None = None
    """Condition type, reason and message while a resize waits or is under way."""


def stamp(seconds: float) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod_status(pod: Mapping[str, Any], view: PodView, facts: Facts) -> Status:
    """The whole status; conditions that others own are carried over from the object."""
    spec, old = pod["spec"], pod.get("status") or {}
    init = [_container_status(pod, c, view, facts, init=True) for c in spec.get("initContainers", [])]
    main = [_container_status(pod, c, view, facts, init=False) for c in spec.get("containers", [])]
    status: Status = {
        "phase": _phase(pod, init, main, facts),
        "qosClass": old.get("qosClass") or qos_class(spec),
        "startTime": old.get("startTime") or stamp(facts.now),
        "observedGeneration": pod["metadata"].get("generation"),
        "containerStatuses": main,
    }
    if not status["observedGeneration"]:
        del status["observedGeneration"]
    if init:
        status["initContainerStatuses"] = init
    if spec.get("ephemeralContainers"):
        status["ephemeralContainerStatuses"] = [
            _ephemeral_status(pod, c, view, facts) for c in spec["ephemeralContainers"]
        ]
    if facts.failed and view.empty:
        status["containerStatuses"] = []
        status.pop("initContainerStatuses", None)
    if facts.failed:
        status["reason"], status["message"] = facts.failed
    if facts.host_ips:
        status["hostIP"] = facts.host_ips[0]
        status["hostIPs"] = [{"ip": ip} for ip in facts.host_ips]
    ips = pod_ips(spec, view, facts.host_ips)
    if ips:
        status["podIP"], status["podIPs"] = ips[0], [{"ip": ip} for ip in ips]
    elif old.get("podIP") and (facts.finished or facts.terminating or status["phase"] in OVER):
        # The address went with the sandbox; readers of an ended pod still see which it was.
        status["podIP"], status["podIPs"] = old["podIP"], old.get("podIPs", [{"ip": old["podIP"]}])
    status["conditions"] = _conditions(pod, view, status, facts)
    return status


def pod_ips(spec: Mapping[str, Any], view: PodView, host_ips: tuple[str, ...]) -> tuple[str, ...]:
    """The node's addresses on the host network, otherwise those of the living sandbox."""
    if spec.get("hostNetwork"):
        return host_ips if view.sandbox else ()
    return view.sandbox.ips if view.sandbox else ()


def _terminated(container: ContainerView, facts: Facts) -> Status:
    reason = container.reason or ("Completed" if container.exit_code == 0 else "Error")
    state: Status = {
        "exitCode": container.exit_code,
        "reason": reason,
        "startedAt": stamp(container.started_at or container.created_at) if container.created_at else None,
        "finishedAt": stamp(container.finished_at) if container.finished_at else None,
        "containerID": container_id(container, facts),
    }
    if container.message:
        state["message"] = container.message
    return {"terminated": state}


def container_id(container: ContainerView, facts: Facts) -> str:
    return f"{facts.runtime_name}://{container.id}"


def _container_status(
    pod: Mapping[str, Any], container: Mapping[str, Any], view: PodView, facts: Facts, *, init: bool
) -> Status:
    name = container["name"]
    current, previous = view.latest(name), view.previous(name)
    status: Status = {
        "name": name,
        "image": container.get("image", ""),
        "imageID": current.image_ref if current else "",
        "ready": False,
        "started": False,
        "restartCount": current.attempt if current else 0,
        "lastState": {},
        "state": {"waiting": _default_waiting(pod, init)},
    }
    if current is None:
        old = _old_status(pod, name, init)
        if old and (old.get("state") or {}).get("terminated") and facts.finished:
            return old
        if facts.finished:
            status["state"] = _lost(facts)
        elif name in facts.waiting:
            status["state"] = {"waiting": _waiting(facts.waiting[name])}
        return status
    status["containerID"] = container_id(current, facts)
    if previous is not None and previous.state == EXITED:
        status["lastState"] = _terminated(previous, facts)
    if current.state == RUNNING:
        _while_running(status, container, current, facts, init=init)
    elif current.state == EXITED:
        _after_exit(status, pod, container, current, facts, init=init)
    elif current.state == CREATED and name in facts.waiting:
        status["state"] = {"waiting": _waiting(facts.waiting[name])}
    return status


def _ephemeral_status(
    pod: Mapping[str, Any], container: Mapping[str, Any], view: PodView, facts: Facts
) -> Status:
    """An ephemeral container is never ready and never restarted: it has one life."""
    status = _container_status(pod, container, view, replace(facts, finished=False), init=False)
    current = view.latest(container["name"])
    if current is not None and current.state == EXITED:
        status |= {"state": _terminated(current, facts), "lastState": {}}
    del status["started"]
    return {**status, "ready": False, "restartCount": 0}


def _while_running(
    status: Status, container: Mapping[str, Any], current: ContainerView, facts: Facts, *, init: bool
) -> None:
    """Started once its startup probe says so, ready once its readiness probe does; plain init containers are
    never ready while they run.
    """
    status["state"] = {"running": {"startedAt": stamp(current.started_at)}}
    status["started"] = "startupProbe" not in container or facts.started.get(current.id, False)
    if init and not restartable(container):
        status["started"] = True
        return
    ready = "readinessProbe" not in container or facts.ready.get(current.id, False)
    status["ready"] = bool(status["started"] and ready and not facts.failed)
    if current.id in facts.given:
        status["resources"] = dict(facts.given[current.id])
        requests = status["resources"].get("requests")
        if requests:
            status["allocatedResources"] = requests


def _after_exit(
    status: Status,
    pod: Mapping[str, Any],
    container: Mapping[str, Any],
    current: ContainerView,
    facts: Facts,
    *,
    init: bool,
) -> None:
    """An ended container shows its end; one that rests before a restart shows why it waits, its end as last
    state.
    """
    status["state"] = _terminated(current, facts)
    if init and not restartable(container) and current.exit_code == 0:
        status["ready"] = True
        return
    waiting = facts.waiting.get(current.name)
    policy = "Always" if restartable(container) else pod["spec"].get("restartPolicy", "Always")
    if init and policy == "Always" and not restartable(container):
        policy = "OnFailure"
    if waiting and should_restart(policy, current) and not facts.terminating and not facts.finished:
        status["lastState"] = status["state"]
        status["state"] = {"waiting": _waiting(waiting)}


def _default_waiting(pod: Mapping[str, Any], init: bool) -> Status:
    has_init = bool(pod["spec"].get("initContainers")) and not init
    return {"reason": "PodInitializing" if has_init else "ContainerCreating"}


def _waiting(waiting: Waiting) -> Status:
    state = {"reason": waiting.reason}
    if waiting.message:
        state["message"] = waiting.message
    return state


def _lost(facts: Facts) -> Status:
    """A container of a finished pod of which nothing is left to see."""
    if facts.failed:
        return {"waiting": {"reason": "ContainerCreating"}}
    message = "The container could not be located when the pod was terminated"
    return {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": message}}


def _old_status(pod: Mapping[str, Any], name: str, init: bool) -> Status | None:
    held = (pod.get("status") or {}).get("initContainerStatuses" if init else "containerStatuses") or []
    return next((dict(status) for status in held if status["name"] == name), None)


def _phase(pod: Mapping[str, Any], init: list[Status], main: list[Status], facts: Facts) -> str:
    if facts.failed:
        return "Failed"
    spec = pod["spec"]
    policy = spec.get("restartPolicy", "Always")
    regular = [s for s, c in zip(init, spec.get("initContainers", []), strict=True) if not restartable(c)]
    failed_init = [s for s in regular if (s["state"].get("terminated") or {}).get("exitCode")]
    if failed_init and (policy == "Never" or facts.finished):
        return "Failed"
    running = [s for s in main if "running" in s["state"]]
    ended = [s["state"]["terminated"] for s in main if "terminated" in s["state"]]
    resting = [s for s in main if "waiting" in s["state"] and s["lastState"]]
    if any(not s["ready"] for s in regular) and not (running or ended or resting):
        return "Pending"
    if len(ended) == len(main) and main and (facts.finished or policy != "Always"):
        if all(state["exitCode"] == 0 for state in ended):
            return "Succeeded"
        if facts.finished or policy == "Never":
            return "Failed"
        return "Running"
    if len(running) + len(ended) + len(resting) < len(main):
        return "Pending"
    return "Running"


def _conditions(pod: Mapping[str, Any], view: PodView, status: Status, facts: Facts) -> list[Status]:
    spec = pod["spec"]
    old = {condition["type"]: condition for condition in (pod.get("status") or {}).get("conditions") or []}
    main, init = status["containerStatuses"], status.get("initContainerStatuses", [])
    over = status["phase"] in OVER
    pending_init = [s["name"] for s in init if not s["ready"] and not s["started"]] if not over else []
    if any("running" in s["state"] or "terminated" in s["state"] or s["lastState"] for s in main):
        pending_init = []
    unready = [s["name"] for s in main if not s["ready"]]
    sidecars = {c["name"] for c in spec.get("initContainers", []) if restartable(c)}
    unready += [s["name"] for s in init if s["name"] in sidecars and not s["ready"]]
    made: list[Status] = [
        _condition("PodReadyToStartContainers", view.sandbox is not None and bool(status.get("podIP"))),
        _condition(
            "Initialized",
            not pending_init,
            "ContainersNotInitialized",
            f"containers with incomplete status: [{' '.join(pending_init)}]",
        ),
    ]
    if over:
        reason = "PodCompleted" if status["phase"] == "Succeeded" else "PodFailed"
        if reason == "PodCompleted":
            made[1]["reason"] = reason
        made += [{"type": kind, "status": "False", "reason": reason} for kind in ("Ready", "ContainersReady")]
    else:
        made += _readiness(spec, old, unready)
    made.append(_condition("PodScheduled", True))
    if facts.failed and facts.failed[0] in DISRUPTED:
        said = {"reason": "TerminationByKubelet", "message": facts.failed[1]}
        made.append({"type": "DisruptionTarget", "status": "True", **said})
    if facts.resize and not over:
        kind, reason, message = facts.resize
        made.append({"type": kind, "status": "True", "reason": reason, "message": message})
    return _settle(made, old, facts.now)


def _readiness(spec: Mapping[str, Any], old: Mapping[str, Status], unready: list[str]) -> list[Status]:
    """Ready and ContainersReady of a pod that has not ended: all containers, and then the readiness gates."""
    message = f"containers with unready status: [{' '.join(unready)}]"
    contained = _condition("ContainersReady", not unready, "ContainersNotReady", message)
    gates = [gate["conditionType"] for gate in spec.get("readinessGates") or []]
    shut = [gate for gate in gates if old.get(gate, {}).get("status") != "True"]
    ready = {**contained, "type": "Ready"}
    if shut and not unready:
        ready = _condition(
            "Ready",
            False,
            "ReadinessGatesNotReady",
            f'corresponding condition of pod readiness gate "{shut[0]}" does not exist.',
        )
    return [ready, contained]


def _condition(kind: str, true: bool, reason: str = "", message: str = "") -> Status:
    condition: Status = {"type": kind, "status": "True" if true else "False"}
    if not true and reason:
        condition |= {"reason": reason, "message": message}
    return condition


def _settle(made: list[Status], old: Mapping[str, Status], now: float) -> list[Status]:
    """Keep the transition time of what has not changed; carry over what others wrote."""
    out: list[Status] = []
    for condition in made:
        before = old.get(condition["type"])
        same = before is not None and before.get("status") == condition["status"]
        since = before.get("lastTransitionTime") if before is not None and same else None
        out.append({**condition, "lastProbeTime": None, "lastTransitionTime": since or stamp(now)})
    names = {condition["type"] for condition in made} | set(RESIZE_CONDITIONS)
    out += [dict(condition) for kind, condition in old.items() if kind not in names]
    return out
