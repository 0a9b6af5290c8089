"""The informer's contract, against an apiserver that loses watches and history."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from componentbase.clock import FakeClock
from kubeclient import informer as informers
from kubeclient.informer import Informer, InformerFactory, replace
from kubeclient.resources import NODES, PODS, key
from kubeclient.rest import RestClient
from kubeclient.store import CacheMutatedError, Store
from tests.kubeclient.fakeapi import running
from tests.kubeclient.loops import eventually, on_loop

ROOT = "/api/v1/namespaces/a/pods"


def pod(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "a", "labels": labels}}


def stored(name: str, uid: str, version: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "a", "uid": uid, "resourceVersion": version}}


class Journal:
    """What handlers were told, in order."""

    def __init__(self, informer: Informer) -> None:
        self.entries: list[str] = []
        informer.add_handler(
            lambda obj: self.entries.append(f"+{obj['metadata']['name']}"),
            lambda old, new: self.entries.append(f"~{new['metadata']['name']}"),
            lambda obj: self.entries.append(f"-{obj['metadata']['name']}"),
        )


@contextlib.asynccontextmanager
async def informing(client: RestClient, **options: Any) -> AsyncIterator[tuple[Informer, Journal]]:
    informer = Informer(client, PODS, rng=lambda: 0.0, **options)
    journal = Journal(informer)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(informer.run())
        try:
            await informer.wait_synced(5)
            yield informer, journal
        finally:
            task.cancel()


def test_lists_in_pages_then_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(informers, "PAGE_SIZE", 2)

    async def test() -> None:
        async with running() as (api, client):
            for name in "abcde":
                api.put(ROOT, pod(name))
            async with informing(client) as (informer, journal):
                assert api.lists == 3
                assert sorted(informer.store.keys()) == [f"a/{name}" for name in "abcde"]
                first = informer.store.get("a/a")
                assert first is not None
                assert (first["kind"], first["apiVersion"]) == ("Pod", "v1")
                api.put(ROOT, pod("f"))
                api.put(ROOT, pod("a", touched="yes"))
                api.remove(f"{ROOT}/b")
                await eventually(lambda: journal.entries[5:] == ["+f", "~a", "-b"])
                assert informer.resource_version == str(api.version)
                assert api.lists == 3

    on_loop(test)


def test_a_cut_watch_is_resumed_without_listing_again() -> None:
    async def test() -> None:
        async with running() as (api, client):
            api.put(ROOT, pod("a"))
            async with informing(client) as (_, journal):
                for name in "bcd":
                    await eventually(lambda: api.watchers == 1)
                    api.cut()
                    api.put(ROOT, pod(name))
                    await eventually(lambda name=name: f"+{name}" in journal.entries)  # type: ignore[misc]
                assert journal.entries == ["+a", "+b", "+c", "+d"]
                assert api.lists == 1

    on_loop(test)


def test_after_compaction_deletions_that_were_missed_are_reported() -> None:
    async def test() -> None:
        async with running() as (api, client):
            api.put(ROOT, pod("gone"))
            api.put(ROOT, pod("again"))
            api.put(ROOT, pod("stays"))
            async with informing(client) as (informer, journal):
                await eventually(lambda: api.watchers == 1)
                del journal.entries[:]
                del api.objects[f"{ROOT}/gone"]
                del api.objects[f"{ROOT}/again"]
                api.version += 1
                api.compact()
                api.objects[f"{ROOT}/again"] = stored("again", "another", str(api.version))
                api.cut()
                await eventually(lambda: api.lists == 2 and len(journal.entries) >= 3)
                assert sorted(journal.entries[:2]) == ["-again", "-gone"]
                assert journal.entries[2:] == ["+again"]
                assert sorted(informer.store.keys()) == ["a/again", "a/stays"]

    on_loop(test)


def test_an_error_event_in_the_stream_leads_to_a_new_list() -> None:
    async def test() -> None:
        async with running() as (api, client):
            api.put("/api/v1/nodes", {"metadata": {"name": "other"}})
            async with informing(client) as (_, journal):
                await eventually(lambda: api.watchers == 1)
                api.version += 5
                api.compact()
                api.objects[f"{ROOT}/b"] = stored("b", "u", str(api.version))
                api._changed.set()
                await eventually(lambda: journal.entries == ["+b"])
                assert api.lists == 2

    on_loop(test)


def test_failing_lists_are_tried_again() -> None:
    async def test() -> None:
        async with running() as (api, client):
            api.put(ROOT, pod("a"))
            api.answers.extend([(500, {}, b"boom"), (403, {}, b"{}")])
            async with informing(client) as (_, journal):
                assert journal.entries == ["+a"]

    on_loop(test)


def test_a_handler_that_raises_disturbs_nobody() -> None:
    async def test() -> None:
        async with running() as (api, client):
            informer = Informer(client, PODS)

            def broken(obj: Any) -> None:
                raise RuntimeError("handler bug")

            informer.add_handler(on_add=broken)
            journal = Journal(informer)
            api.put(ROOT, pod("a"))
            async with asyncio.TaskGroup() as group:
                task = group.create_task(informer.run())
                await informer.wait_synced(5)
                assert journal.entries == ["+a"]
                late = Journal(informer)
                assert late.entries == ["+a"]
                task.cancel()

    on_loop(test)


def test_changing_a_cached_object_is_detected() -> None:
    async def test() -> None:
        async with running() as (api, client):
            api.put(ROOT, pod("a"))
            with pytest.raises(ExceptionGroup) as caught:
                async with informing(client) as (informer, _):
                    cached = informer.store.get("a/a")
                    assert cached is not None
                    cached["metadata"]["labels"]["oops"] = "changed"
                    api.put(ROOT, pod("a"))
                    await asyncio.sleep(5)
            assert caught.group_contains(CacheMutatedError, match="a/a was changed")

    on_loop(test)


def test_a_factory_shares_informers_and_starts_late_ones() -> None:
    async def test() -> None:
        async with running() as (api, client):
            api.put(ROOT, pod("a"))
            api.put("/api/v1/nodes", {"metadata": {"name": "n"}})
            factory = InformerFactory(client)
            pods = factory.informer(PODS)
            assert factory.informer(PODS) is pods
            async with asyncio.TaskGroup() as group:
                task = group.create_task(factory.run())
                await factory.wait_synced(5)
                nodes = factory.informer(NODES)
                assert not factory.synced
                await factory.wait_synced(5)
                assert nodes.store.keys() == ["n"]
                task.cancel()

    on_loop(test)


def test_waiting_names_what_is_missing() -> None:
    async def test() -> None:
        async with running() as (_, client):
            factory = InformerFactory(client)
            factory.informer(PODS)
            with pytest.raises(TimeoutError, match="sync of pods"):
                await factory.wait_synced(0.01)

    on_loop(test)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([], [("a", "1", "5")], ["+a"]),
        ([("a", "1", "5")], [], ["-a"]),
        ([("a", "1", "5")], [("a", "1", "5")], []),
        ([("a", "1", "5")], [("a", "1", "6")], ["~a"]),
        ([("a", "1", "5")], [("a", "2", "6")], ["-a", "+a"]),
        ([("a", "1", "5"), ("b", "2", "5")], [("c", "3", "6"), ("b", "2", "5")], ["-a", "+c"]),
    ],
)
def test_replacing_the_content(before: Any, after: Any, expected: list[str]) -> None:
    store = Store()
    for each in before:
        store.put(stored(*each))
    said = []
    for change in replace(store, [stored(*each) for each in after]):
        sign = "-" if change.new is None else "+" if change.old is None else "~"
        said.append(sign + (change.new or change.old or {})["metadata"]["name"])
    assert said == expected
    assert sorted(store.keys()) == sorted(f"a/{each[0]}" for each in after)


def test_indexes_follow_changes() -> None:
    store = Store()
    store.put(pod("a", app="x"))
    store.add_index("app", lambda obj: [obj["metadata"]["labels"].get("app", "")])
    store.put(pod("b", app="x"))
    assert [key(obj) for obj in store.by_index("app", "x")] == ["a/a", "a/b"]
    store.put(pod("a", app="y"))
    assert [key(obj) for obj in store.by_index("app", "x")] == ["a/b"]
    assert store.index_values("app") == ["x", "y"]
    store.remove("a/b")
    assert store.by_index("app", "x") == []
    with pytest.raises(KeyError):
        store.by_index("unknown", "x")


def test_a_server_that_ends_watches_at_once_is_not_hammered() -> None:
    """Under a clock that stands still, only one watch is opened until the back-off's time passes."""

    async def test() -> None:
        clock = FakeClock()
        async with running() as (api, client):
            api.answers.append((200, {}, {"metadata": {"resourceVersion": "1"}, "items": []}))
            api.answers.extend((200, {}, b"") for _ in range(50))
            informer = Informer(client, PODS, clock=clock, rng=lambda: 0.0)
            async with asyncio.TaskGroup() as group:
                task = group.create_task(informer.run())
                await eventually(lambda: len(api.requests) == 2)
                await asyncio.sleep(0.1)
                assert len(api.requests) == 2
                clock.advance(0.2)
                await eventually(lambda: len(api.requests) == 3)
                task.cancel()

    on_loop(test)
