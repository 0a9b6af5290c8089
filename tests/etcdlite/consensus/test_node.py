"""Whole members over loopback TCP."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from pathlib import Path

import pytest

from etcdlite.consensus.config import ConsensusConfig
from etcdlite.consensus.errors import (
    BadChange,
    ConfigurationError,
    DeadlineExceeded,
    NoLeader,
    Stopped,
    TooLarge,
)
from etcdlite.consensus.membership import ChangeKind, Member, MemberChange
from etcdlite.consensus.node import Consensus
from etcdlite.wal.records import WalCorrupt
from tests.etcdlite.consensus.harness import Harness, ListMachine, run, running


@pytest.mark.parametrize("size", [1, 3])
def test_writes_and_reads_through_every_member(tmp_path: Path, size: int) -> None:
    async def test() -> None:
        async with running(tmp_path, size) as cluster:
            await cluster.leader()
            for number, name in enumerate(cluster.members):
                await asyncio.gather(*(cluster.put(name, b"%d-%d" % (number, i)) for i in range(50)))
                member = cluster.members[name]
                index = await member.read_index()
                await member.wait_applied(index)
                assert cluster.machines[name].applied_index >= index
            await cluster.settled()
            data = [machine.data for machine in cluster.machines.values()]
            assert len(data[0]) == 50 * size and all(item == data[0] for item in data)

    run(test)


def test_everything_survives_a_restart_of_the_whole_cluster(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, 3) as cluster:
            for i in range(20):
                await cluster.put("m0", b"%d" % i)
            await cluster.stop()
            for machine in cluster.machines.values():
                machine.data, machine.applied_index = [], 0  # the log alone brings it back
            cluster.start()
            await cluster.put("m1", b"after")
            await cluster.settled()
            expected = [b"%d" % i for i in range(20)] + [b"after"]
            assert all(machine.data == expected for machine in cluster.machines.values())

    run(test)


def test_the_death_of_the_leader_is_noticed_before_the_timeout(tmp_path: Path) -> None:
    """Two survivors may campaign at the same moment and split the vote, which costs a whole timeout: so one
    quick takeover in three is proof. A member that only waits the timeout out never makes one.
    """

    async def takeover(folder: Path) -> float:
        options = {"heartbeat_interval": 0.05, "election_timeout": 5.0}
        async with running(folder, 3, **options) as cluster:
            dead = await cluster.leader()
            await cluster.stop(dead)
            began = asyncio.get_running_loop().time()
            survivor = next(iter(cluster.members))
            attempts = itertools.count()
            while True:
                # What is sent into the dead leader's connection is lost, as with etcd: its client asks again.
                with contextlib.suppress(TimeoutError, NoLeader):
                    await cluster.put(survivor, b"x%d" % next(attempts), seconds=0.2)
                    return asyncio.get_running_loop().time() - began

    async def test() -> None:
        times: list[float] = []
        while len(times) < 3 and not any(taken < 4.5 for taken in times):
            times.append(await takeover(tmp_path / str(len(times))))
        assert min(times) < 4.5, times

    run(test)


def test_without_a_majority_nothing_is_promised(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            await cluster.stop(*[name for name in cluster.members if name != leader])
            member = cluster.members[leader]
            with pytest.raises((NoLeader, DeadlineExceeded)):
                await member.read_index(timeout=0.1)
            await cluster.until(lambda: member.status().leader_id == 0)
            with pytest.raises(NoLeader):
                await member.propose(b"x", lambda: False, timeout=0.1)
            with pytest.raises(NoLeader):
                await member.read_index(timeout=0.1)

    run(test)


def test_a_write_that_was_lost_with_the_leader_is_made_again(tmp_path: Path) -> None:
    """The leader is cut off while a follower sends a write on to it, and neither end is told."""

    async def test() -> None:
        async with running(tmp_path, 3) as cluster:
            leader = cluster.members[await cluster.leader()]
            follower, _ = await cluster.followers()
            cut_off(leader)
            await cluster.put(follower, b"x")
            assert cluster.members[follower].status().leader_id != leader.member_id
            assert cluster.machines[follower].data == [b"x"]

    run(test)


def cut_off(member: Consensus) -> None:
    """Connections stay open, and nothing comes through either way."""
    member.on_message = lambda message: None  # type: ignore[method-assign]
    member._transport.send = lambda messages: []  # type: ignore[method-assign]


def test_leadership_is_transferred(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, 3) as cluster:
            target, asked = await cluster.followers()
            await cluster.members[asked].transfer_leadership(cluster.members[target].member_id)
            await cluster.until(lambda: cluster.members[target].status().is_leader)
            with pytest.raises(BadChange, match="bad leader transferee"):
                await cluster.members[asked].transfer_leadership(12345)

    run(test)


def test_members_publish_their_addresses(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, 3) as cluster:
            expected = {(name, (f"http://{name}",)) for name in cluster.cluster}

            def published() -> bool:
                members = cluster.members["m0"].status().members.values()
                return {(x.name, x.client_urls) for x in members} == expected

            await cluster.until(published)

    run(test)


def test_a_follower_far_behind_gets_a_snapshot_and_logs_stay_short(tmp_path: Path) -> None:
    async def test() -> None:
        options = {"snapshot_count": 20, "catch_up_entries": 5, "wal_segment_bytes": 2000}
        async with running(tmp_path, 3, **options) as cluster:
            late = (await cluster.followers())[0]
            await cluster.stop(late)
            other = next(iter(cluster.members))
            for i in range(100):
                await cluster.put(other, b"%d" % i)
            cluster.start(late)
            await cluster.put(late, b"last")
            assert cluster.machines[late].data == [*(b"%d" % i for i in range(100)), b"last"]
            assert cluster.machines[late].installed == 1
            assert len(list((tmp_path / other / "member/wal").iterdir())) < 8
            await cluster.stop(late)
            cluster.start(late)
            await cluster.put(late, b"again")
            assert cluster.machines[late].installed == 1

    run(test)


def test_a_removed_member_stops_and_says_why(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, 3) as cluster:
            leader = await cluster.leader()
            gone = (await cluster.followers())[0]
            member = cluster.members[gone].member_id
            change = MemberChange(ChangeKind.REMOVE, Member(member))
            members = await cluster.members[leader].propose_conf_change(change)
            assert member not in members and len(members) == 2
            reason = await cluster.ended(gone)
            assert isinstance(reason, ExceptionGroup) and reason.subgroup(Stopped) is not None
            assert "permanently removed" in str(reason.exceptions[0])
            await cluster.put(leader, b"x")
            with pytest.raises(BadChange, match="member not found"):
                await cluster.members[leader].propose_conf_change(change)

    run(test)


def test_a_request_too_large_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, 1, max_request_bytes=100) as cluster:
            with pytest.raises(TooLarge):
                await cluster.members["m0"].propose(b"x" * 101, lambda: False)
            await cluster.put("m0", b"x" * 100)

    run(test)


def test_who_waits_is_told_when_the_member_stops(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, 1) as cluster:
            await cluster.leader()
            member = cluster.members["m0"]
            wait = asyncio.gather(member.wait_applied(10**9), return_exceptions=True)
            await asyncio.sleep(0)
            await cluster.stop()
            assert isinstance((await wait)[0], Stopped)
            with pytest.raises(Stopped):
                await member.propose(b"x", lambda: False)

    run(test)


def test_a_failing_state_machine_stops_the_member(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = Harness(tmp_path, 1)

        def explode(entries: object) -> None:
            raise ArithmeticError("replicas would disagree")

        cluster.machines["m0"].apply = explode  # type: ignore[method-assign]
        cluster.start()
        reason = await cluster.ended("m0")
        assert isinstance(reason, ExceptionGroup) and reason.subgroup(ArithmeticError) is not None

    run(test)


def test_a_damaged_log_stops_the_member_by_name(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, 1) as cluster:
            await cluster.put("m0", b"x" * 100)
            await cluster.put("m0", b"y" * 100)
            await cluster.stop()
            (path,) = (tmp_path / "m0/member/wal").iterdir()
            content = bytearray(path.read_bytes())
            content[content.index(b"xxxx")] ^= 1
            path.write_bytes(content)
            cluster.start()
            reason = await cluster.ended("m0")
            assert isinstance(reason, WalCorrupt) and path.name in str(reason)

    run(test)


def test_a_data_directory_of_another_member_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path, 1) as cluster:
            await cluster.leader()
            await cluster.stop()
            cluster.options |= {"initial_cluster_token": "another"}
            cluster.start()
            reason = await cluster.ended("m0")
            assert isinstance(reason, ConfigurationError) and "belongs to member" in str(reason)

    run(test)


def test_a_name_that_is_not_in_the_cluster_is_refused(tmp_path: Path) -> None:
    config = ConsensusConfig(name="nobody", data_dir=tmp_path, initial_cluster={"m0": ["http://127.0.0.1:1"]})
    with pytest.raises(ConfigurationError, match="couldn't find local name 'nobody'"):
        Consensus(config, ListMachine())
