"""What the apiserver and every other client rely on, written once, run on etcdlite and on real etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from etcdlite.client import (
    Compacted,
    EtcdClient,
    FutureRevision,
    LeaseNotFound,
    RequestFailed,
    Watch,
    WatchBatch,
    compare_mod,
    op_delete,
    op_get,
    op_put,
    prefix_end,
)
from etcdlite.pb import kv_pb2
from etcdlite.pb import rpc_pb2 as rpc

PUT, DELETE = kv_pb2.Event.PUT, kv_pb2.Event.DELETE
Story = Callable[[EtcdClient, bytes], Awaitable[None]]
SECONDS = 30.0


def play(url: str, story: Story, prefix: bytes) -> None:
    """Run a story with a client, on keys below a prefix of its own."""

    async def main() -> None:
        async with EtcdClient([url]) as client, asyncio.timeout(SECONDS):
            await story(client, prefix)

    asyncio.run(main())


@asynccontextmanager
async def watching(client: EtcdClient, prefix: bytes, start: int, **options: bool) -> AsyncIterator[Watch]:
    async with client.watch(prefix, prefix_end(prefix), start_revision=start, **options) as watch:  # type: ignore[arg-type]
        yield watch


async def events_until(watch: Watch, revision: int) -> list[kv_pb2.Event]:
    """All events up to one of `revision`."""
    found: list[kv_pb2.Event] = []
    while not found or found[-1].kv.mod_revision < revision:
        found.extend((await anext(watch)).events)
    return found


def test_compare_and_swap(store: str) -> None:
    async def story(client: EtcdClient, key: bytes) -> None:
        created = await client.txn([compare_mod(key, 0)], [op_put(key, b"1")], [op_get(key)])
        assert created.succeeded
        again = await client.txn([compare_mod(key, 0)], [op_put(key, b"2")], [op_get(key)])
        assert not again.succeeded
        [kv] = again.responses[0].response_range.kvs
        assert (kv.value, kv.mod_revision, kv.version) == (b"1", created.header.revision, 1)
        swapped = await client.txn([compare_mod(key, kv.mod_revision)], [op_put(key, b"2")], [op_get(key)])
        assert swapped.succeeded
        assert swapped.header.revision == created.header.revision + 1
        deleted = await client.txn(
            [compare_mod(key, swapped.header.revision)], [op_delete(key, prev_kv=True)], [op_get(key)]
        )
        assert deleted.responses[0].response_delete_range.prev_kvs[0].value == b"2"
        assert not (await client.range(key)).kvs

    play(store, story, b"/cas")


def test_reads_at_a_revision(store: str) -> None:
    async def story(client: EtcdClient, prefix: bytes) -> None:
        revisions = [
            (await client.put(prefix + b"/k", b"%d" % number)).header.revision for number in range(5)
        ]
        for number, revision in enumerate(revisions):
            [kv] = (await client.range(prefix + b"/k", revision=revision)).kvs
            assert (kv.value, kv.version) == (b"%d" % number, number + 1)
        with pytest.raises(FutureRevision):
            await client.range(prefix, revision=revisions[-1] + 1)

    play(store, story, b"/at")


def test_pages_of_one_snapshot(store: str) -> None:
    """A list in pages, all read at the first page's revision, does not see what is written meanwhile."""

    async def story(client: EtcdClient, prefix: bytes) -> None:
        names = [b"%s/%02d" % (prefix, number) for number in range(10)]
        for name in names:
            await client.put(name, b"old")
        end = prefix_end(prefix)
        page = await client.range(prefix, end, limit=3)
        assert (page.more, page.count, len(page.kvs)) == (True, 10, 3)
        revision, found = page.header.revision, [kv.key for kv in page.kvs]
        while page.more:
            await client.delete(names[-1])
            await client.put(names[0], b"new")
            page = await client.range(page.kvs[-1].key + b"\0", end, limit=3, revision=revision)
            assert all(kv.value == b"old" for kv in page.kvs)
            found += [kv.key for kv in page.kvs]
        assert found == names

    play(store, story, b"/pages")


def test_watch_reports_each_change_once_in_order(store: str) -> None:
    async def story(client: EtcdClient, prefix: bytes) -> None:
        key = prefix + b"/k"
        async with watching(client, prefix, 0) as watch:
            revisions = [(await client.put(key, b"%d" % number)).header.revision for number in range(20)]
            events = await events_until(watch, revisions[-1])
            assert [event.kv.mod_revision for event in events] == revisions
            assert [event.prev_kv.value for event in events] == [b""] + [b"%d" % n for n in range(19)]
            gone = (await client.delete(key)).header.revision
            [event] = await events_until(watch, gone)
            assert (event.type, event.kv.key, event.prev_kv.value) == (DELETE, key, b"19")

    play(store, story, b"/order")


def test_watch_resumes_from_any_revision(store: str) -> None:
    async def story(client: EtcdClient, prefix: bytes) -> None:
        key = prefix + b"/k"
        revisions = [(await client.put(key, b"%d" % number)).header.revision for number in range(10)]
        for start in range(10):
            async with watching(client, prefix, revisions[start]) as watch:
                events = await events_until(watch, revisions[-1])
                assert [event.kv.mod_revision for event in events] == revisions[start:]

    play(store, story, b"/resume")


def test_watch_is_atomic_per_revision(store: str) -> None:
    async def story(client: EtcdClient, prefix: bytes) -> None:
        keys = [b"%s/%02d" % (prefix, number) for number in range(50)]

        async def read(start: int) -> None:
            async with watching(client, prefix, start) as watch:
                seen = 0
                while seen < 3 * len(keys):
                    batch = await anext(watch)
                    per_revision: dict[int, int] = {}
                    for event in batch.events:
                        revision = event.kv.mod_revision
                        per_revision[revision] = per_revision.get(revision, 0) + 1
                    assert set(per_revision.values()) == {len(keys)}
                    seen += len(batch.events)

        start = (await client.range(prefix)).header.revision + 1
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(read(0))
            await asyncio.sleep(0.2)
            for number in range(3):
                await client.txn([], [op_put(key, b"%d" % number) for key in keys])
        await read(start)  # the same from history

    play(store, story, b"/atomic")


def test_watch_filters_and_single_keys(store: str) -> None:
    async def story(client: EtcdClient, prefix: bytes) -> None:
        no_put = [rpc.WatchCreateRequest.NOPUT]
        async with client.watch(prefix, prefix_end(prefix), filters=no_put, prev_kv=False) as watch:
            await client.put(prefix + b"/a", b"1")
            await client.put(prefix + b"/ab", b"1")
            await client.delete(prefix + b"/a")
            [event] = (await anext(watch)).events
            assert event.type == DELETE
            assert not event.HasField("prev_kv")
        async with client.watch(prefix + b"/a") as watch:
            await client.put(prefix + b"/ab", b"2")
            put = await client.put(prefix + b"/a", b"2")
            [event] = (await anext(watch)).events
            assert event.kv.mod_revision == put.header.revision

    play(store, story, b"/filters")


def test_watch_progress_on_request(store: str) -> None:
    async def story(client: EtcdClient, prefix: bytes) -> None:
        async with watching(client, prefix, 0) as watch:
            put = await client.put(b"/elsewhere", b"")
            await watch.request_progress()
            batch: WatchBatch = await anext(watch)
            assert batch.progress
            assert batch.revision >= put.header.revision

    play(store, story, b"/progress")


def test_compaction(store: str) -> None:
    async def story(client: EtcdClient, prefix: bytes) -> None:
        first = (await client.put(prefix, b"1")).header.revision
        second = (await client.put(prefix, b"2")).header.revision
        third = (await client.put(prefix, b"3")).header.revision
        await client.compact(second, physical=True)
        with pytest.raises(Compacted):
            await client.range(prefix, revision=first)
        assert (await client.range(prefix, revision=second)).kvs[0].value == b"2"
        with pytest.raises(Compacted):
            await client.compact(second)
        async with watching(client, prefix, first) as watch:
            assert (await anext(watch)).compacted == second
        async with watching(client, prefix, third) as watch:
            assert (await anext(watch)).events[0].kv.value == b"3"

    play(store, story, b"/compact")


def test_lease_takes_its_keys_along(store: str) -> None:
    async def story(client: EtcdClient, prefix: bytes) -> None:
        lease = (await client.lease_grant(60)).ID
        keys = [prefix + b"/a", prefix + b"/b"]
        for key in keys:
            await client.put(key, b"", lease=lease)
        await client.put(prefix + b"/c", b"", lease=lease)
        await client.put(prefix + b"/c", b"")  # detached again
        left = await client.lease_time_to_live(lease, keys=True)
        assert (sorted(left.keys), left.grantedTTL) == (keys, 60)
        assert 58 <= left.TTL <= 60
        assert (await client.lease_keep_alive(lease)).TTL == 60
        assert lease in [each.ID for each in (await client.lease_leases()).leases]
        async with watching(client, prefix, 0) as watch:
            await client.lease_revoke(lease)
            batch = await anext(watch)
            assert sorted((e.type, e.kv.key) for e in batch.events) == [(DELETE, key) for key in keys]
            assert len({e.kv.mod_revision for e in batch.events}) == 1
        assert [kv.key for kv in (await client.range(prefix, prefix_end(prefix))).kvs] == [prefix + b"/c"]
        with pytest.raises(LeaseNotFound):
            await client.put(prefix, b"", lease=lease)
        with pytest.raises(LeaseNotFound):
            await client.lease_revoke(lease)
        assert (await client.lease_keep_alive(lease)).TTL == 0
        assert (await client.lease_time_to_live(lease)).TTL == -1

    play(store, story, b"/lease")


def test_lease_expires(store: str) -> None:
    async def story(client: EtcdClient, prefix: bytes) -> None:
        lease = (await client.lease_grant(2, id=4242)).ID
        assert lease == 4242
        with pytest.raises(RequestFailed, match="etcdserver: lease already exists"):
            await client.lease_grant(2, id=4242)
        async with watching(client, prefix, 0) as watch:
            await client.put(prefix, b"", lease=lease)
            assert (await anext(watch)).events[0].type == PUT
            async with asyncio.timeout(10):
                assert (await anext(watch)).events[0].type == DELETE

    play(store, story, b"/expiry")


def test_concurrent_increments_are_all_counted(store: str) -> None:
    """Compare-and-swap from many clients at once: every success is one step of the counter."""

    async def story(client: EtcdClient, key: bytes) -> None:
        await client.put(key, b"0")

        async def add(times: int) -> None:
            while times:
                [kv] = (await client.range(key)).kvs
                value = b"%d" % (int(kv.value) + 1)
                answer = await client.txn([compare_mod(key, kv.mod_revision)], [op_put(key, value)])
                times -= answer.succeeded

        async with asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(add(5))
        assert (await client.range(key)).kvs[0].value == b"40"

    play(store, story, b"/counter")
