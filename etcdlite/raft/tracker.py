"""What a leader knows about each follower's log, and how much it may send (as in the Raft paper's section
5.3, with the states that etcd's raft gave it).

    PROBE      where the logs agree is unknown: one append at a time, the next on a reply or heartbeat
    REPLICATE  known: entries are sent optimistically, up to `max_inflight` unanswered appends
    SNAPSHOT   the entries needed are compacted: nothing until the snapshot has arrived or failed
"""

from __future__ import annotations

import enum
from collections import deque

from etcdlite.raft.types import Index


class ProgressState(enum.Enum):
    """See the module's table."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """Invariant: `match < next`. Everything up to `match` is on the follower's disk; `next` is sent next."""

    __slots__ = ("inflight", "match", "max_inflight", "next", "probe_sent", "recent_active", "state")

    def __init__(self, next_index: Index, max_inflight: int) -> None:
        self.match = Index(0)
        self.next = next_index
        self.state = ProgressState.PROBE
        self.probe_sent = False
        self.recent_active = False  # heard from since the last check-quorum
        self.inflight: deque[Index] = deque()  # last index of each unanswered append, ascending
        self.max_inflight = max_inflight

    def become_probe(self) -> None:
        """Send one at a time from the entry after `match`."""
        self._become(ProgressState.PROBE)
        self.next = Index(self.match + 1)

    def become_replicate(self) -> None:
        """Stream from the entry after `match`."""
        self._become(ProgressState.REPLICATE)
        self.next = Index(self.match + 1)

    def become_snapshot(self) -> None:
        """Send nothing until the outcome of the snapshot is known."""
        self._become(ProgressState.SNAPSHOT)

    def _become(self, state: ProgressState) -> None:
        self.state, self.probe_sent = state, False
        self.inflight.clear()

    def paused(self) -> bool:
        """Whether appends must wait."""
        if self.state is ProgressState.REPLICATE:
            return len(self.inflight) >= self.max_inflight
        return self.state is ProgressState.SNAPSHOT or self.probe_sent

    def sent(self, last: Index, count: int) -> None:
        """An append of `count` entries that ends at `last` has been sent."""
        if self.state is ProgressState.REPLICATE:
            if count:
                self.next = Index(last + 1)
                self.inflight.append(last)
        else:
            self.probe_sent = True

    def maybe_update(self, index: Index) -> bool:
        """The follower holds everything up to `index`. Returns whether that was news."""
        while self.inflight and self.inflight[0] <= index:
            self.inflight.popleft()
        self.probe_sent = False
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, Index(index + 1))
        return True

    def maybe_decrease(self, rejected: Index, hint: Index) -> bool:
        """The follower refused an append after `rejected`. Returns False if the refusal is out of date."""
        if self.state is ProgressState.REPLICATE:
            if rejected <= self.match:
                return False
            self.become_probe()
            return True
        if self.state is ProgressState.SNAPSHOT or self.next - 1 != rejected:
            return False
        self.next = Index(max(min(rejected, hint + 1), self.match + 1))
        self.probe_sent = False
        return True
