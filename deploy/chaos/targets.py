"""Whom a fault strikes: `<who>` or `<who>/<unit>`, resolved when its turn comes. Pure.

`<who>` is a host's name or one of SELECTORS. Chance comes from the scenario's seed, so a replay strikes the
same hosts as far as the cluster elects the same leaders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random

from deploy.units import TABLE


class TargetError(ValueError):
    """A target that does not exist, or that nobody is at the moment; says which."""


@dataclass(frozen=True)
class View:
    """Who is who right now. `holders` maps an elected unit to the host of its active instance."""

    controllers: tuple[str, ...]
    workers: tuple[str, ...]
    balancers: tuple[str, ...] = ()
    leader: str | None = None
    holders: Mapping[str, str] = field(default_factory=dict)

    @property
    def hosts(self) -> tuple[str, ...]:
        return (*self.controllers, *self.workers, *self.balancers)


@dataclass(frozen=True, order=True)
class Target:
    """A host, or one unit of it."""

    host: str
    unit: str | None = None

    def __str__(self) -> str:
        return self.host if self.unit is None else f"{self.host}/{self.unit}"


@dataclass(frozen=True)
class Choice:
    """What a selector may look at. `struck` are the hosts that this entry of the schedule has had already."""

    view: View
    random: Random
    struck: Sequence[str] = ()

    def leader(self) -> str:
        if self.view.leader is None:
            raise TargetError("leader: the store has no leader at the moment")
        return self.view.leader

    def followers(self) -> list[str]:
        return [host for host in self.view.controllers if host != self.leader()]

    def holder(self, unit: str) -> str:
        if unit not in self.view.holders:
            raise TargetError(f"{unit}-holder: nobody holds its lease at the moment")
        return self.view.holders[unit]

    def one(self, hosts: Sequence[str]) -> str:
        if not hosts:
            raise TargetError("there is no such host in this topology")
        return self.random.choice(list(hosts))

    def next(self, hosts: Sequence[str]) -> str:
        """One that was not struck yet: the leader first, else in the topology's order."""
        left = [host for host in hosts if host not in self.struck] or list(hosts)
        return self.view.leader if self.view.leader in left else left[0]

    def minority(self) -> list[str]:
        """As many members as a quorum can spare, chosen by chance."""
        spare = (len(self.view.controllers) - 1) // 2
        return sorted(self.random.sample(list(self.view.controllers), spare))

    def majority(self) -> list[str]:
        """So many members that the rest is no quorum: the leader is among them when there is one."""
        quorum = len(self.view.controllers) // 2 + 1
        others = [host for host in self.view.controllers if host != self.view.leader]
        chosen = [self.view.leader] if self.view.leader else []
        return sorted([*chosen, *self.random.sample(others, quorum - len(chosen))])


SELECTORS: Mapping[str, tuple[str, Callable[[Choice], str | Sequence[str]]]] = {
    "leader": ("the store's leader", lambda c: c.leader()),
    "follower": ("one of its followers", lambda c: c.one(c.followers())),
    "any-controller": ("one controller", lambda c: c.one(c.view.controllers)),
    "any-worker": ("one worker", lambda c: c.one(c.view.workers)),
    "any-host": ("one host, the balancer included", lambda c: c.one(c.view.hosts)),
    "next-controller": (
        "each controller in its turn, the leader first",
        lambda c: c.next(c.view.controllers),
    ),
    "next-worker": ("each worker in its turn", lambda c: c.next(c.view.workers)),
    "next-host": ("each host in its turn", lambda c: c.next(c.view.hosts)),
    "scheduler-holder": ("the host of the active scheduler", lambda c: c.holder("scheduler")),
    "controllers-holder": ("the host of the active controller-manager", lambda c: c.holder("controllers")),
    "controllers": ("all controllers", lambda c: c.view.controllers),
    "workers": ("all workers", lambda c: c.view.workers),
    "balancer": ("the load balancer", lambda c: c.view.balancers),
    "minority": ("members that a quorum can spare", lambda c: c.minority()),
    "majority": ("so many members that the rest is no quorum", lambda c: c.majority()),
    "all": ("every host", lambda c: c.view.hosts),
}


def split(spec: str) -> tuple[str, str | None]:
    """`who/unit` -> (who, unit). Raises TargetError for an empty part or a unit that no host runs."""
    who, slash, unit = spec.partition("/")
    if not who or (slash and not unit):
        raise TargetError(f"{spec!r} is not <host> or <host>/<unit>")
    known = sorted({name for names in TABLE.values() for name in names})
    if unit and unit not in known:
        raise TargetError(f"no unit is called {unit!r} (there are {', '.join(known)})")
    return who, unit or None


def check(spec: str, hosts: Sequence[str] | None = None) -> None:
    """Raise TargetError unless `spec` names a selector or a host; hosts are only known with a topology."""
    who, _ = split(spec)
    if who not in SELECTORS and hosts is not None and who not in hosts:
        raise TargetError(f"{who!r} is neither a host ({', '.join(hosts)}) nor one of {', '.join(SELECTORS)}")


def resolve(spec: str, choice: Choice) -> tuple[Target, ...]:
    """The targets that `spec` means now. Raises TargetError."""
    who, unit = split(spec)
    check(spec, choice.view.hosts)
    chosen = SELECTORS[who][1](choice) if who in SELECTORS else who
    names = [chosen] if isinstance(chosen, str) else list(chosen)
    return tuple(Target(name, unit) for name in names)


def needs_leaders(specs: Sequence[str]) -> bool:
    """Whether resolving asks who leads."""
    asking = ("leader", "follower", "next-", "-holder", "majority")
    return any(word in split(spec)[0] for spec in specs for word in asking)
