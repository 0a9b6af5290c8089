"""What a member says of itself and its cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from etcdlite.consensus.membership import Member


@dataclass(frozen=True, slots=True)
class ConsensusStatus:
    """A consistent view of this member. `leader_id` 0 means that no leader is known."""

    cluster_id: int
    member_id: int
    leader_id: int
    term: int
    commit_index: int
    applied_index: int
    last_index: int
    role: str  # "follower", "pre-candidate", "candidate", "leader"
    members: Mapping[int, Member]
    is_learner: bool = False

    @property
    def is_leader(self) -> bool:
        """Whether this member believes to lead. Only read_index() proves it."""
        return self.role == "leader"
