"""Members that are killed, frozen and restarted: what was acknowledged is there, and nothing hangs."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from etcdlite.client import EtcdClient, OutcomeUnknown, RequestFailed, Unavailable, op_put, prefix_end
from tests.etcdlite.server.members import MemberProcess, running, running_cluster

WRITERS = 8


def test_acknowledged_writes_survive_kill(tmp_path: Path) -> None:
    """kill -9 in the middle of concurrent writes, again and again: every acknowledged write is read
    afterwards.
    """
    acknowledged: dict[bytes, bytes] = {}

    async def write(url: str, life: int) -> None:
        async with EtcdClient([url], timeout=3) as client:

            async def one(writer: int) -> None:
                number = 0
                while True:
                    key, value = b"/w/%d/%d/%d" % (life, writer, number), b"%d" % number
                    try:
                        await client.put(key, value)
                    except (OutcomeUnknown, Unavailable):
                        return
                    acknowledged[key] = value
                    number += 1

            async with asyncio.TaskGroup() as tasks:
                for writer in range(WRITERS):
                    tasks.create_task(one(writer))
                await asyncio.sleep(0.7)
                member.stop(signal.SIGKILL)

    async def read(url: str) -> dict[bytes, bytes]:
        async with EtcdClient([url], timeout=10) as client:
            answer = await client.range(b"/w/", prefix_end(b"/w/"))
            return {kv.key: kv.value for kv in answer.kvs}

    with running("etcdlite", tmp_path) as member:
        for life in range(3):
            asyncio.run(write(member.client_url, life))
            member.start()
            member.wait_ready()
            stored = asyncio.run(read(member.client_url))
            assert acknowledged.items() <= stored.items()
        assert len(acknowledged) > 100


def test_restart_keeps_everything(tmp_path: Path) -> None:
    """Values, history, compaction, leases and revisions are the same after a restart, orderly or not."""

    async def fill(url: str) -> list[object]:
        async with EtcdClient([url]) as client:
            lease = await client.lease_grant(600, id=7)
            for number in range(300):
                await client.put(
                    b"/k/%d" % (number % 50), b"%d" % number, lease=lease.ID if number % 7 == 0 else 0
                )
            await client.delete(b"/k/1", b"/k/2")
            await client.compact(100, physical=True)
            return await look(client)

    async def look(client: EtcdClient) -> list[object]:
        everything = await client.range(b"\0", b"\0")
        past = await client.range(b"\0", b"\0", revision=150)
        leased = await client.lease_time_to_live(7, keys=True)
        with pytest.raises(RequestFailed, match="compacted"):
            await client.range(b"\0", b"\0", revision=99)
        found: list[object] = [
            everything.header.revision,
            list(everything.kvs),
            list(past.kvs),
            list(leased.keys),
        ]
        async with client.watch(b"\0", b"\0", start_revision=101) as watch:
            events: list[object] = []
            while len(events) < 150:
                events += (await anext(watch)).events
            found.append(events[:150])
        return found

    async def look_at(url: str) -> list[object]:
        async with EtcdClient([url]) as client:
            return await look(client)

    with running("etcdlite", tmp_path) as member:
        before = asyncio.run(fill(member.client_url))
        for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            member.stop(how)
            member.start()
            member.wait_ready()
            assert asyncio.run(look_at(member.client_url)) == before


def test_cluster_survives_its_leader(tmp_path: Path) -> None:
    """kill -9 of the leader under load: writes go on within seconds, none that was acknowledged is lost, and
    the member catches up when it returns.
    """
    with running_cluster(tmp_path) as members:
        asyncio.run(_kill_leader(members))


async def _kill_leader(members: list[MemberProcess]) -> None:
    urls = [member.client_url for member in members]
    acknowledged: dict[bytes, bytes] = {}
    longest = 0.0
    async with EtcdClient(urls, timeout=10) as client:
        leader = await _leader(client, members)

        async def write(writer: int) -> None:
            nonlocal longest
            for number in range(150):
                key, value, begun = b"/c/%d/%d" % (writer, number), b"%d" % number, time.monotonic()
                try:
                    await client.put(key, value)
                except (OutcomeUnknown, Unavailable, RequestFailed):
                    continue
                longest = max(longest, time.monotonic() - begun)
                acknowledged[key] = value

        async with asyncio.TaskGroup() as tasks:
            for writer in range(4):
                tasks.create_task(write(writer))
            await asyncio.sleep(0.3)
            leader.stop(signal.SIGKILL)
        stored = await client.range(b"/c/", prefix_end(b"/c/"))
        assert acknowledged.items() <= {kv.key: kv.value for kv in stored.kvs}.items()
        assert len(acknowledged) > 500
        assert longest < 5
    leader.start()
    leader.wait_ready()
    async with EtcdClient([leader.client_url]) as returned:
        again = await returned.range(b"/c/", prefix_end(b"/c/"))
        assert list(again.kvs) == list(stored.kvs)


async def _leader(client: EtcdClient, members: list[MemberProcess]) -> MemberProcess:
    for member in members:
        status = await client.status(member.client_url)
        if status.leader == status.header.member_id:
            return member
    raise AssertionError("no member leads")


def test_frozen_member_is_left(tmp_path: Path) -> None:
    """A client whose member is stopped by SIGSTOP finds another within a few seconds."""
    with running_cluster(tmp_path) as members:

        async def main() -> None:
            async with EtcdClient([member.client_url for member in members], timeout=8) as client:
                await client.put(b"a", b"1")
                members[0].stop(signal.SIGSTOP)
                begun = time.monotonic()
                assert (await client.range(b"a")).kvs[0].value == b"1"
                assert time.monotonic() - begun < 5

        asyncio.run(main())


def test_data_of_another_member_is_refused(tmp_path: Path) -> None:
    with running("etcdlite", tmp_path) as member:
        member.stop()
        member.command = [part.replace("etcd-cluster", "other") for part in member.command]
        member.command.append("--initial-cluster-token=another")
        member.start()
        with pytest.raises(AssertionError, match="the data directory belongs to member"):
            member.wait_ready()


def test_damaged_database_is_refused(tmp_path: Path) -> None:
    """A flipped bit in a stored value stops the member with a message that says where."""

    async def fill(url: str) -> None:
        async with EtcdClient([url]) as client:
            for number in range(50):
                await client.put(b"/k/%d" % number, b"precious" * 20)

    with running("etcdlite", tmp_path) as member:
        asyncio.run(fill(member.client_url))
        member.stop()
        database = tmp_path / "m0" / "member" / "db"
        content = database.read_bytes()
        database.write_bytes(content.replace(b"precious", b"preciouS"))
        member.start()
        with pytest.raises(AssertionError, match="database: checksum mismatch"):
            member.wait_ready()


def test_lease_outlives_its_leader(tmp_path: Path) -> None:
    """A renewed lease is still there after the leader is killed, and ends once nobody renews it."""
    with running_cluster(tmp_path) as members:

        async def main() -> None:
            async with EtcdClient([member.client_url for member in members], timeout=10) as client:
                lease = (await client.lease_grant(3)).ID
                await client.put(b"leased", b"", lease=lease)
                (await _leader(client, members)).stop(signal.SIGKILL)
                granted = time.monotonic()
                while time.monotonic() - granted < 4:
                    assert (await client.lease_keep_alive(lease)).TTL == 3
                    await asyncio.sleep(0.5)
                assert (await client.range(b"leased")).count == 1
                async with asyncio.timeout(12):
                    while (await client.range(b"leased")).count:  # noqa: ASYNC110 -- another process acts
                        await asyncio.sleep(0.2)

        asyncio.run(main())


def test_a_member_that_was_away_is_brought_up_by_snapshot(tmp_path: Path) -> None:
    """A member whose missing entries are gone from the leader's log gets the whole state."""
    with running_cluster(tmp_path, extra=("--snapshot-count=200",)) as members:
        asyncio.run(_fall_behind(members))
        assert any("sending snapshot" in member.log.read_text() for member in members)


async def _fall_behind(members: list[MemberProcess]) -> None:
    async with EtcdClient([member.client_url for member in members], timeout=10) as client:
        leader = await _leader(client, members)
        away = next(member for member in members if member is not leader)
        await client.put(b"before", b"")
        away.stop(signal.SIGKILL)
        for number in range(0, 6000, 50):
            await client.txn([], [op_put(b"/s/%d" % (number + n), b"%d" % number * 20) for n in range(50)])
        for number in range(0, 5500, 50):  # more entries than a leader keeps behind a compaction of its log
            await asyncio.gather(*(client.put(b"/t/%d" % (number + n), b"x") for n in range(50)))
        away.start()
        away.wait_ready()
        async with EtcdClient([away.client_url], timeout=10) as returned:
            ours = await returned.range(b"\0", b"\0")
            assert list(ours.kvs) == list((await client.range(b"\0", b"\0")).kvs)
            async with returned.watch(b"\0", b"\0", start_revision=2) as watch:
                assert (await anext(watch)).events[0].kv.key == b"before"
