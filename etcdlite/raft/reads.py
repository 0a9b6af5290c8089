"""Linearizable reads without a log entry: ReadIndex (section 6.4).

The leader notes its commit index, which must be of its own term, and proves with one round of heartbeats that
it still leads. Rounds are numbered; a heartbeat carries the newest, so one round confirms every read that
came before it.
"""

from __future__ import annotations

from etcdlite.raft import messages as m
from etcdlite.raft import quorum
from etcdlite.raft.state import Raft, ReadState
from etcdlite.raft.types import NOBODY, Index, NodeId, Role, Term


def request(raft: Raft, requester: NodeId, context: int) -> bool:
    """Take a read. Returns False if there is nobody to answer it; otherwise an answer may still get lost."""
    if raft.role is not Role.LEADER:
        if requester != raft.id or raft.leader == NOBODY:
            return False
        raft.send(m.ReadIndexRequest(raft.id, raft.leader, Term(0), context))
        return True
    if raft.log.term(raft.log.committed) != raft.term:
        raft.reads_early.append((requester, context))
        return True
    raft.read_round += 1
    raft.reads_waiting.append((raft.read_round, requester, context, raft.log.committed))
    raft.heartbeat_wanted = True
    acknowledge(raft, raft.id, raft.read_round)
    return True


def acknowledge(raft: Raft, node: NodeId, read_round: int) -> None:
    """`node` followed this leader after `read_round` began. Answer what a majority has confirmed."""
    raft.read_acks[node] = max(read_round, raft.read_acks.get(node, 0))
    if not raft.reads_waiting:
        return
    confirmed = quorum.reached(raft.conf.voters, lambda voter: raft.read_acks.get(voter, 0), 0)
    done = 0
    for number, requester, context, index in raft.reads_waiting:
        if number > confirmed:
            break
        _answer(raft, requester, context, index)
        done += 1
    del raft.reads_waiting[:done]


def _answer(raft: Raft, requester: NodeId, context: int, index: Index) -> None:
    if requester == raft.id:
        raft.read_states.append(ReadState(context, index))
    else:
        raft.send(m.ReadIndexReply(raft.id, requester, raft.term, context, index))


def release_early(raft: Raft) -> None:
    """This term has committed its first entry: the commit index is current, so waiting reads may start."""
    early, raft.reads_early = raft.reads_early, []
    for requester, context in early:
        request(raft, requester, context)


def handle_request(raft: Raft, message: m.ReadIndexRequest) -> None:
    """A follower asks. One that is not the leader any more stays silent; the follower asks again."""
    request(raft, message.sender, message.context)


def handle_reply(raft: Raft, message: m.ReadIndexReply) -> None:
    """The leader has answered this member's question."""
    raft.read_states.append(ReadState(message.context, message.index))
