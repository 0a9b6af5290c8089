"""What changes while a pod runs, and what keeps it from running: told truly and acted on at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from kubelet.cri.pb import api_pb2 as pb
from kubelet.pods.spec import about_container, field_path
from tests.kubelet.builders import EXITED, RUNNING, container, pod, sandbox, seen
from tests.kubelet.test_kubelet_plan import plan
from tests.kubelet.world import World

POD = "/api/v1/namespaces/default/pods/p"


def waiting(world: World) -> str:
    return str(world.container("p")["state"].get("waiting", {}).get("reason", ""))


async def edit(world: World, **spec: Any) -> None:
    held = world.api.objects[POD]
    await world.api.write(POD, {**held, "spec": {**held["spec"], **spec}})


def test_a_failed_pull_stays_said_whatever_wakes_the_worker(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        await world.pod("p", containers=[{"name": "c", "image": "absent:1"}])
        await world.api.until(lambda: waiting(world) == "ErrImagePull")
        for number in range(20):
            await edit(world, terminationGracePeriodSeconds=number)
            await asyncio.sleep(0.01)
        assert waiting(world) == "ErrImagePull"
        assert world.runtime.calls.count(("pull_image", "absent:1")) == 1
        await world.api.until(lambda: waiting(world) == "ImagePullBackOff")
        assert world.runtime.calls.count(("pull_image", "absent:1")) == 1

    play(scenario)


def test_another_image_is_tried_without_waiting(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        await world.pod("p", containers=[{"name": "c", "image": "absent:1"}])
        await world.api.until(lambda: waiting(world) == "ErrImagePull")
        await edit(world, containers=[{"name": "c", "image": "pullable:1"}])
        await world.until_ready("p")

    play(scenario)


def test_a_changed_configmap_reaches_the_running_pod_at_once(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        path = "/api/v1/namespaces/default/configmaps/settings"
        settings = {"metadata": {"name": "settings", "namespace": "default"}, "data": {"k": "old"}}
        await world.api.write(path, settings)
        made = await world.pod("p", volumes=[{"name": "v", "configMap": {"name": "settings"}}])
        await world.until_ready("p")
        file = world.root / "pods" / made["metadata"]["uid"] / "volumes/kubernetes.io~configmap/v/k"
        assert file.read_text() == "old"
        await world.api.write(path, {**world.api.objects[path], "data": {"k": "new"}})
        async with asyncio.timeout(1):
            while file.read_text() != "new":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert world.kubelet is not None
        await world.api.delete_pod("p", 0)
        await world.api.until(lambda: world.api.pod("p") is None)
        while "p" in str(world.kubelet.workers.uids()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    play(scenario)


def test_an_environment_waits_for_its_secret_and_no_longer(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        wanted = [{"secretRef": {"name": "late"}}]
        await world.pod("p", containers=[{"name": "c", "image": "busybox:1.36", "envFrom": wanted}])
        await world.api.until(lambda: waiting(world) == "CreateContainerConfigError")
        late = {"metadata": {"name": "late", "namespace": "default"}, "data": {"K": "dg=="}}
        await world.api.write("/api/v1/namespaces/default/secrets/late", late)
        await world.until_ready("p")

    play(scenario)


def test_a_runtime_class_is_looked_up(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        await world.pod("p", runtimeClassName="fast")
        await world.api.until(lambda: world.api.events("FailedCreatePodSandBox"))
        (event,) = world.api.events("FailedCreatePodSandBox")
        assert 'RuntimeClass "fast" not found' in event["message"]
        assert event["source"] == {"component": "kubelet", "host": "worker-0"}
        fast = {"metadata": {"name": "fast"}, "handler": "crun"}
        await world.api.write("/apis/node.k8s.io/v1/runtimeclasses/fast", fast)
        await world.until_ready("p")
        (made,) = await world.runtime.list_sandboxes()
        assert (await world.runtime.sandbox_status(made.id)).status.runtime_handler == "crun"

    play(scenario)


def test_events_name_the_container() -> None:
    spec = {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}], "ephemeralContainers": []}
    assert field_path(spec, "c") == "spec.containers{c}"
    assert field_path(spec, "i") == "spec.initContainers{i}"
    assert field_path(spec, "other") == ""
    assert about_container({"spec": spec, "kind": "Pod"}, "c")["fieldPath"] == "spec.containers{c}"


def test_an_ephemeral_container_starts_once_beside_the_others() -> None:
    debugged = pod(ephemeralContainers=[container("debug")])
    actions = plan(debugged, sandbox(), seen())
    assert [start.name for start in actions.start] == ["debug"]
    assert plan(debugged, sandbox(), seen(), seen("debug", RUNNING)).nothing
    assert plan(debugged, sandbox(), seen(), seen("debug", EXITED, code=1)).nothing


def test_a_debugger_sees_the_processes_of_its_target(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        await world.pod("p")
        await world.until_ready("p")
        debug = {"name": "debug", "image": "busybox:1.36", "targetContainerName": "c"}
        await edit(world, ephemeralContainers=[debug])

        def state() -> dict[str, Any]:
            held = world.status("p").get("ephemeralContainerStatuses") or [{"state": {}}]
            return dict(held[0]["state"])

        await world.api.until(lambda: "running" in state())
        target = world.container("p")["containerID"].removeprefix("containerd://")
        made = next(c.id for c in await world.runtime.list_containers() if c.metadata.name == "debug")
        options = world.runtime.config_of(made).linux.security_context.namespace_options
        assert (options.pid, options.target_id) == (pb.TARGET, target)
        world.runtime.exit_container(made, 3)
        await world.api.until(lambda: state().get("terminated", {}).get("exitCode") == 3)
        await world.until_ready("p")
        assert world.runtime.calls.count(("create_container", "debug")) == 1

    play(scenario)


def resources(cpu: str, memory: str = "64Mi") -> dict[str, Any]:
    return {"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": cpu, "memory": memory}}


def sized(cpu: str, **fields: Any) -> dict[str, Any]:
    return {"name": "c", "image": "busybox:1.36", "resources": resources(cpu), **fields}


def test_a_pod_is_resized_in_place_and_remembers_it(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        await world.pod("p", containers=[sized("100m")])
        await world.until_ready("p")
        assert world.container("p")["resources"] == resources("100m")
        await edit(world, containers=[sized("200m")])
        await world.api.until(lambda: world.container("p")["resources"] == resources("200m"))
        (made,) = world.living()
        assert world.runtime.config_of(made).linux.resources.cpu_quota == 20_000
        assert world.container("p")["restartCount"] == 0
        await world.kill()
        await world.start()
        await world.api.until(lambda: world.kubelet is not None and world.kubelet.workers.uids())
        await asyncio.sleep(0.1)
        assert world.runtime.calls.count(("update_container", "c")) == 1

    play(scenario)


def test_a_resize_restarts_where_the_policy_says_so(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        policy = [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]
        await world.pod("p", containers=[sized("100m", resizePolicy=policy)])
        await world.until_ready("p")
        await edit(world, containers=[sized("200m", resizePolicy=policy)])
        await world.api.until(lambda: world.container("p")["restartCount"] == 1)
        await world.api.until(lambda: world.container("p").get("resources") == resources("200m"))

    play(scenario)


def test_a_resize_beyond_the_node_waits_and_says_so(play: Callable[..., None]) -> None:
    async def scenario(world: World) -> None:
        await world.pod("p", containers=[sized("100m")])
        await world.until_ready("p")
        await edit(world, containers=[sized("4000")])
        await world.api.until(lambda: world.condition(POD, "PodResizePending") == "True")
        assert world.container("p")["resources"] == resources("100m")
        await edit(world, containers=[sized("100m")])
        await world.api.until(lambda: world.condition(POD, "PodResizePending") == "")

    play(scenario)
