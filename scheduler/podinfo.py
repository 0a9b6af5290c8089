"""A pod as the scheduler sees it: compiled once, compared many times.

Everything a plugin needs from a Pod object is taken out of it here, so that filters and scores never parse.
The rules for requests are those of Kubernetes' `resourcehelper.PodRequests`: the sum of the containers
(restartable init containers run beside them), or the largest step of the init sequence if that is more, plus
the overhead. Requests of the pod as a whole (`spec.resources`, KEP-2837) take the place of the containers'.

Pods made from one template share everything but their identity. `PodInfo.signature` is the encoded form of
what they share; the shared part is compiled from the signature and from nothing else, so equal signatures
mean pods that no plugin can tell apart (but by identity, claims and owner).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson

from apimachinery import quantity

Object = dict[str, Any]

CPU = "cpu"
MEMORY = "memory"
EPHEMERAL = "ephemeral-storage"
PODS = "pods"

# What a container without a request counts as in scoring, so that such pods spread too (NonZeroRequested).
DEFAULT_MILLI_CPU = 100
DEFAULT_MEMORY = 200 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class HostPort:
    """A port that a pod wants on its node; `ip` is `0.0.0.0` when all addresses are meant."""

    ip: str
    protocol: str
    port: int

    def conflicts(self, other: HostPort) -> bool:
        if (self.protocol, self.port) != (other.protocol, other.port):
            return False
        return self.ip == other.ip or "0.0.0.0" in (self.ip, other.ip)


@dataclass(frozen=True, slots=True)
class Toleration:
    """One entry of `spec.tolerations` (core/v1)."""

    key: str
    operator: str
    value: str
    effect: str

    def tolerates(self, key: str, value: str, effect: str) -> bool:
        if self.effect and self.effect != effect:
            return False
        if self.key and self.key != key:
            return False
        return self.operator == "Exists" or (bool(self.key) and self.value == value)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One expression of a selector: `key operator values`."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        if self.operator == "Exists":
            return self.key in labels
        if self.operator == "DoesNotExist":
            return self.key not in labels
        if self.operator == "NotIn":
            return labels.get(self.key) not in self.values
        return self.key in labels and labels[self.key] in self.values


@dataclass(frozen=True, slots=True)
class Selector:
    """A label selector over pods; `requirements` None matches nothing (a null selector)."""

    requirements: tuple[Requirement, ...] | None

    def matches(self, labels: Mapping[str, str]) -> bool:
        if self.requirements is None:
            return False
        return all(requirement.matches(labels) for requirement in self.requirements)


@dataclass(frozen=True, slots=True)
class NodeTerm:
    """One node selector term: its expressions over labels and over fields (metadata.name) must all hold."""

    expressions: tuple[Requirement, ...]
    fields: tuple[Requirement, ...]


@dataclass(frozen=True, slots=True)
class PodTerm:
    """A pod affinity or anti-affinity term. `namespaces` None means all namespaces; with `living` pods that
    are being deleted are not counted (topology spread).
    """

    selector: Selector
    topology_key: str
    namespaces: frozenset[str] | None
    namespace_selector: Selector | None = None
    living: bool = False

    def covers(self, namespace: str, namespace_labels: Mapping[str, str]) -> bool:
        if self.namespaces is None or namespace in self.namespaces:
            return True
        return self.namespace_selector is not None and self.namespace_selector.matches(namespace_labels)


@dataclass(frozen=True, slots=True)
class Spread:
    """One topology spread constraint (core/v1 TopologySpreadConstraint)."""

    max_skew: int
    topology_key: str
    hard: bool
    selector: Selector
    min_domains: int = 1
    honor_affinity: bool = True
    honor_taints: bool = False


@dataclass(frozen=True, slots=True)
class PodInfo:
    """What the scheduler knows of one pod."""

    key: str
    uid: str
    namespace: str
    name: str
    node_name: str
    claims: tuple[str, ...]
    devices: str  # names of `spec.resourceClaims`
    owner: tuple[str, str] | None  # kind and name of the controller
    terminating: bool
    signature: bytes  # stands for every field below, down to the mark
    labels: Mapping[str, str]
    priority: int
    preempts: bool  # preemptionPolicy is not Never
    scheduler_name: str
    requests: Mapping[str, int]  # cpu in millicores, everything else in units
    scoring_cpu: int
    scoring_memory: int
    node_selector: tuple[Requirement, ...]
    node_terms: tuple[NodeTerm, ...] | None  # required node affinity: any term
    preferred_node_terms: tuple[tuple[int, NodeTerm], ...]
    tolerations: tuple[Toleration, ...]
    host_ports: tuple[HostPort, ...]
    affinity: tuple[PodTerm, ...]
    anti_affinity: tuple[PodTerm, ...]
    preferred_affinity: tuple[tuple[int, PodTerm], ...]
    preferred_anti_affinity: tuple[tuple[int, PodTerm], ...]
    spreads: tuple[Spread, ...]
    images: tuple[str, ...]
    gates: tuple[str, ...]
    # -- the mark: status, in which a change makes no new pod of it
    started: str = field(default="", compare=False)  # RFC 3339, so that text order is time order
    nominated_node: str = field(default="", compare=False)


@lru_cache(maxsize=4096)
def amount(resource: str, text: str) -> int:
    """A quantity as the integer the scheduler counts in: millicores for cpu, units otherwise (rounded up)."""
    parsed = quantity.parse(text)
    return parsed.milli() if resource == CPU else parsed.value()


def _add(total: dict[str, int], extra: Mapping[str, int]) -> None:
    for resource, value in extra.items():
        total[resource] = total.get(resource, 0) + value


def _raise_to(total: dict[str, int], floor: Mapping[str, int]) -> None:
    for resource, value in floor.items():
        total[resource] = max(total.get(resource, 0), value)


def _container_requests(container: Object, scoring: bool) -> dict[str, int]:
    wanted = (container.get("resources") or {}).get("requests") or {}
    out = {resource: amount(resource, str(text)) for resource, text in wanted.items()}
    if scoring:
        out.setdefault(CPU, DEFAULT_MILLI_CPU)
        out.setdefault(MEMORY, DEFAULT_MEMORY)
    return out


def pod_requests(spec: Object, *, scoring: bool = False) -> dict[str, int]:
    """What the pod asks of its node; with `scoring` the defaults for absent requests are counted in."""
    total: dict[str, int] = {}
    for container in spec.get("containers") or ():
        _add(total, _container_requests(container, scoring))
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in spec.get("initContainers") or ():
        requests = _container_requests(container, scoring)
        if container.get("restartPolicy") == "Always":
            _add(sidecars, requests)
            _raise_to(peak, sidecars)
        else:
            step = dict(requests)
            _add(step, sidecars)
            _raise_to(peak, step)
    _add(total, sidecars)
    _raise_to(total, peak)
    whole = (spec.get("resources") or {}).get("requests") or {}
    total.update({resource: amount(resource, str(text)) for resource, text in whole.items()})
    for resource, text in (spec.get("overhead") or {}).items():
        _add(total, {resource: amount(resource, str(text))})
    return total


def _requirements(expressions: Iterable[Object] | None) -> tuple[Requirement, ...]:
    return tuple(
        Requirement(item["key"], item.get("operator", "In"), tuple(item.get("values") or ()))
        for item in expressions or ()
    )


def compile_selector(selector: Object | None, extra: Iterable[Requirement] = ()) -> Selector:
    """A `meta/v1` LabelSelector; None matches nothing, an empty one everything."""
    if selector is None:
        return Selector(None)
    exact = tuple(
        Requirement(key, "In", (value,)) for key, value in sorted((selector.get("matchLabels") or {}).items())
    )
    return Selector(exact + _requirements(selector.get("matchExpressions")) + tuple(extra))


def _node_term(term: Object) -> NodeTerm:
    return NodeTerm(_requirements(term.get("matchExpressions")), _requirements(term.get("matchFields")))


def _label_keys(keys: Iterable[str] | None, operator: str, labels: Mapping[str, str]) -> list[Requirement]:
    """matchLabelKeys / mismatchLabelKeys: the pod's own values for these keys join the selector."""
    return [Requirement(key, operator, (labels[key],)) for key in keys or () if key in labels]


def _pod_term(term: Object, namespace: str, labels: Mapping[str, str]) -> PodTerm:
    extra = _label_keys(term.get("matchLabelKeys"), "In", labels)
    extra += _label_keys(term.get("mismatchLabelKeys"), "NotIn", labels)
    named = term.get("namespaces") or []
    by_label = term.get("namespaceSelector")
    namespaces: frozenset[str] | None = frozenset(named)
    if not named and by_label is None:
        namespaces = frozenset((namespace,))
    elif by_label == {}:
        namespaces = None
    return PodTerm(
        compile_selector(term.get("labelSelector"), extra),
        term["topologyKey"],
        namespaces,
        compile_selector(by_label) if by_label else None,
    )


def _spread(constraint: Object, labels: Mapping[str, str]) -> Spread:
    extra = _label_keys(constraint.get("matchLabelKeys"), "In", labels)
    return Spread(
        max_skew=int(constraint["maxSkew"]),
        topology_key=constraint["topologyKey"],
        hard=constraint.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule",
        selector=compile_selector(constraint.get("labelSelector"), extra),
        min_domains=int(constraint.get("minDomains") or 1),
        honor_affinity=constraint.get("nodeAffinityPolicy", "Honor") == "Honor",
        honor_taints=constraint.get("nodeTaintsPolicy", "Ignore") == "Honor",
    )


def _host_ports(spec: Object) -> tuple[HostPort, ...]:
    found: list[HostPort] = []
    for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
        for port in container.get("ports") or ():
            if port.get("hostPort"):
                ip = port.get("hostIP") or "0.0.0.0"
                found.append(HostPort(ip, port.get("protocol", "TCP"), int(port["hostPort"])))
    return tuple(found)


def _claims(spec: Object, pod_name: str) -> tuple[str, ...]:
    names: list[str] = []
    for volume in spec.get("volumes") or ():
        if "persistentVolumeClaim" in volume:
            names.append(volume["persistentVolumeClaim"]["claimName"])
        elif "ephemeral" in volume:
            names.append(f"{pod_name}-{volume['name']}")
    return tuple(names)


def _weighted(items: Iterable[Object] | None, namespace: str, labels: Mapping[str, str]) -> Any:
    return tuple(
        (int(item["weight"]), _pod_term(item["podAffinityTerm"], namespace, labels)) for item in items or ()
    )


def _container_part(container: Object) -> list[Any]:
    return [
        (container.get("resources") or {}).get("requests"),
        [port for port in container.get("ports") or () if port.get("hostPort")],
        container.get("image"),
        container.get("restartPolicy"),
    ]


_SHARED = (
    "nodeSelector",
    "affinity",
    "tolerations",
    "topologySpreadConstraints",
    "overhead",
    "priority",
    "preemptionPolicy",
    "schedulerName",
    "schedulingGates",
)


def _signature(namespace: str, labels: Object, spec: Object) -> bytes:
    """All that placement depends on and that pods of one template share."""
    shared = {name: spec[name] for name in _SHARED if spec.get(name) is not None}
    return orjson.dumps(
        [
            namespace,
            labels,
            shared,
            [_container_part(each) for each in spec.get("containers") or ()],
            [_container_part(each) for each in spec.get("initContainers") or ()],
            (spec.get("resources") or {}).get("requests"),
        ],
        option=orjson.OPT_SORT_KEYS,
    )


def _unpacked(part: list[Any]) -> Object:
    requests, ports, image, restart = part
    return {"resources": {"requests": requests}, "ports": ports, "image": image, "restartPolicy": restart}


@lru_cache(maxsize=8192)
def _shared_part(signature: bytes) -> Mapping[str, Any]:
    """The fields of a PodInfo that the signature stands for."""
    namespace, labels, spec, containers, init, whole = orjson.loads(signature)
    spec["containers"] = [_unpacked(part) for part in containers]
    spec["initContainers"] = [_unpacked(part) for part in init]
    spec["resources"] = {"requests": whole}
    scoring = pod_requests(spec, scoring=True)
    return {
        "namespace": namespace,
        "signature": signature,
        "labels": labels,
        "priority": int(spec.get("priority") or 0),
        "preempts": spec.get("preemptionPolicy") != "Never",
        "scheduler_name": spec.get("schedulerName", "default-scheduler"),
        "requests": pod_requests(spec),
        "scoring_cpu": scoring.get(CPU, 0),
        "scoring_memory": scoring.get(MEMORY, 0),
        "node_selector": tuple(
            Requirement(key, "In", (value,)) for key, value in (spec.get("nodeSelector") or {}).items()
        ),
        "tolerations": _tolerations(spec),
        "host_ports": _host_ports(spec),
        "spreads": tuple(_spread(item, labels) for item in spec.get("topologySpreadConstraints") or ()),
        "images": tuple(each["image"] or "" for each in [*spec["initContainers"], *spec["containers"]]),
        "gates": tuple(gate["name"] for gate in spec.get("schedulingGates") or ()),
        **_affinities(spec.get("affinity") or {}, namespace, labels),
    }


def _tolerations(spec: Object) -> tuple[Toleration, ...]:
    return tuple(
        Toleration(
            item.get("key", ""), item.get("operator", "Equal"), item.get("value", ""), item.get("effect", "")
        )
        for item in spec.get("tolerations") or ()
    )


def _affinities(affinity: Object, namespace: str, labels: Mapping[str, str]) -> Mapping[str, Any]:
    hard = "requiredDuringSchedulingIgnoredDuringExecution"
    soft = "preferredDuringSchedulingIgnoredDuringExecution"
    node = affinity.get("nodeAffinity") or {}
    near, apart = affinity.get("podAffinity") or {}, affinity.get("podAntiAffinity") or {}
    return {
        "node_terms": compile_node_selector(node.get(hard)),
        "preferred_node_terms": compile_preferences(node.get(soft)),
        "affinity": tuple(_pod_term(term, namespace, labels) for term in near.get(hard) or ()),
        "anti_affinity": tuple(_pod_term(term, namespace, labels) for term in apart.get(hard) or ()),
        "preferred_affinity": _weighted(near.get(soft), namespace, labels),
        "preferred_anti_affinity": _weighted(apart.get(soft), namespace, labels),
    }


def compile_node_selector(selector: Object | None) -> tuple[NodeTerm, ...] | None:
    """A core/v1 NodeSelector: any of its terms; None where there is none."""
    if not selector:
        return None
    return tuple(_node_term(term) for term in selector.get("nodeSelectorTerms") or ())


def compile_preferences(items: Iterable[Object] | None) -> tuple[tuple[int, NodeTerm], ...]:
    """core/v1 PreferredSchedulingTerms."""
    return tuple((int(item["weight"]), _node_term(item["preference"])) for item in items or ())


def _owner(meta: Object) -> tuple[str, str] | None:
    for each in meta.get("ownerReferences") or ():
        if each.get("controller"):
            return each["kind"], each["name"]
    return None


def compile_pod(pod: Object) -> PodInfo:
    """Take out of a Pod object all that scheduling depends on."""
    meta, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    namespace, name = meta.get("namespace", ""), meta["name"]
    return PodInfo(
        key=f"{namespace}/{name}",
        uid=meta.get("uid", ""),
        name=name,
        node_name=spec.get("nodeName", ""),
        claims=_claims(spec, name) if spec.get("volumes") else (),
        devices=", ".join(each["name"] for each in spec.get("resourceClaims") or ()),
        owner=_owner(meta),
        terminating=bool(meta.get("deletionTimestamp")),
        started=status.get("startTime") or "",
        nominated_node=status.get("nominatedNodeName") or "",
        **_shared_part(_signature(namespace, meta.get("labels") or {}, spec)),
    )
