"""NetworkPolicies to rules, for the pods of one node. Pure.

A pod that a policy selects is isolated in that direction: what no policy allows is dropped
(networking.k8s.io/v1 NetworkPolicySpec). Where packets are forwarded, and only there, so that a node always
reaches its own pods:

    forward  ->  from-pods (by source)     ->  egress-X   (a rule that allows returns; the end drops)
             ->  to-pods (by destination)  ->  ingress-Y

Pods that the same policies select share a chain. Peers are named sets of addresses, so that a pod that comes
or goes is one element, whatever the number of rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from apimachinery.selectors import LabelSelector, from_label_selector
from kubeproxy.model import is_ipv4
from kubeproxy.rules import (
    AddressKey,
    AddressSet,
    Chain,
    DestinationIn,
    DestinationInSet,
    DestinationPortInSet,
    Drop,
    Hook,
    Jump,
    Key,
    Lookup,
    Match,
    OpenConnection,
    PortsIn,
    Protocol,
    Return,
    Rule,
    RuleSet,
    SourceIn,
    SourceInSet,
    Verdict,
)

Object = dict[str, Any]
TABLE = "ip hardway-policy"
FORWARD, FROM_PODS, TO_PODS = "forward", "from-pods", "to-pods"
_AFTER_DNAT = 0
_LAST_PORT = 65535


class Pod(NamedTuple):
    """A pod with an address of its own. `ports` are its named ones: (name, protocol, number)."""

    namespace: str
    name: str
    ip: str
    labels: Mapping[str, str]
    node: str
    ports: tuple[tuple[str, str, int], ...] = ()


def pod_of(obj: Object) -> Pod | None:
    """None for a pod that policies do not concern: without address, ended, or in the host's network."""
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    ip = status.get("podIP") or ""
    if spec.get("hostNetwork") or status.get("phase") in ("Succeeded", "Failed") or not is_ipv4(ip):
        return None
    # A restartable init container is a sidecar, and its ports are open like any other's.
    containers = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    ports = tuple(
        (str(port["name"]), str(port.get("protocol", "TCP")).lower(), int(port["containerPort"]))
        for container in containers
        for port in container.get("ports") or []
        if port.get("name")
    )
    metadata = obj["metadata"]
    return Pod(
        metadata["namespace"],
        metadata["name"],
        ip,
        metadata.get("labels") or {},
        spec.get("nodeName", ""),
        ports,
    )


class _Way(NamedTuple):
    """What differs between the directions. The peer is the other end."""

    name: str
    type: str
    peers: str
    map: str


_INGRESS = _Way("ingress", "Ingress", "from", TO_PODS)
_EGRESS = _Way("egress", "Egress", "to", FROM_PODS)


@dataclass(slots=True)
class _Compilation:
    pods: list[Pod]
    namespaces: Mapping[str, Mapping[str, str]]
    node: str
    chains: dict[str, Chain] = field(default_factory=dict)
    maps: dict[str, dict[Key, Verdict]] = field(default_factory=lambda: {FROM_PODS: {}, TO_PODS: {}})
    sets: dict[str, AddressSet] = field(default_factory=dict)

    def named_set(self, members: Iterable[str], identity: object, *, ports: bool = False) -> str:
        digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
        name = f"{'ports' if ports else 'peers'}-{digest}"
        self.sets[name] = AddressSet(frozenset(members), ports=ports)
        return name


def compile_policies(
    policies: Iterable[Object], pods: Iterable[Pod], namespaces: Mapping[str, Mapping[str, str]], node: str
) -> RuleSet:
    """The rules for the pods of `node`; `namespaces` are the labels of each namespace by its name."""
    state = _Compilation(sorted(pods, key=lambda pod: pod[:3]), namespaces, node)
    ordered = sorted(policies, key=_title)
    for way in (_INGRESS, _EGRESS):
        _direction(state, [each for each in ordered if way.type in _types(each)], way)
    state.chains[FORWARD] = Chain(
        (
            Rule((OpenConnection(),), Return()),
            Rule((), Lookup(FROM_PODS)),
            Rule((), Lookup(TO_PODS)),
        ),
        Hook("filter", "forward", _AFTER_DNAT),
    )
    return RuleSet(state.chains, state.maps, state.sets)


def _title(policy: Object) -> str:
    return f"{policy['metadata']['namespace']}/{policy['metadata']['name']}"


def _types(policy: Object) -> list[str]:
    """Ingress always, Egress if there are such rules, where `policyTypes` does not say it."""
    spec = policy.get("spec") or {}
    return list(spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])])


def _direction(state: _Compilation, policies: list[Object], way: _Way) -> None:
    selectors = [from_label_selector(each["spec"].get("podSelector") or {}) for each in policies]
    by_policies: dict[tuple[int, ...], list[Pod]] = {}
    for pod in state.pods:
        if pod.node == state.node:
            selecting = tuple(
                number
                for number, (policy, selector) in enumerate(zip(policies, selectors, strict=True))
                if policy["metadata"]["namespace"] == pod.namespace and selector.matches(pod.labels)
            )
            if selecting:
                by_policies.setdefault(selecting, []).append(pod)
    for numbers, isolated in by_policies.items():
        chosen = [policies[number] for number in numbers]
        titles = [_title(each) for each in chosen]
        name = f"{way.name}-{hashlib.sha256(' '.join(titles).encode()).hexdigest()[:16]}"
        allowed = [rule for policy in chosen for rule in _rules(state, policy, isolated, way)]
        state.chains[name] = Chain((*dict.fromkeys(allowed), Rule((), Drop())))
        for pod in isolated:
            state.maps[way.map][AddressKey(pod.ip)] = Jump(name)


def _rules(state: _Compilation, policy: Object, isolated: list[Pod], way: _Way) -> list[Rule]:
    """One for each peer and port that the policy allows; an entry without peers or ports allows them all."""
    rules: list[Rule] = []
    for entry in policy["spec"].get(way.name) or []:
        peers = entry.get(way.peers) or []
        ends = [_peer(state, policy["metadata"]["namespace"], peer, way) for peer in peers] or [()]
        targets = isolated if way is _INGRESS else _peer_pods(state, policy, peers)
        ports = [_port(state, port, targets, (_title(policy), way.name)) for port in entry.get("ports") or []]
        rules += [Rule((*end, *port), Return(), _title(policy)) for end in ends for port in (ports or [()])]
    return rules


def _peer(state: _Compilation, namespace: str, peer: Object, way: _Way) -> tuple[Match, ...]:
    if block := peer.get("ipBlock"):
        if not is_ipv4(str(block["cidr"]).partition("/")[0]):
            # The other family: no packet of this table is meant. An empty set says so.
            return _in_set(state.named_set((), "nobody"), way)
        excepted = tuple(each for each in block.get("except") or () if is_ipv4(each.partition("/")[0]))
        kind = SourceIn if way is _INGRESS else DestinationIn
        return (kind((block["cidr"],)), *((kind(excepted, negate=True),) if excepted else ()))
    members = {pod.ip for pod in _selected(state, namespace, peer)}
    return _in_set(state.named_set(members, _identity(namespace, peer)), way)


def _identity(namespace: str, peer: Object) -> tuple[str, str, str]:
    """Equal peers share a set; a peer without namespace selector means the policy's own namespace."""
    spaces = peer.get("namespaceSelector")
    where = namespace if spaces is None else ""
    return where, repr(spaces), repr(peer.get("podSelector"))


def _in_set(name: str, way: _Way) -> tuple[Match, ...]:
    return (SourceInSet(name) if way is _INGRESS else DestinationInSet(name),)


def _selected(state: _Compilation, namespace: str, peer: Object) -> list[Pod]:
    spaces = peer.get("namespaceSelector")
    if spaces is None:
        within = {namespace}
    else:
        selector = from_label_selector(spaces)
        within = {name for name, labels in state.namespaces.items() if selector.matches(labels)}
    wanted: LabelSelector = from_label_selector(peer.get("podSelector") or {})
    return [pod for pod in state.pods if pod.namespace in within and wanted.matches(pod.labels)]


def _peer_pods(state: _Compilation, policy: Object, peers: list[Object]) -> list[Pod]:
    """The pods a named port of an egress rule can mean: those at the other end."""
    if not peers:
        return state.pods
    namespace = policy["metadata"]["namespace"]
    return [pod for peer in peers if not peer.get("ipBlock") for pod in _selected(state, namespace, peer)]


def _port(
    state: _Compilation, port: Object, targets: list[Pod], identity: tuple[str, str]
) -> tuple[Match, ...]:
    protocol = str(port.get("protocol") or "TCP").lower()
    number = port.get("port")
    if number is None:
        return (Protocol(protocol),)
    if isinstance(number, int):
        return (PortsIn(protocol, number, min(int(port.get("endPort") or number), _LAST_PORT)),)
    members = {
        f"{pod.ip} . {opened}"
        for pod in targets
        for name, spoken, opened in pod.ports
        if (name, spoken) == (number, protocol)
    }
    among = tuple(sorted(pod.ip for pod in targets)) if identity[1] == "ingress" else ()
    named = state.named_set(members, (*identity, number, protocol, among), ports=True)
    return (DestinationPortInSet(named, protocol),)
