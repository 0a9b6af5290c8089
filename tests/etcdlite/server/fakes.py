"""A consensus of one, in memory: what is proposed is committed in order, when the test says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from etcdlite.consensus.errors import ConsensusError
from etcdlite.consensus.membership import Member, MemberChange
from etcdlite.consensus.statemachine import Entry
from etcdlite.consensus.status import ConsensusStatus


class FakeConsensus:
    """Implements server.requests.Consensus. `commit` hands everything proposed to `apply`."""

    def __init__(self, apply: Callable[[list[Entry]], None], *, auto: bool = True) -> None:
        self.apply = apply
        self.auto = auto
        self.log: list[bytes] = []
        self.index = 0
        self.reads = 0
        self.failure: ConsensusError | None = None

    async def propose(self, data: bytes, settled: Callable[[], bool], *, timeout: float = 5.0) -> None:
        if self.failure is not None:
            raise self.failure
        self.log.append(data)
        if self.auto:
            self.commit()

    def commit(self) -> None:
        proposed, self.log = self.log, []
        entries = [Entry(self.index + number, 1, data) for number, data in enumerate(proposed, start=1)]
        self.index += len(entries)
        self.apply(entries)

    async def read_index(self, *, timeout: float = 5.0) -> int:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        return self.index

    async def wait_applied(self, index: int, *, timeout: float = 5.0) -> None:
        assert index <= self.index

    def status(self) -> ConsensusStatus:
        return ConsensusStatus(7, 1, 1, 1, self.index, self.index, self.index, "leader", {})

    def reachable(self) -> frozenset[int]:
        return frozenset({1})

    async def transfer_leadership(self, member: int, *, timeout: float = 5.0) -> None: ...

    async def propose_conf_change(
        self, change: MemberChange, *, timeout: float = 5.0
    ) -> Mapping[int, Member]:
        return {}
