"""The rule set as input of `iptables-restore --noflush`, which takes each table as one transaction.

Only chains of kube-proxy's names are touched; in the kernel's own chains only our jumps. Rendering is pure;
`Iptables` does the I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kubeproxy import rules as r
from kubeproxy.compiler import Settings
from kubeproxy.iptables_compiler import HOOKED, MARK, assemble
from kubeproxy.nftables import MARK as MARK_BIT
from kubeproxy.nftables import NftError, capture, run_command
from kubeproxy.rules import Chain, Rule, RuleSet

TABLES = ("nat", "filter")
_WAIT = ("-w", "5")
_PER_SERVICE = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-EXT-", "KUBE-FW-")
_FIXED = frozenset(name for name, chain in assemble((), Settings()).chains.items() if chain.hook is None)
_MASK = f"{MARK_BIT}/{MARK_BIT}"
assert MARK in _FIXED


class IptablesError(NftError):
    """iptables refused; the text is its complaint."""


# -- rendering
# --------------------------------------------------------------------------------------------------


def restore(old: Mapping[str, Chain], new: Mapping[str, Chain]) -> str:
    """What turns the chains `old` into `new`; "" when they are equal. The kernel's own are left out."""
    lines: list[str] = []
    for table in TABLES:
        before, after = _of(table, old), _of(table, new)
        changed = {name: chain for name, chain in after.items() if before.get(name) != chain}
        gone = [name for name in before if name not in after]
        if not changed and not gone:
            continue
        # Naming a chain makes it, or empties it.
        lines += [f"*{table}", *(f":{name} - [0:0]" for name in (*changed, *gone))]
        lines += [f"-A {name} {render_rule(rule)}" for name, chain in changed.items() for rule in chain.rules]
        lines += [*(f"-X {name}" for name in gone), "COMMIT"]
    return "\n".join(lines) + "\n" if lines else ""


def _of(table: str, chains: Mapping[str, Chain]) -> dict[str, Chain]:
    prefix = f"{table}/"
    return {
        name.removeprefix(prefix): chain
        for name, chain in chains.items()
        if name.startswith(prefix) and chain.hook is None
    }


def ours(saved: str) -> dict[str, Chain]:
    """Our chains in the output of `iptables-save`, with unknown contents."""
    found: dict[str, Chain] = {}
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(":"):
            name = line[1:].split()[0]
            if table in TABLES and (name.startswith(_PER_SERVICE) or f"{table}/{name}" in _FIXED):
                # Equal to nothing that is ever wanted, so that it is filled anew.
                found[f"{table}/{name}"] = Chain((Rule((), r.Return(), "unknown"),))
    return found


def render_rule(rule: Rule) -> str:
    words = [render_match(match) for match in rule.matches]
    if rule.comment:
        words.append(f'-m comment --comment "{rule.comment}"')
    return " ".join([*words, render_action(rule.action)])


def render_match(match: r.Match) -> str:
    match match:
        case r.SourceIn(networks, negate):
            return f"{'! ' if negate else ''}-s {','.join(networks)}"
        case r.DestinationIn(networks, negate):
            return f"{'! ' if negate else ''}-d {','.join(networks)}"
        case r.SourceIsHost():
            return "-m addrtype --src-type LOCAL"
        case r.DestinationIsHost():
            return "-m addrtype --dst-type LOCAL"
        case r.NewConnection():
            return "-m conntrack --ctstate NEW"
        case r.Marked(negate):
            return f"-m mark {'! ' if negate else ''}--mark {_MASK}"
        case r.Protocol(name):
            return f"-p {name}"
        case r.DestinationPort(protocol, port):
            return f"-p {protocol} -m {protocol} --dport {port}"
        case r.OneIn(count):
            return f"-m statistic --mode random --probability {1 / count:.10f}"
        case r.SeenWithin(name, seconds):
            return f"-m recent --name {name} --rcheck --seconds {seconds} --reap"
        case _:
            raise NotImplementedError(f"iptables cannot match {type(match).__name__}")


def render_action(action: r.Action) -> str:
    match action:
        case r.Jump(chain) | r.Goto(chain):
            return f"-j {chain.partition('/')[2]}"
        case r.Drop():
            return "-j DROP"
        case r.Reject():
            return "-j REJECT"
        case r.Return():
            return "-j RETURN"
        case r.SetMark():
            return f"-j MARK --or-mark {MARK_BIT}"
        case r.ClearMark():
            return f"-j MARK --xor-mark {MARK_BIT}"
        case r.Masquerade():
            return "-j MASQUERADE --random-fully"
        case r.Dnat(ip, port):
            return f"-j DNAT --to-destination {ip}:{port}"
        case r.Remember(name):
            return f"-m recent --name {name} --set"
        case _:
            raise NotImplementedError(f"iptables cannot do {type(action).__name__}")


def jumps() -> Iterable[tuple[str, str, list[str]]]:
    """Our rules in the kernel's own chains, the one to be inserted last first: table, chain, rule."""
    for name, chain in HOOKED.items():
        table, _, builtin = name.partition("/")
        for rule in reversed(chain.rules):
            portal = Rule(rule.matches, rule.action, "kubernetes service portals")
            yield table, builtin, _words(render_rule(portal))


def _words(text: str) -> list[str]:
    before, quote, rest = text.partition('"')
    quoted, _, after = rest.partition('"')
    return [*before.split(), *([quoted] if quote else []), *after.split()]


# -- the kernel
# -------------------------------------------------------------------------------------------------


class Iptables:
    """Programs the chains in the network namespace this process is in."""

    mode = "iptables"

    async def program(self, old: RuleSet | None, new: RuleSet) -> bool:
        """Turn `old`, or whatever of ours is there, into `new`; whether anything had to be done. Raises
        IptablesError, OSError, TimeoutError.
        """
        text = restore(await self._chains() if old is None else old.chains, new.chains)
        if text:
            await self.apply(text)
        if old is None:
            await self._connect()
        return bool(text)

    async def apply(self, text: str) -> None:
        """Raises IptablesError."""
        await self._do("iptables-restore", *_WAIT, "--noflush", stdin=text)

    async def present(self) -> bool:
        """Whether our jumps are still there; somebody may have flushed the kernel's chains."""
        for table, chain, rule in jumps():
            if (await run_command("iptables", *_WAIT, "-t", table, "-C", chain, *rule))[0]:
                return False
        return True

    async def remove(self) -> None:
        """Take all of our rules away. Where there are none, not even an empty table is made."""
        chains = await self._chains()
        if not chains:
            return
        for table, chain, rule in jumps():
            await run_command("iptables", *_WAIT, "-t", table, "-D", chain, *rule)
        await self.apply(restore(chains, {}))

    async def _connect(self) -> None:
        for table, chain, rule in jumps():
            there, _ = await run_command("iptables", *_WAIT, "-t", table, "-C", chain, *rule)
            if there:
                await self._do("iptables", *_WAIT, "-t", table, "-I", chain, *rule)

    async def _chains(self) -> dict[str, Chain]:
        status, output, complaint = await capture("iptables-save")
        if status:
            raise IptablesError(complaint[:2000])
        return ours(output.decode("utf-8", "replace"))

    async def _do(self, *argv: str, stdin: str | None = None) -> None:
        status, complaint = await run_command(*argv, stdin=stdin)
        if status:
            raise IptablesError(complaint[:2000] or f"{argv[0]} ended with status {status}")
