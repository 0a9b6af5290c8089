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
class Marked:
    """The packet does (not) carry the masquerade mark."""

    negate: bool = False


@dataclass(frozen=True, slots=True)
class Protocol:
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


@dataclass(frozen=True, slots=True)
class Rule:
    """If every match holds, do the action."""

    matches: tuple[Match, ...]
    action: Action


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
