"""Which pods end when, and with how much grace, when the machine is about to go (KEP-2000, KEP-2712).
Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

CRITICAL = 2_000_000_000  # scheduling.SystemCriticalPriority
REASON = "Terminated"
MESSAGE = "Pod was terminated in response to imminent node shutdown."
REFUSED = "NodeShutdown", "Pod was rejected as the node is shutting down."
NOT_READY = "node is shutting down"

Pod = Mapping[str, Any]


class Period(NamedTuple):
    """Pods of this priority and above (up to the next period's) have this many seconds."""

    priority: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Step:
    """Pods that end together; the next step begins when they have ended, or `seconds` have passed."""

    pods: tuple[Pod, ...]
    seconds: float


def periods(total: float, critical: float) -> tuple[Period, ...]:
    """`shutdownGracePeriod` and `shutdownGracePeriodCriticalPods` as periods; none when there is no time."""
    if total <= 0:
        return ()
    return Period(0, total - critical), Period(CRITICAL, critical)


def compute_steps(pods: Iterable[Pod], allowed: Sequence[Period]) -> list[Step]:
    """The pods by priority, the lowest first; one below every period has the time of the lowest."""
    ordered = sorted(allowed)
    groups: list[list[Pod]] = [[] for _ in ordered]
    for pod in pods:
        priority = int(pod["spec"].get("priority") or 0)
        fitting = [index for index, period in enumerate(ordered) if period.priority <= priority]
        groups[fitting[-1] if fitting else 0].append(pod)
    return [
        Step(tuple(group), period.seconds) for group, period in zip(groups, ordered, strict=True) if group
    ]
