"""Lists and watches: versions, paging, selectors, forms."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from apiserver.kinds import SCHEME
from apiserver.rest import message
from apiserver.rest.options import ListOptions
from apiserver.rest.watch import Watcher
from apiserver.storage.memory import MemoryStore
from apiserver.storage.watchcache import PLAIN
from tests.apiserver.harness import CONFIG_MAPS, MEMBERS, Harness, config_map, run

KIND = SCHEME.resource("", "v1", "configmaps")
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


async def fill(api: Harness, count: int) -> None:
    for number in range(count):
        body = config_map(f"m{number:02}")
        body["metadata"]["labels"] = {"parity": "even" if number % 2 == 0 else "odd"}
        await api.ok("POST", CONFIG_MAPS, body)


def names(listing: dict[str, Any]) -> list[str]:
    return [item["metadata"]["name"] for item in listing["items"] if item["metadata"]["name"].startswith("m")]


def test_paging_shows_one_snapshot_whatever_is_written_meanwhile() -> None:
    async def test(api: Harness) -> None:
        await fill(api, 7)
        first = await api.ok("GET", f"{CONFIG_MAPS}?limit=3")
        assert names(first) == ["m00", "m01", "m02"] and first["metadata"]["remainingItemCount"] == 4
        await api.ok("DELETE", f"{CONFIG_MAPS}/m05")
        await api.ok("POST", CONFIG_MAPS, config_map("m03a"))
        seen, token = names(first), first["metadata"]["continue"]
        while token:
            page = await api.ok("GET", f"{CONFIG_MAPS}?limit=3&continue={token}")
            assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
            seen, token = seen + names(page), page["metadata"].get("continue", "")
        assert seen == [f"m{number:02}" for number in range(7)]

    run(test)


def test_a_compacted_token_is_expired_and_comes_with_a_fresh_one() -> None:
    async def test(api: Harness) -> None:
        await fill(api, 4)
        token = (await api.ok("GET", f"{CONFIG_MAPS}?limit=2"))["metadata"]["continue"]
        await api.ok("POST", CONFIG_MAPS, config_map("m09"))
        await api.server.registry.reader.reach("")
        await api.compact()
        status = await api.fails(410, "Expired", "GET", f"{CONFIG_MAPS}?limit=2&continue={token}")
        fresh = status["metadata"]["continue"]
        assert names(await api.ok("GET", f"{CONFIG_MAPS}?continue={fresh}")) == ["m02", "m03", "m09"]
        await api.fails(400, "BadRequest", "GET", f"{CONFIG_MAPS}?continue=nonsense")

    run(test)


def test_selectors() -> None:
    async def test(api: Harness) -> None:
        await fill(api, 4)
        assert names(await api.ok("GET", f"{CONFIG_MAPS}?labelSelector=parity%20in%20(odd)")) == [
            "m01",
            "m03",
        ]
        assert names(await api.ok("GET", f"{CONFIG_MAPS}?fieldSelector=metadata.name%3Dm02")) == ["m02"]
        await api.fails(400, "BadRequest", "GET", f"{CONFIG_MAPS}?fieldSelector=data.x%3D1")
        await api.fails(400, "BadRequest", "GET", f"{CONFIG_MAPS}?labelSelector=a%3D%3D%3Db")

    run(test)


def test_versions_of_a_list() -> None:
    async def test(api: Harness) -> None:
        await fill(api, 2)
        before = (await api.ok("GET", CONFIG_MAPS))["metadata"]["resourceVersion"]
        await api.ok("DELETE", f"{CONFIG_MAPS}/m00")
        await api.server.registry.reader.reach("")
        exact = await api.ok("GET", f"{CONFIG_MAPS}?resourceVersion={before}&resourceVersionMatch=Exact")
        assert names(exact) == ["m00", "m01"]
        assert names(await api.ok("GET", f"{CONFIG_MAPS}?resourceVersion={before}")) == ["m01"]
        bad = f"{CONFIG_MAPS}?resourceVersionMatch=Exact"
        await api.fails(422, "Invalid", "GET", bad)
        await api.fails(422, "Invalid", "GET", f"{CONFIG_MAPS}?resourceVersion=x")

    run(test)


def test_a_version_from_the_future_is_a_retriable_timeout() -> None:
    async def test(api: Harness) -> None:
        status = await api.fails(504, "Timeout", "GET", f"{CONFIG_MAPS}?resourceVersion=999999")
        assert status["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"

    run(test)


def test_forms() -> None:
    async def test(api: Harness) -> None:
        await fill(api, 1)
        table = await api.ok("GET", CONFIG_MAPS, headers={"accept": TABLE})
        assert table["kind"] == "Table" and table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
        partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
        assert (await api.ok("GET", CONFIG_MAPS, headers={"accept": partial}))[
            "kind"
        ] == "PartialObjectMetadataList"
        answer = await api.call("GET", f"{CONFIG_MAPS}/m00", headers={"accept": "application/yaml"})
        assert answer.text.startswith("kind: ConfigMap")
        await api.fails(406, "NotAcceptable", "GET", CONFIG_MAPS, headers={"accept": "image/png"})

    run(test)


async def collect(api: Harness, options: ListOptions, namespace: str = "default") -> list[tuple[str, str]]:
    """All events of a watch that is told to stop as soon as it has nothing left to send."""
    assert KIND is not None
    server = api.server
    watcher = Watcher(
        KIND,
        namespace,
        options,
        PLAIN,
        reader=server.registry.reader,
        cacher=server.cacher,
        watches=server.watches,
    )
    stream = await watcher.start()
    server.watches.stopping = True
    out = []
    async for chunk in stream:
        for line in chunk.splitlines():
            event = orjson.loads(line)
            fields = event["object"].get("metadata", {})
            out.append((event["type"], fields.get("name", event["object"].get("reason", ""))))
    server.watches.stopping = False
    return out


def test_a_watch_resumes_after_any_version_and_follows_its_selector() -> None:
    async def test(api: Harness) -> None:
        start = (await api.ok("GET", CONFIG_MAPS))["metadata"]["resourceVersion"]
        await fill(api, 2)
        merge = {"content-type": "application/merge-patch+json"}
        await api.ok(
            "PATCH", f"{CONFIG_MAPS}/m00", b'{"metadata":{"labels":{"parity":"odd"}}}', headers=merge
        )
        await api.ok(
            "PATCH", f"{CONFIG_MAPS}/m01", b'{"metadata":{"labels":{"parity":"even"}}}', headers=merge
        )
        await api.ok("DELETE", f"{CONFIG_MAPS}/m00")
        await api.server.registry.reader.reach("")
        every = await collect(api, ListOptions(resource_version=start))
        assert every == [
            ("ADDED", "m00"),
            ("ADDED", "m01"),
            ("MODIFIED", "m00"),
            ("MODIFIED", "m01"),
            ("DELETED", "m00"),
        ]
        odd = await collect(api, ListOptions(resource_version=start, label_selector="parity=odd"))
        assert odd == [("ADDED", "m01"), ("ADDED", "m00"), ("DELETED", "m01"), ("DELETED", "m00")]
        assert await collect(api, ListOptions(resource_version=start), "other") == []

    run(test)


def test_initial_events_end_with_a_marked_bookmark() -> None:
    async def test(api: Harness) -> None:
        await fill(api, 2)
        options = ListOptions(bookmarks=True, send_initial_events=True, match="NotOlderThan")
        events = await collect(api, options)
        assert events[:2] == [("ADDED", "m00"), ("ADDED", "m01")] and events[2][0] == "BOOKMARK"

    run(test)


def test_a_watch_from_before_the_window_gets_an_expired_event() -> None:
    async def test(api: Harness) -> None:
        assert KIND is not None
        api.server.cacher.of(KIND).floor = 10**6
        assert await collect(api, ListOptions(resource_version="5")) == [("ERROR", "Expired")]

    run(test)


@pytest.mark.skipif(bool(MEMBERS), reason="it takes the store in memory away")
def test_reads_fail_in_time_when_the_store_is_away_and_the_cache_still_answers() -> None:
    async def test(api: Harness) -> None:
        await fill(api, 1)
        await api.server.registry.reader.reach("")
        assert isinstance(api.store, MemoryStore)
        api.store.available = False
        await api.fails(503, "ServiceUnavailable", "GET", f"{CONFIG_MAPS}/m00")
        await api.fails(503, "ServiceUnavailable", "POST", CONFIG_MAPS, config_map("x"))
        assert names(await api.ok("GET", f"{CONFIG_MAPS}?resourceVersion=0")) == ["m00"]
        api.store.available = True

    run(test)


def test_a_write_outside_the_prefix_does_not_stall_consistent_reads() -> None:
    async def test(api: Harness) -> None:
        await api.write_elsewhere()
        async with asyncio.timeout(1):
            await api.ok("GET", CONFIG_MAPS)

    run(test)


@pytest.mark.parametrize("count", [0, 1, 2, 7, 1000])
def test_a_list_in_pieces_is_the_list(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(message, "PIECE", 50)
    items = [b'{"n":%d}' % number for number in range(count)]
    body = message.Joined(b'{"items":[', items, b"]}")
    pieces = list(body)
    assert b"".join(pieces) == b'{"items":[' + b",".join(items) + b"]}"
    assert len(body) == sum(map(len, pieces))
    assert all(len(piece) < 100 for piece in pieces)


def test_a_large_list_arrives_whole() -> None:
    async def test(api: Harness) -> None:
        for number in range(8):
            await api.ok("POST", CONFIG_MAPS, config_map(f"large-{number}", x="y" * 60_000))
        answer = await api.call("GET", CONFIG_MAPS)
        assert int(answer.headers["content-length"]) == len(answer.content) > message.PIECE
        names = [each["metadata"]["name"] for each in answer.json()["items"]]
        assert [name for name in names if name.startswith("large-")] == [f"large-{n}" for n in range(8)]

    run(test)


def test_the_old_watch_paths_are_watches() -> None:
    """Clients from before `?watch=true` (Ruby's kubeclient, generated ones) ask `/watch/`."""

    async def first(api: Harness, path: str) -> dict[str, Any]:
        async with asyncio.timeout(20), api.client.stream("GET", path) as answer:
            assert answer.status_code == 200
            async for line in answer.aiter_lines():
                event: dict[str, Any] = orjson.loads(line)
                return event
        raise AssertionError("no event")

    async def test(api: Harness) -> None:
        await fill(api, 2)
        old = CONFIG_MAPS.replace("/api/v1/", "/api/v1/watch/")
        for path in (
            f"{old}/m01",
            f"{old}/m01?fieldSelector=metadata.name%3Dm01",
            f"{old}?labelSelector=parity=odd",
        ):
            event = await first(api, path + ("&" if "?" in path else "?") + "timeoutSeconds=2")
            assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "m01"), path
        everywhere = await first(api, "/api/v1/watch/namespaces/default?timeoutSeconds=2")
        assert everywhere["object"]["kind"] == "Namespace"
        await api.fails(400, "BadRequest", "GET", f"{old}/m01?fieldSelector=metadata.name%3Dm00")
        await api.fails(403, "Forbidden", "GET", f"{old}/m01", user="nobody")
        await api.fails(404, "NotFound", "GET", "/api/v1/watch/nothings")

    run(test)
