"""kubernetes_asyncio, lightkube, kr8s, and an operator written with kopf."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.apiserver.clients.conftest import Kubectl
from tests.apiserver.devserver import Running

# The libraries leave sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)


def test_kubernetes_asyncio(server: Running) -> None:
    library: Any = pytest.importorskip("kubernetes_asyncio")

    async def body() -> None:
        configuration = library.client.Configuration()
        await library.config.load_kube_config(str(server.admin), client_configuration=configuration)
        async with library.client.ApiClient(configuration) as client:
            core = library.client.CoreV1Api(client)
            await core.create_namespaced_config_map(
                "default", {"metadata": {"name": "aio"}, "data": {"a": "1"}}
            )
            seen = []
            async with library.watch.Watch() as watch:
                async for event in watch.stream(
                    core.list_namespaced_config_map,
                    "default",
                    field_selector="metadata.name=aio",
                    timeout_seconds=5,
                ):
                    seen.append(event["type"])
                    if event["type"] == "ADDED":
                        await core.delete_namespaced_config_map("aio", "default")
                    else:
                        break
            assert seen == ["ADDED", "DELETED"]

    asyncio.run(body())


def test_lightkube(server: Running, widgets: str) -> None:
    library: Any = pytest.importorskip("lightkube")
    from lightkube.generic_resource import create_namespaced_resource
    from lightkube.models.meta_v1 import ObjectMeta
    from lightkube.resources.core_v1 import ConfigMap

    client = library.Client(
        config=library.KubeConfig.from_file(str(server.admin)), field_manager="lightkube-test"
    )
    client.create(ConfigMap(metadata=ObjectMeta(name="lk", namespace="default"), data={"a": "1"}))
    client.patch(ConfigMap, "lk", {"data": {"b": "2"}}, namespace="default")
    assert client.get(ConfigMap, "lk", namespace="default").data == {"a": "1", "b": "2"}
    applied = ConfigMap(
        apiVersion="v1",
        kind="ConfigMap",
        metadata=ObjectMeta(name="lk", namespace="default"),
        data={"c": "3"},
    )
    assert client.apply(applied).data == {"a": "1", "b": "2", "c": "3"}
    assert "lk" in [item.metadata.name for item in client.list(ConfigMap, namespace="default", chunk_size=1)]
    client.delete(ConfigMap, "lk", namespace="default")
    widget = create_namespaced_resource("clients.example.com", "v1", "Widget", "widgets")
    made = client.create(widget(metadata=ObjectMeta(name="lk", namespace="default"), spec={"size": 1}))
    assert made["spec"]["color"] == "red"
    client.delete(widget, "lk", namespace="default")


def test_kr8s(server: Running, widgets: str) -> None:
    library: Any = pytest.importorskip("kr8s")
    api = library.api(kubeconfig=str(server.admin))
    objects: Any = pytest.importorskip("kr8s.objects")
    found = objects.ConfigMap(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "kr", "namespace": "default"},
            "data": {"a": "1"},
        },
        api=api,
    )
    found.create()
    found.patch({"data": {"b": "2"}})
    found.refresh()
    assert found.data == {"a": "1", "b": "2"}
    found.label(tier="x")
    assert [item.name for item in api.get("configmaps", namespace="default", label_selector="tier=x")] == [
        "kr"
    ]
    found.delete()
    assert not found.exists()


OPERATOR = """
import kopf

@kopf.on.create("clients.example.com", "v1", "widgets")
def created(spec, **_):
    return {"doubled": spec["size"] * 2}

@kopf.on.delete("clients.example.com", "v1", "widgets")
def deleted(name, logger, **_):
    logger.info("cleaned up %s", name)
"""


def test_a_kopf_operator(server: Running, widgets: str, kubectl: Kubectl, tmp_path: Path) -> None:
    pytest.importorskip("kopf")
    script = tmp_path / "widget_operator.py"
    script.write_text(OPERATOR)
    log = tmp_path / "kopf.log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "kopf", "run", "--namespace=default", "--standalone", str(script)]
        environment = {**os.environ, "KUBECONFIG": str(server.admin)}
        operator = subprocess.Popen(command, env=environment, stdout=out, stderr=out, cwd=tmp_path)
    try:
        widget = {"apiVersion": widgets, "kind": "Widget", "metadata": {"name": "kopf"}, "spec": {"size": 4}}
        kubectl("apply", "-f", "-", stdin=json.dumps(widget))
        assert _until(lambda: "created" in _status(kubectl)), log.read_text()
        assert _status(kubectl)["created"] == {"doubled": 8}
        kubectl("delete", "widget", "kopf", "--timeout=20s")
        assert "cleaned up kopf" in log.read_text()
    finally:
        operator.terminate()
        operator.wait(20)


def _status(kubectl: Kubectl) -> Any:
    return json.loads(kubectl("get", "widget", "kopf", "-o", "json")).get("status") or {}


def _until(holds: Any, seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.2)
    return False
