"""The rule set in the kernel's terms, and the one command that programs it.

Every change is one `nft -f -` transaction: the kernel takes all of it or nothing, and no packet sees a
state in between. Only our own table is ever touched, and within it the sets that remember clients
for session affinity survive even a whole new programming. Rendering is pure; `Nft` does the I/O.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import orjson

from componentbase.tasks import deadline
from kubeproxy import rules as r
from kubeproxy.rules import AddressKey, AddressSet, Chain, Key, Rule, RuleSet, ServiceKey, SlotKey, Target

TABLE = "ip kube-proxy"
MARK = "0x4000"
"""The masquerade mark kube-proxy uses by default (masqueradeBit 14)."""
COMMAND_TIMEOUT = 120.0
"""Seconds; a first transaction for 5,000 services takes nft about one."""
SLOWEST = 10_000.0
"""Bytes a second that a program takes in at least: iptables needs minutes for 5,000 services (5 MB)."""
SLOTS = "service-endpoints"

# One map per protocol: nft reads a key that speaks of any transport header as a contradiction to the rule's.
SLOT_MAPS = {protocol: f"{SLOTS}-{protocol}" for protocol in ("tcp", "udp", "sctp")}

_SERVICE_KEY = "ipv4_addr . inet_proto . inet_service"
_PORT_KEY = "inet_proto . inet_service"
_SERVICE_VALUE = "ip daddr . meta l4proto . th dport"
_PORT_VALUE = "meta l4proto . th dport"
_MAP_KEYS = {
    "service-nodeports": _PORT_KEY,
    "no-endpoint-nodeports": _PORT_KEY,
    "from-pods": "ipv4_addr",
    "to-pods": "ipv4_addr",
}
_MAP_VALUES = {
    "service-nodeports": _PORT_VALUE,
    "no-endpoint-nodeports": _PORT_VALUE,
    "from-pods": "ip saddr",
    "to-pods": "ip daddr",
}


class NftError(Exception):
    """nft refused the transaction; the text is its complaint."""


# -- rendering
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Inventory:
    """What our table holds by name: chains, maps, and sets with their timeout in seconds (0: none)."""

    chains: frozenset[str] = frozenset()
    maps: frozenset[str] = frozenset()
    sets: Mapping[str, int] = field(default_factory=dict)


def inventory(listing: bytes) -> Inventory:
    """Read `nft --json list table`. Raises ValueError when it is something else."""
    found: dict[str, dict[str, int]] = {"chain": {}, "map": {}, "set": {}}
    for entry in orjson.loads(listing)["nftables"]:
        for kind, fields in entry.items():
            if kind in found:
                found[kind][str(fields["name"])] = int(fields.get("timeout", 0))
    return Inventory(frozenset(found["chain"]), frozenset(found["map"]), found["set"])


def full(ruleset: RuleSet, present: Inventory | None = None, *, table: str = TABLE) -> str:
    """A transaction that replaces whatever the table holds by `ruleset`. Sets learnt from packets stay, if
    `present` says they are there and `ruleset` still has them.
    """
    lines = [f"add table {table}"]
    kept: set[str] = set()
    if present is None:
        # `add` first makes `delete` legal when there is no table yet.
        lines += [f"delete table {table}", f"add table {table}"]
    else:
        kept = {
            name for name, timeout in present.sets.items() if timeout and _timeout(ruleset, name) == timeout
        }
        lines += _clear(table, present, kept)
    fresh = {name: members for name, members in ruleset.sets.items() if name not in kept}
    lines += _declare(table, ruleset.chains, fresh, ruleset.maps)
    for protocol, name in SLOT_MAPS.items() if table == TABLE else ():
        key = f"ip daddr . {protocol} dport . numgen random mod 2 : ip daddr . {protocol} dport"
        lines.append(f"add map {table} {name} {{ typeof {key}; }}")
    for name, chain in ruleset.chains.items():
        lines += _fill_chain(table, name, chain)
    for name, elements in ruleset.maps.items():
        lines += _elements(table, "add", name, [_pair(key, verdict) for key, verdict in elements.items()])
    lines += _slot_changes(table, {}, ruleset.slots)[1]
    for name, members in fresh.items():
        lines += _elements(table, "add", name, _listed(members, members.addresses))
    return "\n".join(lines) + "\n"


def _timeout(ruleset: RuleSet, name: str) -> int:
    return ruleset.sets[name].timeout if name in ruleset.sets else 0


def _clear(table: str, present: Inventory, kept: set[str]) -> list[str]:
    """Empty the table but for the sets in `kept`: references go before what they refer to."""
    return [
        f"flush table {table}",
        *(f"flush map {table} {name}" for name in sorted(present.maps)),
        *(f"delete chain {table} {name}" for name in sorted(present.chains)),
        *(f"delete map {table} {name}" for name in sorted(present.maps)),
        *(f"delete set {table} {name}" for name in sorted(present.sets) if name not in kept),
    ]


def update(old: RuleSet, new: RuleSet, *, table: str = TABLE) -> str:
    """A transaction that turns `old` into `new`; "" when they are equal.

    New names are declared first and old ones deleted last, when nothing refers to them any more.
    """
    added = {name: chain for name, chain in new.chains.items() if name not in old.chains}
    removed = [name for name in old.chains if name not in new.chains]
    changed = {name: chain for name, chain in new.chains.items() if old.chains.get(name) != chain}
    new_sets = {name: each for name, each in new.sets.items() if name not in old.sets}
    gone_sets = [name for name in old.sets if name not in new.sets]
    lines = _declare(table, added, new_sets, {})
    for name, elements in new.maps.items():
        before = old.maps.get(name, {})
        stale = [key for key, verdict in before.items() if elements.get(key) != verdict]
        lines += _elements(table, "delete", name, [_key(key) for key in stale])
    stale_slots, fresh_slots = _slot_changes(table, old.slots, new.slots)
    lines += stale_slots
    lines += [f"flush chain {table} {name}" for name in (*changed, *removed) if name not in added]
    for name, chain in changed.items():
        lines += _fill_chain(table, name, chain)
    for name, elements in new.maps.items():
        before = old.maps.get(name, {})
        fresh = [_pair(key, verdict) for key, verdict in elements.items() if before.get(key) != verdict]
        lines += _elements(table, "add", name, fresh)
    lines += fresh_slots
    for name, members in new.sets.items():
        lines += _members(table, name, old.sets.get(name, AddressSet()), members)
    lines += [f"delete chain {table} {name}" for name in removed]
    lines += [f"delete set {table} {name}" for name in gone_sets]
    return "\n".join(lines) + "\n" if lines else ""


def _members(table: str, name: str, before: AddressSet, after: AddressSet) -> list[str]:
    lines = _elements(table, "delete", name, _listed(after, before.addresses - after.addresses))
    return lines + _elements(table, "add", name, _listed(after, after.addresses - before.addresses))


def _listed(members: AddressSet, addresses: frozenset[str]) -> list[str]:
    return [f"{each} . {each}" if members.twin else each for each in sorted(addresses)]


def _declare(
    table: str,
    chains: Mapping[str, Chain],
    sets: Mapping[str, AddressSet],
    maps: Mapping[str, Mapping[Key, r.Verdict]],
) -> list[str]:
    lines: list[str] = []
    for name, members in sets.items():
        learnt = f" size 65535; flags dynamic,timeout; timeout {members.timeout}s;" if members.timeout else ""
        kind = "ipv4_addr"
        if members.twin or members.ports:
            kind += " . ipv4_addr" if members.twin else " . inet_service"
        lines.append(f"add set {table} {name} {{ type {kind};{learnt} }}")
    for name, chain in chains.items():
        hook = chain.hook
        spec = (
            f" {{ type {hook.kind} hook {hook.point} priority {hook.priority}; policy accept; }}"
            if hook
            else ""
        )
        lines.append(f"add chain {table} {name}{spec}")
    for name in maps:
        kind = _MAP_KEYS.get(name, _SERVICE_KEY)
        lines.append(f"add map {table} {name} {{ type {kind} : verdict; }}")
    return lines


def _fill_chain(table: str, name: str, chain: Chain) -> list[str]:
    return [f"add rule {table} {name} {render_rule(rule)}" for rule in chain.rules]


def _elements(table: str, verb: str, name: str, items: Iterable[str]) -> list[str]:
    listed = ", ".join(items)
    return [f"{verb} element {table} {name} {{ {listed} }}"] if listed else []


def _key(key: Key) -> str:
    if isinstance(key, AddressKey):
        return key.ip
    if isinstance(key, ServiceKey):
        return f"{key.ip} . {key.protocol} . {key.port}"
    return f"{key.protocol} . {key.port}"


def _pair(key: Key, verdict: r.Verdict) -> str:
    return f"{_key(key)} : {render_action(verdict)}"


def _slot_changes(
    table: str, old: Mapping[SlotKey, Target], new: Mapping[SlotKey, Target]
) -> tuple[list[str], list[str]]:
    """What to take out of the maps of endpoints, and what to put in."""
    stale: dict[str, list[str]] = {protocol: [] for protocol in SLOT_MAPS}
    fresh: dict[str, list[str]] = {protocol: [] for protocol in SLOT_MAPS}
    for key, target in old.items():
        if new.get(key) != target:
            stale[key.protocol].append(_slot(key))
    for key, target in new.items():
        if old.get(key) != target:
            fresh[key.protocol].append(f"{_slot(key)} : {target.ip} . {target.port}")
    return (
        [
            line
            for protocol, items in stale.items()
            for line in _elements(table, "delete", SLOT_MAPS[protocol], items)
        ],
        [
            line
            for protocol, items in fresh.items()
            for line in _elements(table, "add", SLOT_MAPS[protocol], items)
        ],
    )


def _slot(key: SlotKey) -> str:
    return f"{key.ip} . {key.port} . {key.slot}"


def render_rule(rule: Rule) -> str:
    return " ".join([*(render_match(match) for match in rule.matches), render_action(rule.action)])


def render_match(match: r.Match) -> str:
    match match:
        case r.SourceIn(networks, negate):
            return f"ip saddr {'!= ' if negate else ''}{_any_of(networks)}"
        case r.DestinationIn(networks, negate):
            return f"ip daddr {'!= ' if negate else ''}{_any_of(networks)}"
        case r.SourceInSet(name):
            return f"ip saddr @{name}"
        case r.DestinationInSet(name):
            return f"ip daddr @{name}"
        case r.SourceIsHost():
            return "fib saddr type local"
        case r.DestinationIsHost():
            return "fib daddr type local"
        case r.NewConnection():
            return "ct state new"
        case r.OpenConnection():
            return "ct state established,related"
        case r.PortsIn(protocol, first, last):
            return f"{protocol} dport {first if first == last else f'{first}-{last}'}"
        case r.DestinationPortInSet(name, protocol):
            return f"ip daddr . {protocol} dport @{name}"
        case r.Marked(negate):
            return f"meta mark & {MARK} {'==' if negate else '!='} 0"
        case r.Protocol(name):
            return f"meta l4proto {name}"
        case r.DestinationPort(protocol, port):
            return f"{protocol} dport {port}"
        case r.Hairpin(name):
            return f"ct status dnat ip saddr . ip daddr @{name}"
        case r.OneIn(count):
            return f"numgen random mod {count} 0"
        case r.SeenWithin(name):
            return f"ip saddr @{name}"


def render_action(action: r.Action) -> str:
    match action:
        case r.Jump(chain):
            return f"jump {chain}"
        case r.Goto(chain):
            return f"goto {chain}"
        case r.Drop():
            return "drop"
        case r.Reject():
            return "reject"
        case r.Return():
            return "return"
        case r.SetMark():
            return f"meta mark set meta mark | {MARK}"
        case r.ClearMark():
            return f"meta mark set meta mark ^ {MARK}"
        case r.Masquerade():
            return "masquerade fully-random"
        case r.Dnat(ip, port):
            return f"dnat to {ip}:{port}"
        case r.DnatSpread(targets):
            if len(targets) == 1:
                return f"dnat to {targets[0].ip}:{targets[0].port}"
            table = ", ".join(f"{number} : {each.ip} . {each.port}" for number, each in enumerate(targets))
            return f"dnat ip to numgen random mod {len(targets)} map {{ {table} }}"
        case r.DnatSlot(protocol, count):
            value = f"ip daddr . {protocol} dport . numgen random mod {count}"
            return f"dnat ip to {value} map @{SLOT_MAPS[protocol]}"
        case r.Lookup(name):
            return f"{_MAP_VALUES.get(name, _SERVICE_VALUE)} vmap @{name}"
        case r.Balance(chains):
            if len(chains) == 1:
                return f"goto {chains[0]}"
            table = ", ".join(f"{number} : goto {chain}" for number, chain in enumerate(chains))
            return f"numgen random mod {len(chains)} vmap {{ {table} }}"
        case r.Remember(name):
            return f"update @{name} {{ ip saddr }}"


def _any_of(networks: tuple[str, ...]) -> str:
    return networks[0] if len(networks) == 1 else "{ " + ", ".join(networks) + " }"


# -- the kernel
# -------------------------------------------------------------------------------------------------


async def capture(*argv: str, stdin: str | None = None) -> tuple[int, bytes, str]:
    """Run a program to its end; its exit status, and what it wrote to stdout and stderr. Raises OSError,
    TimeoutError.
    """
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with deadline(COMMAND_TIMEOUT + len(stdin or "") / SLOWEST, argv[0]):
            output, complaint = await process.communicate(stdin.encode() if stdin is not None else None)
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    return process.returncode or 0, output, complaint.decode("utf-8", "replace").strip()


async def run_command(*argv: str, stdin: str | None = None) -> tuple[int, str]:
    """Run a program to its end; its exit status and what it wrote to stderr. Raises OSError, TimeoutError."""
    status, _, complaint = await capture(*argv, stdin=stdin)
    return status, complaint


class Nft:
    """Programs one table in the network namespace this process is in. `anchor` is a chain it always has."""

    mode = "nftables"

    def __init__(self, table: str = TABLE, anchor: str = "nat-prerouting") -> None:
        self._table = table
        self._anchor = anchor

    async def program(self, old: RuleSet | None, new: RuleSet) -> bool:
        """Turn `old` into `new`, or, if it is not known what is there, everything into `new`; whether there
        was anything to do. Raises NftError, OSError, TimeoutError; then nothing has changed.
        """
        if old is None:
            transaction = full(new, await self.inventory(), table=self._table)
        else:
            transaction = update(old, new, table=self._table)
        if transaction:
            await self.apply(transaction)
        return bool(transaction)

    async def apply(self, transaction: str) -> None:
        """Raises NftError; then nothing has changed."""
        status, complaint = await run_command("nft", "-f", "-", stdin=transaction)
        if status:
            raise NftError(complaint[:2000] or f"nft ended with status {status}")

    async def inventory(self) -> Inventory | None:
        """What is there by name; None when there is no table of ours, or it cannot be read."""
        status, output, _ = await capture("nft", "--json", "--terse", "list", "table", *self._table.split())
        try:
            return None if status else inventory(output)
        except (ValueError, KeyError):
            return None

    async def present(self) -> bool:
        """Whether our table is still there; somebody may have flushed the rule set."""
        status, _ = await run_command("nft", "list", "chain", *self._table.split(), self._anchor)
        return status == 0

    async def remove(self) -> None:
        """Take all of our rules away."""
        await self.apply(f"add table {self._table}\ndelete table {self._table}\n")
