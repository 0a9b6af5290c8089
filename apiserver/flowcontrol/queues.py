"""The seats of one priority level and the queues before them: shuffle sharding and fair queuing. Pure.

Flows are dealt hands of queues by their hash, so that a flood fills its own hand and hardly anybody else's.
Requests leave the queues in the order of virtual start times (KEP-1040, "Fair Queuing for Server Requests"):
a queue pays for what its requests really took, and one that was idle starts at the present virtual time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

EXPECTED_SECONDS = 0.003  # what a request is charged before it is known how long it took


@dataclass(slots=True, eq=False)
class Ticket:
    """A request at its level. `queue` is None for one that did not have to wait."""

    queue: Queue | None = None
    started: float = 0.0  # when it was given its seat; 0 while it waits


@dataclass(slots=True)
class Queue:
    waiting: deque[Ticket] = field(default_factory=deque)
    executing: int = 0
    virtual_start: float = 0.0


def hand_of(flow: int, queues: int, size: int) -> list[int]:
    """The queues dealt to a flow: `size` different ones, the same every time (shufflesharding.Dealer)."""
    left, out = list(range(queues)), []
    for _ in range(min(size, queues)):
        flow, at = divmod(flow, len(left))
        out.append(left.pop(at))
    return out


class Seats:
    """`limit` requests execute at once; without queues the next ones are turned away."""

    def __init__(self, limit: int, queues: int = 0, hand_size: int = 1, length_limit: int = 0) -> None:
        self.limit = limit
        self.executing = 0
        self.waiting = 0
        self._hand_size = hand_size
        self._length_limit = length_limit
        self._queues = [Queue() for _ in range(queues)]
        self._virtual = 0.0

    def arrive(self, flow: int, now: float, *, borrowed: bool = False) -> Ticket | None:
        """A ticket that has its seat (`started`) or waits for one; None when there is no room to wait.

        `borrowed`: another level has lent a seat for this request beyond the limit.
        """
        if not self.waiting and (self.executing < self.limit or borrowed):
            self.executing += 1
            return Ticket(None, now)
        if not self._queues:
            return None
        hand = hand_of(flow, len(self._queues), self._hand_size)
        queue = min((self._queues[at] for at in hand), key=lambda one: len(one.waiting) + one.executing)
        if len(queue.waiting) >= self._length_limit:
            return None
        if not queue.waiting and not queue.executing:
            queue.virtual_start = max(queue.virtual_start, self._virtual)
        ticket = Ticket(queue)
        queue.waiting.append(ticket)
        self.waiting += 1
        return ticket

    def finish(self, ticket: Ticket, now: float) -> None:
        """A seat is free again; `dispatch` says for whom."""
        self.executing -= 1
        if ticket.queue is not None:
            ticket.queue.executing -= 1
            ticket.queue.virtual_start += max(now - ticket.started, 0.0) - EXPECTED_SECONDS

    def cancel(self, ticket: Ticket) -> None:
        """A request waits no longer. One that has its seat already must `finish` instead."""
        assert ticket.queue is not None and not ticket.started
        ticket.queue.waiting.remove(ticket)
        self.waiting -= 1

    def dispatch(self, now: float, *, borrowed: bool = False) -> Ticket | None:
        """Seat the request whose turn it is; None when no seat is free (or lent) or nobody waits."""
        if not self.waiting or (self.executing >= self.limit and not borrowed):
            return None
        queue = min((one for one in self._queues if one.waiting), key=lambda one: one.virtual_start)
        ticket = queue.waiting.popleft()
        self._virtual = max(self._virtual, queue.virtual_start)
        queue.virtual_start += EXPECTED_SECONDS
        queue.executing += 1
        self.waiting -= 1
        self.executing += 1
        ticket.started = now
        return ticket
