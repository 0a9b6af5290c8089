"""The client library against a real apiserver on a real etcd (package etcd-server)."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from apimachinery.errors import StatusError
from kubeclient.events import NORMAL, EventRecorder
from kubeclient.informer import Informer
from kubeclient.leaderelection import LeaderElector
from kubeclient.resources import CONFIGMAPS, EVENTS, LEASES, NAMESPACES, PODS
from kubeclient.rest import APPLY, JSON_PATCH, RestClient, retry_on_conflict
from tests.kubeclient.loops import eventually, on_loop

pytestmark = pytest.mark.skipif(shutil.which("etcd") is None, reason="needs etcd (package etcd-server)")


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    from tests.apiserver import devserver

    with devserver.running(tmp_path_factory.mktemp("devserver"), quiet=True) as server:
        yield server.admin


@contextlib.asynccontextmanager
async def in_namespace(kubeconfig: Path) -> Any:
    name = f"t-{uuid.uuid4().hex[:8]}"
    async with RestClient.from_kubeconfig(kubeconfig, user_agent="test") as client:
        await client.create(NAMESPACES, {"metadata": {"name": name}})
        yield client, name


def config(name: str, namespace: str, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": data,
    }


def test_an_informer_follows_writes(kubeconfig: Path) -> None:
    async def test() -> None:
        async with in_namespace(kubeconfig) as (client, namespace):
            for n in range(5):
                await client.create(CONFIGMAPS, config(f"c{n}", namespace))
            informer = Informer(client, CONFIGMAPS, namespace=namespace)
            seen: list[str] = []
            informer.add_handler(
                lambda obj: seen.append("+" + obj["metadata"]["name"]),
                lambda old, new: seen.append("~" + new["metadata"]["name"]),
                lambda obj: seen.append("-" + obj["metadata"]["name"]),
            )
            async with asyncio.TaskGroup() as group:
                task = group.create_task(informer.run())
                await informer.wait_synced(10)
                assert len([each for each in seen if each.startswith("+c")]) == 5
                del seen[:]
                await client.create(CONFIGMAPS, config("late", namespace))
                await client.patch(CONFIGMAPS, "late", {"data": {"k": "v"}}, namespace)
                await client.delete(CONFIGMAPS, "late", namespace)
                await eventually(
                    lambda: [each for each in seen if "late" in each] == ["+late", "~late", "-late"]
                )
                assert informer.store.get(f"{namespace}/late") is None
                task.cancel()

    on_loop(test)


def test_patches_and_conflicts(kubeconfig: Path) -> None:
    async def test() -> None:
        async with in_namespace(kubeconfig) as (client, namespace):
            made = await client.create(CONFIGMAPS, config("c", namespace, count="0"))
            operation = [{"op": "replace", "path": "/data/count", "value": "1"}]
            await client.patch(CONFIGMAPS, "c", operation, namespace, content_type=JSON_PATCH)
            with pytest.raises(StatusError) as stale:
                await client.update(CONFIGMAPS, made)
            assert (stale.value.code, stale.value.reason) == (409, "Conflict")

            async def increment() -> None:
                current = await client.get(CONFIGMAPS, "c", namespace)
                number = int(current["data"]["count"]) + 1
                await client.update(CONFIGMAPS, {**current, "data": {"count": str(number)}})

            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(retry_on_conflict(increment, attempts=20))
            assert (await client.get(CONFIGMAPS, "c", namespace))["data"] == {"count": "4"}

    on_loop(test)


def test_pages(kubeconfig: Path) -> None:
    async def test() -> None:
        async with in_namespace(kubeconfig) as (client, namespace):
            for n in range(7):
                await client.create(CONFIGMAPS, config(f"c{n}", namespace))
            names: list[str] = []
            token: str | None = None
            while True:
                page = await client.list(CONFIGMAPS, namespace, limit=3, continue_=token)
                names += [each["metadata"]["name"] for each in page["items"]]
                token = page["metadata"].get("continue")
                if not token:
                    break
            assert [name for name in names if name.startswith("c")] == [f"c{n}" for n in range(7)]

    on_loop(test)


def test_an_unknown_name_and_an_invalid_object(kubeconfig: Path) -> None:
    async def test() -> None:
        async with in_namespace(kubeconfig) as (client, namespace):
            with pytest.raises(StatusError, match='pods "nobody" not found') as missing:
                await client.get(PODS, "nobody", namespace)
            assert missing.value.code == 404
            with pytest.raises(StatusError) as invalid:
                await client.create(CONFIGMAPS, config("Not_A_Name", namespace))
            assert invalid.value.code == 422

    on_loop(test)


def test_leader_election_and_events(kubeconfig: Path) -> None:
    async def test() -> None:
        async with in_namespace(kubeconfig) as (client, namespace):
            led: list[str] = []

            async def lead() -> None:
                lease = await client.get(LEASES, "x", namespace)
                led.append(lease["spec"]["holderIdentity"])

            for identity in ("a", "b"):
                elector = LeaderElector(client, namespace=namespace, name="x", identity=identity)
                await elector.run(lead)
            assert led == ["a", "b"]
            recorder = EventRecorder(client, "test")
            about = await client.create(CONFIGMAPS, config("c", namespace))
            async with asyncio.TaskGroup() as group:
                task = group.create_task(recorder.run())
                for _ in range(3):
                    recorder.event(about, NORMAL, "Tested", "it works")
                async with asyncio.timeout(10):
                    while True:
                        found = (await client.list(EVENTS, namespace))["items"]
                        if found and found[0]["count"] == 3:
                            break
                        await asyncio.sleep(0.05)
                task.cancel()
            assert len(found) == 1

    on_loop(test)


def test_server_side_apply_content_type_is_sent(kubeconfig: Path) -> None:
    """Whether the server applies or refuses it by name, it must have understood what was asked."""

    async def test() -> None:
        async with in_namespace(kubeconfig) as (client, namespace):
            try:
                applied = await client.patch(
                    CONFIGMAPS,
                    "c",
                    config("c", namespace, k="v"),
                    namespace,
                    content_type=APPLY,
                    params={"fieldManager": "test"},
                )
            except StatusError as error:
                assert error.code == 415
                assert "apply" in error.message
            else:
                assert applied["data"] == {"k": "v"}

    on_loop(test)
