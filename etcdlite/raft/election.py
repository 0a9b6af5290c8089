"""Who leads: campaigns, votes, the leader's own check that it still has a majority, and handing over."""

from __future__ import annotations

from etcdlite.raft import messages as m
from etcdlite.raft import quorum, replication
from etcdlite.raft.quorum import VoteResult
from etcdlite.raft.state import Raft
from etcdlite.raft.tracker import ProgressState
from etcdlite.raft.types import NOBODY, EntryKind, Index, NodeId, Role, Term


def campaign(raft: Raft, *, transfer: bool = False) -> None:
    """Try to lead: with a pre-vote first, unless the leader itself asked for the election."""
    if raft.role is Role.LEADER or not _may_campaign(raft):
        return
    if raft.config.pre_vote and not transfer:
        _become_pre_candidate(raft)
    else:
        _become_candidate(raft, transfer=transfer)


def _may_campaign(raft: Raft) -> bool:
    """A committed change that is not applied may have removed this member: wait for it (etcd issue 12359)."""
    log = raft.log
    return (
        raft.is_voter()
        and raft.pending_snapshot is None
        and not log.has_conf_change(Index(log.applied + 1), log.committed)
    )


def _become_pre_candidate(raft: Raft) -> None:
    vote = raft.vote
    raft.reset(raft.term)
    raft.vote, raft.role = vote, Role.PRE_CANDIDATE
    log, term = raft.log, Term(raft.term + 1)
    for voter in sorted(raft.conf.voters):
        if voter != raft.id:
            raft.send(m.PreVoteRequest(raft.id, voter, term, log.last, log.last_term))
    record_vote(raft, raft.id, granted=True)  # promises nothing, so it need not be on disk


def _become_candidate(raft: Raft, *, transfer: bool) -> None:
    raft.reset(Term(raft.term + 1))
    raft.vote, raft.role = raft.id, Role.CANDIDATE
    log = raft.log
    for voter in sorted(raft.conf.voters):
        if voter == raft.id:
            raft.send(m.VoteReply(raft.id, raft.id, raft.term, False))  # counts once it is on disk
        else:
            raft.send(m.VoteRequest(raft.id, voter, raft.term, log.last, log.last_term, transfer))


def _become_leader(raft: Raft) -> None:
    """Lead, and begin the term with an empty entry: a leader commits only by entries of its term (3.6.2)."""
    raft.reset(raft.term)
    raft.leader, raft.role = raft.id, Role.LEADER
    raft.track()
    own = raft.progress[raft.id]
    own.match = raft.log.stable
    own.become_replicate()
    replication.append_entries(raft, EntryKind.NORMAL, [b""])
    # Earlier changes may be waiting in the log; and a change needs an entry of this term committed before it
    # (Ongaro's correction of single-server changes, raft-dev 2015).
    raft.pending_conf_index = raft.log.last
    raft.heartbeat_wanted = True


def record_vote(raft: Raft, voter: NodeId, *, granted: bool) -> None:
    """Count one vote and act on the result. The first answer of a voter stands."""
    raft.votes.setdefault(voter, granted)
    result = quorum.vote_result(raft.conf.voters, raft.votes)
    if result is VoteResult.LOST:
        raft.become_follower(raft.term, NOBODY)
    elif result is VoteResult.WON and raft.role is Role.PRE_CANDIDATE:
        _become_candidate(raft, transfer=False)
    elif result is VoteResult.WON:
        _become_leader(raft)


def in_lease(raft: Raft) -> bool:
    """Whether a leader was heard within the last election timeout: then nobody else is voted for (4.2.3)."""
    return raft.leader != NOBODY and raft.election_elapsed < raft.config.election_ticks


def _may_lead(raft: Raft, message: m.PreVoteRequest | m.VoteRequest) -> bool:
    """Whether the candidate's log is good enough for this member's vote.

    A removed member may hold entries that nobody else has: what it appended after its removal, in which it
    had no say. A candidate that does not know yet that the removal is committed still needs its vote, so such
    a tail must not stand in the way; otherwise both would wait for ever.

    The tail begins after the first entry of the log's last term, or after what is committed if that is more.
    Up to that entry this member's acknowledgement may have counted, since the leader of that term may have
    committed the removal with it. Beyond, it did not: a leader counts nothing after a change before it has
    applied the change (`replication.maybe_commit`). Safe, then: a majority of the old members less the
    removed one meets every majority of the new, so somebody else objects if the candidate lacks a committed
    entry.

    Where only the candidate is left, no tail matters: nothing was committed without it, neither by the two of
    them nor by itself alone. It may lack what it sent out as the leader and lost before its own disk had it.
    """
    log = raft.log
    if raft.removed and raft.conf.voters == {message.sender}:
        return True
    if raft.removed:
        floor = max(log.committed, log.first_of_last_term())
        return (message.last_term, message.last_index) >= (log.term(floor), floor)
    return log.is_up_to_date(message.last_index, message.last_term)


def handle_pre_vote(raft: Raft, message: m.PreVoteRequest) -> None:
    """Say whether a vote would be given."""
    free = message.term > raft.term or raft.vote in (NOBODY, message.sender)
    granted = free and _may_lead(raft, message)
    term = message.term if granted else raft.term
    raft.send(m.PreVoteReply(raft.id, message.sender, term, not granted))


def handle_vote(raft: Raft, message: m.VoteRequest) -> None:
    """Give the vote of this term, once. It is on disk before the reply leaves."""
    free = raft.vote == message.sender or (raft.vote == NOBODY and raft.leader == NOBODY)
    granted = free and _may_lead(raft, message)
    if granted:
        raft.vote, raft.election_elapsed = message.sender, 0
    raft.send(m.VoteReply(raft.id, message.sender, raft.term, not granted))


def handle_pre_vote_reply(raft: Raft, message: m.PreVoteReply) -> None:
    """Count it, if it answers the question asked now."""
    asked = raft.role is Role.PRE_CANDIDATE
    if asked and (message.rejected or message.term == raft.term + 1):
        record_vote(raft, message.sender, granted=not message.rejected)


def handle_vote_reply(raft: Raft, message: m.VoteReply) -> None:
    """Count it, if still a candidate."""
    if raft.role is Role.CANDIDATE:
        record_vote(raft, message.sender, granted=not message.rejected)


def handle_timeout_now(raft: Raft, message: m.TimeoutNow) -> None:
    """The leader hands over."""
    if message.sender == raft.leader:
        campaign(raft, transfer=True)


def tick_follower(raft: Raft) -> None:
    """One tick without leading: campaign when no leader has been heard for too long.

    Who may not campaign goes on counting: starting over would look as if the leader had been heard, and keep
    the vote from a candidate who needs it.
    """
    raft.election_elapsed += 1
    if raft.election_elapsed >= raft.election_timeout:
        campaign(raft)


def tick_leader(raft: Raft) -> None:
    """One tick of leading: heartbeats, and once per election timeout the check for a majority."""
    raft.heartbeat_elapsed += 1
    raft.election_elapsed += 1
    if raft.election_elapsed >= raft.config.election_ticks:
        raft.election_elapsed = 0
        raft.transfer_target = NOBODY  # it has had its time
        if not _has_active_majority(raft):
            raft.become_follower(raft.term, NOBODY)
            return
    if raft.heartbeat_elapsed >= raft.config.heartbeat_ticks:
        raft.heartbeat_elapsed = 0
        raft.heartbeat_wanted = True


def _has_active_majority(raft: Raft) -> bool:
    """Check-quorum (6.2): a leader cut off from the majority steps down instead of misleading its clients."""
    votes = {node: progress.recent_active for node, progress in raft.progress.items()}
    votes[raft.id] = True
    for progress in raft.progress.values():
        progress.recent_active = False
    return quorum.vote_result(raft.conf.voters, votes) is VoteResult.WON


def transfer(raft: Raft, target: NodeId) -> None:
    """Leader: stop taking proposals and make `target` campaign once it has caught up (section 3.10)."""
    if raft.role is not Role.LEADER or target == raft.id or target not in raft.conf.voters:
        return
    raft.transfer_target, raft.election_elapsed = target, 0
    replication.maybe_finish_transfer(raft, target)
    if raft.progress[target].state is not ProgressState.SNAPSHOT:
        raft.append_wanted = True
