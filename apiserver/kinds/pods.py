"""Pods: the strategy of `pkg/registry/core/pod` and the columns of kubectl's printer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apimachinery import field, quantity
from apimachinery.errors import Cause
from apimachinery.scheme import Kind, Object, Strategy
from apiserver.kinds import common
from apiserver.kinds.common import NONE, column, spec_of, status_of
from apiserver.kinds.podrules import validate_pod_spec
from apiserver.kinds.podspec import GRACE_SECONDS, default_pod

UPDATE_RULE = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


# -- strategy -----------------------------------------------------------------------------------------------


def qos_class(pod: Mapping[str, Any]) -> str:
    """Guaranteed, Burstable or BestEffort, from the cpu and memory of all containers (init containers
    included).
    """
    spec = spec_of(pod)
    requested = limited = False
    guaranteed = True
    for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
        resources = container.get("resources") or {}
        requests, limits = _compute(resources.get("requests")), _compute(resources.get("limits"))
        requested |= bool(requests)
        limited |= bool(limits)
        if set(limits) != {"cpu", "memory"} or any(requests.get(name) != limits[name] for name in limits):
            guaranteed = False
    if not requested and not limited:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def _compute(resources: Mapping[str, str] | None) -> dict[str, quantity.Quantity]:
    parsed = {
        name: quantity.parse(value) for name, value in (resources or {}).items() if name in ("cpu", "memory")
    }
    return {name: amount for name, amount in parsed.items() if amount > quantity.ZERO}


def _prepare_create(pod: Object) -> None:
    pod["status"] = {"phase": "Pending", "qosClass": qos_class(pod)}
    if spec_of(pod).get("schedulingGates"):
        pod["status"]["conditions"] = [
            {
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }
        ]


def _pair_addresses(status: Object, stored: Mapping[str, Any]) -> None:
    """`podIP` is the first of `podIPs`: whichever was changed decides (so for `hostIP`)."""
    for one, many in (("podIP", "podIPs"), ("hostIP", "hostIPs")):
        addresses, address = status.get(many) or [], status.get(one)
        if address and (not addresses or (address != stored.get(one) and addresses == stored.get(many))):
            status[many] = [{"ip": address}]
        elif addresses:
            status[one] = addresses[0].get("ip", "")


def _status_prepare(new: Object, old: Object) -> None:
    common.restore(new, old, "spec")
    common.restore(new.setdefault("metadata", {}), old.get("metadata") or {}, "ownerReferences")
    status = new.setdefault("status", {})
    _pair_addresses(status, status_of(old))
    if qos := status_of(old).get("qosClass"):
        status.setdefault("qosClass", qos)


def _validate(pod: Object) -> Iterator[Cause]:
    spec = spec_of(pod)
    yield from validate_pod_spec(spec, "spec")
    if spec.get("nodeName") and spec.get("schedulingGates"):
        yield field.forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared")


def _validate_update(new: Object, old: Object) -> Iterator[Cause]:
    fresh, stored = spec_of(new), spec_of(old)
    if fresh == stored:
        return
    yield from _deadline_rule(fresh.get("activeDeadlineSeconds"), stored.get("activeDeadlineSeconds"))
    yield from _tolerations_rule(fresh, stored)
    if _fixed(fresh, stored) != _fixed(stored, stored):
        changed = sorted(key for key in {*fresh, *stored} if fresh.get(key) != stored.get(key))
        yield field.forbidden("spec", f"{UPDATE_RULE}\nchanged: {', '.join(changed)}")


def _deadline_rule(new: int | None, old: int | None) -> Iterator[Cause]:
    path = "spec.activeDeadlineSeconds"
    if old is None:
        return
    if new is None:
        yield field.invalid(path, None, "must not update from a positive integer to nil value")
    elif new > old:
        yield field.invalid(path, new, f"must be less than or equal to previous value: {old}")


def _tolerations_rule(new: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[Cause]:
    before, after = old.get("tolerations") or [], new.get("tolerations") or []
    if any(toleration not in after for toleration in before):
        detail = "existing toleration can not be modified except its tolerationSeconds"
        if any(_keyless(toleration) not in map(_keyless, after) for toleration in before):
            yield field.forbidden("spec.tolerations", detail)


def _keyless(toleration: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in toleration.items() if key != "tolerationSeconds"}


def _fixed(spec: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """The spec without what an update may change."""
    fixed = {key: value for key, value in spec.items() if key not in ("activeDeadlineSeconds", "tolerations")}
    for kind in ("containers", "initContainers"):
        if kind in fixed:
            fixed[kind] = [
                {key: value for key, value in item.items() if key != "image"} for item in fixed[kind]
            ]
    if (old.get("terminationGracePeriodSeconds") or 0) < 0 and spec.get("terminationGracePeriodSeconds") == 1:
        fixed["terminationGracePeriodSeconds"] = old["terminationGracePeriodSeconds"]
    gates = [gate.get("name") for gate in old.get("schedulingGates") or ()]
    if gates and all(gate.get("name") in gates for gate in spec.get("schedulingGates") or ()):
        fixed.pop("schedulingGates", None)
        # A gated pod may still be narrowed: its node selector and affinity are not fixed yet.
        fixed.pop("nodeSelector", None)
        fixed.pop("affinity", None)
    return fixed


def _status_validate(new: Object, old: Object) -> Iterator[Cause]:
    fresh, stored = status_of(new), status_of(old)
    nominated, node = fresh.get("nominatedNodeName"), stored.get("hostIP")
    if nominated and not node:
        yield from common.subdomain("status.nominatedNodeName", nominated)
    for kind in ("containerStatuses", "initContainerStatuses"):
        yield from _no_revival(new, fresh.get(kind) or (), stored.get(kind) or (), f"status.{kind}")


def _no_revival(new: Object, fresh: Any, stored: Any, path: str) -> Iterator[Cause]:
    """A container that ended for good does not run again."""
    policy = spec_of(new).get("restartPolicy")
    if policy == "Always" or path.endswith("initContainerStatuses"):
        return
    now = {item.get("name"): item for item in fresh}
    for item in stored:
        ended = common.dig(item, "state", "terminated")
        successor = now.get(item.get("name"))
        if ended is None or successor is None or common.dig(successor, "state", "terminated") is not None:
            continue
        if policy == "OnFailure" and ended.get("exitCode"):
            continue
        yield field.forbidden(f"{path}.state", "may not be transitioned to non-terminated state")


def _fields(pod: Object) -> Mapping[str, str]:
    spec, status = spec_of(pod), status_of(pod)
    ips = status.get("podIPs") or ()
    return {
        "spec.nodeName": spec.get("nodeName", ""),
        "spec.restartPolicy": spec.get("restartPolicy", ""),
        "spec.schedulerName": spec.get("schedulerName", ""),
        "spec.serviceAccountName": spec.get("serviceAccountName", ""),
        "spec.hostNetwork": "true" if spec.get("hostNetwork") else "false",
        "status.phase": status.get("phase", ""),
        "status.podIP": ips[0].get("ip", "") if ips else status.get("podIP", ""),
        "status.nominatedNodeName": status.get("nominatedNodeName", ""),
    }


# -- printing -----------------------------------------------------------------------------------------------


class _Summary:
    """What `kubectl get pods` says of one pod (printersinternal.printPod)."""

    def __init__(self, pod: Object) -> None:
        self._pod = pod
        self.spec, self.status = spec_of(pod), status_of(pod)
        self.sidecars = {
            item.get("name")
            for item in self.spec.get("initContainers") or ()
            if item.get("restartPolicy") == "Always"
        }
        self.ready = self.restarts = 0
        self.last_restart = ""
        self.reason = self.status.get("reason") or self.status.get("phase", "")
        for condition in self.status.get("conditions") or ():
            if condition.get("type") == "PodScheduled" and condition.get("reason") == "SchedulingGated":
                self.reason = "SchedulingGated"
        initializing = self._init_containers()
        if not initializing or self._condition("Initialized"):
            self._containers()
        metadata = pod.get("metadata") or {}
        if metadata.get("deletionTimestamp"):
            if self.status.get("reason") == "NodeLost":
                self.reason = "Unknown"
            elif self.status.get("phase") not in ("Succeeded", "Failed"):
                self.reason = "Terminating"

    @property
    def total(self) -> int:
        return len(self.spec.get("containers") or ()) + len(self.sidecars)

    def _condition(self, name: str) -> bool:
        conditions = self.status.get("conditions") or ()
        return any(item.get("type") == name and item.get("status") == "True" for item in conditions)

    def _count(self, container: Mapping[str, Any]) -> None:
        self.restarts += container.get("restartCount", 0)
        finished = common.dig(container, "lastState", "terminated", "finishedAt") or ""
        self.last_restart = max(self.last_restart, finished)

    def _init_containers(self) -> bool:
        """Count init containers; whether the pod is still initializing."""
        sidecar_restarts, sidecar_last = 0, ""
        statuses = self.status.get("initContainerStatuses") or ()
        for at, container in enumerate(statuses):
            self._count(container)
            sidecar = container.get("name") in self.sidecars
            if sidecar:
                sidecar_restarts += container.get("restartCount", 0)
                sidecar_last = max(
                    sidecar_last, common.dig(container, "lastState", "terminated", "finishedAt") or ""
                )
            state = container.get("state") or {}
            ended, waiting = state.get("terminated"), state.get("waiting") or {}
            if ended is not None and not ended.get("exitCode"):
                continue
            if sidecar and container.get("started"):
                self.ready += bool(container.get("ready"))
                continue
            if ended is not None:
                self.reason = "Init:" + (ended.get("reason") or _exit(ended))
            elif waiting.get("reason") and waiting["reason"] != "PodInitializing":
                self.reason = "Init:" + waiting["reason"]
            else:
                self.reason = f"Init:{at}/{len(self.spec.get('initContainers') or ())}"
            if self._condition("Initialized"):
                break
            return True
        self.restarts, self.last_restart = sidecar_restarts, sidecar_last
        return False

    def _containers(self) -> None:
        running = False
        for container in reversed(self.status.get("containerStatuses") or ()):
            self._count(container)
            state = container.get("state") or {}
            ended, waiting = state.get("terminated"), state.get("waiting") or {}
            if waiting.get("reason"):
                self.reason = waiting["reason"]
            elif ended is not None:
                self.reason = ended.get("reason") or _exit(ended)
            elif container.get("ready") and "running" in state:
                running = True
                self.ready += 1
        if self.reason == "Completed" and running:
            self.reason = "Running" if self._condition("Ready") else "NotReady"


def _exit(ended: Mapping[str, Any]) -> str:
    if ended.get("signal"):
        return f"Signal:{ended['signal']}"
    return f"ExitCode:{ended.get('exitCode', 0)}"


def _ready(pod: Object) -> str:
    summary = _Summary(pod)
    return f"{summary.ready}/{summary.total}"


def _restarts(pod: Object) -> common.Since | str:
    summary = _Summary(pod)
    if summary.restarts and summary.last_restart:
        return common.Since(summary.last_restart, f"{summary.restarts} ({{}} ago)")
    return str(summary.restarts)


def _ip(pod: Object) -> str:
    ips = status_of(pod).get("podIPs") or ()
    return (ips[0].get("ip") if ips else status_of(pod).get("podIP")) or NONE


def _gates(pod: Object) -> str:
    gates = spec_of(pod).get("readinessGates") or ()
    if not gates:
        return NONE
    true = {
        item.get("type") for item in status_of(pod).get("conditions") or () if item.get("status") == "True"
    }
    return f"{sum(gate.get('conditionType') in true for gate in gates)}/{len(gates)}"


_ENDED = {
    "Succeeded": "The pod has completed successfully.",
    "Failed": "The pod failed.",
}


def _row_conditions(pod: Object) -> list[Object] | None:
    phase = status_of(pod).get("phase", "")
    if phase not in _ENDED:
        return None
    return [{"type": "Completed", "status": "True", "reason": phase, "message": _ENDED[phase]}]


KINDS = (
    Kind(
        group="",
        version="v1",
        kind="Pod",
        resource="pods",
        namespaced=True,
        storage_prefix="pods",
        singular="pod",
        short_names=("po",),
        categories=common.ALL,
        subresources=(
            "attach",
            "binding",
            "ephemeralcontainers",
            "eviction",
            "exec",
            "log",
            "portforward",
            "proxy",
            "resize",
            "status",
        ),
        columns=(
            common.NAME,
            column("Ready", _ready),
            column("Status", lambda pod: _Summary(pod).reason),
            column("Restarts", _restarts),
            common.AGE,
            column("IP", _ip, wide=True),
            column("Node", common.text("spec", "nodeName", absent=NONE), wide=True),
            column("Nominated Node", common.text("status", "nominatedNodeName", absent=NONE), wide=True),
            column("Readiness Gates", _gates, wide=True),
        ),
        row_conditions=_row_conditions,
        strategy=Strategy(
            default=default_pod,
            prepare_create=_prepare_create,
            prepare_update=common.keep_status,
            validate=_validate,
            validate_update=_validate_update,
            status_prepare_update=_status_prepare,
            status_validate_update=_status_validate,
            fields=_fields,
            default_grace_seconds=GRACE_SECONDS,
        ),
        selectable_fields=(
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        ),
    ),
)
