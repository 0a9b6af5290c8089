"""The leader's log on every member: appends, heartbeats, snapshots, and what is committed."""

from __future__ import annotations

from etcdlite.raft import messages as m
from etcdlite.raft import quorum, reads
from etcdlite.raft.state import Raft
from etcdlite.raft.tracker import Progress, ProgressState
from etcdlite.raft.types import Entry, EntryKind, Index, NodeId, Role, SnapshotMeta


def append_entries(raft: Raft, kind: EntryKind, data: list[bytes]) -> None:
    """Leader: put new entries at the end of the log; `ready` sends them."""
    first = raft.log.last + 1
    raft.log.append([Entry(raft.term, Index(first + n), kind, item) for n, item in enumerate(data)])
    raft.uncommitted_bytes += sum(map(len, data))
    raft.append_wanted = True


def maybe_commit(raft: Raft) -> bool:
    """Commit what a majority holds, if it is of this term (section 3.6.2). Returns whether it moved.

    What follows a membership change (for a new leader: its first entry, which commits the changes before it)
    is counted only after the change is applied. So the old members have no say in it; `election._may_lead`
    relies on that.
    """
    index = quorum.reached(raft.conf.voters, lambda node: raft.progress[node].match, Index(0))
    if raft.log.applied < raft.pending_conf_index:
        index = min(index, raft.pending_conf_index)
    if index <= raft.log.committed or raft.log.term(index) != raft.term:
        return False
    raft.log.commit_to(index)
    raft.append_wanted = True  # followers learn of it with the next append, empty if need be
    reads.release_early(raft)
    return True


def stable(raft: Raft) -> None:
    """The leader's own disk has caught up: it now counts itself."""
    own = raft.progress.get(raft.id)
    if raft.role is Role.LEADER and own is not None:
        own.maybe_update(raft.log.stable)
        maybe_commit(raft)


def broadcast_append(raft: Raft) -> None:
    """Send everyone what they may have, be it only the commit index."""
    for node in raft.peers():
        maybe_send_append(raft, node, allow_empty=True)
        while raft.progress[node].state is ProgressState.REPLICATE and maybe_send_append(raft, node):
            pass


def maybe_send_append(raft: Raft, to: NodeId, *, allow_empty: bool = False) -> bool:
    """Send one append, or a snapshot if the entries are gone. Returns whether something was sent."""
    progress = raft.progress[to]
    if progress.paused():
        return False
    prev_index = Index(progress.next - 1)
    prev_term = raft.log.term(prev_index)
    if prev_term is None:
        return _send_snapshot(raft, to, progress)
    entries = raft.log.slice(progress.next, raft.log.last, raft.config.max_append_bytes)
    if not entries and not allow_empty:
        return False
    raft.send(m.AppendRequest(raft.id, to, raft.term, prev_index, prev_term, raft.log.committed, entries))
    progress.sent(Index(prev_index + len(entries)), len(entries))
    return True


def _send_snapshot(raft: Raft, to: NodeId, progress: Progress) -> bool:
    if not progress.recent_active:
        return False
    term = raft.log.term(raft.log.applied)
    assert term is not None  # applied is never below base
    meta = SnapshotMeta(raft.log.applied, term, raft.conf)
    progress.become_snapshot()
    raft.send(m.InstallSnapshot(raft.id, to, raft.term, meta))
    return True


def broadcast_heartbeat(raft: Raft) -> None:
    """Keep followers and confirm reads."""
    for node in raft.peers():
        commit = min(raft.progress[node].match, raft.log.committed)
        raft.send(m.HeartbeatRequest(raft.id, node, raft.term, commit, raft.read_round))


def handle_append(raft: Raft, message: m.AppendRequest) -> None:
    """Follower: take over the leader's entries, or say where the logs may agree."""
    log = raft.log
    if message.prev_index < log.committed:
        raft.send(m.AppendReply(raft.id, message.sender, raft.term, log.committed))
        return
    last = log.maybe_append(message.prev_index, message.prev_term, message.entries)
    if last is not None:
        log.commit_to(min(message.commit, last))
        raft.send(m.AppendReply(raft.id, message.sender, raft.term, last))
        return
    hint, term = log.agreement_hint(message.prev_index, message.prev_term)
    raft.send(m.AppendReply(raft.id, message.sender, raft.term, message.prev_index, True, hint, term))


def handle_append_reply(raft: Raft, message: m.AppendReply) -> None:
    """Leader: learn how far a follower is."""
    progress = raft.progress.get(message.sender)
    if progress is None:
        return
    progress.recent_active = True
    if message.rejected:
        _handle_rejection(raft, progress, message)
        return
    if message.index > raft.log.last:
        return
    was_paused = progress.paused()
    if progress.maybe_update(message.index):
        _advance_state(raft, progress)
        if not maybe_commit(raft) and was_paused:
            raft.append_wanted = True
        maybe_finish_transfer(raft, message.sender)
    elif progress.state is ProgressState.PROBE and message.index >= progress.match:
        progress.become_replicate()
    while progress.state is ProgressState.REPLICATE and maybe_send_append(raft, message.sender):
        pass


def _advance_state(raft: Raft, progress: Progress) -> None:
    if progress.state is ProgressState.PROBE or (
        # The snapshot, or anything else, has brought the follower back into what the log still holds.
        progress.state is ProgressState.SNAPSHOT and progress.match >= raft.log.base
    ):
        progress.become_replicate()


def _handle_rejection(raft: Raft, progress: Progress, message: m.AppendReply) -> None:
    hint = message.hint_index
    if message.hint_term:
        # Skip the leader's own entries of greater terms as well: they cannot be in the follower's log.
        hint, _ = raft.log.agreement_hint(hint, message.hint_term)
    if progress.maybe_decrease(message.index, hint):
        maybe_send_append(raft, message.sender, allow_empty=True)


def handle_heartbeat(raft: Raft, message: m.HeartbeatRequest) -> None:
    """Follower: the leader lives, and knows that everything up to `commit` is here."""
    raft.log.commit_to(message.commit)
    raft.send(m.HeartbeatReply(raft.id, message.sender, raft.term, message.read_round))


def handle_heartbeat_reply(raft: Raft, message: m.HeartbeatReply) -> None:
    """Leader: the follower lives; an append lost on the way is sent again."""
    progress = raft.progress.get(message.sender)
    if progress is None:
        return
    progress.recent_active = True
    progress.probe_sent = False
    if progress.state is ProgressState.REPLICATE and len(progress.inflight) >= progress.max_inflight:
        progress.inflight.popleft()  # let one through, or a lost reply would block for good
    if progress.match < raft.log.last:
        maybe_send_append(raft, message.sender, allow_empty=True)
    reads.acknowledge(raft, message.sender, message.read_round)


def handle_snapshot(raft: Raft, message: m.InstallSnapshot) -> None:
    """Follower: replace the log by a snapshot, unless it says nothing new."""
    meta, log = message.snapshot, raft.log
    if meta.index > log.committed:
        if log.term(meta.index) == meta.term:
            log.commit_to(meta.index)  # we hold those entries: no need to throw the rest away
        else:
            log.restore(meta.index, meta.term)
            raft.conf, raft.pending_snapshot = meta.conf, meta
    raft.send(m.AppendReply(raft.id, message.sender, raft.term, log.committed))


def maybe_finish_transfer(raft: Raft, node: NodeId) -> None:
    """Tell the chosen successor to campaign as soon as it has the whole log (section 3.10)."""
    if raft.transfer_target == node and raft.progress[node].match == raft.log.last:
        raft.send(m.TimeoutNow(raft.id, node, raft.term))
