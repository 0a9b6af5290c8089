"""Members that hold other data than the rest are found: by themselves at the start, by the leader later."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import lmdb
import pytest

from etcdlite.client import EtcdClient, RequestFailed
from etcdlite.consensus.statemachine import Entry
from etcdlite.mvcc import backend
from etcdlite.pb import rpc_pb2 as rpc
from etcdlite.pb.internal_pb2 import InternalRaftRequest
from etcdlite.server.corruption import DataHash, hash_data, odd_ones
from etcdlite.server.machine import Machine
from tests.etcdlite.server.members import MemberProcess, running_cluster

ALARM_SECONDS = 60


def test_the_odd_one_is_who_differs_from_the_majority() -> None:
    assert odd_ones({1: 5, 2: 5, 3: 5}, me=1) == []
    assert odd_ones({1: 5, 2: 5, 3: 6}, me=1) == [3]
    assert odd_ones({1: 6, 2: 5, 3: 5}, me=1) == [1], "the one that compares may itself be wrong"
    assert odd_ones({1: 5, 2: 6}, me=1) == [2], "without a majority, whoever differs from me"
    assert odd_ones({1: 5, 2: 6, 3: 7}, me=1) == [2, 3]
    assert odd_ones({1: 5}, me=1) == []


def puts(first: int, last: int) -> Iterator[Entry]:
    for index in range(first, last + 1):
        request = InternalRaftRequest(put=rpc.PutRequest(key=b"k%d" % (index % 7), value=b"%d" % index))
        yield Entry(index, 1, request.SerializeToString())


def open_machine(path: Path) -> Machine:
    return Machine(path, quota_bytes=1 << 26, minimum_lease_ttl=2, on_applied=lambda id, outcome: None)


def hash_while_writing(path: Path, revision: int, compact: bool) -> DataHash:
    """The hash of 20 changes, of a machine that goes on applying while it is computed."""

    async def main() -> DataHash:
        machine = open_machine(path)
        machine.apply(list(puts(1, 20)))
        async with asyncio.TaskGroup() as tasks:
            background = tasks.create_task(machine.run())
            hashing = tasks.create_task(hash_data(machine, revision))
            while not machine._flushing.locked():  # noqa: ASYNC110 -- its next turn is what is waited for
                await asyncio.sleep(0)
            machine.apply(list(puts(21, 30)))  # while the twenty are on their way to the file
            if compact:
                request = InternalRaftRequest(compaction=rpc.CompactionRequest(revision=10))
                machine.apply([Entry(31, 1, request.SerializeToString())])
            found = await hashing
            background.cancel()
        return found

    return asyncio.run(main())


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("revision", [0, 21])
def test_a_hash_is_of_its_revisions_whatever_is_written_meanwhile(
    tmp_path: Path, revision: int, compact: bool
) -> None:
    found = hash_while_writing(tmp_path / "busy", revision, compact)

    async def quiet() -> DataHash:
        with closing(open_machine(tmp_path / "quiet").backend) as opened:
            opened.close()
        machine = open_machine(tmp_path / "quiet")
        machine.apply(list(puts(1, 30)))
        if found.compacted:
            machine.store.compact(found.compacted)
            machine._compacting.set()
        async with asyncio.TaskGroup() as tasks:
            background = tasks.create_task(machine.run())
            expected = await hash_data(machine, found.revision)
            background.cancel()
        return expected

    assert asyncio.run(quiet()) == found


def change_value(member: MemberProcess, folder: Path) -> None:
    """Give one key another value in a stopped member's database, with a right checksum: a bug, not a disk."""
    path = folder / Path(member.log.stem) / "member" / "db"
    with closing(lmdb.open(str(path), subdir=False, max_dbs=16, lock=False)) as environment:
        revisions = environment.open_db(b"key")
        with environment.begin(write=True, db=revisions) as txn, txn.cursor() as cursor:
            for key, sealed in cursor:
                if b"precious" in sealed:
                    changed = backend._unseal(key, sealed).replace(b"precious", b"preciouS")
                    cursor.put(key, backend._seal(key, changed))
                    return
    raise AssertionError("nothing to change")


def flip_byte(member: MemberProcess, folder: Path) -> None:
    """Change one byte of a value in the file of a running member."""
    path = folder / Path(member.log.stem) / "member" / "db"
    content = path.read_bytes()
    descriptor = os.open(path, os.O_WRONLY)
    try:
        start = content.find(b"precious")
        while start >= 0:
            os.pwrite(descriptor, b"P", start)
            start = content.find(b"precious", start + 1)
    finally:
        os.close(descriptor)


async def fill(members: list[MemberProcess]) -> None:
    async with EtcdClient([member.client_url for member in members], timeout=20) as client:
        for number in range(20):
            await client.put(b"/k/%d" % number, b"precious")
        for member in members:
            async with EtcdClient([member.client_url], timeout=20) as one:
                await one.range(b"/k/0")
        await asyncio.sleep(1)  # until every member has flushed


async def wait_corrupt(members: list[MemberProcess]) -> str:
    """Until writes are refused; what the members' logs say of whom."""
    async with EtcdClient([member.client_url for member in members], timeout=20) as client:
        async with asyncio.timeout(ALARM_SECONDS):
            while True:
                try:
                    await client.put(b"/more", b"x")
                except RequestFailed as error:
                    assert "corrupt cluster" in str(error)
                    break
                await asyncio.sleep(0.2)
    return "".join(member.log.read_text() for member in members)


def test_a_member_with_other_data_is_reported_and_does_not_start(tmp_path: Path) -> None:
    with running_cluster(tmp_path, extra=("--corrupt-check-time=1s",)) as members:
        asyncio.run(fill(members))
        victim = members[1]
        victim.stop()
        change_value(victim, tmp_path)
        command = list(victim.command)
        victim.command.append("--experimental-initial-corrupt-check")
        victim.start()
        with pytest.raises(AssertionError, match="found data inconsistency with peers"):
            victim.wait_ready()
        victim.stop()
        victim.command = command
        victim.start()
        victim.wait_ready()
        said = asyncio.run(wait_corrupt(members))
        assert "holds other data than the rest: raising the CORRUPT alarm" in said


def test_a_byte_that_flips_under_a_running_member_is_reported(tmp_path: Path) -> None:
    with running_cluster(tmp_path, extra=("--experimental-corrupt-check-time=1s",)) as members:
        asyncio.run(fill(members))
        flip_byte(members[2], tmp_path)
        said = asyncio.run(wait_corrupt(members))
        assert "raising the CORRUPT alarm" in said
        for member in members:
            assert member.process is not None
            assert member.process.poll() is None or member is members[2]
            if member.process.poll() is None:
                member.stop(signal.SIGTERM)
