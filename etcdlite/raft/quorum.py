"""Majorities. Pure functions over voter sets."""

from __future__ import annotations

import enum
from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from etcdlite.raft.types import NodeId

N = TypeVar("N", bound=int)


class VoteResult(enum.Enum):
    """Where a vote stands."""

    PENDING = "pending"
    WON = "won"
    LOST = "lost"


def size(voters: Collection[NodeId]) -> int:
    """How many of `voters` are a majority. An empty set has none: 1 of 0 can never be reached."""
    return len(voters) // 2 + 1


def reached(voters: Collection[NodeId], value_of: Callable[[NodeId], N], nothing: N) -> N:
    """The greatest value that a majority of `voters` has reached; `nothing` if there are no voters."""
    if not voters:
        return nothing
    values = sorted((value_of(voter) for voter in voters), reverse=True)
    return values[size(voters) - 1]


def vote_result(voters: Collection[NodeId], votes: Mapping[NodeId, bool]) -> VoteResult:
    """Whether the votes cast decide the election. Votes of others than `voters` do not count."""
    granted = sum(1 for voter in voters if votes.get(voter) is True)
    refused = sum(1 for voter in voters if votes.get(voter) is False)
    if granted >= size(voters):
        return VoteResult.WON
    return VoteResult.LOST if len(voters) - refused < size(voters) else VoteResult.PENDING
