"""The REST client: paths, errors, what is sent again and what is not."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import orjson
import pytest

from apimachinery import errors
from apimachinery.errors import StatusError
from componentbase.clock import FakeClock
from kubeclient import rest, transport
from kubeclient.resources import (
    DEPLOYMENTS,
    ENDPOINTSLICES,
    GVR,
    NAMESPACES,
    NODES,
    PODS,
    key,
    split_key,
)
from kubeclient.rest import ConnectionFailed, RestClient
from kubeclient.transport import NotInCluster, Target, TokenFile
from tests.kubeclient.fakeapi import running
from tests.kubeclient.loops import eventually, on_loop

ROOT = "/api/v1/namespaces/a/pods"


@pytest.mark.parametrize(
    ("gvr", "arguments", "path"),
    [
        (PODS, (), "/api/v1/pods"),
        (PODS, ("a",), "/api/v1/namespaces/a/pods"),
        (PODS, ("a", "x", "log"), "/api/v1/namespaces/a/pods/x/log"),
        (NODES, (None, "n", "status"), "/api/v1/nodes/n/status"),
        (NODES, ("ignored", "n"), "/api/v1/nodes/n"),
        (DEPLOYMENTS, ("a", "d"), "/apis/apps/v1/namespaces/a/deployments/d"),
        (NAMESPACES, (None, "a", "finalize"), "/api/v1/namespaces/a/finalize"),
        (NODES, (None, "system:x"), "/api/v1/nodes/system:x"),
        (NODES, (None, "a b?"), "/api/v1/nodes/a%20b%3F"),
    ],
)
def test_paths(gvr: GVR, arguments: Any, path: str) -> None:
    assert gvr.path(*arguments) == path


@pytest.mark.parametrize(
    "arguments", [(None, "x"), ("a", ""), ("a", None, "log"), ("a", "../x"), ("a", "..")]
)
def test_paths_that_would_lead_elsewhere(arguments: Any) -> None:
    with pytest.raises(ValueError, match=r"pods|path segment"):
        PODS.path(*arguments)


def test_keys() -> None:
    assert key({"metadata": {"name": "x", "namespace": "a"}}) == "a/x"
    assert key({"metadata": {"name": "x"}}) == "x"
    assert (split_key("a/x"), split_key("x")) == (("a", "x"), ("", "x"))
    assert ENDPOINTSLICES.api_version == "discovery.k8s.io/v1"


def test_the_verbs() -> None:
    async def test() -> None:
        async with running() as (api, client):
            made = await client.create(PODS, {"metadata": {"name": "x", "namespace": "a"}})
            assert (await client.get(PODS, "x", "a")) == made
            made["metadata"]["labels"] = {"k": "v"}
            changed = await client.update(PODS, made)
            with pytest.raises(StatusError) as stale:
                await client.update(PODS, made)
            assert errors.is_conflict(stale.value)
            with pytest.raises(StatusError) as twice:
                await client.create(PODS, made)
            assert errors.is_already_exists(twice.value)
            assert changed["metadata"]["labels"] == {"k": "v"}
            await client.patch(PODS, "x", {"status": {"phase": "Running"}}, "a")
            assert (await client.list(PODS))["items"][0]["status"] == {"phase": "Running"}
            await client.delete(PODS, "x", "a", options={"gracePeriodSeconds": 0})
            with pytest.raises(StatusError) as gone:
                await client.get(PODS, "x", "a")
            assert errors.is_not_found(gone.value)
            assert [method for method, _ in api.requests].count("POST") == 2

    on_loop(test)


def test_creating_without_a_namespace_is_refused_here() -> None:
    async def test() -> None:
        async with running() as (api, client):
            with pytest.raises(ValueError, match="creating pods needs a namespace"):
                await client.create(PODS, {"metadata": {"name": "x"}})
            assert api.requests == []

    on_loop(test)


@pytest.mark.parametrize(
    ("method", "answer", "requests"),
    [
        ("GET", (429, {"Retry-After": "1"}), 3),
        ("POST", (429, {"Retry-After": "1"}), 3),
        ("GET", (503, {"Retry-After": "1"}), 3),
        ("POST", (503, {"Retry-After": "1"}), 1),
        ("GET", (500, {}), 1),
        ("GET", (429, {}), 1),
    ],
)
def test_what_is_sent_again(method: str, answer: tuple[int, dict[str, str]], requests: int) -> None:
    async def test() -> None:
        clock = FakeClock()
        async with running() as (api, _):
            api.put(ROOT, {"metadata": {"name": "x", "namespace": "a"}})
            api.answers.extend([(*answer, b"busy")] * 2)
            target = Target(f"http://127.0.0.1:{api.port}")
            async with (
                RestClient(target, clock=clock, rng=lambda: 0.0) as client,
                asyncio.TaskGroup() as group,
            ):
                if method == "GET":
                    call = client.get(PODS, "x", "a")
                else:
                    call = client.create(PODS, {"metadata": {"name": "y", "namespace": "a"}})
                task = group.create_task(_outcome(call))
                for count in range(1, 4):
                    await eventually(lambda: task.done() or clock.sleeping > 0)
                    assert task.done() or len(api.requests) == count
                    clock.advance(1.0)
                outcome = await task
            assert len(api.requests) == requests
            if requests == 1:
                assert isinstance(outcome, StatusError)
                assert outcome.code == answer[0]
            else:
                assert isinstance(outcome, dict)

    on_loop(test)


async def _outcome(call: Any) -> Any:
    try:
        return await call
    except StatusError as error:
        return error


def test_nobody_listens() -> None:
    async def test() -> None:
        async with RestClient(Target("http://127.0.0.1:1"), rng=lambda: 0.0) as client:
            started = time.monotonic()
            with pytest.raises(ConnectionFailed, match=r"GET http://127\.0\.0\.1:1/api/v1/nodes"):
                await client.list(NODES)
            assert time.monotonic() - started < 5

    on_loop(test)


def test_a_write_whose_answer_was_lost_is_not_sent_again() -> None:
    seen: list[bytes] = []

    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n"))
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async def test() -> None:
        server = await asyncio.start_server(rude, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, RestClient(Target(f"http://127.0.0.1:{port}"), rng=lambda: 0.0) as client:
            with pytest.raises(ConnectionFailed):
                await client.create(PODS, {"metadata": {"name": "x", "namespace": "a"}})
            assert len(seen) == 1
            with pytest.raises(ConnectionFailed):
                await client.get(PODS, "x", "a")
            assert len(seen) == 5

    on_loop(test)


@pytest.mark.parametrize(
    ("status", "body", "reason", "message"),
    [
        (403, b"no entry", "Forbidden", "no entry"),
        (404, b"", "NotFound", "the server answered 404"),
        (409, orjson.dumps(errors.conflict("", "pods", "x", "stale").status), "Conflict", "Operation cannot"),
        (500, b"<html>", "InternalError", "<html>"),
        (401, b"{}", "Unauthorized", "{}"),
        (418, b"teapot", "InternalError", "teapot"),
    ],
)
def test_every_failure_becomes_a_status(status: int, body: bytes, reason: str, message: str) -> None:
    async def test() -> None:
        async with running() as (api, client):
            api.answers.append((status, {}, body))
            with pytest.raises(StatusError) as caught:
                await client.get(PODS, "x", "a")
            error = caught.value
            assert (error.code, error.reason) == (status, reason)
            assert message in error.message

    on_loop(test)


def test_a_watch_yields_events_and_ends() -> None:
    async def test() -> None:
        async with running() as (api, client):
            since = str(api.version)
            api.put(ROOT, {"metadata": {"name": "x", "namespace": "a"}})
            events = client.watch(PODS, "a", resource_version=since)
            async with contextlib.aclosing(events):
                first = await anext(events)
                assert (first.type, first.object["metadata"]["name"]) == ("ADDED", "x")
                api.remove(f"{ROOT}/x")
                assert (await anext(events)).type == "DELETED"
                api.cut()
                with pytest.raises(StopAsyncIteration):
                    await anext(events)
            await eventually(lambda: api.watchers == 0)

    on_loop(test)


def test_leaving_a_watch_closes_its_connection() -> None:
    async def test() -> None:
        async with running() as (api, client):
            api.put(ROOT, {"metadata": {"name": "x", "namespace": "a"}})
            async with contextlib.aclosing(client.watch(PODS, resource_version="0")) as events:
                async for _ in events:
                    break
                assert api.watchers == 1
            await eventually(lambda: api.watchers == 0)

    on_loop(test)


def test_a_watch_from_a_compacted_version_is_gone() -> None:
    async def test() -> None:
        async with running() as (api, client):
            api.compact()
            with pytest.raises(StatusError) as caught:
                await anext(client.watch(PODS, resource_version="1"))
            assert errors.is_gone(caught.value)

    on_loop(test)


def test_requests_keep_to_the_rate() -> None:
    async def test() -> None:
        clock = FakeClock()
        async with running() as (api, _):
            target = Target(f"http://127.0.0.1:{api.port}")
            async with (
                RestClient(target, qps=2, burst=2, clock=clock) as client,
                asyncio.TaskGroup() as group,
            ):
                for _ in range(4):
                    group.create_task(client.list(NODES))
                await eventually(lambda: clock.sleeping == 2 and len(api.requests) == 2)
                clock.advance(0.5)
                await eventually(lambda: len(api.requests) == 3)
                clock.advance(0.5)
            assert len(api.requests) == 4

    on_loop(test)


def test_raw_returns_any_answer() -> None:
    async def test() -> None:
        async with running() as (api, client):
            api.answers.append((418, {"X-Tea": "yes"}, b"teapot"))
            answer = await client.raw("POST", "/tea", body=b"x", headers={"Content-Type": "text/plain"})
            assert (answer.status, answer.headers["x-tea"], answer.content) == (418, "yes", b"teapot")

    on_loop(test)


def test_query_encoding() -> None:
    params = {"a": None, "b": True, "c": ["x", "y z"], "d": 5, "e": "1,2"}
    assert rest._encode(params) == b"b=true&c=x&c=y+z&d=5&e=1%2C2"


def test_a_token_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "token"
    now = [0.0]
    token = TokenFile(path, lambda: now[0])
    with pytest.raises(OSError, match="token"):
        token()
    path.write_text("one\n")
    assert token() == "one"
    path.write_text("two\n")
    assert token() == "one"
    now[0] = 61
    assert token() == "two"
    path.unlink()
    now[0] = 130
    assert token() == "two"


def test_outside_a_pod(tmp_path: Path) -> None:
    with pytest.raises(NotInCluster, match="KUBERNETES_SERVICE_HOST"):
        transport.in_cluster(time.monotonic, tmp_path, {})
    environ = {"KUBERNETES_SERVICE_HOST": "10.32.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    with pytest.raises(NotInCluster, match="no usable service account"):
        transport.in_cluster(time.monotonic, tmp_path, environ)
