"""Follow one packet through a rule set, as the kernel would. Pure.

This is how the compiler is tested, and how a user is shown what happens to a connection.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from kubeproxy import rules as r
from kubeproxy.rules import AddressKey, Chain, Key, PortKey, Rule, RuleSet, ServiceKey, SlotKey


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection. `from_host`: a process of this host sends it."""

    source: str
    destination: str
    port: int
    protocol: str = "tcp"
    from_host: bool = False
    marked: bool = False
    translated: bool = False


@dataclass(slots=True)
class Outcome:
    """What became of the packet. `verdict` is accept, drop or reject."""

    verdict: str
    packet: Packet
    masqueraded: bool = False
    path: list[str] = field(default_factory=list)

    @property
    def destination(self) -> tuple[str, int]:
        return self.packet.destination, self.packet.port


class _Ended(Exception):
    def __init__(self, verdict: str) -> None:
        self.verdict = verdict


class _Translated(Exception):
    """A NAT decision was made: the hook is done with."""


_POINTS = {True: ("output", "postrouting"), False: ("prerouting", "forward", "postrouting")}


class Tracer:
    """Interprets a rule set on a host with the given addresses.

    `choose(n)` stands for the kernel's random number below n. Client addresses remembered for session
    affinity are kept between packets; their timeouts are not modelled.
    """

    def __init__(
        self, ruleset: RuleSet, host: frozenset[str] = frozenset(), choose: Callable[[int], int] = lambda n: 0
    ) -> None:
        self._rules = ruleset
        self._host = host
        self._choose = choose
        self._memory: dict[str, set[str]] = {}

    def send(self, packet: Packet) -> Outcome:
        outcome = Outcome("accept", packet)
        try:
            for point in _POINTS[packet.from_host]:
                # What is for the host itself after translation is not forwarded.
                if point == "forward" and outcome.packet.destination in self._host:
                    point = "input"
                for name, chain in self._hooked(point):
                    try:
                        self._walk(name, chain, outcome)
                    except _Translated:
                        continue
        except _Ended as ended:
            outcome.verdict = ended.verdict
        return outcome

    def _hooked(self, point: str) -> list[tuple[str, Chain]]:
        found = [
            (chain.hook.priority, name, chain)
            for name, chain in self._rules.chains.items()
            if chain.hook is not None and chain.hook.point == point
        ]
        return [(name, chain) for _, name, chain in sorted(found, key=lambda each: each[:2])]

    def _walk(self, name: str, chain: Chain, outcome: Outcome) -> bool:
        """Go through a chain. True means the packet came back to the caller of the chain."""
        outcome.path.append(name)
        for rule in chain.rules:
            if all(self._holds(match, outcome.packet) for match in rule.matches) and self._act(rule, outcome):
                return True
        return True

    def _holds(self, match: r.Match, packet: Packet) -> bool:
        match match:
            case r.SourceIn(networks, negate):
                return _within(packet.source, networks) != negate
            case r.DestinationIn(networks, negate):
                return _within(packet.destination, networks) != negate
            case r.SourceInSet(name):
                known = self._rules.sets[name].addresses
                return packet.source in known or packet.source in self._memory.get(name, ())
            case r.DestinationInSet(name):
                return packet.destination in self._rules.sets[name].addresses
            case r.SourceIsHost():
                return packet.source in self._host
            case r.DestinationIsHost():
                return packet.destination in self._host or _within(packet.destination, ("127.0.0.0/8",))
            case r.NewConnection():
                return True
            case r.OpenConnection():
                return False
            case r.PortsIn(protocol, first, last):
                return packet.protocol == protocol and first <= packet.port <= last
            case r.DestinationPortInSet(name, protocol):
                member = f"{packet.destination} . {packet.port}"
                return packet.protocol == protocol and member in self._rules.sets[name].addresses
            case r.Marked(negate):
                return packet.marked != negate
            case r.Protocol(name):
                return packet.protocol == name
            case r.DestinationPort(protocol, port):
                return (packet.protocol, packet.port) == (protocol, port)
            case r.Hairpin(name):
                own = packet.source == packet.destination
                return own and packet.translated and packet.source in self._rules.sets[name].addresses
            case r.OneIn(count):
                return self._choose(count) == 0
            case r.SeenWithin(name):
                return packet.source in self._memory.get(name, ())

    def _act(self, rule: Rule, outcome: Outcome) -> bool:
        """Do the action. True ends the current chain."""
        match rule.action:
            case r.Jump(chain):
                self._walk(chain, self._rules.chains[chain], outcome)
                return False
            case r.Goto(chain):
                return self._walk(chain, self._rules.chains[chain], outcome)
            case r.Balance(chains):
                return self._act(Rule((), r.Goto(chains[self._choose(len(chains))])), outcome)
            case r.Lookup(name):
                verdict = self._look_up(name, outcome.packet)
                return verdict is not None and self._act(Rule((), verdict), outcome)
            case r.Drop():
                raise _Ended("drop")
            case r.Reject():
                raise _Ended("reject")
            case r.Return():
                return True
            case r.SetMark():
                outcome.packet = replace(outcome.packet, marked=True)
            case r.ClearMark():
                outcome.packet = replace(outcome.packet, marked=False)
            case r.Remember(name):
                self._memory.setdefault(name, set()).add(outcome.packet.source)
            case r.Masquerade():
                outcome.masqueraded = True
                raise _Translated
            case r.Dnat() | r.DnatSpread() | r.DnatSlot():
                ip, port = self._target(rule.action, outcome.packet)
                outcome.packet = replace(outcome.packet, destination=ip, port=port, translated=True)
                raise _Translated
        return False

    def _target(self, action: r.Dnat | r.DnatSpread | r.DnatSlot, packet: Packet) -> tuple[str, int]:
        match action:
            case r.DnatSpread(targets):
                return targets[self._choose(len(targets))]
            case r.DnatSlot(_, count):
                slot = self._choose(count)
                return self._rules.slots[SlotKey(packet.destination, packet.protocol, packet.port, slot)]
            case r.Dnat(ip, port):
                return ip, port

    def _look_up(self, name: str, packet: Packet) -> r.Verdict | None:
        elements = self._rules.maps[name]
        if name in ("from-pods", "to-pods"):
            return elements.get(AddressKey(packet.source if name == "from-pods" else packet.destination))
        by_service: Key = ServiceKey(packet.destination, packet.protocol, packet.port)
        verdict = elements.get(by_service)
        return elements.get(PortKey(packet.protocol, packet.port)) if verdict is None else verdict


def _within(address: str, networks: tuple[str, ...]) -> bool:
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(each) for each in networks)
