"""What pods, Services and claims use of a quota, and which scopes they fall under. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from apimachinery import quantity
from apimachinery.quantity import ZERO, Quantity
from controllers import objects as o
from controllers import pods
from controllers.objects import Object

Usage = dict[str, Quantity]
ONE = quantity.parse("1")
_PLAIN = ("cpu", "memory", "ephemeral-storage")
CLASS_SUFFIX = ".storageclass.storage.k8s.io/"
BETA_CLASS = "volume.beta.kubernetes.io/storage-class"


def add(one: Usage, other: Mapping[str, Quantity]) -> Usage:
    out = dict(one)
    for name, amount in other.items():
        out[name] = out.get(name, ZERO) + amount
    return out


def _largest(one: Usage, other: Usage) -> Usage:
    return {n: max(one.get(n, ZERO), other.get(n, ZERO)) for n in {*one, *other}}


# -- pods ----------------------------------------------------------------------------------------------------


def is_charged(pod: Object, now: float) -> bool:
    """Finished pods use nothing, nor do those whose grace period is over and whose node does not say so."""
    if pods.is_finished(pod):
        return False
    grace = o.meta(pod).get("deletionGracePeriodSeconds")
    if not o.is_terminating(pod) or grace is None:
        return True
    return now <= o.parse_time(o.meta(pod)["deletionTimestamp"]) + float(grace)


def pod_usage(pod: Object, now: float) -> Usage:
    """`count/pods` counts every pod there is; the rest only those that are charged."""
    out: Usage = {"count/pods": ONE}
    if not is_charged(pod, now):
        return out
    out["pods"] = ONE
    requests, limits = _total(pod, "requests"), _total(pod, "limits")
    for name, amount in requests.items():
        out[f"requests.{name}"] = amount
        if name in _PLAIN or name.startswith("hugepages-"):
            out[name] = amount
    out |= {f"limits.{name}": amount for name, amount in limits.items() if name in _PLAIN}
    return out


def _total(pod: Object, part: str) -> Usage:
    """The sum of the containers or the largest init container with the sidecars before it (KEP-753)."""
    spec = o.spec(pod)

    def of(container: Object) -> Usage:
        stated = (container.get("resources") or {}).get(part) or {}
        return {name: quantity.parse(value) for name, value in stated.items()}

    sidecars: Usage = {}
    peak: Usage = {}
    for container in spec.get("initContainers") or ():
        if container.get("restartPolicy") == "Always":
            sidecars = add(sidecars, of(container))
            peak = _largest(peak, sidecars)
        else:
            peak = _largest(peak, add(sidecars, of(container)))
    total = sidecars
    for container in spec.get("containers") or ():
        total = add(total, of(container))
    total = _largest(total, peak)
    overhead = {name: quantity.parse(value) for name, value in (spec.get("overhead") or {}).items()}
    return add(total, {n: v for n, v in overhead.items() if part == "requests" or n in total})


def is_best_effort(pod: Object) -> bool:
    spec = o.spec(pod)
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        resources = container.get("resources") or {}
        stated = {**(resources.get("requests") or {}), **(resources.get("limits") or {})}
        if any(name in ("cpu", "memory") and quantity.parse(v) > ZERO for name, v in stated.items()):
            return False
    return True


def _crosses_namespaces(pod: Object) -> bool:
    affinity = o.spec(pod).get("affinity") or {}
    for kind in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(kind) or {}
        terms = [*(rules.get("requiredDuringSchedulingIgnoredDuringExecution") or ())]
        preferred = rules.get("preferredDuringSchedulingIgnoredDuringExecution") or ()
        terms += [weighted.get("podAffinityTerm") or {} for weighted in preferred]
        if any(term.get("namespaces") or term.get("namespaceSelector") is not None for term in terms):
            return True
    return False


def _matches_priority(pod: Object, requirement: Object) -> bool:
    name, values = o.spec(pod).get("priorityClassName", ""), requirement.get("values") or ()
    match requirement.get("operator"):
        case "In":
            return name in values
        case "NotIn":
            return name not in values
        case "DoesNotExist":
            return not name
        case _:
            return bool(name)


_SCOPES: Mapping[str, Callable[[Object, Object], bool]] = {
    "Terminating": lambda pod, _: o.spec(pod).get("activeDeadlineSeconds") is not None,
    "NotTerminating": lambda pod, _: o.spec(pod).get("activeDeadlineSeconds") is None,
    "BestEffort": lambda pod, _: is_best_effort(pod),
    "NotBestEffort": lambda pod, _: not is_best_effort(pod),
    "PriorityClass": _matches_priority,
    "CrossNamespacePodAffinity": lambda pod, _: _crosses_namespaces(pod),
}


def in_scope(quota: Object, pod: Object) -> bool:
    """The pod falls under every scope of the quota."""
    spec = o.spec(quota)
    wanted = [{"scopeName": scope, "operator": "Exists"} for scope in spec.get("scopes") or ()]
    wanted += (spec.get("scopeSelector") or {}).get("matchExpressions") or ()
    return all(w["scopeName"] in _SCOPES and _SCOPES[w["scopeName"]](pod, w) for w in wanted)


# -- others --------------------------------------------------------------------------------------------------


def service_usage(service: Object) -> Usage:
    spec = o.spec(service)
    ports, kind = spec.get("ports") or (), spec.get("type", "ClusterIP")
    out = {"count/services": ONE, "services": ONE}
    if kind == "LoadBalancer":
        out["services.loadbalancers"] = ONE
        if spec.get("allocateLoadBalancerNodePorts") is False:
            ports = [port for port in ports if port.get("nodePort")]
    if kind in ("NodePort", "LoadBalancer"):
        out["services.nodeports"] = quantity.parse(len(ports))
    return out


def claim_usage(claim: Object) -> Usage:
    """Storage counts as what was asked for or, if that is more, what was allocated."""
    out = {"count/persistentvolumeclaims": ONE, "persistentvolumeclaims": ONE}
    asked = ((o.spec(claim).get("resources") or {}).get("requests") or {}).get("storage")
    given = (o.status(claim).get("allocatedResources") or {}).get("storage")
    amounts = [quantity.parse(text) for text in (asked, given) if text is not None]
    if amounts:
        out["requests.storage"] = max(amounts)
    name = o.annotations_of(claim).get(BETA_CLASS) or o.spec(claim).get("storageClassName")
    if name:
        out[f"{name}{CLASS_SUFFIX}persistentvolumeclaims"] = ONE
        if amounts:
            out[f"{name}{CLASS_SUFFIX}requests.storage"] = max(amounts)
    return out


def total(objects: Iterable[Object], usage: Callable[[Object], Usage]) -> Usage:
    out: Usage = {}
    for obj in objects:
        out = add(out, usage(obj))
    return out
