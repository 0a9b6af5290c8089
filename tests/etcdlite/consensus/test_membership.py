"""Who is in the cluster."""

from __future__ import annotations

import pytest

from etcdlite.consensus.errors import BadChange
from etcdlite.consensus.membership import ChangeKind, Member, MemberChange, Membership, cluster_id, member_id

URLS = {"a": ["https://10.0.0.1:2380"], "b": ["https://10.0.0.2:2380"]}
START = Membership.initial(URLS, "token")
A, B = (member_id(URLS[name], "token") for name in "ab")
NEW = Member(99, peer_urls=("https://10.0.0.3:2380",))


def change(kind: ChangeKind, member: Member) -> MemberChange:
    return MemberChange(kind, member)


def test_ids_depend_on_addresses_and_token_only() -> None:
    assert member_id(["u", "v"], "t") == member_id(["v", "u"], "t")
    assert (
        len({member_id(["u"], "t"), member_id(["u"], "s"), member_id(["v"], "t"), member_id(["u"], "t", 5)})
        == 4
    )
    assert (
        cluster_id(URLS, "token")
        == cluster_id(dict(reversed(URLS.items())), "token")
        != cluster_id(URLS, "x")
    )


def test_a_learner_is_added_promoted_and_removed() -> None:
    added = START.with_change(change(ChangeKind.ADD_LEARNER, NEW))
    assert added.conf_state().learners == {99} and added.conf_state().voters == {A, B}
    promoted = added.with_change(change(ChangeKind.PROMOTE, Member(99)))
    assert promoted.conf_state().voters == {A, B, 99}
    assert promoted.members[99].peer_urls == NEW.peer_urls
    removed = promoted.with_change(change(ChangeKind.REMOVE, Member(99)))
    assert removed == Membership(START.members, frozenset({99}))


def test_an_update_changes_addresses_but_no_vote() -> None:
    learner = START.with_change(change(ChangeKind.ADD_LEARNER, NEW))
    updated = learner.with_change(change(ChangeKind.UPDATE, Member(99, "c", NEW.peer_urls, ("http://c",))))
    assert updated.members[99] == Member(99, "c", NEW.peer_urls, ("http://c",), is_learner=True)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (change(ChangeKind.ADD_VOTER, Member(A)), "member ID already exist"),
        (change(ChangeKind.ADD_LEARNER, Member(98, peer_urls=tuple(URLS["a"]))), "peerURL exists"),
        (change(ChangeKind.PROMOTE, Member(A)), "can only promote a learner"),
        (change(ChangeKind.PROMOTE, Member(98)), "member not found"),
        (change(ChangeKind.REMOVE, Member(98)), "member not found"),
        (change(ChangeKind.UPDATE, Member(A, peer_urls=tuple(URLS["b"]))), "peerURL exists"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: MemberChange, text: str) -> None:
    with pytest.raises(BadChange, match=text):
        START.check(wrong)


def test_the_removed_do_not_come_back_and_the_last_voter_stays() -> None:
    gone = START.with_change(change(ChangeKind.REMOVE, Member(A)))
    with pytest.raises(BadChange, match="already exist"):
        gone.check(change(ChangeKind.ADD_VOTER, Member(A, peer_urls=("x",))))
    with pytest.raises(BadChange, match="last voter"):
        gone.check(change(ChangeKind.REMOVE, Member(B)))
