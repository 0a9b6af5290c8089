"""The rule set as a value: chains of rules, verdict maps and address sets, independent of who programs it.

The vocabulary is that of nftables reduced to what a service proxy needs, so that a rule can be rendered for
the kernel (`kubeproxy.nftables`) and interpreted for a test or a trace (`kubeproxy.trace`) from one
definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

# -- what a rule asks
# -----------------------------------------------------------------------------------------


class SourceIn(NamedTuple):
    """The source address is (not) in one of these networks or addresses."""

    networks: tuple[str, ...]
    negate: bool = False


class DestinationIn(NamedTuple):
    networks: tuple[str, ...]
    negate: bool = False


class SourceInSet(NamedTuple):
    """The source address is in a named set."""

    set: str


class DestinationInSet(NamedTuple):
    set: str


class SourceIsHost(NamedTuple):
    """The source is one of this host's own addresses."""


class DestinationIsHost(NamedTuple):
    """The destination is one of this host's own addresses."""


class NewConnection(NamedTuple):
    """The packet opens a connection."""


class Marked(NamedTuple):
    """The packet does (not) carry the masquerade mark."""

    negate: bool = False


class Protocol(NamedTuple):
    name: str


Match = (
    SourceIn
    | DestinationIn
    | SourceInSet
    | DestinationInSet
    | SourceIsHost
    | DestinationIsHost
    | NewConnection
    | Marked
    | Protocol
)

# -- what a rule does
# -----------------------------------------------------------------------------------------


class Jump(NamedTuple):
    """Go through another chain and come back."""

    chain: str


class Goto(NamedTuple):
    """Continue in another chain and do not come back."""

    chain: str


class Drop(NamedTuple):
    pass


class Reject(NamedTuple):
    """Refuse with an ICMP error."""


class Return(NamedTuple):
    pass


class SetMark(NamedTuple):
    """Ask for the packet to be masqueraded when it leaves."""


class ClearMark(NamedTuple):
    pass


class Masquerade(NamedTuple):
    """Replace the source by the address of the interface the packet leaves by."""


class Dnat(NamedTuple):
    ip: str
    port: int


class Lookup(NamedTuple):
    """Look the packet up in a verdict map and do what it says; go on if it says nothing."""

    map: str


class Balance(NamedTuple):
    """Go to one of these chains at random, all equally likely."""

    chains: tuple[str, ...]


class Remember(NamedTuple):
    """Put the source address into a set, until the set's timeout."""

    set: str


Verdict = Goto | Drop
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
    | Lookup
    | Balance
    | Remember
)


class Rule(NamedTuple):
    """If every match holds, do the action."""

    matches: tuple[Match, ...]
    action: Action


class Hook(NamedTuple):
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


Key = ServiceKey | PortKey


@dataclass(frozen=True, slots=True)
class AddressSet:
    """Addresses given by us, or, with a timeout in seconds, learnt from packets by `Remember`."""

    addresses: frozenset[str] = frozenset()
    timeout: int = 0


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Everything the proxy programs. Two equal values program the same behaviour."""

    chains: Mapping[str, Chain] = field(default_factory=dict)
    maps: Mapping[str, Mapping[Key, Verdict]] = field(default_factory=dict)
    sets: Mapping[str, AddressSet] = field(default_factory=dict)
