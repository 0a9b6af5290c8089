"""A node that fills: which images and pods go, in which order, and what is said of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from componentbase.clock import FakeClock
from kubelet import agent
from kubelet.cache import RuntimeCache
from kubelet.cri.fake import FakeRuntime
from kubelet.cri.pb import api_pb2 as pb
from kubelet.node.eviction import (
    DEFAULT_HARD,
    DISK,
    MEMORY,
    Crossed,
    Pressures,
    Usage,
    admits,
    crossed,
    disk_usage,
    rank,
    reclaims_images,
    sentence,
    storage_excess,
)
from kubelet.node.imagegc import ImageLedger, Policy, excess
from kubelet.node.machine import Free, Machine, free
from kubelet.pods import observed
from kubelet.pods.sysctls import forbidden_sysctl
from kubelet.server.stats import exposition, living
from kubelet.upkeep import Upkeep
from tests.kubeclient.loops import eventually
from tests.kubelet.builders import container, pod
from tests.kubelet.world import NODE, World

MACHINE = Machine(2, 1 << 30, 100 << 30, 1000, "", "", "", "", "amd64")
PLENTY = Free(1 << 29, 50 << 30, 500, 100, 30_000, 50 << 30, 100 << 30)


def named(name: str, request: str = "", priority: int = 0, source: str = "api") -> dict[str, Any]:
    asked = {"requests": {"memory": request}} if request else {}
    made = pod(container(resources=asked), priority=priority)
    made["metadata"] = {
        "name": name,
        "namespace": "ns",
        "uid": name,
        "annotations": {"kubernetes.io/config.source": source},
    }
    return made


@pytest.mark.parametrize(
    ("left", "signals"),
    [
        (PLENTY, []),
        (replace(PLENTY, memory=99 << 20), ["memory.available"]),
        (replace(PLENTY, disk=9 << 30), ["nodefs.available"]),
        (replace(PLENTY, inodes=49), ["nodefs.inodesFree"]),
        (replace(PLENTY, image_disk=14 << 30), ["imagefs.available"]),
        (replace(PLENTY, image_disk=0, image_capacity=0), []),
        (replace(PLENTY, image_inodes=4, image_inode_capacity=100), ["imagefs.inodesFree"]),
    ],
)
def test_thresholds(left: Free, signals: list[str]) -> None:
    assert [found.signal for found in crossed(DEFAULT_HARD, MACHINE, left)] == signals


def test_a_condition_outlives_its_cause_by_the_transition_period() -> None:
    pressures = Pressures(300)
    low = Crossed("memory.available", 100 << 20, 1)
    assert pressures.observe([low], 0.0) == {MEMORY}
    assert pressures.observe([], 299.0) == {MEMORY}
    assert pressures.observe([], 300.0) == frozenset()


def test_who_exceeds_its_request_goes_first_then_by_priority_and_excess() -> None:
    pods = [named("within", "100Mi"), named("small"), named("large"), named("important", priority=10)]
    pods += [
        named("static", source="file"),
        named("system", priority=2_000_001_000),
    ]
    usage = {
        name: Usage(size << 20)
        for name, size in {"within": 90, "small": 5, "large": 50, "important": 70, "static": 500}.items()
    }
    order = [found["metadata"]["name"] for found in rank(pods, usage, "memory")]
    assert order == ["large", "small", "important", "within"]


def test_the_sentence_names_who_used_too_much() -> None:
    text = sentence(
        Crossed("memory.available", 100 << 20, 50 << 20), named("p"), Usage(1 << 20, {"c": 1 << 20})
    )
    assert text == (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. "
        "Container c was using 1Mi, request is 0, has larger consumption of memory. "
    )


@pytest.mark.parametrize(
    ("threshold", "text"),
    [
        (Crossed("pid.available", 2000, 7), "pids. Threshold quantity: 2k, available: 7. "),
        (Crossed("nodefs.inodesFree", 500, 49), "inodes. Threshold quantity: 500, available: 49. "),
        (
            Crossed("nodefs.available", 3 << 30, 100_000),
            "ephemeral-storage. Threshold quantity: 3Gi, available: 100000. Container c was using 1Mi, "
            "request is 0, has larger consumption of ephemeral-storage. ",
        ),
    ],
)
def test_amounts_are_shown_in_their_own_units(threshold: Crossed, text: str) -> None:
    said = sentence(threshold, named("p"), Usage(1 << 20, {"c": 1 << 20}))
    assert said == f"The node was low on resource: {text}"


@pytest.mark.parametrize(
    ("signal", "dedicated", "helps"),
    [
        ("nodefs.available", False, True),
        ("nodefs.available", True, False),
        ("imagefs.available", True, True),
        ("imagefs.inodesFree", False, True),
        ("memory.available", False, False),
    ],
)
def test_images_go_only_where_that_makes_room(signal: str, dedicated: bool, helps: bool) -> None:
    assert reclaims_images(Crossed(signal, 2, 1), dedicated) is helps


@pytest.mark.parametrize(
    ("asking", "conditions", "admitted"),
    [
        (named("best-effort"), {MEMORY}, False),
        (named("burstable", "1Mi"), {MEMORY}, True),
        (named("burstable", "1Mi"), {DISK}, False),
        (named("system", priority=2_000_000_000), {DISK}, True),
        (named("best-effort"), set(), True),
    ],
)
def test_admission_under_pressure(asking: dict[str, Any], conditions: set[str], admitted: bool) -> None:
    assert admits(asking, frozenset(conditions)) is admitted


def test_local_storage_limits() -> None:
    limited = container(resources={"limits": {"ephemeral-storage": "1Mi"}})
    made = pod(limited, volumes=[{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}])
    assert storage_excess(made, {"v": 1 << 20}, {}) == ""
    assert 'EmptyDir volume "v" exceeds the limit "1Mi"' in storage_excess(made, {"v": 2 << 20}, {})
    assert "Container c exceeded its local" in storage_excess(made, {}, {"c": 2 << 20})
    assert "total limit of containers" in storage_excess(made, {"v": 1 << 20}, {"c": 1 << 19})


def image(name: str, size: int = 10, **fields: Any) -> pb.Image:
    return pb.Image(id=name, repo_tags=[f"{name}:1"], size=size, **fields)


def test_unused_images_go_the_longest_unused_first_and_no_more_than_needed() -> None:
    ledger = ImageLedger()
    images = [image("a"), image("b"), image("used"), image("pinned", pinned=True), image("reg/pause")]
    ledger.observe(images, {"b:1", "used"}, 0.0)
    ledger.observe(images, {"used"}, 200.0)
    assert ledger.removable(11, Policy(), 200.0) == ["a", "b"]
    assert ledger.removable(10, Policy(), 200.0) == ["a"]
    assert ledger.removable(0, Policy(), 200.0) == []
    ledger.observe([*images, image("young")], {"used"}, 250.0)
    assert "young" not in ledger.removable(1000, Policy(), 250.0)


def test_what_is_there_when_the_kubelet_starts_is_old_enough() -> None:
    ledger = ImageLedger()
    ledger.observe([image("old")], set(), 5.0)
    ledger.observe([image("old"), image("young")], set(), 6.0)
    assert ledger.removable(1000, Policy(), 6.0) == ["old"]


def test_nothing_is_unused_before_it_is_known_what_runs(tmp_path: Path) -> None:
    """A kubelet that starts on a full node knows no container yet: all images look unused then."""

    async def scenario() -> None:
        runtime, clock = FakeRuntime(lambda: 0.0), FakeClock()
        runtime.add_images(["used:1"])
        cache = RuntimeCache(runtime, clock, lambda uid: None, lambda *_: tmp_path)

        def full(root: Path, images: Path | None) -> Free:
            return replace(PLENTY, image_disk=0)

        upkeep = Upkeep(
            *(runtime, cache, clock, MACHINE, tmp_path, cast("Any", None)),
            hard=DEFAULT_HARD,
            hold=1.0,
            images=Policy(),
            tell=lambda reason, message: None,
            measure=full,
        )
        await upkeep.once()
        assert len(runtime.images) == 1 and upkeep.conditions == frozenset()

    asyncio.run(scenario())


def test_how_much_to_remove() -> None:
    assert excess(1000, 0, Policy(high=100, low=80)) == 0, "100 % is never"
    assert excess(1000, 160, Policy()) == 0
    assert excess(1000, 100, Policy()) == 100


def test_sysctls() -> None:
    def asks(name: str, **spec: Any) -> dict[str, Any]:
        return {"securityContext": {"sysctls": [{"name": name, "value": "1"}]}, **spec}

    assert forbidden_sysctl(asks("net.ipv4.tcp_syncookies"), ()) == ""
    assert forbidden_sysctl(asks("kernel.msgmax"), ()) == "kernel.msgmax"
    assert forbidden_sysctl(asks("kernel.msgmax"), ("kernel.msg*",)) == ""
    assert forbidden_sysctl(asks("net.ipv4.tcp_syncookies", hostNetwork=True), ()) != ""


def test_resource_metrics() -> None:
    usage = {
        "cpu": {"time": "1970-01-01T00:00:02Z", "usageCoreNanoSeconds": 1_500_000_000},
        "memory": {"time": "1970-01-01T00:00:02Z", "workingSetBytes": 42},
    }
    reference = {"name": "p", "namespace": "ns", "uid": "u"}
    found = {"node": usage, "pods": [{"podRef": reference, "containers": [{"name": "c", **usage}], **usage}]}
    lines = exposition(found, {("u", "c"): 7.0}).splitlines()
    assert 'container_cpu_usage_seconds_total{container="c",namespace="ns",pod="p"} 1.5 2000' in lines
    assert 'pod_memory_working_set_bytes{namespace="ns",pod="p"} 42 2000' in lines
    assert 'container_start_time_seconds{container="c",namespace="ns",pod="p"} 7.0' in lines
    assert "node_memory_working_set_bytes 42 2000" in lines
    assert "resource_scrape_error 0" in lines


def test_of_containers_by_one_name_the_latest_has_figures_and_one_that_ended_has_none() -> None:
    """Samples without a time and twice the same series are refused by Prometheus."""

    def stats(name: str, timestamp: int, uid: str = "u") -> pb.ContainerStats:
        made = pb.ContainerStats()
        made.attributes.labels.update({observed.POD_UID: uid, observed.CONTAINER_NAME: name})
        made.cpu.timestamp = timestamp
        return made

    found = [
        stats("c", 7),
        stats("c", 9),
        stats("c", 0),
        stats("ended", 0),
        stats("c", 5, "v"),
        stats("x", 3, ""),
    ]
    assert sorted((uid, each.cpu.timestamp) for uid, each in living(found)) == [("u", 9), ("v", 5)]


def test_a_node_short_of_memory_evicts_and_says_so(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "UPKEEP", 0.02)

    async def scenario(world: World) -> None:
        request = {"requests": {"memory": "100Mi"}}
        await world.pod("modest", containers=[{"name": "m", "image": "busybox:1.36", "resources": request}])
        await world.pod("greedy", containers=[{"name": "g", "image": "busybox:1.36"}])
        for name in ("modest", "greedy"):
            await world.until_ready(name)
        assert world.kubelet is not None
        world.runtime.memory["g"] = 50 << 20
        upkeep = world.kubelet.upkeep

        def measure(root: Path, images: Path | None) -> Free:
            return replace(free(root), memory=(50 << 20) if len(world.living()) > 1 else (1 << 29))

        upkeep._measure = measure
        await world.api.until(lambda: world.status("greedy").get("reason") == "Evicted")
        assert "Container g was using 50Mi" in world.status("greedy")["message"]
        path = "/api/v1/namespaces/default/pods/greedy"
        assert world.condition(path, "DisruptionTarget") == "True"
        await world.api.until(lambda: len(world.living()) == 1)
        await world.kubelet.node.report()
        assert world.condition(NODE, "MemoryPressure") == "True"
        await world.api.until(lambda: world.api.events("NodeHasInsufficientMemory"))
        await world.api.until(lambda: world.api.events("EvictionThresholdMet"))
        await world.pod("late")
        await world.api.until(lambda: world.status("late").get("phase") == "Failed")
        assert world.status("modest")["phase"] == "Running"

    play(scenario)


def test_a_volume_beyond_its_limit_ends_its_pod(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "UPKEEP", 0.02)

    async def scenario(world: World) -> None:
        volume = {"name": "v", "emptyDir": {"sizeLimit": "64Ki"}}
        made = await world.pod("p", volumes=[volume])
        await world.until_ready("p")
        place = world.root / "pods" / made["metadata"]["uid"] / "volumes/kubernetes.io~empty-dir/v"
        (place / "big").write_bytes(b"x" * (256 << 10))
        await world.api.until(lambda: world.status("p").get("reason") == "Evicted")
        await eventually(lambda: not place.exists())
        await eventually(lambda: not world.runtime._containers and not world.runtime._sandboxes)
        assert world.status("p")["phase"] == "Failed"
        assert 'EmptyDir volume "v" exceeds the limit "64Ki"' in world.status("p")["message"]

    play(scenario)


def test_unused_images_go_before_pods_and_pods_only_if_that_was_not_enough(
    play: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "UPKEEP", 0.02)

    async def scenario(world: World) -> None:
        await world.pod("first")
        await world.until_ready("first")
        assert world.kubelet is not None
        upkeep = world.kubelet.upkeep

        def with_junk(root: Path, images: Path | None) -> Free:
            junk = "docker.io/library/junk:1" in world.runtime.images
            return replace(free(root), image_disk=1 if junk else 1 << 40, image_capacity=1 << 40)

        world.runtime.add_images(["junk:1"])
        upkeep._ledger.looked = False  # as if the junk had been there at the start
        upkeep._measure = with_junk
        await world.api.until(lambda: "docker.io/library/junk:1" not in world.runtime.images)
        await world.kubelet.node.report()
        assert world.condition(NODE, "DiskPressure") == "True"
        assert world.status("first")["phase"] == "Running"
        upkeep._measure = lambda root, images: replace(free(root), image_disk=1, image_capacity=1 << 40)
        await world.api.until(lambda: world.status("first").get("reason") == "Evicted")
        message = world.status("first")["message"]
        assert message.startswith("The node was low on resource: ephemeral-storage. Threshold quantity: ")

    play(scenario)


@pytest.mark.parametrize(
    ("signal", "dedicated", "total"),
    [("nodefs.available", True, 6), ("imagefs.available", True, 1), ("nodefs.available", False, 7)],
)
def test_usage_is_of_the_file_system_that_is_short(signal: str, dedicated: bool, total: int) -> None:
    found = disk_usage(Crossed(signal, 2, 1), dedicated, {"c": 1}, {"c": 2, "d": 0}, {"v": 4})
    assert found == Usage(total, {"c": 3, "d": 0})
