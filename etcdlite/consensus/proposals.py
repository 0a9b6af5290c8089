"""Proposals on their way into the log, and which of them are certainly not in it. Pure.

A proposal that was sent on to a leader, or appended by one that is then deposed, may be lost with that
leader. It can be made again once it is certain that the first one is not in the log and never will be; else a
client's write could be carried out twice.

That is certain when an entry of a later term has been applied here, and the proposal has not: terms only rise
along a log, a proposal enters the log only in the term it was made for (`RawNode` sends that term along and a
leader of another one refuses), and everything before that entry has been applied. A snapshot ends this
knowledge: what it stands for was applied without being seen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from etcdlite.consensus.errors import ProposalDropped

WAITING_BYTES: Final = 16 << 20  # held while there is no leader
BATCH_BYTES: Final = 1 << 20  # made at once
_FEW: Final = 1000


@dataclass(slots=True)
class Proposal:
    """`settled` says that its outcome is known or not waited for any more: it need not be made again."""

    data: bytes
    settled: Callable[[], bool]
    term: int = 0  # it was made in


class Proposals:
    """What waits to be made, and what was made and is not known to be applied or lost."""

    def __init__(self) -> None:
        self._waiting: list[Proposal] = []
        self._waiting_bytes = 0
        self._made: list[Proposal] = []
        self._prune_at = _FEW
        self._passed = 0  # the term of the last entry known to be applied

    def add(self, proposal: Proposal) -> None:
        """Let it wait to be made. Raises ProposalDropped when too much waits already."""
        if self._waiting and self._waiting_bytes + len(proposal.data) > WAITING_BYTES:
            raise ProposalDropped("too many proposals wait for a leader")
        self._waiting.append(proposal)
        self._waiting_bytes += len(proposal.data)

    def take(self, term: int) -> list[Proposal]:
        """Some of what waits, in order: it is made now, in `term`. Empty: nothing waits."""
        batch: list[Proposal] = []
        size = count = 0
        for proposal in self._waiting:
            if size and size + len(proposal.data) > BATCH_BYTES:
                break
            count += 1
            self._waiting_bytes -= len(proposal.data)
            if not proposal.settled():
                size += len(proposal.data)
                proposal.term = term
                batch.append(proposal)
        del self._waiting[:count]
        self._made += batch
        if len(self._made) >= self._prune_at:
            self._made = [proposal for proposal in self._made if not proposal.settled()]
            self._prune_at = max(_FEW, 2 * len(self._made))
        return batch

    def unmade(self, batch: Collection[bytes]) -> None:
        """These were refused, or did not leave this member: they wait again, before all others."""
        theirs = {id(data) for data in batch}
        self._wait_again([proposal for proposal in self._made if id(proposal.data) in theirs])

    def passed(self, term: int) -> bool:
        """Everything up to an entry of `term` has been applied: what was made before that term and still has
        no outcome is lost and waits again. Whether there is any. Asked after every step, so a term that was
        passed before is not looked at again: what was made since is of that term or a later one.
        """
        if term <= self._passed:
            return False
        self._passed = term
        lost = [proposal for proposal in self._made if proposal.term < term]
        return bool(lost) and self._wait_again(lost)

    def forget(self) -> None:
        """A snapshot took the place of entries: of what was made, nobody here can tell if it was in them."""
        self._made.clear()

    def _wait_again(self, proposals: list[Proposal]) -> bool:
        taken = {id(proposal) for proposal in proposals}
        self._made = [proposal for proposal in self._made if id(proposal) not in taken]
        again = [proposal for proposal in proposals if not proposal.settled()]
        self._waiting[:0] = again
        self._waiting_bytes += sum(len(proposal.data) for proposal in again)
        return bool(again)
