"""The values Raft is made of. Section numbers are those of Ongaro's thesis, "Consensus: Bridging Theory and
Practice".
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NewType

Term = NewType("Term", int)
Index = NewType("Index", int)
NodeId = NewType("NodeId", int)

NOBODY = NodeId(0)
NO_TERM = Term(0)
NO_INDEX = Index(0)


class Role(enum.Enum):
    """Figure 3.3, with the pre-candidate of section 9.6."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class EntryKind(enum.IntEnum):
    """What an entry's data is."""

    NORMAL = 0  # the state machine's; empty in the entry a leader begins its term with
    CONF_CHANGE = 1  # moves the quorum; one at a time
    ATTRIBUTES = 2  # a member's addresses; Raft looks no further


@dataclass(slots=True)
class Entry:
    """One log entry. Never changed once made.

    `encoded` caches the bytes it has on the wire and on disk, which are the same, so that an entry is encoded
    once.
    """

    term: Term
    index: Index
    kind: EntryKind
    data: bytes
    encoded: bytes | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class HardState:
    """What must be on disk before a message that depends on it leaves (Figure 3.1, "persistent state").

    `commit` is advisory: it may lag on disk, since any leader finds it out again.
    """

    term: Term = Term(0)
    vote: NodeId = NOBODY
    commit: Index = Index(0)


@dataclass(frozen=True, slots=True)
class ConfState:
    """Who votes and who only listens."""

    voters: frozenset[NodeId] = frozenset()
    learners: frozenset[NodeId] = frozenset()

    def nodes(self) -> frozenset[NodeId]:
        """Everyone that entries are sent to."""
        return self.voters | self.learners


@dataclass(frozen=True, slots=True)
class SnapshotMeta:
    """Stands for all entries up to `index`. `context` is the membership in the driver's encoding."""

    index: Index = Index(0)
    term: Term = Term(0)
    conf: ConfState = ConfState()
    context: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class SoftState:
    """What others like to know and nobody has to keep."""

    leader: NodeId
    role: Role
