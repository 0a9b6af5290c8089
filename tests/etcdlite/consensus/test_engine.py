"""The engine without a loop: starting again from what is there, and shortening the log."""

from __future__ import annotations

from typing import Any

import pytest

from etcdlite.consensus.engine import WAL_FOLDER, Effects, Engine, EngineConfig
from etcdlite.consensus.errors import ConfigurationError
from etcdlite.consensus.membership import Member, Membership
from etcdlite.raft.state import RaftConfig
from etcdlite.raft.types import EntryKind, Index, NodeId
from etcdlite.wal.codec import Metadata
from etcdlite.wal.memory import MemoryDisk
from tests.etcdlite.consensus.harness import ListMachine

ALONE = Membership({1: Member(1, peer_urls=("http://1:1",))})


def config(**options: Any) -> EngineConfig:
    raft = RaftConfig(id=NodeId(1), random=lambda n: 0)
    return EngineConfig(metadata=Metadata(7, 1), raft=raft, bootstrap=ALONE, **options)


def settle(engine: Engine) -> list[Effects]:
    """Run everything the engine asks for."""
    seen: list[Effects] = []
    while True:
        effects = engine.advance()
        seen.append(effects)
        if effects.job is None:
            return seen
        effects.job.run()
        engine.complete(effects.job)


def lead(engine: Engine) -> Engine:
    engine.advance()
    engine.node.campaign()
    settle(engine)
    return engine


def write(engine: Engine, count: int) -> None:
    for number in range(count):
        engine.node.propose([b"%d" % number])
        settle(engine)


def test_first_start_and_restart_are_one_path() -> None:
    disk, machine = MemoryDisk(), ListMachine()
    engine = lead(Engine(config(), disk, machine))
    write(engine, 5)
    assert machine.data == [b"0", b"1", b"2", b"3", b"4"]
    again = Engine(config(), disk, machine)
    assert again.node.raft.log.applied == machine.applied_index
    assert again.membership == engine.membership
    lead(again)
    write(again, 1)
    assert machine.data[-1] == b"0" and len(machine.data) == 6


def test_an_empty_state_is_rebuilt_from_the_log() -> None:
    disk, machine = MemoryDisk(), ListMachine()
    write(lead(Engine(config(), disk, machine)), 5)
    empty = ListMachine()
    lead(Engine(config(), disk, empty))
    assert empty.data == machine.data


def test_the_log_is_shortened_only_as_far_as_the_state_is_durable() -> None:
    disk, machine = MemoryDisk(), ListMachine()
    machine.hold_durable = 4
    engine = lead(Engine(config(snapshot_count=10, catch_up_entries=2), disk, machine))
    write(engine, 30)
    assert engine.node.raft.log.base == 4
    machine.hold_durable = None
    write(engine, 12)
    assert engine.node.raft.log.base > 25
    restarted = Engine(config(), disk, machine)
    assert restarted.node.raft.log.base == engine.node.raft.log.base
    assert restarted.membership == engine.membership


def test_a_log_of_few_large_entries_is_shortened_too() -> None:
    disk, machine = MemoryDisk(), ListMachine()
    engine = lead(Engine(config(log_bytes=10_000), disk, machine))
    for number in range(50):
        engine.node.propose([b"%d" % number * 500])
        settle(engine)
        assert engine.node.raft.log.bytes < 12_000
    log = engine.node.raft.log
    held = log.slice(Index(log.base + 1), log.last)
    assert log.base > 35 and log.bytes == sum(150 + len(entry.data) for entry in held)
    again = Engine(config(log_bytes=10_000), disk, machine)
    assert again.node.raft.log.bytes == log.bytes


def test_a_state_behind_the_log_is_refused() -> None:
    disk, machine = MemoryDisk(), ListMachine()
    write(lead(Engine(config(snapshot_count=5, catch_up_entries=0), disk, machine)), 20)
    with pytest.raises(ConfigurationError, match="no snapshot fills the gap"):
        Engine(config(), disk, ListMachine())


def test_a_state_ahead_of_the_log_is_refused() -> None:
    disk, machine = MemoryDisk(), ListMachine()
    write(lead(Engine(config(), disk, machine)), 3)
    machine.applied_index += 1
    with pytest.raises(ConfigurationError, match="log lost or replaced"):
        Engine(config(), disk, machine)


def test_a_log_of_another_member_is_refused() -> None:
    disk = MemoryDisk()
    Engine(config(), disk, ListMachine())
    other = EngineConfig(metadata=Metadata(7, 2), raft=config().raft, bootstrap=ALONE)
    with pytest.raises(ConfigurationError, match="belongs to member 1 of cluster 7, not to member 2"):
        Engine(other, disk, ListMachine())


def test_a_change_that_became_void_changes_nothing() -> None:
    disk, machine = MemoryDisk(), ListMachine()
    engine = lead(Engine(config(), disk, machine))
    from etcdlite.consensus import wire
    from etcdlite.consensus.membership import ChangeKind, MemberChange

    bogus = MemberChange(ChangeKind.REMOVE, Member(55))
    engine.node.propose([wire.encode_change(bogus)], EntryKind.CONF_CHANGE)
    settle(engine)
    assert engine.membership.removed == frozenset() and machine.applied_index == engine.node.raft.log.last
    assert len(disk.list(WAL_FOLDER)) == 1
