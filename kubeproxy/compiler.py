"""Service ports to rules. Pure.

A connection to a service is found in one lookup by (address, protocol, port), whatever the number of
services. The common case has no chain of its own, since chains are what the kernel is slow to take in: the
verdict names one chain per number of endpoints, which looks the endpoint up by (address, protocol, port,
random number):

    service-ips       ->  pick-tcp-3  ->  slots  ->  DNAT
    service-ips,
    service-nodeports ->  external-X (masquerade, policy)  ->  service-X or local-X (choice, DNAT)
    with affinity     ->  ... service-X or local-X (memory, choice)  ->  endpoint-Y (remember, DNAT)

A connection that comes back to its own sender is masqueraded behind the translation, by one set.

What is in no map and names a service that has no endpoint is refused after routing, so that clients fail at
once.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from kubeproxy.model import Endpoint, ServicePort
from kubeproxy.rules import (
    AddressSet,
    Balance,
    Chain,
    ClearMark,
    DestinationIn,
    DestinationInSet,
    DestinationIsHost,
    Dnat,
    DnatSlot,
    DnatSpread,
    Drop,
    Goto,
    Hairpin,
    Hook,
    Jump,
    Key,
    Lookup,
    Marked,
    Masquerade,
    Match,
    NewConnection,
    PortKey,
    Protocol,
    Reject,
    Remember,
    Return,
    Rule,
    RuleSet,
    ServiceKey,
    SetMark,
    SlotKey,
    SourceIn,
    SourceInSet,
    SourceIsHost,
    Target,
    Verdict,
)

SERVICE_IPS = "service-ips"
NODE_PORTS = "service-nodeports"
NO_ENDPOINT_IPS = "no-endpoint-services"
NO_ENDPOINT_PORTS = "no-endpoint-nodeports"
FIREWALL = "firewall-ips"
CLUSTER_IPS = "cluster-ips"
HAIRPIN = "hairpin-connections"
MARK = "mark-for-masquerade"
REJECT = "reject-chain"
LOOPBACK = "127.0.0.0/8"

# nftables allows 127 bytes; real names are far shorter.
_NAME_LIMIT = 127
_NAT_DESTINATION = -100
_NAT_SOURCE = 100
_BEFORE_DNAT = _NAT_DESTINATION - 10


@dataclass(frozen=True, slots=True)
class Settings:
    """What of the configuration shapes rules.

    `cluster_cidrs` are the pods' addresses: traffic to a ClusterIP from anywhere else is masqueraded. With
    `node_port_networks` node ports are served only on host addresses within them.
    """

    cluster_cidrs: tuple[str, ...] = ()
    node_port_networks: tuple[str, ...] = ()
    masquerade_all: bool = False


@dataclass(slots=True)
class Fragment:
    """The rules of one service port. `rules` are its lines in chains that all services share."""

    chains: dict[str, Chain] = field(default_factory=dict)
    maps: dict[str, dict[Key, Verdict]] = field(default_factory=dict)
    sets: dict[str, AddressSet] = field(default_factory=dict)
    slots: dict[SlotKey, Target] = field(default_factory=dict)
    rules: dict[str, list[Rule]] = field(default_factory=dict)

    def element(self, name: str, key: Key, verdict: Verdict) -> None:
        self.maps.setdefault(name, {})[key] = verdict


def chain_name(prefix: str, port: ServicePort, suffix: str = "") -> str:
    """A name that says whose chain it is and stays unique when cut to the kernel's limit."""
    title = port.title + suffix
    digest = base64.b32encode(hashlib.sha256(title.encode()).digest())[:8].decode()
    return f"{prefix}-{digest}-{title}"[:_NAME_LIMIT]


def compile_rules(ports: Iterable[ServicePort], settings: Settings) -> RuleSet:
    """The whole rule set."""
    return assemble([compile_port(port, settings) for port in ports], settings)


def assemble(fragments: Iterable[Fragment], settings: Settings) -> RuleSet:
    """Join fragments and the fixed chains. Where two services claim one key, the first keeps it."""
    chains = _fixed_chains(settings)
    maps: dict[str, dict[Key, Verdict]] = {
        name: {} for name in (SERVICE_IPS, NODE_PORTS, NO_ENDPOINT_IPS, NO_ENDPOINT_PORTS, FIREWALL)
    }
    sets: dict[str, AddressSet] = {}
    slots: dict[SlotKey, Target] = {}
    shared: dict[str, set[str]] = {CLUSTER_IPS: set(), HAIRPIN: set()}
    for fragment in fragments:
        chains |= fragment.chains
        for name, elements in fragment.maps.items():
            taken = maps[name]
            for key, verdict in elements.items():
                taken.setdefault(key, verdict)
        for slot, target in fragment.slots.items():
            # The first claimant of an address may have another number of endpoints: its slots are its own.
            slots.setdefault(slot, target)
        for name, addresses in fragment.sets.items():
            if name in shared:
                shared[name] |= addresses.addresses
            else:
                sets[name] = addresses
    sets[CLUSTER_IPS] = AddressSet(frozenset(shared[CLUSTER_IPS]))
    sets[HAIRPIN] = AddressSet(frozenset(shared[HAIRPIN]), twin=True)
    return RuleSet(chains, maps, sets, slots)


def _fixed_chains(settings: Settings) -> dict[str, Chain]:
    host: tuple[Match, ...] = (DestinationIsHost(), DestinationIn((LOOPBACK,), negate=True))
    if settings.node_port_networks:
        host = (*host, DestinationIn(settings.node_port_networks))
    origin = outside_pods(settings)
    inbound = () if origin is None else (Rule((DestinationInSet(CLUSTER_IPS), *origin), Jump(MARK)),)
    services = (*inbound, Rule((), Lookup(SERVICE_IPS)), Rule(host, Lookup(NODE_PORTS)))
    check = (
        Rule((), Lookup(NO_ENDPOINT_IPS)),
        Rule(host, Lookup(NO_ENDPOINT_PORTS)),
        # A port that no service has, on an address that is a service's.
        Rule((DestinationInSet(CLUSTER_IPS),), Reject()),
    )
    to_services = (Rule((), Jump("services")),)
    to_check = (Rule((NewConnection(),), Jump("endpoints-check")),)
    to_firewall = (Rule((NewConnection(),), Lookup(FIREWALL)),)
    masquerading = (
        Rule((Hairpin(HAIRPIN),), Jump(MARK)),
        Rule((Marked(negate=True),), Return()),
        Rule((), ClearMark()),
        Rule((), Masquerade()),
    )
    return {
        MARK: Chain((Rule((), SetMark()),)),
        REJECT: Chain((Rule((), Reject()),)),
        "services": Chain(services),
        "endpoints-check": Chain(check),
        "filter-prerouting": Chain(to_firewall, Hook("filter", "prerouting", _BEFORE_DNAT)),
        "filter-output-before": Chain(to_firewall, Hook("filter", "output", _BEFORE_DNAT)),
        "nat-prerouting": Chain(to_services, Hook("nat", "prerouting", _NAT_DESTINATION)),
        "nat-output": Chain(to_services, Hook("nat", "output", _NAT_DESTINATION)),
        "filter-input": Chain(to_check, Hook("filter", "input", 0)),
        "filter-forward": Chain(to_check, Hook("filter", "forward", 0)),
        "filter-output": Chain(to_check, Hook("filter", "output", 0)),
        "nat-postrouting": Chain(masquerading, Hook("nat", "postrouting", _NAT_SOURCE)),
    }


def compile_port(port: ServicePort, settings: Settings) -> Fragment:
    """The rules of one service port."""
    out = Fragment()
    cluster, local = chain_name("service", port), chain_name("local", port)
    external = bool(port.node_port or port.external_ips or port.load_balancer_ips)
    sticky = port.affinity_seconds > 0
    if port.cluster and (external or (sticky and not port.internal_local)):
        _choice(out, cluster, port, port.cluster)
    if port.node and ((port.external_local and external) or (sticky and port.internal_local)):
        _choice(out, local, port, port.node)
    if port.cluster_ip:
        _cluster_ip(out, port, local if port.internal_local else cluster)
    if external:
        _external(out, port, settings, cluster, local)
    if reachable := {each.ip for each in (*port.cluster, *port.node)}:
        out.sets[HAIRPIN] = AddressSet(frozenset(reachable), twin=True)
    return out


def _cluster_ip(out: Fragment, port: ServicePort, chain: str) -> None:
    key = ServiceKey(port.cluster_ip, port.protocol, port.port)
    out.sets[CLUSTER_IPS] = AddressSet(frozenset({port.cluster_ip}))
    endpoints = port.internal_endpoints
    if not endpoints:
        # Nobody serves: refused. Nobody on this node, as the policy demands: dropped.
        out.element(NO_ENDPOINT_IPS, key, Drop() if port.cluster else Goto(REJECT))
        return
    if port.affinity_seconds:
        out.element(SERVICE_IPS, key, Goto(chain))
        return
    for number, endpoint in enumerate(endpoints):
        out.slots[SlotKey(*key, number)] = Target(endpoint.ip, endpoint.port)
    pick = f"pick-{port.protocol}-{len(endpoints)}"
    out.chains[pick] = Chain((Rule((), DnatSlot(port.protocol, len(endpoints))),))
    out.element(SERVICE_IPS, key, Goto(pick))


def outside_pods(settings: Settings) -> tuple[Match, ...] | None:
    """Who must be masqueraded on the way to a ClusterIP: everybody, those outside the pod network, or
    nobody.
    """
    if settings.masquerade_all:
        return ()
    if settings.cluster_cidrs:
        return (SourceIn(settings.cluster_cidrs, negate=True),)
    return None


def _external(out: Fragment, port: ServicePort, settings: Settings, cluster: str, local: str) -> None:
    external = chain_name("external", port)
    keys: list[ServiceKey] = [
        ServiceKey(ip, port.protocol, port.port) for ip in (*port.external_ips, *port.load_balancer_ips)
    ]
    node_key = PortKey(port.protocol, port.node_port)
    if port.cluster:
        out.chains[external] = Chain(_external_rules(port, settings, cluster, local))
        for key in keys:
            out.element(SERVICE_IPS, key, Goto(external))
        if port.node_port:
            out.element(NODE_PORTS, node_key, Goto(external))
    if not port.external_endpoints:
        refusal = Drop() if port.cluster else Goto(REJECT)
        for key in keys:
            out.element(NO_ENDPOINT_IPS, key, refusal)
        if port.node_port:
            out.element(NO_ENDPOINT_PORTS, node_key, refusal)
    if port.source_ranges:
        firewall = chain_name("firewall", port)
        out.chains[firewall] = Chain((Rule((SourceIn(port.source_ranges, negate=True),), Drop()),))
        for ip in port.load_balancer_ips:
            out.element(FIREWALL, ServiceKey(ip, port.protocol, port.port), Goto(firewall))


def _external_rules(port: ServicePort, settings: Settings, cluster: str, local: str) -> tuple[Rule, ...]:
    if not port.external_local:
        # Any node may be asked for any endpoint, so answers must come back the same way.
        return (Rule((), Jump(MARK)), Rule((), Goto(cluster)))
    rules: list[Rule] = []
    # Pods and the host itself are inside already: for them the policy does not apply.
    if settings.cluster_cidrs:
        rules.append(Rule((SourceIn(settings.cluster_cidrs),), Goto(cluster)))
    rules.append(Rule((SourceIsHost(),), Jump(MARK)))
    rules.append(Rule((SourceIsHost(),), Goto(cluster)))
    if port.node:
        rules.append(Rule((), Goto(local)))
    return tuple(rules)


def _choice(out: Fragment, name: str, port: ServicePort, endpoints: tuple[Endpoint, ...]) -> None:
    """A chain that picks an endpoint: the one remembered for the client, else any."""
    protocol = (Protocol(port.protocol),)
    if not port.affinity_seconds:
        spread = DnatSpread(tuple(Target(each.ip, each.port) for each in endpoints))
        out.chains[name] = Chain((Rule(protocol, spread),))
        return
    targets = []
    sticky: list[Rule] = []
    for endpoint in endpoints:
        suffix = f"__{endpoint.ip}/{endpoint.port}"
        target = chain_name("endpoint", port, suffix)
        # A set's timeout cannot be changed: another timeout is another set.
        memory = chain_name("affinity", port, f"{suffix}/{port.affinity_seconds}s")
        targets.append(target)
        out.sets[memory] = AddressSet(timeout=port.affinity_seconds)
        sticky.append(Rule((SourceInSet(memory),), Goto(target)))
        send = Rule(protocol, Dnat(endpoint.ip, endpoint.port))
        out.chains[target] = Chain((Rule((), Remember(memory)), send))
    out.chains[name] = Chain((*sticky, Rule((), Balance(tuple(targets)))))
