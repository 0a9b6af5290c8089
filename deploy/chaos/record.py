"""Everything that one scenario left behind: what judgement, table and report are made from. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from deploy.chaos.counters import Counters
from deploy.chaos.load.service import Look, Seen
from deploy.chaos.schema import Scenario
from deploy.judge.history import Call, History


@dataclass(slots=True)
class Strike:
    """One fault that was injected. All times are monotonic seconds.

    `asked` is when the injection began, `began` when the fault was in force, `ended` when it had been undone
    (for one that happens once: when it had happened). `met`: the condition of `until` came true.
    """

    step: int
    fault: str
    targets: tuple[str, ...]
    asked: float
    began: float = 0.0
    ended: float = 0.0
    met: bool | None = None
    error: str = ""

    @property
    def hosts(self) -> set[str]:
        return {target.split("/")[0] for target in self.targets}

    def __str__(self) -> str:
        return f"{self.fault} {', '.join(self.targets)}"


@dataclass(frozen=True, slots=True)
class Sample:
    """What a member said of itself: `role` 1 leader, 0 follower, -1 without a leader, -2 silent."""

    at: float
    host: str
    role: int
    term: int
    applied: int


@dataclass(slots=True)
class Run:
    """A scenario as it went. `start` is when the work was steady, `end` when it was stopped."""

    scenario: Scenario
    seed: int
    start: float = 0.0
    end: float = 0.0
    strikes: list[Strike] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)
    stored: dict[str, int] = field(default_factory=dict)
    store: History = field(default_factory=History)
    samples: list[Sample] = field(default_factory=list)
    bindings: list[tuple[int, str, str]] = field(default_factory=list)
    service: Seen = field(default_factory=Seen)
    members: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    lacking: str = ""  # what was not back when waiting ended
    broken: str = ""  # why the scenario could not be run to its end

    @property
    def healed(self) -> float:
        """When the last fault was over."""
        return max((strike.ended for strike in self.strikes), default=self.start)

    def store_writes(self) -> list[Call]:
        """The store's acknowledged requests that may write, in the order of their answers."""
        done = [call for call in self.store.calls if call.response is not None and call.request.may_write]
        return sorted(done, key=lambda call: call.returned or 0.0)

    def store_acknowledged(self) -> list[float]:
        """When the store acknowledged a write."""
        return [call.returned for call in self.store_writes() if call.returned is not None]

    def store_failed(self) -> list[float]:
        """When a client of the store gave a request up."""
        return sorted(call.returned or call.invoked for call in self.store.calls if call.response is None)

    def api_acknowledged(self) -> list[float]:
        return [seen.at for seen in self.counters.writes]

    def is_whole(self, look: Look) -> bool:
        """Has the Deployment as many ready pods as it asks for?"""
        wanted = self.scenario.work.replicas
        return look.nodes is not None and look.ready == wanted and len(look.nodes) == wanted


@dataclass(slots=True)
class Reign:
    """A member's leadership in one term, from the first to the last time that it said so."""

    host: str
    term: int
    start: float
    end: float


def leaders(samples: Sequence[Sample]) -> list[Reign]:
    """Who led, by rising terms. A member that still believes in an older term has not heard of its end."""
    found: list[Reign] = []
    for sample in sorted(samples, key=lambda sample: sample.at):
        last = found[-1] if found else None
        if sample.role != 1 or (last is not None and sample.term < last.term):
            continue
        if last is not None and (last.host, last.term) == (sample.host, sample.term):
            last.end = sample.at
        else:
            found.append(Reign(sample.host, sample.term, sample.at, sample.at))
    return found
