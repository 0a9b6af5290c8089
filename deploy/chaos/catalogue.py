"""Every fault that can be injected: its name, what it strikes, its parameters, and how it is made.

An entry turns (lab, target, parameters, key) into a `deploy.faults.Fault` without touching anything; the key
names what the fault leaves behind (a table, a file), so that any process can make the same object again and
undo what another one applied. `deploy.chaos.active` applies, remembers and undoes them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deploy.chaos import certificates, daemons, disks, links, machines
from deploy.chaos.lab import Lab
from deploy.chaos.targets import Target
from deploy.faults.fault import Fault

Value = str | float
Values = Mapping[str, Value]
Build = Callable[[Lab, tuple[Target, ...], Values, str], Fault]

UNIT = "unit"  # one daemon: host/unit
ANY = "host or unit"  # a whole host means all its units
HOST = "host"
HOSTS = "hosts"  # several at once: they are one side of the fault
MEMBER = "member"  # a controller's store


class CatalogueError(ValueError):
    """No such fault, no such parameter, or a value that it does not take."""


@dataclass(frozen=True)
class Parameter:
    """One knob. A choice when `choices` is set, else a number between the bounds, else free text."""

    name: str
    default: Value
    help: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None

    def parse(self, text: object) -> Value:
        """The value that `text` (of a command line or a YAML file) means. Raises CatalogueError."""
        if self.choices:
            if str(text) not in self.choices:
                raise CatalogueError(f"{self.name}: {text!r} is not one of {', '.join(self.choices)}")
            return str(text)
        if isinstance(self.default, str):
            return str(text)
        try:
            number = float(str(text))
        except ValueError:
            raise CatalogueError(f"{self.name}: {text!r} is not a number") from None
        if (self.least is not None and number < self.least) or (self.most is not None and number > self.most):
            raise CatalogueError(f"{self.name}: {text} is not between {self.least:g} and {self.most:g}")
        return number


@dataclass(frozen=True)
class Entry:
    """One fault of the catalogue.

    `target` says what it strikes, `only` restricts it to one role, `unit` is meant when none is named.
    `lasting` faults stay until undone; the others happen once, and with a duration stay down or end there.
    `needs` is a fault that must be in force first, and is injected when it is not.
    """

    name: str
    summary: str
    target: str
    build: Build
    parameters: tuple[Parameter, ...] = ()
    only: str | None = None
    unit: str | None = None
    lasting: bool = True
    needs: str | None = None

    def values(self, given: Mapping[str, object]) -> dict[str, Value]:
        """All parameters, the given ones parsed. Raises CatalogueError, naming what is not known."""
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in known:
                there = ", ".join(known) or "none"
                raise CatalogueError(f"{self.name}: no parameter {name!r} (there are: {there})")
        return {name: known[name].parse(given.get(name, known[name].default)) for name in known}

    def check(self, lab: Lab, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        """The targets with the unit that is meant. Raises CatalogueError for what it cannot strike."""
        if len(targets) != 1 and self.target != HOSTS:
            raise CatalogueError(f"{self.name}: strikes one target at a time, not {len(targets)}")
        return tuple(self._check_one(lab, target) for target in targets)

    def _check_one(self, lab: Lab, target: Target) -> Target:
        role = lab.topology.host(target.host).role
        if self.only is not None and role != self.only:
            raise CatalogueError(f"{self.name}: {target.host} is a {role}, not a {self.only}")
        unit = target.unit or self.unit
        if self.target in (HOST, HOSTS):
            if target.unit is not None:
                raise CatalogueError(f"{self.name}: strikes a whole host, not the unit {target}")
            return target
        if unit is None and self.target != ANY:
            units = ", ".join(f"{target.host}/{name}" for name in lab.units(target.host))
            raise CatalogueError(f"{self.name}: strikes a unit: {units}")
        if unit is not None and unit not in lab.units(target.host):
            raise CatalogueError(f"{self.name}: {target.host} runs no {unit}")
        return Target(target.host, unit)


def _choice(name: str, default: str, help_: str, *others: str) -> Parameter:
    return Parameter(name, default, help_, choices=(default, *others))


def _number(name: str, default: float, help_: str, least: float, most: float) -> Parameter:
    return Parameter(name, default, help_, least=least, most=most)


PEERS = Parameter(
    "from", "everyone", "cut off from: `everyone`, a role (`controllers`, `workers`) or hosts a,b"
)

ENTRIES = (
    Entry("kill", "kill -9; for a time: and keep it down", ANY, daemons.killed, lasting=False),
    Entry("pause", "SIGSTOP, later SIGCONT: it hangs, with all its connections", ANY, daemons.paused),
    Entry("restart", "SIGTERM and start again", UNIT, daemons.restarted, lasting=False),
    Entry(
        "partition",
        "cut off from the network; several hosts stay together on their side",
        HOSTS,
        links.partitioned,
        (
            PEERS,
            _choice(
                "direction", "both", "one-way: only what comes `in`, or only what goes `out`", "in", "out"
            ),
            _choice("sides", "together", "several targets stay on one side, or each is `apart`", "apart"),
            _choice(
                "traffic", "all", "`store-peers`: only consensus, clients still get through", "store-peers"
            ),
        ),
    ),
    Entry(
        "delay",
        "latency in both directions",
        HOST,
        links.delayed,
        (
            _number("ms", 100, "milliseconds each way", 1, 10_000),
            _number("jitter", 0, "milliseconds more or less, by chance", 0, 10_000),
        ),
    ),
    Entry(
        "loss",
        "packets lost, each by chance",
        HOST,
        links.lossy,
        (_number("percent", 10, "of all packets", 0.01, 99.99), PEERS),
    ),
    Entry(
        "rate",
        "little bandwidth on the way out",
        HOST,
        links.throttled,
        (_number("kbit", 1000, "kilobits per second", 8, 10_000_000),),
    ),
    Entry(
        "small-disk",
        "the member is moved onto a disk of its own, that can be filled (restarts it)",
        MEMBER,
        disks.small,
        (_number("mb", 256, "mebibytes", 16, 4096),),
        only="controller",
        unit="etcdlite",
    ),
    Entry(
        "disk-full",
        "not a byte left for the data directory",
        MEMBER,
        disks.full,
        (_number("leave", 0, "bytes left free", 0, 1 << 30),),
        only="controller",
        unit="etcdlite",
        needs="small-disk",
    ),
    Entry(
        "watched-disk",
        "the member runs where its syncs can be held up or failed (restarts it)",
        MEMBER,
        disks.watched,
        only="controller",
        unit="etcdlite",
    ),
    Entry(
        "disk-slow",
        "every fsync takes longer",
        MEMBER,
        disks.slow,
        (_number("ms", 200, "milliseconds a sync", 1, 60_000),),
        only="controller",
        unit="etcdlite",
        needs="watched-disk",
    ),
    Entry(
        "disk-fail",
        "every fsync fails with EIO",
        MEMBER,
        disks.failing,
        only="controller",
        unit="etcdlite",
        needs="watched-disk",
    ),
    Entry(
        "clock",
        "the daemon's wall clock is off (restarts it; monotonic time goes on as before)",
        UNIT,
        machines.clock,
        (_number("seconds", 3600, "ahead; negative: behind", -3.2e9, 3.2e9),),
    ),
    Entry(
        "certificate",
        "its serving certificates are worthless (restarts it)",
        UNIT,
        certificates.worthless,
        (_choice("flaw", "expired", "`expired`, or signed by `another-ca`", "another-ca"),),
    ),
    Entry(
        "torn-wal",
        "killed in the middle of a write to its log: the torn record must be cut off",
        MEMBER,
        disks.torn_wal,
        only="controller",
        unit="etcdlite",
        lasting=False,
    ),
    Entry(
        "corrupt-wal",
        "a byte of what the member had synced is flipped: it must refuse to start; undone, the byte is right",
        MEMBER,
        disks.corrupt_wal,
        only="controller",
        unit="etcdlite",
    ),
    Entry(
        "replace-member",
        "the member is removed, its data deleted, and a new one joins in its place",
        MEMBER,
        disks.replaced,
        only="controller",
        unit="etcdlite",
        lasting=False,
    ),
    Entry(
        "power-off", "the plug is pulled: every process of the host dies at once", HOSTS, machines.powered_off
    ),
    Entry("power-on", "raise hosts that are down", HOSTS, machines.powered_on, lasting=False),
    Entry("balancer", "the load balancer is gone", ANY, daemons.killed, only="balancer", lasting=False),
)

FAULTS: Mapping[str, Entry] = {entry.name: entry for entry in ENTRIES}


def entry(name: str) -> Entry:
    """The fault called `name`. Raises CatalogueError."""
    if name not in FAULTS:
        raise CatalogueError(f"no fault is called {name!r} (there are {', '.join(FAULTS)})")
    return FAULTS[name]


def describe() -> list[dict[str, Any]]:
    """The whole catalogue as plain data: what a form with buttons is made from."""
    return [
        {
            "name": each.name,
            "summary": each.summary,
            "target": each.target,
            "role": each.only,
            "unit": each.unit,
            "lasting": each.lasting,
            "parameters": [
                {"name": p.name, "default": p.default, "help": p.help, "choices": list(p.choices)}
                for p in each.parameters
            ],
        }
        for each in ENTRIES
    ]
