"""Service ports to rules for iptables. Pure.

iptables has no maps, so a service costs one rule in a list that every new connection walks: its price grows
with the number of services. Chains carry the names every administrator of kube-proxy knows; here they are
written `table/CHAIN`.

    nat/KUBE-SERVICES -> KUBE-SVC- (balance) or KUBE-SVL- (this node) -> KUBE-SEP- (endpoint, DNAT)
                      -> KUBE-EXT- (masquerade, policy) -> one of these; KUBE-FW- before it with source ranges
    filter/KUBE-SERVICES, KUBE-EXTERNAL-SERVICES, KUBE-PROXY-FIREWALL: who is refused
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

from kubeproxy.compiler import LOOPBACK, Fragment, Settings, outside_pods
from kubeproxy.model import Endpoint, ServicePort
from kubeproxy.rules import (
    Chain,
    ClearMark,
    DestinationIn,
    DestinationIsHost,
    DestinationPort,
    Dnat,
    Drop,
    Hook,
    Jump,
    Marked,
    Masquerade,
    Match,
    NewConnection,
    OneIn,
    Protocol,
    Reject,
    Remember,
    Return,
    Rule,
    RuleSet,
    SeenWithin,
    SetMark,
    SourceIn,
    SourceIsHost,
)

SERVICES, NODE_PORTS = "nat/KUBE-SERVICES", "nat/KUBE-NODEPORTS"
MARK, POSTROUTING = "nat/KUBE-MARK-MASQ", "nat/KUBE-POSTROUTING"
REFUSED, EXTERNAL = "filter/KUBE-SERVICES", "filter/KUBE-EXTERNAL-SERVICES"
FIREWALL = "filter/KUBE-PROXY-FIREWALL"
_SHARED = (SERVICES, NODE_PORTS, REFUSED, EXTERNAL, FIREWALL)
_NEW = (NewConnection(),)


def _hooked(kind: str, point: str, priority: int, *jumps: str) -> Chain:
    matches = _NEW if kind == "filter" else ()
    return Chain(tuple(Rule(matches, Jump(name)) for name in jumps), Hook(kind, point, priority))


HOOKED = {
    "nat/PREROUTING": _hooked("nat", "prerouting", -100, SERVICES),
    "nat/OUTPUT": _hooked("nat", "output", -100, SERVICES),
    "nat/POSTROUTING": _hooked("nat", "postrouting", 100, POSTROUTING),
    "filter/INPUT": _hooked("filter", "input", 0, FIREWALL, EXTERNAL),
    "filter/FORWARD": _hooked("filter", "forward", 0, FIREWALL, REFUSED, EXTERNAL),
    "filter/OUTPUT": _hooked("filter", "output", 0, FIREWALL, REFUSED),
}
"""The kernel's own chains, which others use too: of these, only the rules given here are ours."""


def _title(port: ServicePort) -> str:
    name = f"{port.namespace}/{port.name}"
    return f"{name}:{port.port_name}" if port.port_name else name


def chain_name(kind: str, port: ServicePort, endpoint: Endpoint | None = None) -> str:
    """`nat/KUBE-SVC-` and 16 characters of a hash, as kube-proxy makes it."""
    text = _title(port) + port.protocol + (f"{endpoint.ip}:{endpoint.port}" if endpoint else "")
    digest = base64.b32encode(hashlib.sha256(text.encode()).digest()).decode()[:16]
    return f"nat/KUBE-{kind}-{digest}"


def assemble(fragments: Iterable[Fragment], settings: Settings) -> RuleSet:
    """Join fragments and the fixed chains. Where two services claim one address, the first wins."""
    chains = dict(HOOKED)
    shared: dict[str, list[Rule]] = {name: [] for name in _SHARED}
    for fragment in fragments:
        chains |= fragment.chains
        for name, rules in fragment.rules.items():
            shared[name] += rules
    host: tuple[Match, ...] = (DestinationIsHost(), DestinationIn((LOOPBACK,), negate=True))
    if settings.node_port_networks:
        host = (DestinationIn(settings.node_port_networks), DestinationIsHost())
    shared[SERVICES].append(Rule(host, Jump(NODE_PORTS), "node ports, which must come last"))
    chains |= {name: Chain(tuple(rules)) for name, rules in shared.items()}
    chains[MARK] = Chain((Rule((), SetMark()),))
    chains[POSTROUTING] = Chain(
        (Rule((Marked(negate=True),), Return()), Rule((), ClearMark()), Rule((), Masquerade()))
    )
    return RuleSet(chains)


def compile_port(port: ServicePort, settings: Settings) -> Fragment:
    """The rules of one service port."""
    out = Fragment()
    cluster, local = chain_name("SVC", port), chain_name("SVL", port)
    external = bool(port.node_port or port.external_ips or port.load_balancer_ips)
    if port.cluster:
        out.chains[cluster] = _choice(out, port, port.cluster, settings)
    if port.node and (port.internal_local or (port.external_local and external)):
        out.chains[local] = _choice(out, port, port.node, settings)
    if port.cluster_ip:
        at = _at(port, port.cluster_ip)
        if port.internal_endpoints:
            _add(out, SERVICES, at, local if port.internal_local else cluster, _title(port))
        else:
            _refuse(out, REFUSED, at, port)
    if external:
        _external(out, port, settings, cluster, local)
    return out


def _at(port: ServicePort, ip: str) -> tuple[Match, ...]:
    return (DestinationIn((ip,)), DestinationPort(port.protocol, port.port))


def _add(out: Fragment, chain: str, matches: tuple[Match, ...], target: str, comment: str = "") -> None:
    out.rules.setdefault(chain, []).append(Rule(matches, Jump(target), comment))


def _refuse(out: Fragment, chain: str, matches: tuple[Match, ...], port: ServicePort) -> None:
    """Nobody serves: refused. Nobody on this node, as the policy demands: dropped."""
    reason = "no local endpoints" if port.cluster else "no endpoints"
    rule = Rule(matches, Drop() if port.cluster else Reject(), f"{_title(port)} has {reason}")
    out.rules.setdefault(chain, []).append(rule)


def _external(out: Fragment, port: ServicePort, settings: Settings, cluster: str, local: str) -> None:
    chain = chain_name("EXT", port)
    at_node: tuple[Match, ...] = (DestinationPort(port.protocol, port.node_port),)
    if port.cluster:
        out.chains[chain] = Chain(_external_rules(port, settings, cluster, local))
        for ip in port.external_ips:
            _add(out, SERVICES, _at(port, ip), chain, f"{_title(port)} external IP")
        balanced = _firewall(out, port, chain)
        for ip in port.load_balancer_ips:
            _add(out, SERVICES, _at(port, ip), balanced, f"{_title(port)} loadbalancer IP")
        if port.node_port:
            _add(out, NODE_PORTS, at_node, chain, _title(port))
    if not port.external_endpoints:
        for ip in (*port.external_ips, *port.load_balancer_ips):
            _refuse(out, EXTERNAL, _at(port, ip), port)
        if port.node_port:
            _refuse(out, EXTERNAL, (DestinationIsHost(), *at_node), port)


def _firewall(out: Fragment, port: ServicePort, chain: str) -> str:
    """With source ranges only they are translated; the rest arrives as it was sent, and is dropped."""
    if not port.source_ranges:
        return chain
    name = chain_name("FW", port)
    out.chains[name] = Chain((Rule((SourceIn(port.source_ranges),), Jump(chain)),))
    dropped = [
        Rule(_at(port, ip), Drop(), f"{_title(port)} traffic not accepted") for ip in port.load_balancer_ips
    ]
    out.rules.setdefault(FIREWALL, []).extend(dropped)
    return name


def _external_rules(port: ServicePort, settings: Settings, cluster: str, local: str) -> tuple[Rule, ...]:
    if not port.external_local:
        # Any node may be asked for any endpoint, so answers must come back the same way.
        return (Rule((), Jump(MARK)), Rule((), Jump(cluster)))
    rules: list[Rule] = []
    if settings.cluster_cidrs:
        rules.append(Rule((SourceIn(settings.cluster_cidrs),), Jump(cluster), "pod traffic"))
    rules.append(Rule((SourceIsHost(),), Jump(MARK), "host traffic"))
    rules.append(Rule((SourceIsHost(),), Jump(cluster), "host traffic"))
    if port.node:
        rules.append(Rule((), Jump(local)))
    return tuple(rules)


def _choice(out: Fragment, port: ServicePort, endpoints: tuple[Endpoint, ...], settings: Settings) -> Chain:
    """The endpoint remembered for the client, else any: the first with probability 1/n, the next 1/(n-1)."""
    rules: list[Rule] = []
    origin = outside_pods(settings)
    if port.cluster_ip and origin is not None:
        rules.append(Rule((*origin, *_at(port, port.cluster_ip)), Jump(MARK), f"{_title(port)} cluster IP"))
    targets = [chain_name("SEP", port, endpoint) for endpoint in endpoints]
    if port.affinity_seconds:
        rules += [Rule((SeenWithin(_memory(each), port.affinity_seconds),), Jump(each)) for each in targets]
    for number, (endpoint, target) in enumerate(zip(endpoints, targets, strict=True)):
        left = len(endpoints) - number
        comment = f"{_title(port)} -> {endpoint.ip}:{endpoint.port}"
        rules.append(Rule((OneIn(left),) if left > 1 else (), Jump(target), comment))
        out.chains[target] = _endpoint(port, endpoint, target)
    return Chain(tuple(rules))


def _endpoint(port: ServicePort, endpoint: Endpoint, chain: str) -> Chain:
    rules = [Rule((SourceIn((endpoint.ip,)),), Jump(MARK))]
    if port.affinity_seconds:
        rules.append(Rule((), Remember(_memory(chain))))
    rules.append(Rule((Protocol(port.protocol),), Dnat(endpoint.ip, endpoint.port)))
    return Chain(tuple(rules))


def _memory(chain: str) -> str:
    return chain.partition("/")[2]
