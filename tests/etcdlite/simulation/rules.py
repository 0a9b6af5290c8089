"""What must hold after every step (Figure 3.2 of the thesis, and what clients were promised)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etcdlite.consensus.statemachine import Entry as Applied
from etcdlite.raft.node import Write
from etcdlite.raft.types import Entry, Role

if TYPE_CHECKING:
    from tests.etcdlite.simulation.world import SimMember


class Violation(AssertionError):
    """A rule is broken."""


class Rules:
    """Watches the whole cluster at once, as no member can."""

    def __init__(self) -> None:
        self.leaders: dict[int, int] = {}  # term -> member
        self.votes: dict[tuple[int, int], int] = {}  # (member, term) -> its vote on disk
        self.entries: dict[tuple[int, int], tuple[bytes, int | None]] = {}  # by index, term
        self.committed: dict[int, tuple[int, bytes]] = {}  # index -> term, data of what some member applied
        self.places: dict[bytes, int] = {}  # what was proposed once -> its only index
        self.acknowledged: dict[bytes, int] = {}
        self.acknowledged_index = 0
        self.reads = 0

    def check(self, member: SimMember) -> None:
        """After a step of `member`."""
        assert member.engine is not None
        raft = member.engine.node.raft
        log = raft.log
        marks = log.base <= log.applied <= log.handed <= log.committed <= log.last
        if not (marks and log.base <= log.stable <= log.last and log.handed <= log.stable):
            raise Violation(f"marks of member {member.id} are out of order")
        if raft.role is Role.LEADER and self.leaders.get(raft.term) != member.id:
            self._new_leader(member)

    def _new_leader(self, member: SimMember) -> None:
        """Election Safety and Leader Completeness."""
        assert member.engine is not None
        raft = member.engine.node.raft
        if raft.term in self.leaders:
            raise Violation(f"{self.leaders[raft.term]} and {member.id} both lead term {raft.term}")
        self.leaders[raft.term] = member.id
        for index, (term, _) in self.committed.items():
            if index >= raft.log.base and raft.log.term(index) != term:  # type: ignore[arg-type]
                raise Violation(f"leader {member.id} of term {raft.term} lacks committed entry {index}")

    def written(self, member: SimMember, write: Write) -> None:
        """Log Matching, on everything that goes to disk."""
        assert member.engine is not None
        log = member.engine.node.raft.log
        for entry in write.entries:
            before = log.term(entry.index - 1)  # type: ignore[arg-type]
            self._match(entry, before)

    def synced(self, member: SimMember, write: Write) -> None:
        """One vote a term. A vote that a crash took back before it was synced was never given."""
        hard = write.hard_state
        if hard.vote and self.votes.setdefault((member.id, hard.term), hard.vote) != hard.vote:
            raise Violation(f"member {member.id} votes twice in term {hard.term}")

    def _match(self, entry: Entry, before: int | None) -> None:
        known = self.entries.setdefault((entry.index, entry.term), (entry.data, before))
        if known[0] != entry.data or (None not in (known[1], before) and known[1] != before):
            raise Violation(f"two logs differ at or before index {entry.index} of term {entry.term}")

    def opened(self, member: SimMember) -> None:
        """After a start: the log read from disk is one that was written."""
        assert member.engine is not None
        log = member.engine.node.raft.log
        for entry in log.slice(log.base + 1, log.last):  # type: ignore[arg-type]
            self._match(entry, log.term(entry.index - 1))  # type: ignore[arg-type]

    def applied(self, member: SimMember, entry: Applied, *, acknowledged: bool) -> None:
        """State Machine Safety; nothing is carried out twice; and every acknowledgement is remembered."""
        known = self.committed.setdefault(entry.index, (entry.term, entry.data))
        if known != (entry.term, entry.data):
            raise Violation(f"member {member.id} applies another entry {entry.index} than was applied before")
        if entry.data and self.places.setdefault(entry.data, entry.index) != entry.index:
            raise Violation(
                f"{entry.data!r} is carried out twice, at {self.places[entry.data]}, {entry.index}"
            )
        if acknowledged:
            self.acknowledged[entry.data] = entry.index
            self.acknowledged_index = max(self.acknowledged_index, entry.index)

    def read_answered(self, member: SimMember, context: int, index: int, required: int) -> None:
        """Linearizable reads: never older than a write acknowledged before the read was asked."""
        self.reads += 1
        if index < required:
            raise Violation(
                f"read {context} at member {member.id}: index {index}, acknowledged was {required}"
            )

    def complete(self, member: SimMember) -> None:
        """At the end: nothing acknowledged is missing."""
        present = {data: index for index, _, data in member.machine.history}
        for data, index in self.acknowledged.items():
            if present.get(data) != index:
                raise Violation(f"member {member.id} lost acknowledged {data!r} at {index}")
