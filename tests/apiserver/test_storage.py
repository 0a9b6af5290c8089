"""One suite of storage semantics on the store in memory, on etcd and on etcdlite; and encryption at rest."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from apiserver.storage import transform
from apiserver.storage.etcd import EtcdStore
from apiserver.storage.interface import (
    Batch,
    Compacted,
    FutureRevision,
    KeyExists,
    RevisionMismatch,
    Store,
    Undecodable,
)
from apiserver.storage.memory import MemoryStore
from apiserver.storage.watchcache import Entry, ResourceCache
from etcdlite.client import EtcdClient
from tests.apiserver.devserver import ROOT, end
from tests.apiserver.harness import harness
from tests.ports import free_port

Test = Callable[[Store], Awaitable[None]]
Runner = Callable[[Test], None]
KEY = "/registry/configmaps/default/a"
SECRET = base64.b64encode(bytes(range(32))).decode()


@contextlib.contextmanager
def member(program: list[str], directory: Path) -> Iterator[str]:
    """One member of a store, etcd or etcdlite, on loopback."""
    url, peer = f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    command = [
        *program,
        f"--data-dir={directory}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
    ]
    command += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"]
    command += [f"--initial-cluster=default={peer}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    try:
        yield url
    finally:
        end(process)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if shutil.which("etcd") is None:
        pytest.skip("etcd is not installed")
    with member(["etcd"], tmp_path_factory.mktemp("etcd")) as url:
        yield url


@pytest.fixture(scope="module")
def etcdlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with member([sys.executable, "-m", "etcdlite"], tmp_path_factory.mktemp("etcdlite")) as url:
        yield url


@pytest.fixture(params=["memory", "etcd", "etcdlite"])
def on(request: pytest.FixtureRequest) -> Runner:
    """Runs a test on a fresh part of one of the stores."""
    url = request.getfixturevalue(request.param) if request.param != "memory" else ""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Store]:
        if not url:
            yield MemoryStore()
            return
        async with EtcdClient([url], timeout=15) as client:
            await client.delete(b"/registry/", b"/registry0")
            yield EtcdStore(client, lambda key: transform.PLAIN)

    def runner(test: Test) -> None:
        async def main() -> None:
            async with opened() as store:
                await test(store)

        asyncio.run(main())

    return runner


def test_compare_and_swap(on: Runner) -> None:
    async def test(store: Store) -> None:
        made = await store.create(KEY, b"1")
        with pytest.raises(KeyExists):
            await store.create(KEY, b"2")
        changed = await store.update(KEY, b"2", made.revision)
        assert changed.revision > made.revision
        with pytest.raises(RevisionMismatch) as lost:
            await store.update(KEY, b"3", made.revision)
        assert lost.value.current is not None and lost.value.current.value == b"2"
        with pytest.raises(RevisionMismatch):
            await store.delete(KEY, made.revision)
        gone = await store.delete(KEY, changed.revision)
        assert gone > changed.revision and (await store.get(KEY))[0] is None
        with pytest.raises(RevisionMismatch) as lost:
            await store.update(KEY, b"4", changed.revision)
        assert lost.value.current is None
        assert await store.current_revision() == gone

    on(test)


def test_lists_page_in_order_and_at_a_revision(on: Runner) -> None:
    async def test(store: Store) -> None:
        prefix = "/registry/things/"
        for name in "cab":
            await store.create(prefix + name, name.encode())
        page = await store.list(prefix, limit=2)
        assert [item.key[-1] for item in page.items] == ["a", "b"] and page.more and page.count == 3
        await store.create(prefix + "bb", b"late")
        rest = await store.list(prefix, start=prefix + "b\0", limit=2, revision=page.revision)
        assert [item.key[-1] for item in rest.items] == ["c"] and not rest.more
        with pytest.raises(FutureRevision):
            await store.list(prefix, revision=page.revision + 1000)

    on(test)


def test_watch_delivers_every_change_once_and_in_order(on: Runner) -> None:
    async def test(store: Store) -> None:
        start = await store.current_revision() + 1
        made = await store.create(KEY, b"1")
        changed = await store.update(KEY, b"2", made.revision)
        await store.delete(KEY, changed.revision)
        seen: list[tuple[bytes | None, int]] = []
        stream = store.watch(start)
        async with asyncio.timeout(10):
            async for batch in stream:
                seen += [(change.value, change.revision) for change in batch.changes if change.key == KEY]
                assert isinstance(batch, Batch) and batch.revision >= batch.changes[-1].revision
                if len(seen) == 3:
                    break
        await stream.aclose()  # type: ignore[attr-defined]
        assert [value for value, _ in seen] == [b"1", b"2", None]
        assert [revision for _, revision in seen] == sorted({revision for _, revision in seen})

    on(test)


def test_compacted_history_is_said_to_be(on: Runner) -> None:
    async def test(store: Store) -> None:
        made = await store.create(KEY, b"1")
        await store.update(KEY, b"2", made.revision)
        last = await store.create("/registry/x/y", b"3")
        done = store.compact(last.revision)  # type: ignore[attr-defined]
        if done is not None:
            await done
        with pytest.raises(Compacted):
            await store.list("/registry/", revision=made.revision)
        with pytest.raises(Compacted):
            async for _ in store.watch(made.revision):
                pass

    on(test)


def test_concurrent_swaps_lose_nothing(on: Runner) -> None:
    async def test(store: Store) -> None:
        await store.create(KEY, b"0")

        async def add_one() -> None:
            while True:
                stored, _ = await store.get(KEY)
                assert stored is not None
                with contextlib.suppress(RevisionMismatch):
                    await store.update(KEY, str(int(stored.value) + 1).encode(), stored.revision)
                    return

        async with asyncio.TaskGroup() as tasks:
            for _ in range(20):
                tasks.create_task(add_one())
        stored, _ = await store.get(KEY)
        assert stored is not None and stored.value == b"20"

    on(test)


def test_two_servers_take_turns_at_compaction(etcd: str) -> None:
    async def main() -> None:
        async with EtcdClient([etcd], timeout=15) as client:
            store = EtcdStore(client, lambda key: transform.PLAIN)
            turn, _ = await store.compaction_turn(0)
            mine, _ = await store.compaction_turn(turn)
            theirs, _ = await store.compaction_turn(turn)
            assert mine == turn + 1 and theirs == mine

    asyncio.run(main())


def configuration(
    *providers: dict[str, object], resources: tuple[str, ...] = ("secrets",)
) -> transform.Transformers:
    return transform.from_configuration(
        {"resources": [{"resources": list(resources), "providers": list(providers)}]}
    )


def provider(kind: str, name: str = "k1", secret: str = SECRET) -> dict[str, object]:
    return {kind: {"keys": [{"name": name, "secret": secret}]}}


@pytest.mark.parametrize("kind", ["aescbc", "aesgcm", "secretbox"])
def test_values_are_sealed_under_the_named_key(kind: str) -> None:
    sealing = configuration(provider(kind), {"identity": {}}).of("secrets")
    sealed = sealing.to_storage(KEY, b"plain")
    assert sealed.startswith(f"k8s:enc:{kind}:v1:k1:".encode()) and b"plain" not in sealed
    assert sealing.from_storage(KEY, sealed) == b"plain" and sealing.from_storage(KEY, b"{}") == b"{}"
    assert sealing.to_storage(KEY, b"plain") != sealed
    other = configuration(provider(kind, "k2")).of("secrets")
    with pytest.raises(Undecodable):
        other.from_storage(KEY, sealed)
    with pytest.raises(Undecodable):
        other.from_storage(KEY, b"{}")
    rotated = configuration(provider(kind, "k2"), provider(kind)).of("secrets")
    assert rotated.from_storage(KEY, sealed) == b"plain" and b":k2:" in rotated.to_storage(KEY, b"x")
    assert rotated.is_stale(sealed) and not rotated.is_stale(rotated.to_storage(KEY, b"x"))
    assert sealing.is_stale(b"{}") and not sealing.is_stale(sealed)
    left = configuration({"identity": {}}, provider(kind)).of("secrets")
    assert left.is_stale(sealed) and not left.is_stale(b"{}")


def test_an_update_that_changes_nothing_rewrites_what_an_older_key_wrote(etcd: str) -> None:
    """How secrets are encrypted anew: `kubectl get secrets -o json | kubectl replace -f -`."""

    async def main() -> None:
        async with EtcdClient([etcd], timeout=15) as client:
            sealing = [
                configuration(provider("secretbox", "k1")).of("secrets"),
                configuration(provider("secretbox", "k2"), provider("secretbox", "k1")).of("secrets"),
            ]
            at = 0
            store = EtcdStore(client, lambda key: sealing[at] if "/secrets/" in key else transform.PLAIN)
            async with harness(store=store) as api:
                secrets = "/api/v1/namespaces/default/secrets"
                made = await api.ok("POST", secrets, {"metadata": {"name": "s"}, "data": {"a": "Yg=="}})
                same = await api.ok("PUT", f"{secrets}/s", made)
                assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]
                at = 1
                again = await api.ok("PUT", f"{secrets}/s", made)
                assert again["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]
                raw = await client.range(b"/registry/secrets/default/s")
                assert raw.kvs[0].value.startswith(b"k8s:enc:secretbox:v1:k2:")

    asyncio.run(main())


def test_gcm_values_cannot_be_moved_to_another_key() -> None:
    sealing = configuration(provider("aesgcm")).of("secrets")
    with pytest.raises(Undecodable):
        sealing.from_storage("/registry/secrets/x/other", sealing.to_storage(KEY, b"plain"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"kms": {}},
        {"secretbox": {}},
        provider("secretbox", secret="AAAAAAAAAAAAAAAAAAAAAA=="),
        {"aescbc": {"keys": []}},
        provider("aescbc", secret="eA=="),
        provider("aescbc", secret="!"),
    ],
)
def test_configurations_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(transform.ConfigurationError, match=r"resources\[0\]\.providers\[0\]"):
        configuration(wrong)
    assert configuration(provider("aescbc")).of("configmaps") is transform.PLAIN
    assert configuration(provider("aescbc"), resources=("*.*",)).of("deployments.apps") is not transform.PLAIN


def entry(key: str, revision: int) -> Entry:
    return Entry(key, "", key, revision, b'{"metadata":{}}', {}, {})


def test_the_window_of_a_watch_cache_slides_and_says_so() -> None:
    cache = ResourceCache(capacity=4)
    cache.reset({"a": entry("a", 10)}, 10)
    position = cache.position_after(10)
    for revision in range(11, 30):
        cache.apply("a", revision, entry("a", revision))
    assert cache.since(position) is None and cache.floor > 10
    after = cache.since(cache.position_after(cache.floor))
    assert after is not None and [event.revision for event in after] == list(range(cache.floor + 1, 30))
    assert cache.since(cache.end) == [] and cache.latest == 29


def test_a_frame_is_encoded_once() -> None:
    cache = ResourceCache()
    event = cache.apply("a", 5, entry("a", 5))
    assert event is not None and event.frame("ADDED") is event.frame("ADDED")
    gone = cache.apply("a", 6, None)
    assert gone is not None and b'"resourceVersion":"6"' in gone.frame("DELETED")
    assert cache.apply("a", 7, None) is None
