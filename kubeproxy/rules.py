"""The rule set as a value: chains of rules, verdict maps and address sets, independent of who programs it.

The vocabulary is that of nftables and iptables reduced to what a service proxy needs, so that a rule can be
rendered for the kernel (`kubeproxy.nftables`, `kubeproxy.iptables`) and interpreted for a test or a trace
(`kubeproxy.trace`) from one definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

# -- what a rule asks
# -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceIn:
    """The source address is (not) in one of these networks or addresses."""

    networks: tuple[str, ...]
    negate: bool = False


@dataclass(frozen=True, slots=True)
class DestinationIn:
    networks: tuple[str, ...]
    negate: bool = False


@dataclass(frozen=True, slots=True)
class SourceInSet:
    """The source address is in a named set."""

    set: str


@dataclass(frozen=True, slots=True)
class DestinationInSet:
    set: str


@dataclass(frozen=True, slots=True)
class SourceIsHost:
    """The source is one of this host's own addresses."""


@dataclass(frozen=True, slots=True)
class DestinationIsHost:
    """The destination is one of this host's own addresses."""


@dataclass(frozen=True, slots=True)
class NewConnection:
    """The packet opens a connection."""


@dataclass(frozen=True, slots=True)
class OpenConnection:
    """The packet belongs to a connection that was let through before, or to one it has begotten."""


@dataclass(frozen=True, slots=True)
class PortsIn:
    """The packet's protocol, and a destination port from `first` to `last`, both included."""

    protocol: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class DestinationPortInSet:
    """Destination address and port, with this protocol, are in a named set of `address . port`."""

    set: str
    protocol: str


@dataclass(frozen=True, slots=True)
class Marked:
    """The packet does (not) carry the masquerade mark."""

    negate: bool = False


@dataclass(frozen=True, slots=True)
class Protocol:
    name: str


@dataclass(frozen=True, slots=True)
class DestinationPort:
    """The packet's protocol and destination port."""

    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class Hairpin:
    """A service sent the packet back to where it came from; the address is in a named set."""

    set: str


@dataclass(frozen=True, slots=True)
class OneIn:
    """True once in `count` times, at random."""

    count: int


@dataclass(frozen=True, slots=True)
class SeenWithin:
    """`Remember` put the source address into a set at most so many seconds ago."""

    set: str
    seconds: int


Match = (
    SourceIn
    | DestinationIn
    | SourceInSet
    | DestinationInSet
    | SourceIsHost
    | DestinationIsHost
    | NewConnection
    | OpenConnection
    | PortsIn
    | DestinationPortInSet
    | Marked
    | Protocol
    | DestinationPort
    | Hairpin
    | OneIn
    | SeenWithin
)

# -- what a rule does
# -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Jump:
    """Go through another chain and come back."""

    chain: str


@dataclass(frozen=True, slots=True)
class Goto:
    """Continue in another chain and do not come back."""

    chain: str


@dataclass(frozen=True, slots=True)
class Drop:
    pass


@dataclass(frozen=True, slots=True)
class Reject:
    """Refuse with an ICMP error."""


@dataclass(frozen=True, slots=True)
class Return:
    pass


@dataclass(frozen=True, slots=True)
class SetMark:
    """Ask for the packet to be masqueraded when it leaves."""


@dataclass(frozen=True, slots=True)
class ClearMark:
    pass


@dataclass(frozen=True, slots=True)
class Masquerade:
    """Replace the source by the address of the interface the packet leaves by."""


@dataclass(frozen=True, slots=True)
class Dnat:
    ip: str
    port: int


class Target(NamedTuple):
    """Where a connection is sent."""

    ip: str
    port: int


@dataclass(frozen=True, slots=True)
class DnatSpread:
    """Send the connection to one of these, all equally likely."""

    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True)
class DnatSlot:
    """Send the connection where the rule set's `slots` say for the packet's destination and a random number
    below `count`. For packets of this protocol.
    """

    protocol: str
    count: int


@dataclass(frozen=True, slots=True)
class Lookup:
    """Look the packet up in a verdict map and do what it says; go on if it says nothing."""

    map: str


@dataclass(frozen=True, slots=True)
class Balance:
    """Go to one of these chains at random, all equally likely."""

    chains: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Remember:
    """Put the source address into a set, until the set's timeout."""

    set: str


Verdict = Goto | Jump | Drop
Action = (
    Jump
    | Goto
    | Drop
    | Reject
    | Return
    | SetMark
    | ClearMark
    | Masquerade
    | Dnat
    | DnatSpread
    | DnatSlot
    | Lookup
    | Balance
    | Remember
)


@dataclass(frozen=True, slots=True)
class Rule:
    """If every match holds, do the action. The comment is for people."""

    matches: tuple[Match, ...]
    action: Action
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Hook:
    """Where in the kernel's path a base chain sits. `kind` is nat or filter."""

    kind: str
    point: str
    priority: int


@dataclass(frozen=True, slots=True)
class Chain:
    rules: tuple[Rule, ...]
    hook: Hook | None = None


class ServiceKey(NamedTuple):
    """Looked up by destination address, protocol and port."""

    ip: str
    protocol: str
    port: int


class PortKey(NamedTuple):
    """Looked up by protocol and port."""

    protocol: str
    port: int


class AddressKey(NamedTuple):
    """Looked up by an address alone."""

    ip: str


Key = ServiceKey | PortKey | AddressKey


class SlotKey(NamedTuple):
    """One of the endpoints behind an address, by number from 0."""

    ip: str
    protocol: str
    port: int
    slot: int


@dataclass(frozen=True, slots=True)
class AddressSet:
    """Addresses given by us, or, with a timeout in seconds, learnt from packets by `Remember`. In a `twin`
    set an address stands for packets from it to itself; in one of `ports` the members read `address . port`.
    """

    addresses: frozenset[str] = frozenset()
    timeout: int = 0
    twin: bool = False
    ports: bool = False


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Everything the proxy programs. Two equal values program the same behaviour."""

    chains: Mapping[str, Chain] = field(default_factory=dict)
    maps: Mapping[str, Mapping[Key, Verdict]] = field(default_factory=dict)
    sets: Mapping[str, AddressSet] = field(default_factory=dict)
    slots: Mapping[SlotKey, Target] = field(default_factory=dict)
