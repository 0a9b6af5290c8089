"""The state machine and the requests that wait for it, over a consensus of one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from etcdlite.consensus import errors as consensus
from etcdlite.consensus.statemachine import Entry
from etcdlite.mvcc.errors import CorruptionAlarm, NoSpace, StoreError
from etcdlite.pb import rpc_pb2 as rpc
from etcdlite.pb.internal_pb2 import InternalRaftRequest
from etcdlite.server import errors
from etcdlite.server.machine import Applied, Machine
from etcdlite.server.requests import RequestIds, Requests
from tests.etcdlite.server.fakes import FakeConsensus

Act = Callable[[Requests, Machine, FakeConsensus], Awaitable[None]]


def make(
    path: Path, outcomes: list[tuple[int, Applied]] | None = None, clock: Callable[[], float] = lambda: 0.0
) -> Machine:
    kept = [] if outcomes is None else outcomes
    return Machine(
        path / "db",
        quota_bytes=1 << 26,
        minimum_lease_ttl=2,
        on_applied=lambda id, outcome: kept.append((id, outcome)),
        monotonic=clock,
    )


def put(key: bytes, value: bytes = b"", lease: int = 0) -> InternalRaftRequest:
    return InternalRaftRequest(put=rpc.PutRequest(key=key, value=value, lease=lease))


def entries(*requests: InternalRaftRequest, start: int = 1) -> list[Entry]:
    return [Entry(start + n, 1, request.SerializeToString()) for n, request in enumerate(requests)]


def play(path: Path, act: Act) -> None:
    async def main() -> None:
        requests = Requests(timeout=2.0, max_request_bytes=10_000)
        machine = Machine(path / "db", quota_bytes=1 << 26, minimum_lease_ttl=2, on_applied=requests.resolve)
        fake = FakeConsensus(machine.apply)
        requests.bind(fake, started_ms=1)
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(machine.run()), tasks.create_task(requests.run())]
            await act(requests, machine, fake)
            for task in background:
                task.cancel()

    asyncio.run(main())


def renewal(lease: int) -> InternalRaftRequest:
    checkpoint = rpc.LeaseCheckpoint(ID=lease)
    return InternalRaftRequest(lease_checkpoint=rpc.LeaseCheckpointRequest(checkpoints=[checkpoint]))


def end(lease: int, renewed: int) -> InternalRaftRequest:
    """What a leader proposes when a lease has run out by its clock."""
    revoke = rpc.LeaseRevokeRequest(ID=lease)
    return InternalRaftRequest(lease_revoke=revoke, lease_renewed=renewed, internal=True)


def test_a_lease_that_was_renewed_after_its_end_was_decided_lives(tmp_path: Path) -> None:
    """The decision of a leader that has not applied the renewal yet, or is none any more, comes too late. All
    members judge alike, also those that were restarted in between.
    """
    machine = make(tmp_path)
    grant = InternalRaftRequest(lease_grant=rpc.LeaseGrantRequest(ID=5, TTL=60))
    machine.apply(entries(grant, put(b"k", lease=5), renewal(5), end(5, renewed=1)))
    assert machine.lessor.ids() == [5]
    machine._flush_now()
    machine.backend.close()
    again = make(tmp_path)
    again.apply(entries(end(5, renewed=1), start=5))
    assert again.lessor.ids() == [5]
    again.apply(entries(end(5, renewed=3), start=6))
    assert again.lessor.ids() == []
    assert again.store.view().find(b"k") is None
    again.backend.close()


def test_applying_twice_changes_nothing(tmp_path: Path) -> None:
    """After a crash the log is applied from the flushed index on; what was flushed is skipped."""
    machine = make(tmp_path)
    log = entries(*(put(b"k", b"%d" % n) for n in range(10)))
    machine.apply(log[:6])
    machine._flush_now()
    machine.apply(log[6:])
    machine.backend.close()  # a crash: four entries were never flushed
    again = make(tmp_path)
    assert (again.applied_index, again.durable_index, again.store.revision) == (6, 6, 7)
    again.apply(log)
    assert (again.applied_index, again.durable_index, again.store.revision) == (10, 6, 11)
    again.backend.close()


def test_members_agree_whatever_they_flushed(tmp_path: Path) -> None:
    """The same log, applied in one go or with a restart after each entry, ends in the same bytes."""
    grant = InternalRaftRequest(lease_grant=rpc.LeaseGrantRequest(ID=5, TTL=60))
    log = entries(
        put(b"a", b"1"),
        grant,
        put(b"b", b"2", lease=5),
        InternalRaftRequest(delete_range=rpc.DeleteRangeRequest(key=b"a")),
        put(b"b", b"3", lease=9),  # refused: no such lease
        InternalRaftRequest(compaction=rpc.CompactionRequest(revision=3)),
        InternalRaftRequest(
            alarm=rpc.AlarmRequest(action=rpc.AlarmRequest.ACTIVATE, memberID=1, alarm=rpc.NOSPACE)
        ),
        put(b"c"),  # refused: no space
        InternalRaftRequest(lease_revoke=rpc.LeaseRevokeRequest(ID=5)),
    )
    results = []
    for name, step in (("whole", len(log)), ("stepwise", 1)):
        folder = tmp_path / name
        folder.mkdir()
        outcomes: list[tuple[int, Applied]] = []
        for position in range(0, len(log), step):
            machine = make(folder, outcomes)
            machine.apply(log[position : position + step])
            while machine.store.compact_some(1):
                pass
            machine._flush_now()
            state = (
                machine.backend.meta(),
                list(machine.backend.scan(0)),
                machine.alarms,
                machine.lessor.ids(),
            )
            machine.backend.close()
        said = [(outcome.revision, outcome.body, type(outcome.error)) for _, outcome in outcomes]
        results.append((state, said))
    assert results[0] == results[1]
    assert [kind.__name__ for _, _, kind in results[0][1]].count("NoneType") == len(log) - 2


def test_installing_a_snapshot(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    source = make(tmp_path / "from")
    grant = InternalRaftRequest(lease_grant=rpc.LeaseGrantRequest(ID=5, TTL=60))
    source.apply(entries(grant, *(put(b"k%d" % n, lease=5) for n in range(10))))
    source._flush_now()
    snapshot = source.snapshot_reader()
    target = make(tmp_path)
    target.apply(entries(put(b"old")))
    target.install_snapshot(snapshot.index, snapshot.term, snapshot.chunks)
    assert (target.applied_index, target.durable_index, target.store.revision) == (11, 11, 11)
    assert len(target.lessor.get(5).keys) == 10
    assert target.store.view().find(b"old") is None
    source.backend.close()
    target.backend.close()


def test_outcomes_reach_their_requests(tmp_path: Path) -> None:
    async def act(requests: Requests, machine: Machine, fake: FakeConsensus) -> None:
        fake.auto = False
        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(requests.submit(put(b"k%d" % n))) for n in range(5)]
            await asyncio.sleep(0)  # each of them runs until it waits
            await asyncio.sleep(0)
            assert len(fake.log) == 5
            assert requests.waiting == 5
            fake.commit()
        assert [task.result().revision for task in waiting] == [2, 3, 4, 5, 6]
        assert requests.waiting == 0

    play(tmp_path, act)


@pytest.mark.parametrize(
    ("failure", "wanted"),
    [(consensus.NoLeader(), errors.NoLeader), (consensus.Stopped(), errors.Stopped)],
)
def test_what_consensus_cannot_do(
    tmp_path: Path, failure: consensus.ConsensusError, wanted: type[StoreError]
) -> None:
    async def act(requests: Requests, machine: Machine, fake: FakeConsensus) -> None:
        fake.failure = failure
        with pytest.raises(wanted):
            await requests.submit(put(b"k"))
        with pytest.raises(wanted):
            await requests.confirm()
        with pytest.raises(errors.RequestTooLarge):
            await requests.submit(put(b"k", bytes(20_000)))
        assert requests.waiting == 0

    play(tmp_path, act)


def test_concurrent_reads_share_rounds(tmp_path: Path) -> None:
    async def act(requests: Requests, machine: Machine, fake: FakeConsensus) -> None:
        await asyncio.gather(*(requests.confirm() for _ in range(100)))
        assert fake.reads <= 2

    play(tmp_path, act)


def test_alarms_stop_what_they_must(tmp_path: Path) -> None:
    async def act(requests: Requests, machine: Machine, fake: FakeConsensus) -> None:
        async def alarm(kind: rpc.AlarmType, action: rpc.AlarmRequest.AlarmAction) -> None:
            await requests.submit(
                InternalRaftRequest(alarm=rpc.AlarmRequest(action=action, memberID=1, alarm=kind))
            )

        delete = InternalRaftRequest(delete_range=rpc.DeleteRangeRequest(key=b"k"))
        await requests.submit(put(b"k"))
        await alarm(rpc.NOSPACE, rpc.AlarmRequest.ACTIVATE)
        with pytest.raises(NoSpace):
            await requests.submit(put(b"k"))
        await requests.submit(delete)
        await alarm(rpc.CORRUPT, rpc.AlarmRequest.ACTIVATE)
        with pytest.raises(CorruptionAlarm):
            await requests.submit(delete)
        await alarm(rpc.NONE, rpc.AlarmRequest.DEACTIVATE)
        await requests.submit(put(b"k"))

    play(tmp_path, act)


def test_request_ids_differ_between_members_and_lives() -> None:
    lives = [RequestIds(member, started) for member in (1, 2) for started in (1000, 1001)]
    made = [life.next() for life in lives for _ in range(200)]
    assert len(set(made)) == len(made)
    assert all(0 < id < 1 << 64 for id in made)


def test_a_flush_that_failed_is_part_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Robustness, seed 104153393: the disk was full for one commit and had room for the last one, at the end
    of the member. That one said that everything was there; what the first had carried was missing for ever.
    """
    machine = make(tmp_path)
    commit, tried = machine.backend.commit, []

    def once_full(*taken: Any) -> None:
        tried.append(taken)
        if len(tried) == 1:
            machine.apply(entries(put(b"later"), start=3))  # meanwhile, as on a member that serves
            raise OSError(28, "No space left on device")
        commit(*taken)

    monkeypatch.setattr(machine.backend, "commit", once_full)

    async def main() -> None:
        machine.apply(entries(put(b"a"), put(b"b")))
        await machine.run()

    with pytest.raises(ExceptionGroup):
        asyncio.run(main())
    again = make(tmp_path)
    missing = [key for key in (b"a", b"b", b"later") if again.store.view().find(key) is None]
    assert (len(tried), again.applied_index, missing) == (2, 3, [])
    again.backend.close()


def test_a_flush_in_flight_at_the_end_is_not_taken_for_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled while the disk works: whether that commit comes true is not known, so the last repeats it."""
    machine = make(tmp_path)
    commit, tried = machine.backend.commit, []
    working = threading.Event()

    def fails_late(*taken: Any) -> None:
        tried.append(taken)
        if len(tried) == 1:
            working.set()
            time.sleep(0.05)  # on the flushing thread; the loop goes on and is cancelled
            raise OSError(28, "No space left on device")
        commit(*taken)

    monkeypatch.setattr(machine.backend, "commit", fails_late)

    async def main() -> None:
        machine.apply(entries(put(b"a")))
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(machine.run())
            await asyncio.to_thread(working.wait, 60)
            machine.apply(entries(put(b"b"), start=2))
            running.cancel()

    asyncio.run(main())
    again = make(tmp_path)
    assert again.applied_index == 2
    assert all(again.store.view().find(key) is not None for key in (b"a", b"b"))
    again.backend.close()
