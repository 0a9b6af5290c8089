"""Majorities."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcdlite.raft import quorum
from etcdlite.raft.quorum import VoteResult
from etcdlite.raft.types import NodeId

VOTERS = st.sets(st.integers(1, 9).map(NodeId))


@pytest.mark.parametrize(
    ("values", "expected"),
    [([], 0), ([5], 5), ([5, 7], 5), ([3, 5, 7], 5), ([0, 0, 9], 0), ([1, 2, 8, 9], 2), ([1, 2, 3, 8, 9], 3)],
)
def test_reached(values: list[int], expected: int) -> None:
    by_node = {NodeId(n): value for n, value in enumerate(values)}
    assert quorum.reached(by_node, by_node.__getitem__, 0) == expected


@pytest.mark.parametrize(
    ("voters", "votes", "expected"),
    [
        ("", "", VoteResult.PENDING),
        ("1", "", VoteResult.PENDING),
        ("1", "+", VoteResult.WON),
        ("12", "+", VoteResult.PENDING),
        ("12", "+-", VoteResult.LOST),
        ("123", "+-", VoteResult.PENDING),
        ("123", "++", VoteResult.WON),
        ("123", "--", VoteResult.LOST),
        ("1234", "++-", VoteResult.PENDING),
        ("1234", "++--", VoteResult.LOST),
        ("12", "...+++", VoteResult.PENDING),
    ],
)
def test_vote_result(voters: str, votes: str, expected: VoteResult) -> None:
    cast = {NodeId(n): vote == "+" for n, vote in enumerate(votes, 1) if vote != "."}
    if not voters:
        # Nobody can lead a cluster without voters, and nothing commits in it.
        assert quorum.vote_result([], cast) is not VoteResult.WON
        return
    assert quorum.vote_result([NodeId(int(v)) for v in voters], cast) is expected


@settings(deadline=None)
@given(VOTERS, st.data())
def test_two_majorities_meet(voters: set[NodeId], data: st.DataObject) -> None:
    size = quorum.size(voters)
    if len(voters) >= size:
        ordered = sorted(voters)
        one = data.draw(st.permutations(ordered))[:size]
        other = data.draw(st.permutations(ordered))[:size]
        assert set(one) & set(other)
