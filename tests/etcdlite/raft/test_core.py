"""The core as dialogues: elections, replication, reads, transfers, membership, snapshots."""

from __future__ import annotations

import pytest

from etcdlite.raft import messages as m
from etcdlite.raft.node import ProposalRefused
from etcdlite.raft.tracker import ProgressState
from etcdlite.raft.types import Entry, EntryKind, Index, NodeId, Role, SnapshotMeta, Term
from tests.etcdlite.raft.dialogue import Cluster, conf, entry, node, settle, trio

# -- elections -----------------------------------------------------------------------------------------------


def test_a_silent_cluster_elects_whoever_times_out_first() -> None:
    cluster = trio()
    cluster.tick(2, times=10)
    assert cluster.core(2).raft.role is Role.LEADER
    assert {core.raft.leader for core in cluster.cores.values()} == {2}


def test_a_pre_vote_changes_nothing_for_those_who_hear_a_leader() -> None:
    cluster = trio()
    leader = cluster.elect(1)
    cluster.lose = lambda message: message.to == 3
    cluster.tick(1, 2, 3, times=15)
    assert cluster.core(3).raft.role is Role.PRE_CANDIDATE
    cluster.lose = lambda message: False
    cluster.tick(1)
    assert (leader.raft.role, leader.raft.term) == (Role.LEADER, 1)
    assert (cluster.core(3).raft.role, cluster.core(3).raft.leader) == (Role.FOLLOWER, 1)


@pytest.mark.parametrize(
    "reply",
    [
        m.AppendReply(NodeId(3), NodeId(1), Term(9), Index(0)),
        m.HeartbeatReply(NodeId(3), NodeId(1), Term(9), read_round=0),
        m.VoteReply(NodeId(3), NodeId(1), Term(9), rejected=True),
        m.PreVoteReply(NodeId(3), NodeId(1), Term(9), rejected=True),
    ],
    ids=lambda reply: type(reply).__name__,
)
def test_a_late_answer_of_a_removed_member_does_not_depose_the_leader(reply: m.Message) -> None:
    """Simulation, seed 9753: a member that never learned of its removal answered an append of long ago."""
    cluster = Cluster([node(1, conf(1, 2)), node(2, conf(1, 2))])
    leader = cluster.elect(1)
    leader.step(reply)
    assert (leader.raft.role, leader.raft.term) == (Role.LEADER, 1)


def test_a_vote_leaves_only_when_it_is_on_disk() -> None:
    voter = node(2, conf(1, 2, 3))
    voter.step(m.VoteRequest(NodeId(1), NodeId(2), Term(4), Index(0), Term(0)))
    ready = voter.ready()
    assert ready.write is not None and (ready.write.hard_state.term, ready.write.hard_state.vote) == (4, 1)
    assert ready.messages == []
    assert not voter.ready()
    voter.persisted(ready.write)
    assert voter.ready().messages == [m.VoteReply(NodeId(2), NodeId(1), Term(4), rejected=False)]


def test_a_candidates_own_vote_counts_only_when_it_is_on_disk() -> None:
    alone = Cluster([node(1, conf(1), pre_vote=False)])
    alone.core(1).campaign()
    ready = alone.core(1).ready()
    assert alone.role(1) is Role.CANDIDATE and ready.write is not None
    alone.core(1).persisted(ready.write)
    assert alone.role(1) is Role.LEADER


@pytest.mark.parametrize(
    ("vote", "term", "last", "granted"),
    [
        (0, 2, (2, 1), True),
        (0, 2, (1, 1), False),  # shorter
        (0, 2, (1, 2), True),  # shorter, but of a later term
        (3, 2, (2, 1), True),  # voted for another, but in an older term
        (3, 1, (2, 1), False),  # voted for another in this term
        (1, 1, (2, 1), True),  # asked again
    ],
)
def test_who_gets_a_vote(vote: int, term: int, last: tuple[int, int], granted: bool) -> None:
    voter = node(2, conf(1, 2, 3), [entry(1, 1), entry(2, 1)], term=1, vote=vote)
    voter.step(m.VoteRequest(NodeId(1), NodeId(2), Term(term), Index(last[0]), Term(last[1])))
    (reply,) = settle(voter)
    assert isinstance(reply, m.VoteReply) and reply.rejected is not granted


def test_a_leader_cut_off_steps_down() -> None:
    cluster = trio()
    leader = cluster.elect(1)
    cluster.lose = lambda message: message.sender == 1 or message.to == 1
    cluster.tick(1, times=21)
    assert (leader.raft.role, leader.raft.leader) == (Role.FOLLOWER, 0)


def test_losing_the_link_to_a_dead_leader_shortens_the_wait() -> None:
    cluster = trio()
    cluster.elect(1)
    del cluster.cores[NodeId(1)]
    for number in (2, 3):
        cluster.core(number).leader_lost()
    cluster.tick(2, times=2)
    assert cluster.core(2).raft.role is Role.LEADER


def test_losing_the_link_to_a_living_leader_deposes_nobody() -> None:
    cluster = trio()
    cluster.elect(1)
    cluster.core(2).leader_lost()
    cluster.tick(2, times=3)
    assert cluster.core(1).raft.role is Role.LEADER and cluster.core(1).raft.term == 1


def test_a_learner_never_campaigns() -> None:
    learner = node(2, conf(1, learners=(2,)))
    for _ in range(50):
        learner.tick()
    assert settle(learner) == []


def test_a_learner_that_lost_its_leader_gives_its_vote() -> None:
    """Found by the simulation, seed 3349: it was promoted and does not know; the candidate needs it."""
    learner = node(2, conf(1, learners=(2,)), term=1)
    learner.step(m.HeartbeatRequest(NodeId(1), NodeId(2), Term(1), Index(0), 0))
    for ticks in range(40):
        learner.tick()
        learner.step(m.VoteRequest(NodeId(1), NodeId(2), Term(2), Index(0), Term(0)))
        replies = [x for x in settle(learner) if isinstance(x, m.VoteReply)]
        assert bool(replies) is (ticks >= 9)
        if replies:
            return


# -- replication ---------------------------------------------------------------------------------------------


def test_a_leader_commits_the_first_entry_of_its_term() -> None:
    cluster = trio()
    leader = cluster.elect(1)
    assert {core.raft.log.committed for core in cluster.cores.values()} == {1}
    assert leader.raft.log.slice(Index(1), Index(1))[0].data == b""


def test_proposals_reach_everyone_in_order_and_from_everywhere() -> None:
    cluster = trio()
    cluster.elect(1)
    cluster.core(1).propose([b"a", b"b"])
    cluster.core(3).propose([b"c"])
    cluster.run()
    assert list(cluster.applied.values()) == [[b"a", b"b", b"c"]] * 3


def test_appends_leave_before_the_leaders_own_fsync_but_it_does_not_count_itself() -> None:
    cluster = trio()
    leader = cluster.elect(1)
    leader.propose([b"a"])
    ready = leader.ready()
    assert {type(x) for x in ready.messages} == {m.AppendRequest} and ready.write is not None
    leader.step(m.AppendReply(NodeId(2), NodeId(1), Term(1), Index(2)))
    assert leader.raft.log.committed == 1, "one follower and an unwritten leader are no majority"
    leader.persisted(ready.write)
    assert leader.raft.log.committed == 2


def test_two_followers_commit_without_the_leaders_disk() -> None:
    cluster = trio()
    leader = cluster.elect(1)
    leader.propose([b"a"])
    ready = leader.ready()
    for follower in (2, 3):
        leader.step(m.AppendReply(NodeId(follower), NodeId(1), Term(1), Index(2)))
    assert leader.raft.log.committed == 2
    assert leader.ready().committed == [], "but it is not applied before it is on the leader's disk"
    assert ready.write is not None
    leader.persisted(ready.write)
    assert [e.data for e in leader.ready().committed] == [b"a"]


def test_an_acknowledgement_leaves_only_when_the_entries_are_on_disk() -> None:
    follower = node(2, conf(1, 2, 3), term=1)
    follower.step(m.AppendRequest(NodeId(1), NodeId(2), Term(1), Index(0), Term(0), Index(0), [entry(1, 1)]))
    ready = follower.ready()
    assert ready.messages == [] and ready.write is not None and ready.write.entries == [entry(1, 1)]
    follower.persisted(ready.write)
    assert follower.ready().messages == [m.AppendReply(NodeId(2), NodeId(1), Term(1), Index(1))]


def test_what_arrives_while_the_disk_works_is_the_next_write() -> None:
    cluster = trio()
    leader = cluster.elect(1)
    leader.propose([b"a"])
    first = leader.ready().write
    for data in (b"b", b"c"):
        leader.propose([data])
        assert leader.ready().write is None
    assert first is not None
    leader.persisted(first)
    second = leader.ready().write
    assert second is not None and [e.data for e in second.entries] == [b"b", b"c"]


def test_entries_of_older_terms_are_committed_only_with_one_of_this_term() -> None:
    """Figure 3.7: an entry on a majority may still be replaced, until the leader's own term follows it."""
    log = [entry(1, 1), entry(2, 2)]
    leader = node(1, conf(1, 2, 3), log, term=3, pre_vote=False)
    leader.campaign()
    settle(leader)
    leader.step(m.VoteReply(NodeId(2), NodeId(1), Term(4), rejected=False))
    settle(leader)
    leader.step(m.AppendReply(NodeId(2), NodeId(1), Term(4), Index(2)))
    assert leader.raft.log.committed == 0
    leader.step(m.AppendReply(NodeId(2), NodeId(1), Term(4), Index(3)))
    assert leader.raft.log.committed == 3


def test_a_long_divergent_log_is_found_in_one_step_per_term() -> None:
    members = conf(1, 2)
    good = [entry(1, 1)] + [entry(i, 5) for i in range(2, 60)]
    bad = [entry(1, 1)] + [entry(i, 2) for i in range(2, 40)] + [entry(i, 3) for i in range(40, 50)]
    cluster = Cluster([node(1, members, good, term=5), node(2, members, bad, term=5)])
    refusals: list[m.Message] = []

    def count(message: m.Message) -> bool:
        if isinstance(message, m.AppendReply) and message.rejected:
            refusals.append(message)
        return False

    cluster.lose = count
    cluster.elect(1)
    assert cluster.core(2).raft.log.last == cluster.core(1).raft.log.last == 60
    assert len(refusals) <= 2


def test_the_inflight_window_bounds_what_is_unanswered() -> None:
    members = conf(1, 2)
    cluster = Cluster([node(1, members, max_inflight=3), node(2, members)])
    leader = cluster.elect(1)
    sent = 0
    for _ in range(10):
        leader.propose([b"x" * 90])
        sent += sum(isinstance(x, m.AppendRequest) and bool(x.entries) for x in settle(leader))
    assert sent == 3
    leader.step(m.AppendReply(NodeId(2), NodeId(1), Term(1), Index(4)))
    assert [x.entries[0].index for x in settle(leader) if isinstance(x, m.AppendRequest) and x.entries] == [
        5,
        6,
        7,
    ]


def test_a_lost_append_is_sent_again() -> None:
    cluster = trio()
    leader = cluster.elect(1)
    cluster.lose = lambda message: isinstance(message, m.AppendRequest) and message.to == 2
    leader.propose([b"a"])
    cluster.run()
    cluster.lose = lambda message: False
    cluster.tick(1, times=2)
    assert cluster.applied[NodeId(2)] == [b"a"]


def test_a_proposal_without_a_leader_is_refused() -> None:
    with pytest.raises(ProposalRefused, match="no leader"):
        node(1, conf(1, 2, 3)).propose([b"a"])


# -- reads ---------------------------------------------------------------------------------------------------


def test_a_read_waits_for_a_round_of_heartbeats() -> None:
    cluster = trio()
    leader = cluster.elect(1)
    assert leader.read_index(7)
    ready = leader.ready()
    assert ready.reads == [] and {type(x) for x in ready.messages} == {m.HeartbeatRequest}
    for message in ready.messages:
        cluster.cores[message.to].step(message)
    cluster.run()
    assert [(x.context, x.index) for x in cluster.reads[NodeId(1)]] == [(7, 1)]


def test_a_deposed_leader_answers_no_read() -> None:
    cluster = trio()
    old = cluster.elect(1)
    cluster.lose = lambda message: 1 in (message.sender, message.to)
    for number in (2, 3):
        cluster.core(number).leader_lost()
    cluster.tick(2, times=2)
    cluster.core(2).propose([b"new"])
    cluster.run()
    assert cluster.role(1) is Role.LEADER, "it does not know yet"
    old.read_index(7)
    cluster.run()
    cluster.lose = lambda message: False
    cluster.tick(1, 2, times=3)
    assert cluster.reads[NodeId(1)] == [] and cluster.role(1) is Role.FOLLOWER


def test_a_follower_asks_its_leader() -> None:
    cluster = trio()
    cluster.elect(1)
    cluster.core(1).propose([b"a"])
    cluster.run()
    assert cluster.core(3).read_index(9)
    cluster.run()
    assert [(x.context, x.index) for x in cluster.reads[NodeId(3)]] == [(9, 2)]


def test_a_new_leader_answers_reads_only_after_its_first_commit() -> None:
    cluster = trio()
    cluster.lose = lambda message: isinstance(message, m.AppendReply)
    leader = cluster.elect(1)
    leader.read_index(7)
    cluster.run()
    assert cluster.reads[NodeId(1)] == []
    cluster.lose = lambda message: False
    cluster.tick(1, times=2)
    assert [(x.context, x.index) for x in cluster.reads[NodeId(1)]] == [(7, 1)]


def test_one_round_answers_all_reads_before_it() -> None:
    cluster = trio()
    leader = cluster.elect(1)
    for context in range(5):
        leader.read_index(context)
    sent = [x for x in leader.ready().messages if isinstance(x, m.HeartbeatRequest)]
    assert len(sent) == 2
    leader.step(m.HeartbeatReply(NodeId(2), NodeId(1), Term(1), sent[0].read_round))
    assert [x.context for x in leader.ready().reads] == [0, 1, 2, 3, 4]


def test_a_cluster_of_one_reads_at_once() -> None:
    alone = Cluster([node(1, conf(1))])
    alone.elect(1).read_index(1)
    alone.run()
    assert [x.index for x in alone.reads[NodeId(1)]] == [1]


# -- transfer, membership, snapshots -------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [1, 3])
def test_leadership_is_handed_over_at_once(asked: int) -> None:
    cluster = trio()
    cluster.elect(1)
    cluster.core(asked).transfer_leader(NodeId(2))
    cluster.run()
    assert cluster.core(2).raft.role is Role.LEADER
    assert {core.raft.term for core in cluster.cores.values()} == {2}


def test_a_transfer_waits_until_the_target_has_everything_and_takes_no_proposals() -> None:
    cluster = trio()
    leader = cluster.elect(1)
    cluster.lose = lambda message: message.to == 2
    leader.propose([b"a"])
    cluster.run()
    leader.transfer_leader(NodeId(2))
    cluster.run()
    with pytest.raises(ProposalRefused, match="transferred"):
        leader.propose([b"b"])
    cluster.lose = lambda message: False
    cluster.tick(1, times=2)
    assert cluster.core(2).raft.role is Role.LEADER


def test_a_transfer_to_the_dead_is_given_up() -> None:
    cluster = trio()
    leader = cluster.elect(1)
    del cluster.cores[NodeId(2)]
    leader.transfer_leader(NodeId(2))
    cluster.tick(1, 3, times=11)
    leader.propose([b"a"])
    cluster.run()
    assert cluster.applied[NodeId(3)] == [b"a"]


def test_one_membership_change_at_a_time() -> None:
    cluster = trio()
    leader = cluster.elect(1)
    leader.propose([b"change"], EntryKind.CONF_CHANGE)
    with pytest.raises(ProposalRefused, match="another membership change"):
        leader.propose([b"change"], EntryKind.CONF_CHANGE)
    cluster.run()
    leader.apply_conf(conf(1, 2))
    leader.propose([b"change"], EntryKind.CONF_CHANGE)


def test_no_membership_change_before_the_first_commit_of_the_term() -> None:
    """Ongaro's correction of 2015: else two one-step changes of different terms could miss each other."""
    cluster = trio()
    cluster.lose = lambda message: isinstance(message, m.AppendReply)
    leader = cluster.elect(1)
    with pytest.raises(ProposalRefused):
        leader.propose([b"change"], EntryKind.CONF_CHANGE)


def test_a_leader_that_is_removed_steps_down() -> None:
    cluster = trio()
    leader = cluster.elect(1)
    leader.apply_conf(conf(2, 3), removed=True)
    assert leader.raft.role is Role.FOLLOWER
    for _ in range(40):
        leader.tick()
    assert settle(leader) == []


def test_a_removed_member_does_not_hold_back_the_election_of_those_who_do_not_know() -> None:
    """Found by the simulation, seed 1389: the removed leader's tail outranked the only voter left."""
    removed = node(2, conf(2, 3), [entry(1, 1), entry(2, 1)], term=1)
    removed.step(m.AppendRequest(NodeId(3), NodeId(2), Term(1), Index(2), Term(1), Index(1), []))
    settle(removed)
    ask = m.VoteRequest(NodeId(3), NodeId(2), Term(2), Index(1), Term(1), transfer=True)
    removed.step(ask)
    assert [x.rejected for x in settle(removed) if isinstance(x, m.VoteReply)] == [True]
    removed.apply_conf(conf(3), removed=True)
    removed.step(m.VoteRequest(NodeId(3), NodeId(2), Term(3), Index(1), Term(1)))
    assert [x.rejected for x in settle(removed) if isinstance(x, m.VoteReply)] == [False]


@pytest.mark.parametrize(("left", "rejected"), [((2,), False), ((1, 2), True)])
def test_the_only_voter_left_is_not_held_back_by_what_it_lost_itself(
    left: tuple[int, ...], rejected: bool
) -> None:
    """Found by the simulation, seed 483: the leader of term 2 lost its first entry, which the member that it
    removed still held, and without that member's vote it could not lead again. With one more voter the
    removed member must insist: those two may have committed the entry without the candidate.
    """
    log = [entry(1, 1), Entry(Term(1), Index(2), EntryKind.CONF_CHANGE, b"-3"), entry(3, 2), entry(4, 2)]
    removed = node(3, conf(*left, 3), log, term=2)
    removed.step(m.HeartbeatRequest(NodeId(2), NodeId(3), Term(2), Index(2), 0))
    settle(removed)
    removed.apply_conf(conf(*left), removed=True)
    removed.step(m.VoteRequest(NodeId(2), NodeId(3), Term(3), Index(2), Term(1), transfer=True))
    assert [x.rejected for x in settle(removed) if isinstance(x, m.VoteReply)] == [rejected]


def test_a_removed_member_stands_by_what_its_acknowledgement_helped_to_commit() -> None:
    """Found by the simulation, seed 1321: a new leader commits a change of an older term together with its
    own first entry, and the member so removed, which held both, voted for one that lacked them.
    """

    def answer(last: int, last_term: int) -> bool:
        log = [entry(1, 1), Entry(Term(1), Index(2), EntryKind.CONF_CHANGE, b"-3"), entry(3, 2), entry(4, 2)]
        removed = node(3, conf(1, 2, 3), log, term=2)
        removed.step(m.HeartbeatRequest(NodeId(1), NodeId(3), Term(2), Index(2), 0))
        settle(removed)
        removed.apply_conf(conf(1, 2), removed=True)
        removed.step(
            m.VoteRequest(NodeId(2), NodeId(3), Term(3), Index(last), Term(last_term), transfer=True)
        )
        (vote,) = (x for x in settle(removed) if isinstance(x, m.VoteReply))
        return not vote.rejected

    assert not answer(2, 1)  # the change is there, the entry that committed it is not
    assert answer(3, 2)  # entry 4 can only have been counted without the removed member


def test_what_follows_a_membership_change_is_counted_by_the_new_members() -> None:
    cluster = trio()
    leader = cluster.elect(1)
    settle(leader)
    change = leader.raft.log.last + 1
    leader.propose([b"-3"], EntryKind.CONF_CHANGE)
    leader.propose([b"after"])
    ready = leader.ready()
    assert ready.write is not None
    leader.persisted(ready.write)
    leader.step(m.AppendReply(NodeId(3), NodeId(1), leader.raft.term, Index(change + 1)))
    assert leader.raft.log.committed == change
    leader.apply_conf(conf(1, 2))
    leader.applied(leader.ready().committed[-1].index)
    assert leader.raft.log.committed == change  # member 3 has no say any more
    leader.step(m.AppendReply(NodeId(2), NodeId(1), leader.raft.term, Index(change + 1)))
    assert leader.raft.log.committed == change + 1


def test_a_follower_behind_the_compacted_log_gets_a_snapshot() -> None:
    cluster = trio()
    leader = cluster.elect(1)
    cluster.lose = lambda message: message.to == 3
    leader.propose([b"a", b"b"])
    cluster.run()
    leader.compact(leader.raft.log.applied)
    cluster.lose = lambda message: False
    leader.report_unreachable(NodeId(3))
    cluster.tick(1, times=2)
    follower = cluster.core(3)
    assert leader.raft.progress[NodeId(3)].state is ProgressState.REPLICATE
    assert (follower.raft.log.base, follower.raft.log.applied) == (3, 3)
    leader.propose([b"c"])
    cluster.run()
    assert cluster.applied[NodeId(3)] == [b"c"]


def test_a_failed_snapshot_is_sent_again() -> None:
    leader = node(1, conf(1, 2), term=1)
    cluster = Cluster([leader, node(2, conf(1, 2))])
    cluster.elect(1)
    leader.compact(leader.raft.log.applied)
    cluster.cores[NodeId(2)] = node(2, conf(1, 2))
    cluster.lose = lambda message: isinstance(message, m.InstallSnapshot)
    leader.report_unreachable(NodeId(2))
    leader.raft.progress[NodeId(2)].match = Index(0)
    leader.raft.progress[NodeId(2)].become_probe()
    cluster.tick(1, times=2)
    assert leader.raft.progress[NodeId(2)].state is ProgressState.SNAPSHOT
    leader.report_snapshot(NodeId(2), ok=False)
    cluster.lose = lambda message: False
    cluster.tick(1, times=2)
    assert cluster.core(2).raft.log.applied == leader.raft.log.applied


def test_a_stale_snapshot_changes_nothing() -> None:
    follower = node(2, conf(1, 2), [entry(1, 1), entry(2, 1)], term=1)
    meta = SnapshotMeta(Index(1), Term(1), conf(1, 2))
    follower.step(m.InstallSnapshot(NodeId(1), NodeId(2), Term(1), meta))
    assert settle(follower) == [m.AppendReply(NodeId(2), NodeId(1), Term(1), Index(1))]
    assert (follower.raft.log.base, follower.raft.log.last) == (0, 2)
