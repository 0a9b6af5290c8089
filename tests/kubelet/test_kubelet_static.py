"""Static pods: the directory decides, the API shows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kubelet.pods.static import CONFIG_MIRROR, ManifestError, static_pod
from tests.kubelet.world import World

MANIFEST = """
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: kube-system}
spec: {containers: [{name: c, image: "busybox:1.36"}], terminationGracePeriodSeconds: 1}
"""
PATH = "/api/v1/namespaces/kube-system/pods/web-worker-0"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("kind: Deployment", "expected a Pod"),
        ("{", "not YAML"),
        ("{apiVersion: v1, kind: Pod, metadata: {name: x}, spec: {}}", "containers"),
        (MANIFEST.replace("containers:", "serviceAccountName: x, containers:"), "service accounts"),
        (MANIFEST.replace("containers:", "volumes: [{name: v, secret: {}}], containers:"), "secret"),
    ],
)
def test_what_is_no_static_pod(content: str, complaint: str) -> None:
    with pytest.raises(ManifestError, match=complaint):
        static_pod(content.encode(), "web.yaml", "worker-0")


def test_a_file_is_one_pod_for_ever_and_another_when_it_changes() -> None:
    first = static_pod(MANIFEST.encode(), "web.yaml", "worker-0")
    assert first == static_pod(MANIFEST.encode(), "web.yaml", "worker-0")
    assert first["metadata"]["name"] == "web-worker-0"
    changed = static_pod((MANIFEST + "#").encode(), "web.yaml", "worker-0")
    assert changed["metadata"]["uid"] != first["metadata"]["uid"]


def write(world: World, content: str) -> None:
    directory = world.root / "manifests"
    directory.mkdir(exist_ok=True)
    (directory / ".new").write_text(content)
    (directory / ".new").rename(directory / "web.yaml")


def mirror(world: World) -> dict[str, Any]:
    return world.api.objects.get(PATH) or {"metadata": {"annotations": {}}, "status": {}}


def ready(world: World) -> bool:
    return world.condition(PATH, "Ready") == "True"


def test_a_static_pod_runs_is_shown_and_follows_its_file(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        write(world, MANIFEST)
        await world.api.until(lambda: ready(world))
        shown = mirror(world)
        assert shown["metadata"]["ownerReferences"][0]["kind"] == "Node"
        first = world.living()
        await world.api.write(PATH, shown, "DELETED")
        await world.api.until(
            lambda: ready(world) and mirror(world)["metadata"]["uid"] != shown["metadata"]["uid"]
        )
        assert world.living() == first
        write(world, MANIFEST.replace("1}", "2}"))
        wanted = static_pod(MANIFEST.replace("1}", "2}").encode(), "web.yaml", "worker-0")["metadata"]["uid"]
        await world.api.until(
            lambda: ready(world) and mirror(world)["metadata"]["annotations"][CONFIG_MIRROR] == wanted
        )
        assert world.living() != first
        (world.root / "manifests" / "web.yaml").unlink()
        await world.api.until(lambda: PATH not in world.api.objects)
        while world.living():  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    play(scenario)


def test_a_restarted_kubelet_finds_its_static_pods(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        write(world, MANIFEST)
        await world.api.until(lambda: ready(world))
        first = world.living()
        await world.kill()
        await world.start()
        await asyncio.sleep(0.3)
        assert world.living() == first
        assert ready(world)

    play(scenario)
