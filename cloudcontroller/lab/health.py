"""Which nodes a balancer sends to: those that answered lately. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cloudcontroller.cloud import Balancer

FAILURES = 2  # in a row, until a node that was well gets nothing more


class Check(NamedTuple):
    """One question: is this node well, as asked on this port and path?"""

    node: str
    port: int
    path: str


def checks(balancers: Iterable[Balancer]) -> set[Check]:
    """Every question once, however many balancers want to know."""
    return {Check(node, each.health_port, each.health_path) for each in balancers for node in each.targets}


class Health:
    """The answers so far. A node is well from its first good answer on."""

    def __init__(self) -> None:
        self._failures: dict[Check, int] = {}

    def note(self, check: Check, well: bool) -> None:
        """An answer came, or did not in time."""
        before = self._failures.get(check, FAILURES)
        self._failures[check] = 0 if well else before + 1

    def keep(self, asked: set[Check]) -> None:
        """Forget what nobody asks any more."""
        self._failures = {check: count for check, count in self._failures.items() if check in asked}

    def well(self, balancer: Balancer) -> Sequence[str]:
        """The nodes the balancer may send to, in its order."""
        asked = {node: Check(node, balancer.health_port, balancer.health_path) for node in balancer.targets}
        return [node for node, check in asked.items() if self._failures.get(check, FAILURES) < FAILURES]
