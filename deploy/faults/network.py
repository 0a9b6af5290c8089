"""Cutting, losing and throttling packets inside one network namespace.

Rules live in an nftables table of the fault's own, which no other program reads or writes: taking the table
away undoes everything and nothing else. Its chains come before all others (priority -500), so what the
host's own rules would rewrite is matched as it is on the wire. Packets are dropped without a word, as by a
pulled cable; connections stay open on both sides and go on afterwards.

A namespace is named by its path: `/proc/<pid>/ns/net` or a file it is mounted on. Programs are run inside it
by nsenter(1), so these functions may be called from any thread.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from deploy.faults.fault import Fault, FaultError

Direction = Literal["both", "in", "out"]
TIMEOUT = 20.0
PRIORITY = -500
_numbers = itertools.count()


def run_inside(namespace: str | Path, *command: str, feed: str | None = None) -> str:
    """Run a program in the namespace; its output. Raises FaultError with what it complained of."""
    refuse_own(namespace)
    argv = ["nsenter", f"--net={namespace}", "--", *command]
    try:
        done = subprocess.run(argv, input=feed, text=True, capture_output=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise FaultError(f"{command[0]}: no answer in {TIMEOUT:g} s") from None
    if done.returncode != 0:
        raise FaultError(f"{' '.join(command)} in {namespace}: {done.stderr.strip()}")
    return done.stdout


def refuse_own(namespace: str | Path) -> None:
    """Raises FaultError when the namespace is the caller's own, the machine's."""
    try:
        identity = Path(namespace).stat().st_ino
    except FileNotFoundError:
        raise FaultError(f"there is no namespace {namespace}") from None
    if identity == Path("/proc/self/ns/net").stat().st_ino:
        raise FaultError(f"{namespace} is the machine's own network namespace")


def partitioned(
    namespace: str | Path,
    *,
    peers: Iterable[str] | None = None,
    ports: Iterable[int] = (),
    direction: Direction = "both",
    table: str | None = None,
) -> Fault:
    """Drop what passes between this namespace and `peers` (IPv4 addresses or networks; None: everyone).

    With `ports`, only TCP from or to one of them is dropped: a store's peer port (2380) cuts consensus and
    leaves clients alone. `in` drops what arrives and lets out what is sent; `out` the reverse: one such fault
    makes a one-way link. Loopback is never touched. What is forwarded for pods is cut like the host's own.
    `table` names the rules for another process, which can then make the same fault again and undo it.
    """
    rules = _rules(peers, ports, direction, "drop")
    return _filtered(
        f"partition ({direction}) of {namespace} from {_said(peers, ports)}", namespace, rules, table
    )


def lossy(
    namespace: str | Path,
    percent: float,
    *,
    peers: Iterable[str] | None = None,
    ports: Iterable[int] = (),
    direction: Direction = "both",
    table: str | None = None,
) -> Fault:
    """Lose `percent` of the packets, each independently. The rest as `partitioned`."""
    if not 0 < percent < 100:
        raise ValueError(f"percent must lie between 0 and 100, not {percent}")
    verdict = f"numgen random mod 10000 < {round(percent * 100)} drop"
    rules = _rules(peers, ports, direction, verdict)
    return _filtered(
        f"loss of {percent:g} % ({direction}) of {namespace} with {_said(peers, ports)}",
        namespace,
        rules,
        table,
    )


def throttled(namespace: str | Path, kilobits: int, *, device: str = "eth0") -> Fault:
    """Let out no more than `kilobits` per second (tc-tbf(8)); what waits over a second is lost.

    Only for a device that has no queueing discipline of its own yet. Raises FaultError when it has one.
    """
    burst = max(1600, kilobits * 1000 // 8 // 100)

    def apply() -> None:
        shape = ["rate", f"{kilobits}kbit", "burst", str(burst), "latency", "1s"]
        run_inside(namespace, "tc", "qdisc", "add", "dev", device, "root", "tbf", *shape)

    def undo() -> None:
        if Path(namespace).exists() and " tbf " in run_inside(
            namespace, "tc", "qdisc", "show", "dev", device
        ):
            run_inside(namespace, "tc", "qdisc", "del", "dev", device, "root")

    return Fault(f"throttle of {namespace} {device} to {kilobits} kbit/s", apply, undo)


def _said(peers: Iterable[str] | None, ports: Iterable[int]) -> str:
    who = "everyone" if peers is None else ", ".join(peers)
    said = ", ".join(str(port) for port in ports)
    return f"{who} port {said}" if said else who


def _rules(
    peers: Iterable[str] | None, ports: Iterable[int], direction: Direction, verdict: str
) -> dict[str, list[str]]:
    """Per hook, the matches in front of `verdict`. Seen from this host: source is the peer on the way in."""
    who = None if peers is None else "{ " + ", ".join(sorted(peers)) + " }"
    port_set = ", ".join(str(port) for port in sorted(ports))
    services = ["tcp dport", "tcp sport"] if port_set else [""]

    def lines(field: str) -> list[str]:
        match = f"{field} {who} " if who else ""
        return [match + (f"{service} {{ {port_set} }} " if service else "") + verdict for service in services]

    rules: dict[str, list[str]] = {"input": [], "output": [], "forward": []}
    if direction in ("both", "in"):
        rules["input"] += lines("ip saddr")
        rules["forward"] += lines("ip saddr")
    if direction in ("both", "out"):
        rules["output"] += lines("ip daddr")
        rules["forward"] += lines("ip daddr")
    return rules


def ruleset(table: str, rules: dict[str, list[str]]) -> str:
    """The text that nft(8) reads. Pure."""
    chains = [
        f"  chain {hook} {{\n    type filter hook {hook} priority {PRIORITY}; policy accept;\n"
        + '    iifname "lo" accept\n' * (hook != "output")
        + '    oifname "lo" accept\n' * (hook != "input")
        + "".join(f"    {line}\n" for line in lines)
        + "  }\n"
        for hook, lines in rules.items()
        if lines
    ]
    return f"table inet {table} {{\n" + "".join(chains) + "}\n"


def _filtered(name: str, namespace: str | Path, rules: dict[str, list[str]], table: str | None) -> Fault:
    table = table or f"fault_{os.getpid()}_{next(_numbers)}"

    def apply() -> None:
        run_inside(namespace, "nft", "-f", "-", feed=ruleset(table, rules))

    def undo() -> None:
        if Path(namespace).exists() and table in run_inside(namespace, "nft", "list", "tables"):
            run_inside(namespace, "nft", "delete", "table", "inet", table)

    return Fault(name, apply, undo)
