"""ResourceQuota: nothing is created beyond what the quotas of its namespace allow.

A creation is charged to `status.used` by compare-and-swap before it is stored, so that several servers never
together exceed a quota (plugin/pkg/admission/resourcequota). What was charged and is gone, or was never
stored, is
found by counting again when the quota seems exhausted; between, `used` may be too high, never too low.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from apimachinery import errors, quantity
from apimachinery.errors import StatusError
from apimachinery.quantity import ZERO, Quantity
from apimachinery.scheme import Kind
from apiserver.admission.base import Plugin, forbid, is_create
from apiserver.admission.limits import pod_total
from apiserver.registry.call import Call

Object = dict[str, Any]
Usage = dict[str, Quantity]

LEGACY = frozenset(
    {
        "configmaps",
        "persistentvolumeclaims",
        "pods",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "services",
    }
)
COMPUTE = ("cpu", "memory", "ephemeral-storage")
CLASS = ".storageclass.storage.k8s.io/"
ONE = quantity.parse("1")
# Updates that are charged: resource and subresource.
GROWING = frozenset({("services", ""), ("persistentvolumeclaims", ""), ("pods", "resize")})


COUNTS = 4
SETTLE_SECONDS = 0.25  # what was charged this long ago and is not stored by now is taken for lost


class Insufficient(StatusError):
    """403: the object does not fit. `may_drift`: counting again may show that `used` is too high."""

    def __init__(self, error: StatusError, version: str, used: Usage | None, *, may_drift: bool) -> None:
        super().__init__(error.status)
        self.version = version
        self.used = used
        self.may_drift = may_drift


@dataclass(frozen=True, slots=True)
class Counted:
    """What a namespace held when its quota was at `version`. `settled`: nothing charged before was under
    way.
    """

    version: str
    usage: Usage
    settled: bool


class ResourceQuota(Plugin):
    def handles(self, call: Call) -> bool:
        if not call.kind.namespaced or call.kind.group == "authorization.k8s.io":
            return False
        return is_create(call) or grows(call)

    async def validate(self, call: Call) -> None:
        kind = self.context.scheme.resource("", "v1", "resourcequotas")
        if kind is None or call.obj is None or call.dry_run:
            return
        for entry in list(self.context.cacher.of(kind).scan(f"{call.namespace}/")):
            await self._charge(call, kind, entry.decoded())

    async def _charge(self, call: Call, kind: Kind, seen: Object) -> None:
        assert call.obj is not None
        hard = parsed((seen.get("spec") or {}).get("hard"))
        if call.old is None:
            _check_specified(call, seen, hard)
        if not concerns(seen, call.kind, call.obj) or not restrict(asked_by(call), hard):
            return
        counted: Counted | None = None
        for attempt in range(COUNTS):
            try:
                await self._swap(call, kind, seen["metadata"]["name"], counted)
                return
            except Insufficient as error:
                if not error.may_drift or attempt == COUNTS - 1:
                    raise
                if error.used is not None and attempt:
                    await asyncio.sleep(SETTLE_SECONDS)
                counted = Counted(error.version, await self._count(seen, call.namespace), bool(attempt))

    async def _swap(self, call: Call, kind: Kind, name: str, counted: Counted | None) -> None:
        """Add what the new object takes to `status.used`. Raises Insufficient when it does not fit."""

        async def change(quota: Object) -> Object:
            return charge(quota, call, counted)

        written = Call("update", kind, call.namespace, name, call.user, "status", writer=None)
        try:
            await self.context.registry.update(written, change)
        except StatusError as error:
            if not errors.is_not_found(error):
                raise

    async def _count(self, quota: Object, namespace: str) -> Usage:
        """What the namespace holds now, as far as this quota looks at it."""
        hard = parsed((quota.get("spec") or {}).get("hard"))
        await self.context.registry.reader.reach("")
        total: Usage = dict.fromkeys(hard, ZERO)
        for kind in self._counted(hard):
            for entry in self.context.cacher.of(kind).scan(f"{namespace}/"):
                obj = entry.decoded()
                if concerns(quota, kind, obj):
                    for name, value in restrict(usage_of(kind, obj), hard).items():
                        total[name] = total[name] + value
        return total

    def _counted(self, hard: Iterable[str]) -> list[Kind]:
        """The kinds that any of these names counts."""
        by_name: dict[str, Kind] = {}
        for kind in self.context.scheme:
            if kind.namespaced:
                by_name.setdefault(kind.group_resource, kind)
        out: dict[str, Kind] = {}
        for name in hard:
            resource = name.removeprefix("count/") if name.startswith("count/") else name.split(".")[0]
            if ("storage" in name and "ephemeral" not in name) or name.endswith("persistentvolumeclaims"):
                resource = "persistentvolumeclaims"
            elif resource not in by_name:
                resource = "pods"
            out[resource] = by_name[resource]
        return list(out.values())


def charge(quota: Object, call: Call, counted: Counted | None) -> Object:
    """The quota with what `call` asks for added to what is used. Raises Insufficient.

    A count stands for what is used only while the quota is at the version it was counted at, and, unless
    nothing
    is recorded yet, only after a pause: objects that were charged by others may be on their way to the store.
    """
    assert call.obj is not None
    hard = parsed((quota.get("spec") or {}).get("hard"))
    more, version = restrict(asked_by(call), hard), quota["metadata"]["resourceVersion"]
    status = quota.setdefault("status", {})
    recorded = parsed(status.get("used")) if set(status.get("used") or {}) == set(hard) else None
    fresh = counted is not None and counted.version == version
    used = recorded
    if counted is not None and fresh and (counted.settled or recorded is None):
        used = counted.usage
    over = sorted(name for name in more if used is None or used[name] + more[name] > hard[name])
    if over:
        known = used if used is not None else dict.fromkeys(hard, ZERO)
        drifts = used is None or not fresh or (counted is not None and counted.usage != known)
        why = forbid(call, _exceeded(quota, over, more, known, hard))
        raise Insufficient(why, version, used, may_drift=drifts)
    assert used is not None
    after = {name: used[name] + more[name] if name in more else used[name] for name in hard}
    status["hard"] = {name: str(value) for name, value in hard.items()}
    status["used"] = {name: str(value) for name, value in after.items()}
    return quota


# -- what counts (pure) -------------------------------------------------------------------------------------


def parsed(amounts: Mapping[str, Any] | None) -> Usage:
    return {name: quantity.parse(value) for name, value in (amounts or {}).items()}


def restrict(usage: Usage, hard: Mapping[str, Any]) -> Usage:
    return {name: value for name, value in usage.items() if name in hard}


def grows(call: Call) -> bool:
    """Whether this is an update by which an object may come to take more."""
    if call.obj is None or call.old is None or call.kind.group != "":
        return False
    return (call.kind.resource, call.subresource) in GROWING


def asked_by(call: Call) -> Usage:
    """What a call takes: everything a new object does, or by how much an update makes it more."""
    assert call.obj is not None
    usage = usage_of(call.kind, call.obj)
    if call.old is None:
        return usage
    before = usage_of(call.kind, call.old)
    return {
        name: value - before.get(name, ZERO)
        for name, value in usage.items()
        if before.get(name, ZERO) < value
    }


def usage_of(kind: Kind, obj: Object) -> Usage:
    """Everything an object can be charged for, by the names quotas use."""
    if kind.group == "" and kind.resource == "pods" and _is_terminal(obj):
        return {f"count/{kind.group_resource}": ONE}
    usage: Usage = {f"count/{kind.group_resource}": ONE}
    if kind.group == "" and kind.resource in LEGACY:
        usage[kind.resource] = ONE
    if kind.group == "":
        special = {"pods": _pod, "services": _service, "persistentvolumeclaims": _claim}.get(kind.resource)
        usage.update(special(obj) if special else {})
    return usage


def _is_terminal(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _pod(pod: Object) -> Usage:
    usage: Usage = {}
    for name, value in pod_total(pod, "requests").items():
        usage[f"requests.{name}"] = value
        if name in COMPUTE:
            usage[name] = value
    for name, value in pod_total(pod, "limits").items():
        usage[f"limits.{name}"] = value
    return usage


def _service(service: Object) -> Usage:
    spec = service.get("spec") or {}
    ports = quantity.parse(str(len(spec.get("ports") or ())))
    if spec.get("type") == "NodePort":
        return {"services.nodeports": ports}
    if spec.get("type") == "LoadBalancer":
        given = spec.get("allocateLoadBalancerNodePorts") is not False
        return {"services.loadbalancers": ONE, **({"services.nodeports": ports} if given else {})}
    return {}


def _claim(claim: Object) -> Usage:
    spec = claim.get("spec") or {}
    size = quantity.parse(((spec.get("resources") or {}).get("requests") or {}).get("storage", "0"))
    usage = {"requests.storage": size}
    if name := spec.get("storageClassName"):
        usage[f"{name}{CLASS}requests.storage"] = size
        usage[f"{name}{CLASS}persistentvolumeclaims"] = ONE
    return usage


def concerns(quota: Object, kind: Kind, obj: Object) -> bool:
    """Whether an object is in all scopes of a quota; scopes are about pods alone."""
    spec = quota.get("spec") or {}
    wanted = [{"scopeName": name, "operator": "Exists"} for name in spec.get("scopes") or ()]
    wanted += (spec.get("scopeSelector") or {}).get("matchExpressions") or []
    if not wanted:
        return True
    return kind.group == "" and kind.resource == "pods" and all(_in_scope(item, obj) for item in wanted)


def _in_scope(wanted: Mapping[str, Any], pod: Object) -> bool:
    spec, scope = pod.get("spec") or {}, str(wanted["scopeName"])
    if scope in ("Terminating", "NotTerminating"):
        return bool((spec.get("activeDeadlineSeconds") is not None) is (scope == "Terminating"))
    if scope in ("BestEffort", "NotBestEffort"):
        asks = any(name in COMPUTE[:2] for field in ("requests", "limits") for name in pod_total(pod, field))
        return bool(asks is (scope == "NotBestEffort"))
    if scope == "CrossNamespacePodAffinity":
        return _crosses_namespaces(spec.get("affinity") or {})
    value, operator = spec.get("priorityClassName", ""), wanted.get("operator")
    if operator in ("In", "NotIn"):
        return bool((value in (wanted.get("values") or ())) is (operator == "In"))
    return bool(bool(value) is (operator == "Exists"))


def _crosses_namespaces(affinity: Mapping[str, Any]) -> bool:
    for name in ("podAffinity", "podAntiAffinity"):
        terms = affinity.get(name) or {}
        plain = list(terms.get("requiredDuringSchedulingIgnoredDuringExecution") or ())
        weighted = terms.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        plain += [item.get("podAffinityTerm") or {} for item in weighted]
        if any(term.get("namespaces") or term.get("namespaceSelector") is not None for term in plain):
            return True
    return False


def _check_specified(call: Call, quota: Object, hard: Usage) -> None:
    """A quota on a compute resource asks every container to say what it needs of it."""
    if not call.is_for("", "pods") or call.obj is None or not concerns(quota, call.kind, call.obj):
        return
    missing: dict[str, list[str]] = {}
    for container in (call.obj.get("spec") or {}).get("containers") or ():
        resources = container.get("resources") or {}
        for name in hard:
            field, _, resource = (
                name.rpartition(".") if name.startswith(("requests.", "limits.")) else ("requests", "", name)
            )
            if resource in COMPUTE[:2] and resource not in (resources.get(field) or {}):
                missing.setdefault(name, []).append(container.get("name", ""))
    if missing:
        listed = "; ".join(f"{name} for: {','.join(missing[name])}" for name in sorted(missing))
        raise forbid(call, f"failed quota: {quota['metadata']['name']}: must specify {listed}")


def _exceeded(quota: Object, over: list[str], more: Usage, used: Usage, hard: Usage) -> str:
    def shown(amounts: Usage) -> str:
        return ",".join(f"{name}={amounts[name]}" for name in over)

    return (
        f"exceeded quota: {quota['metadata']['name']}, requested: {shown(more)}, used: {shown(used)}, "
        f"limited: {shown(hard)}"
    )
