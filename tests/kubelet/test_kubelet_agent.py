"""The whole agent over an apiserver and a runtime in memory: what users see of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from kubelet.cri.port import ExecResult
from tests.kubeclient.loops import eventually
from tests.kubelet.world import NODE, World


def test_the_node_registers_is_ready_and_beats(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        await world.api.until(lambda: world.condition(NODE, "Ready") == "True")
        node = world.api.objects[NODE]
        assert node["metadata"]["labels"]["kubernetes.io/hostname"] == "worker-0"
        assert {"type": "InternalIP", "address": "10.240.0.20"} in node["status"]["addresses"]
        assert node["status"]["nodeInfo"]["containerRuntimeVersion"] == "fake://1.0.0"
        lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/worker-0"
        await world.api.until(lambda: lease in world.api.objects)
        assert world.api.objects[lease]["spec"]["holderIdentity"] == "worker-0"

    play(scenario)


def test_a_node_without_network_is_not_ready_until_it_has_one(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        world.runtime.network_ready = False
        await world.api.until(lambda: world.condition(NODE, "Ready") == "False")
        conditions = world.api.objects[NODE]["status"]["conditions"]
        text = next(c["message"] for c in conditions if c["type"] == "Ready")
        assert "NetworkReady=false reason:NetworkPluginNotReady" in text
        world.runtime.network_ready = True
        await world.api.until(lambda: world.condition(NODE, "Ready") == "True")

    async def first_without(world: World) -> None:
        await scenario(world)

    play(first_without)


def test_a_pod_lives_and_leaves_nothing_behind(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        volume = {"name": "v", "emptyDir": {}}
        made = await world.pod("p", volumes=[volume])
        uid = made["metadata"]["uid"]
        await world.until_ready("p")
        assert world.status("p")["phase"] == "Running"
        assert (world.root / "pods" / uid / "volumes" / "kubernetes.io~empty-dir" / "v").is_dir()
        await world.api.until(lambda: world.api.events("Started"))
        await world.api.delete_pod("p")
        await world.api.until(lambda: world.api.pod("p") is None)
        while await world.runtime.list_sandboxes():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not (world.root / "pods" / uid).exists()
        await world.api.until(lambda: world.api.events("Killing"))

    play(scenario)


def test_an_ended_pod_is_let_go_once_whatever_news_of_it_comes(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        asked: list[str] = []

        async def finished(pod: Mapping[str, Any]) -> None:
            asked.append(pod["metadata"]["name"])  # and a finalizer keeps the object

        made = await world.pod("p")
        await world.until_ready("p")
        assert world.kubelet is not None
        world.kubelet.finished = finished  # type: ignore[method-assign]
        await world.api.delete_pod("p")
        path = "/api/v1/namespaces/default/pods/p"
        while not asked:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for number in range(3):
            held = world.api.objects[path]
            await world.api.write(
                path, {**held, "metadata": {**held["metadata"], "labels": {"n": str(number)}}}
            )
            store = world.kubelet.pod_informer.store
            while store.get("default/p")["metadata"].get("labels") != {"n": str(number)}:  # type: ignore[index]  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            for _ in range(20):
                await asyncio.sleep(0)
        assert asked == ["p"]
        await world.api.write(path, world.api.objects[path], "DELETED")
        while made["metadata"]["uid"] in world.kubelet.workers.uids():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert not await world.runtime.list_sandboxes()

    play(scenario)


def test_a_pod_that_ends_tells_how(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        for name, code in (("good", 0), ("bad", 4)):
            container = {"name": "c", "image": "busybox:1.36", "command": ["exit", str(code)]}
            await world.pod(name, restartPolicy="Never", containers=[container])
        await world.api.until(lambda: world.status("good").get("phase") == "Succeeded")
        await world.api.until(lambda: world.status("bad").get("phase") == "Failed")
        assert world.container("bad")["state"]["terminated"]["exitCode"] == 4

    play(scenario)


def test_a_pod_that_ended_keeps_its_containers_but_not_its_volumes(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        container = {"name": "c", "image": "busybox:1.36", "command": ["exit", "0"]}
        volumes = [{"name": "v", "emptyDir": {}}]
        made = await world.pod("p", restartPolicy="Never", containers=[container], volumes=volumes)
        await world.api.until(lambda: world.status("p").get("phase") == "Succeeded")
        place = world.root / "pods" / made["metadata"]["uid"]
        await eventually(lambda: not (place / "volumes").exists())
        assert world.runtime._containers, "its logs can be read"

    play(scenario)


def test_a_crash_restarts_once_and_then_waits(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        await world.pod("p", containers=[{"name": "c", "image": "busybox:1.36", "command": ["exit", "1"]}])
        await world.api.until(
            lambda: world.container("p")["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff"
        )
        assert world.container("p")["restartCount"] == 1
        assert world.container("p")["lastState"]["terminated"]["exitCode"] == 1
        await world.api.until(lambda: world.api.events("BackOff"))

    play(scenario)


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        ({"image": "absent:1"}, "ErrImagePull"),
        ({"image": "absent:1", "imagePullPolicy": "Never"}, "ErrImageNeverPull"),
        ({"envFrom": [{"configMapRef": {"name": "none"}}]}, "CreateContainerConfigError"),
    ],
)
def test_a_container_that_cannot_start_says_why(
    play: Callable[..., None], container: dict[str, Any], reason: str
) -> None:
    seen: list[str] = []

    async def scenario(world: World) -> None:
        await world.pod("p", containers=[{"name": "c", "image": "busybox:1.36", **container}])

        def waits() -> bool:
            seen.append(world.container("p")["state"].get("waiting", {}).get("reason", ""))
            return reason in seen

        await world.api.until(waits)
        await world.api.until(lambda: world.api.events("Failed") or world.api.events("ErrImageNeverPull"))

    play(scenario)


def test_an_image_is_pulled_when_absent(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        await world.pod("p", containers=[{"name": "c", "image": "pullable:1"}])
        await world.until_ready("p")
        assert ("pull_image", "pullable:1") in world.runtime.calls

    play(scenario)


def test_a_missing_volume_holds_the_pod_until_it_appears(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        await world.pod("p", volumes=[{"name": "v", "configMap": {"name": "late"}}])
        await world.api.until(lambda: world.api.events("FailedMount"))
        assert not world.living()
        late = {"metadata": {"name": "late", "namespace": "default"}, "data": {"k": "v"}}
        await world.api.write("/api/v1/namespaces/default/configmaps/late", late)
        await world.until_ready("p")

    play(scenario)


def test_a_restarted_kubelet_finds_its_containers_and_kills_what_was_deleted(
    play: Callable[..., None],
) -> None:
    async def scenario(world: World) -> None:
        for name in ("stays", "goes"):
            await world.pod(name)
            await world.until_ready(name)
        before = set(world.living())
        stays = world.container("stays")["containerID"].removeprefix("containerd://")
        await world.kill()
        goes = world.api.objects["/api/v1/namespaces/default/pods/goes"]
        await world.api.write("/api/v1/namespaces/default/pods/goes", goes, "DELETED")
        await world.start()
        while world.living() != [stays]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert stays in before
        assert world.container("stays")["restartCount"] == 0

    play(scenario)


def test_after_a_power_cut_pods_come_back_in_new_sandboxes(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        await world.pod("p")
        await world.until_ready("p")
        await world.kill()
        world.runtime.power_off()
        await world.start()
        await world.api.until(lambda: world.container("p").get("restartCount") == 1)
        await world.until_ready("p")
        (alive,) = [s for s in await world.runtime.list_sandboxes() if s.state == 0]
        assert alive.metadata.attempt == 1

    play(scenario)


def test_a_liveness_probe_restarts(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        answers = iter([ExecResult(b"", b"sick", 1)])
        world.runtime.exec_handler = lambda *_: next(answers, ExecResult(b"", b"", 0))
        probe = {"exec": {"command": ["check"]}, "failureThreshold": 1, "periodSeconds": 1}
        await world.pod("p", containers=[{"name": "c", "image": "busybox:1.36", "livenessProbe": probe}])
        await world.api.until(lambda: world.container("p").get("restartCount") == 1)
        await world.until_ready("p")
        await world.api.until(lambda: world.api.events("Unhealthy"))
        (event,) = world.api.events("Unhealthy")
        assert event["message"] == "Liveness probe failed: sick"

    play(scenario)


def test_what_does_not_fit_is_refused(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        big = {"name": "c", "image": "busybox:1.36", "resources": {"requests": {"cpu": "4000"}}}
        await world.pod("big", containers=[big])
        await world.api.until(lambda: world.status("big").get("phase") == "Failed")
        assert world.status("big")["reason"] == "OutOfcpu"
        assert not await world.runtime.list_sandboxes()

    play(scenario)


def test_readiness_is_asked_for_and_told_until_a_pod_has_ended(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its Service may have nobody else (KEP-1669)."""

    async def scenario(world: World) -> None:
        probe = {"exec": {"command": ["look"]}, "periodSeconds": 1, "failureThreshold": 1}
        container = {"name": "c", "image": "busybox:1.36", "readinessProbe": probe, "startupProbe": probe}
        answers = [0]
        world.runtime.exec_handler = lambda ident, command: ExecResult(b"", b"", answers[-1])
        path, ending, released = "/api/v1/namespaces/default/pods/p", asyncio.Event(), asyncio.Event()
        stop = world.runtime.stop_container

        async def slowly(container_id: str, grace: float) -> None:
            ending.set()
            await released.wait()
            await stop(container_id, grace)

        monkeypatch.setattr(world.runtime, "stop_container", slowly)
        await world.pod("p", containers=[container])
        await world.until_ready("p")
        await world.api.delete_pod("p")
        await ending.wait()
        answers.append(1)
        before = world.api.revision
        await world.api.until(
            lambda: world.api.revision > before and world.condition(path, "Ready") == "False"
        )
        answers.append(0)
        await world.api.until(lambda: world.condition(path, "Ready") == "True")
        released.set()
        await world.api.until(lambda: path not in world.api.objects)

    play(scenario)


def test_deletion_interrupts_a_pod_that_cannot_start(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        await world.pod("p", volumes=[{"name": "v", "secret": {"secretName": "never"}}])
        await world.api.until(lambda: world.api.events("FailedMount"))
        await world.api.delete_pod("p", 0)
        await world.api.until(lambda: world.api.pod("p") is None)

    play(scenario)


def test_a_node_that_was_given_up_says_at_once_that_it_is_back(play: Callable[..., None]) -> None:
    """A kubelet that was stopped for a while finds its Ready condition Unknown, though its own view is the
    same."""

    async def scenario(world: World) -> None:
        await world.api.until(lambda: NODE in world.api.objects and world.condition(NODE, "Ready") == "True")
        assert world.kubelet is not None
        await world.kubelet.node.report()
        for condition in world.api.objects[NODE]["status"]["conditions"]:
            condition.update(status="Unknown", reason="NodeStatusUnknown")
        await world.kubelet.node.report()
        assert world.condition(NODE, "Ready") == "True"
        assert world.condition(NODE, "MemoryPressure") == "False"

    play(scenario)
