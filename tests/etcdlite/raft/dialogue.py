"""Cores that talk to each other by hand: nothing moves unless the test says so."""

from __future__ import annotations

from collections.abc import Callable

from etcdlite.raft import messages as m
from etcdlite.raft.node import RawNode, Ready
from etcdlite.raft.state import RaftConfig, ReadState
from etcdlite.raft.types import ConfState, Entry, EntryKind, HardState, Index, NodeId, Role, Term


def entry(index: int, term: int, data: bytes = b"x") -> Entry:
    """A normal entry."""
    return Entry(Term(term), Index(index), EntryKind.NORMAL, data)


def conf(*voters: int, learners: tuple[int, ...] = ()) -> ConfState:
    """Voters and learners by number."""
    return ConfState(frozenset(map(NodeId, voters)), frozenset(map(NodeId, learners)))


def node(
    number: int,
    members: ConfState,
    log: list[Entry] | None = None,
    *,
    term: int = 0,
    vote: int = 0,
    pre_vote: bool = True,
    max_inflight: int = 256,
) -> RawNode:
    """A core whose timeout is exactly its election timeout, ten ticks."""
    config = RaftConfig(
        id=NodeId(number),
        random=lambda n: 0,
        pre_vote=pre_vote,
        max_inflight=max_inflight,
        max_append_bytes=100,
    )
    return RawNode(config, hard_state=HardState(Term(term), NodeId(vote)), entries=log, conf=members)


def settle(core: RawNode, *, disk: bool = True) -> list[m.Message]:
    """Carry out everything the core asks for; return its messages."""
    sent: list[m.Message] = []
    while ready := core.ready():
        sent += ready.messages
        if ready.write is not None and disk:
            core.persisted(ready.write)
        if ready.committed:
            core.applied(ready.committed[-1].index)
    return sent


class Cluster:
    """Cores 1 to n. `lose` drops messages; reads and committed data are kept."""

    def __init__(self, cores: list[RawNode]) -> None:
        self.cores = {core.raft.id: core for core in cores}
        self.lose: Callable[[m.Message], bool] = lambda message: False
        self.applied: dict[NodeId, list[bytes]] = {node: [] for node in self.cores}
        self.reads: dict[NodeId, list[ReadState]] = {node: [] for node in self.cores}

    def core(self, number: int) -> RawNode:
        """Core `number`."""
        return self.cores[NodeId(number)]

    def run(self) -> None:
        """Deliver until silence."""
        while messages := [x for core in self.cores.values() for x in self._turn(core)]:
            for message in messages:
                if message.to in self.cores and not self.lose(message):
                    self.cores[message.to].step(message)

    def _turn(self, core: RawNode) -> list[m.Message]:
        sent: list[m.Message] = []
        while ready := core.ready():
            sent += ready.messages
            self._take(core, ready)
        return sent

    def _take(self, core: RawNode, ready: Ready) -> None:
        if ready.write is not None:
            core.persisted(ready.write)
        self.reads[core.raft.id] += ready.reads
        self.applied[core.raft.id] += [e.data for e in ready.committed if e.data]
        if ready.committed:
            core.applied(ready.committed[-1].index)

    def elect(self, number: int) -> RawNode:
        """Let `number` win."""
        self.core(number).campaign()
        self.run()
        assert self.core(number).raft.role is Role.LEADER
        return self.core(number)

    def role(self, number: int) -> Role:
        """What `number` is now."""
        return self.core(number).raft.role

    def tick(self, *numbers: int, times: int = 1) -> None:
        """Time passes for some."""
        for _ in range(times):
            for number in numbers:
                self.core(number).tick()
            self.run()


def trio() -> Cluster:
    """Three empty voters."""
    members = conf(1, 2, 3)
    return Cluster([node(n, members) for n in (1, 2, 3)])
