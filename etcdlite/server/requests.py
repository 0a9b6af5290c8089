"""From a client's request to its outcome: through the log for writes, by a confirmed index for reads."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from etcdlite.auth.store import NOBODY, Caller
from etcdlite.consensus.errors import ConsensusError, ProposalDropped
from etcdlite.consensus.membership import Member, MemberChange
from etcdlite.consensus.status import ConsensusStatus
from etcdlite.pb import internal_pb2
from etcdlite.server import errors
from etcdlite.server.machine import Applied

MAX_WAITING: Final = 5000  # requests in flight at one member
_DROPPED_PAUSE: Final = 0.02


class Consensus(Protocol):
    """What the server needs of consensus.node.Consensus."""

    async def propose(self, data: bytes, settled: Callable[[], bool], *, timeout: float = 5.0) -> None: ...

    async def read_index(self, *, timeout: float = 5.0) -> int: ...

    async def wait_applied(self, index: int, *, timeout: float = 5.0) -> None: ...

    def status(self) -> ConsensusStatus: ...

    def reachable(self) -> frozenset[int]: ...

    async def transfer_leadership(self, member: int, *, timeout: float = 5.0) -> None: ...

    async def propose_conf_change(
        self, change: MemberChange, *, timeout: float = 5.0
    ) -> Mapping[int, Member]: ...


class RequestIds:
    """Ids unique over members and restarts: 16 bits of the member's id, 40 of its start time in ms, 8 that
    count (carrying into the time, which has advanced further by the next start).
    """

    def __init__(self, member_id: int, started_ms: int) -> None:
        self._next = itertools.count((member_id & 0xFFFF) << 48 | (started_ms & 0xFF_FFFF_FFFF) << 8 | 1)

    def next(self) -> int:
        """A fresh id, never 0."""
        return next(self._next) & 0xFFFF_FFFF_FFFF_FFFF


class Requests:
    """Proposals that wait for their outcome, and reads that wait for a confirmed index."""

    def __init__(self, *, timeout: float, max_request_bytes: int) -> None:
        self._timeout = timeout
        self._max_request_bytes = max_request_bytes
        self._waiting: dict[int, asyncio.Future[Applied]] = {}
        self._consensus: Consensus | None = None
        self.caller: Callable[[], Caller] = lambda: NOBODY  # who makes the present call
        self._ids: RequestIds | None = None
        self._started_ms = 0
        self._readers: list[asyncio.Future[None]] = []
        self._wanted = asyncio.Event()

    def bind(self, consensus: Consensus, started_ms: int | None = None) -> None:
        """Give it the consensus it proposes to; must come before the first request."""
        self._consensus = consensus
        self._started_ms = time.time_ns() // 1_000_000 if started_ms is None else started_ms

    @property
    def consensus(self) -> Consensus:
        """The bound consensus."""
        if self._consensus is None:
            raise errors.Stopped
        return self._consensus

    def new_id(self) -> int:
        """A number no other request has; also the source of lease ids."""
        if self._ids is None:  # made late: a member that joins learns its own id only when it runs
            self._ids = RequestIds(self.consensus.status().member_id, self._started_ms)
        return self._ids.next()

    @property
    def waiting(self) -> int:
        """Proposals in flight."""
        return len(self._waiting)

    def resolve(self, id: int, outcome: Applied) -> None:
        """Called by the state machine for every request it has applied, whoever proposed it."""
        future = self._waiting.pop(id, None)
        if future is not None and not future.done():
            future.set_result(outcome)

    async def submit(self, request: internal_pb2.InternalRaftRequest, *, internal: bool = False) -> Applied:
        """Propose, and wait until it is applied here. `internal`: the member itself asks, whoever calls.

        Raises the request's own error, or one of errors.py.
        """
        request.internal = internal
        caller = NOBODY if internal else self.caller()
        if caller is not NOBODY:
            request.username, request.auth_revision = caller.name, caller.revision
        if len(self._waiting) >= MAX_WAITING:
            raise errors.TooManyRequests
        request.id = self.new_id()
        data = request.SerializeToString()
        if len(data) > self._max_request_bytes:
            raise errors.RequestTooLarge
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Applied] = loop.create_future()
        self._waiting[request.id] = future
        expiry = loop.call_later(self._timeout, _expire, future)
        try:
            await self._propose(data, future)
            outcome = await future
        except ConsensusError as error:
            raise errors.from_consensus(error) from error
        finally:
            expiry.cancel()
            self._waiting.pop(request.id, None)
        if outcome.error is not None:
            raise outcome.error
        return outcome

    async def _propose(self, data: bytes, outcome: asyncio.Future[Applied]) -> None:
        while not outcome.done():
            try:
                await self.consensus.propose(data, outcome.done, timeout=self._timeout)
                return
            except ProposalDropped:  # nothing was proposed: too much waits for a leader
                await asyncio.sleep(_DROPPED_PAUSE)

    async def confirm(self) -> None:
        """Wait until this member has everything that was committed when this was called. Concurrent callers
        share one round of ReadIndex. Raises NoLeader, RequestTimeout, Stopped.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        self._readers.append(future)
        self._wanted.set()
        expiry = loop.call_later(self._timeout, _expire, future)
        try:
            await future
        finally:
            expiry.cancel()

    async def run(self) -> None:
        """Serve `confirm` until cancelled. A round serves those who asked before it began; who comes later
        waits for the next, because a write may have been acknowledged in between.
        """
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                readers, self._readers = self._readers, []
                await self._confirm_round(readers)
        finally:
            waiting: list[asyncio.Future[Any]] = [*self._readers, *self._waiting.values()]
            for future in waiting:
                if not future.done():
                    future.set_exception(errors.Stopped())
                    future.exception()  # whoever awaits it still gets it; nobody need

    async def _confirm_round(self, readers: list[asyncio.Future[None]]) -> None:
        failure: Exception | None = None
        try:
            index = await self.consensus.read_index(timeout=self._timeout)
            await self.consensus.wait_applied(index, timeout=self._timeout)
        except ConsensusError as error:
            failure = errors.from_consensus(error)
        for future in readers:
            if future.done():
                continue
            if failure is None:
                future.set_result(None)
            else:
                future.set_exception(failure)


def _expire(future: asyncio.Future[Any]) -> None:
    """The time a request may take is over. A timer of the future's own costs a third of asyncio.timeout."""
    if not future.done():
        future.set_exception(errors.RequestTimeout())
