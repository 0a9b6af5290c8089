"""The priority levels in force: how many seats each has, and who may borrow whose. Pure.

Seats are `shares / all shares` of the server's, rounded up. A level that has used its own may take an idle
seat of those that lend; what is lent comes back as those requests end.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from apiserver.flowcontrol.queues import Seats

Object = dict[str, Any]


@dataclass(slots=True)
class Level:
    """`seats` None: exempt, never counted."""

    name: str
    uid: str
    signature: tuple[int, ...]  # seats, queues, hand size, queue length; none of an exempt level
    seats: Seats | None = None
    lendable: int = 0
    borrowable: int | None = None  # most seats it may borrow; None for any number

    @property
    def queues(self) -> int:
        return self.signature[1] if len(self.signature) > 1 else 0

    def borrowed(self) -> int:
        return max(self.seats.executing - self.seats.limit, 0) if self.seats else 0

    def idle(self) -> int:
        """Seats that it would lend now."""
        if self.seats is None or self.seats.waiting:
            return 0
        return max(min(self.lendable, self.seats.limit - self.seats.executing), 0)


def build(configurations: Iterable[Object], total: int, before: Mapping[str, Level]) -> dict[str, Level]:
    """Levels by name. One whose configuration is as it was keeps its queues and what executes."""
    found = list(configurations)
    shares = {item["metadata"]["name"]: _shares(item["spec"]) for item in found}
    every = sum(shares.values()) or 1
    out: dict[str, Level] = {}
    for item in found:
        name, spec, uid = item["metadata"]["name"], item["spec"], item["metadata"].get("uid", "")
        limited = spec.get("limited") or {}
        if spec.get("type") == "Exempt":
            out[name] = Level(name, uid, ())
            continue
        limit = max(math.ceil(total * shares[name] / every), 1)
        queuing = (limited.get("limitResponse") or {}).get("queuing")
        shape = (
            (queuing["queues"], queuing["handSize"], queuing["queueLengthLimit"]) if queuing else (0, 1, 0)
        )
        borrowing = limited.get("borrowingLimitPercent")
        signature = (limit, *shape)
        known = before.get(name)
        kept = known.seats if known is not None and known.signature == signature else None
        out[name] = Level(
            name,
            uid,
            signature,
            kept or Seats(limit, *shape),
            round(limit * (limited.get("lendablePercent") or 0) / 100),
            None if borrowing is None else round(limit * borrowing / 100),
        )
    return out


def _shares(spec: Object) -> int:
    if spec.get("type") == "Exempt":
        return int((spec.get("exempt") or {}).get("nominalConcurrencyShares") or 0)
    shares = (spec.get("limited") or {}).get("nominalConcurrencyShares")
    return 30 if shares is None else int(shares)


def may_borrow(level: Level, levels: Iterable[Level]) -> bool:
    """Whether another level lends `level` a seat beyond its own now."""
    if level.borrowable is not None and level.borrowed() >= level.borrowable:
        return False
    others = [other for other in levels if other is not level]
    lent = sum(other.borrowed() for other in others) + level.borrowed()
    return sum(other.idle() for other in others) > lent
