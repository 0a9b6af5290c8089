"""The rule set in the kernel's terms, and the one command that programs it.

Every change is one `nft -f -` transaction: the kernel takes all of it or nothing, and no packet sees a
state in between. Only the table `ip kube-proxy` is ever touched. Rendering is pure; `Nft` does the I/O.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

from componentbase.tasks import deadline
from kubeproxy import rules as r
from kubeproxy.rules import AddressSet, Chain, Key, Rule, RuleSet, ServiceKey

TABLE = "ip kube-proxy"
MARK = "0x4000"
"""The masquerade mark kube-proxy uses by default (masqueradeBit 14)."""
COMMAND_TIMEOUT = 120.0
"""Seconds; a first transaction for 5,000 services takes nft about 17."""

_SERVICE_KEY = "ipv4_addr . inet_proto . inet_service"
_PORT_KEY = "inet_proto . inet_service"
_SERVICE_VALUE = "ip daddr . meta l4proto . th dport"
_PORT_VALUE = "meta l4proto . th dport"
_PORT_MAPS = frozenset({"service-nodeports", "no-endpoint-nodeports"})


class NftError(Exception):
    """nft refused the transaction; the text is its complaint."""


# -- rendering
# --------------------------------------------------------------------------------------------------


def full(ruleset: RuleSet) -> str:
    """A transaction that replaces whatever the table holds by `ruleset`."""
    # `add` first makes `delete` legal when there is no table yet.
    lines = [f"add table {TABLE}", f"delete table {TABLE}", f"add table {TABLE}"]
    lines += _declare(ruleset, ruleset.chains, ruleset.sets, ruleset.maps)
    for name, chain in ruleset.chains.items():
        lines += _fill_chain(name, chain)
    for name, elements in ruleset.maps.items():
        lines += _elements("add", name, [_pair(key, verdict) for key, verdict in elements.items()])
    for name, members in ruleset.sets.items():
        lines += _elements("add", name, sorted(members.addresses))
    return "\n".join(lines) + "\n"


def update(old: RuleSet, new: RuleSet) -> str:
    """A transaction that turns `old` into `new`; "" when they are equal.

    New names are declared first and old ones deleted last, when nothing refers to them any more.
    """
    added = {name: chain for name, chain in new.chains.items() if name not in old.chains}
    removed = [name for name in old.chains if name not in new.chains]
    changed = {name: chain for name, chain in new.chains.items() if old.chains.get(name) != chain}
    new_sets = {name: each for name, each in new.sets.items() if name not in old.sets}
    gone_sets = [name for name in old.sets if name not in new.sets]
    lines = _declare(new, added, new_sets, {})
    for name, elements in new.maps.items():
        before = old.maps.get(name, {})
        stale = [key for key, verdict in before.items() if elements.get(key) != verdict]
        lines += _elements("delete", name, [_key(key) for key in stale])
    lines += [f"flush chain {TABLE} {name}" for name in (*changed, *removed) if name not in added]
    for name, chain in changed.items():
        lines += _fill_chain(name, chain)
    for name, elements in new.maps.items():
        before = old.maps.get(name, {})
        fresh = [_pair(key, verdict) for key, verdict in elements.items() if before.get(key) != verdict]
        lines += _elements("add", name, fresh)
    for name, members in new.sets.items():
        lines += _members(name, old.sets.get(name, AddressSet()), members)
    lines += [f"delete chain {TABLE} {name}" for name in removed]
    lines += [f"delete set {TABLE} {name}" for name in gone_sets]
    return "\n".join(lines) + "\n" if lines else ""


def _members(name: str, before: AddressSet, after: AddressSet) -> list[str]:
    lines: list[str] = []
    if before.timeout != after.timeout and before != AddressSet():
        lines.append(f"flush set {TABLE} {name}")
    lines += _elements("delete", name, sorted(before.addresses - after.addresses))
    return lines + _elements("add", name, sorted(after.addresses - before.addresses))


def _declare(
    ruleset: RuleSet,
    chains: Mapping[str, Chain],
    sets: Mapping[str, AddressSet],
    maps: Mapping[str, Mapping[Key, r.Verdict]],
) -> list[str]:
    lines: list[str] = []
    for name, members in sets.items():
        learnt = f" size 65535; flags dynamic,timeout; timeout {members.timeout}s;" if members.timeout else ""
        lines.append(f"add set {TABLE} {name} {{ type ipv4_addr;{learnt} }}")
    for name, chain in chains.items():
        hook = chain.hook
        spec = (
            f" {{ type {hook.kind} hook {hook.point} priority {hook.priority}; policy accept; }}"
            if hook
            else ""
        )
        lines.append(f"add chain {TABLE} {name}{spec}")
    for name in maps:
        kind = _PORT_KEY if name in _PORT_MAPS else _SERVICE_KEY
        lines.append(f"add map {TABLE} {name} {{ type {kind} : verdict; }}")
    return lines


def _fill_chain(name: str, chain: Chain) -> list[str]:
    return [f"add rule {TABLE} {name} {render_rule(rule)}" for rule in chain.rules]


def _elements(verb: str, name: str, items: Iterable[str]) -> list[str]:
    listed = ", ".join(items)
    return [f"{verb} element {TABLE} {name} {{ {listed} }}"] if listed else []


def _key(key: Key) -> str:
    if isinstance(key, ServiceKey):
        return f"{key.ip} . {key.protocol} . {key.port}"
    return f"{key.protocol} . {key.port}"


def _pair(key: Key, verdict: r.Verdict) -> str:
    return f"{_key(key)} : {render_action(verdict)}"


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
        case r.Marked(negate):
            return f"meta mark & {MARK} {'==' if negate else '!='} 0"
        case r.Protocol(name):
            return f"meta l4proto {name}"


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
        case r.Lookup(name):
            return f"{_PORT_VALUE if name in _PORT_MAPS else _SERVICE_VALUE} vmap @{name}"
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


async def run_command(*argv: str, stdin: str | None = None) -> tuple[int, str]:
    """Run a program to its end; its exit status and what it wrote to stderr. Raises OSError, TimeoutError."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with deadline(COMMAND_TIMEOUT, argv[0]):
            _, complaint = await process.communicate(stdin.encode() if stdin is not None else None)
    except BaseException:
        if process.returncode is None:
            process.kill()
            await process.wait()
        raise
    return process.returncode or 0, complaint.decode("utf-8", "replace").strip()


class Nft:
    """Programs the table in the network namespace this process is in."""

    async def apply(self, transaction: str) -> None:
        """Raises NftError; then nothing has changed."""
        status, complaint = await run_command("nft", "-f", "-", stdin=transaction)
        if status:
            raise NftError(complaint[:2000] or f"nft ended with status {status}")

    async def present(self) -> bool:
        """Whether our table is still there; somebody may have flushed the rule set."""
        status, _ = await run_command("nft", "list", "chain", *TABLE.split(), "nat-prerouting")
        return status == 0

    async def remove(self) -> None:
        """Take all of our rules away."""
        await self.apply(f"add table {TABLE}\ndelete table {TABLE}\n")
