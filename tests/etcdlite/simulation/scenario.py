"""One run: some seconds of faults under load, then calm, in which everything must come right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from etcdlite.consensus.membership import ChangeKind, Member, MemberChange
from etcdlite.raft.types import NodeId
from tests.etcdlite.simulation.rules import Violation
from tests.etcdlite.simulation.world import SimMember, Weather, World

FAULTY = 1500.0  # milliseconds
CALM = 3000.0


@dataclass(frozen=True)
class Outcome:
    """What happened, for the runner's table and for tests that nothing was vacuous."""

    seed: int
    terms: int
    committed: int
    acknowledged: int
    reads: int
    crashes: int
    installed: int
    compacted: int
    members: int


class Scenario:
    """Load and faults on a world, all from the seed."""

    def __init__(self, seed: int, *, nervous: bool = False) -> None:
        """`nervous`: nothing but elections and crashes, as fast as they go."""
        self.seed, self.world = seed, World(seed, nervous=nervous)
        self.rng = self.world.rng
        self.crashes = 0
        self.between_faults, self.downtime = self.rng.choice((20, 60)), self.rng.choice((5, 80))
        if nervous:
            self.between_faults, self.downtime = 6, 2
        self.faults: tuple[Callable[[], None], ...] = (
            self._crash,
            self._crash_in_disk,
            self._cut_one_way,
            self._isolate,
            self._heal,
            self._storm,
            self._transfer,
            self._add,
            self._promote,
            self._remove,
        )
        if nervous:
            self.faults = (self._crash, self._crash, self._storm, self._isolate, self._heal)

    def run(self) -> Outcome:
        """Run it. Raises Violation, or what a member died of."""
        self._load()
        self._fault()
        self.world.run(FAULTY)
        self.faults = ()
        self._calm_down()
        for _ in range(int(CALM // 300)):
            self.world.run(300)
            if self._converged():
                break
        self._judge()
        rules = self.world.rules
        return Outcome(
            self.seed,
            len(rules.leaders),
            len(rules.committed),
            len(rules.acknowledged),
            rules.reads,
            self.crashes,
            sum(x.machine.installed for x in self.world.members.values()),
            sum(1 for x in self.world.members.values() if x.engine and x.engine.node.raft.log.base > 0),
            len(self.world.members),
        )

    def _any(self) -> SimMember:
        return self.rng.choice(list(self.world.members.values()))

    def _load(self) -> None:
        if self.rng.random() < 0.6:
            self.world.propose(self._any())
        else:
            self.world.read(self._any())
        self.world.at(self.rng.expovariate(1 / 8), self._load)

    def _fault(self) -> None:
        if self.faults:
            self.rng.choice(self.faults)()
            self.world.at(self.rng.expovariate(1 / self.between_faults), self._fault)

    # -- faults ----------------------------------------------------------------------------------------------

    def _restart_later(self, member: SimMember) -> None:
        def restart() -> None:
            if member.engine is None:
                member.start()

        self.world.at(self.rng.expovariate(1 / self.downtime), restart)

    def _crash(self) -> None:
        member = self.world.leader() if self.rng.random() < 0.5 else self._any()
        if member is not None and member.engine is not None:
            self.crashes += 1
            member.crash()
            self._restart_later(member)

    def _crash_in_disk(self) -> None:
        member = self._any()
        if member.engine is not None:
            self.crashes += 1
            member.disk.crash_after = self.rng.randrange(12)
            self.world.at(100, lambda: self._restart_later(member))

    def _cut_one_way(self) -> None:
        self.world.weather.cut.add((self._any().id, self._any().id))

    def _isolate(self) -> None:
        lonely = (self.world.leader() or self._any()).id
        for other in self.world.members:
            self.world.weather.cut |= {(lonely, other), (other, lonely)}

    def _heal(self) -> None:
        self.world.weather.cut.clear()

    def _storm(self) -> None:
        rng = self.rng
        cut = self.world.weather.cut
        self.world.weather = Weather(
            rng.choice((0, 0.1, 0.3)), rng.choice((0, 0.2)), 0.1, rng.uniform(0.5, 15), cut
        )

    def _transfer(self) -> None:
        target = NodeId(self._any().id)
        self._any().act(lambda engine: engine.node.transfer_leader(target))

    def _add(self) -> None:
        node = max(self.world.members) + 1
        if node <= 8:
            kind = self.rng.choice((ChangeKind.ADD_LEARNER, ChangeKind.ADD_VOTER))
            self.world.change(MemberChange(kind, Member(node, peer_urls=(f"http://{node}:1",))))

    def _promote(self) -> None:
        self.world.change(MemberChange(ChangeKind.PROMOTE, Member(self._any().id)))

    def _remove(self) -> None:
        leader = self.world.leader()
        if leader is not None and leader.engine is not None and len(leader.engine.membership.members) > 2:
            self.world.change(MemberChange(ChangeKind.REMOVE, Member(self._any().id)))

    # -- the end ---------------------------------------------------------------------------------------------

    def _calm_down(self) -> None:
        self.world.weather, self.world.disk_delay = Weather(0, 0, 0, 1), 1
        for member in self.world.members.values():
            member.disk.crash_after = -1
            if member.engine is None:
                member.start()

    def _current(self) -> list[SimMember]:
        leader = self.world.leader()
        if leader is None or leader.engine is None:
            return []
        return [
            self.world.members[node]
            for node in leader.engine.membership.members
            if node in self.world.members
        ]

    def _converged(self) -> bool:
        leader, members = self.world.leader(), self._current()
        if leader is None or leader.engine is None:
            return False
        raft = leader.engine.node.raft
        return raft.log.term(raft.log.committed) == raft.term and all(
            x.machine.applied_index >= raft.log.committed - 3 for x in members
        )

    def _judge(self) -> None:
        if not self._converged():
            raise Violation("the calm cluster does not come right: no leader, or a member stays behind")
        asked = [(member, self.world.propose(member), member.machine.installed) for member in self._current()]
        self.world.run(300)
        for member, data, installed in asked:
            if data not in self.world.rules.places:
                raise Violation(f"the calm cluster carries out no write through member {member.id}")
            # A snapshot may hold the write: then its client is told nothing.
            if data not in self.world.rules.acknowledged and member.machine.installed == installed:
                raise Violation(f"the calm cluster acknowledges no write through member {member.id}")
        for member in self._current():
            if member.machine.applied_index >= self.world.rules.acknowledged_index:
                self.world.rules.complete(member)
