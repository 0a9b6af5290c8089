"""A node that fills: which images and pods go, in which order, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubelet import agent
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
    rank,
    sentence,
    storage_excess,
)
from kubelet.node.imagegc import ImageLedger, Policy, excess
from kubelet.node.machine import Free, Machine, free
from kubelet.pods.sysctls import forbidden_sysctl
from kubelet.server.stats import exposition
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
    ],
)
def test_thresholds(left: Free, signals: list[str]) -> None:
    assert [found.signal for found in crossed(DEFAULT_HARD, MACHINE, left)] == signals


def test_a_condition_outlives_its_cause_by_the_transition_period() -> None:
    pressures = Pressures(300)
    low = Crossed("memory.available", "100Mi", 1)
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
        name: Usage(memory=size << 20)
        for name, size in {"within": 90, "small": 5, "large": 50, "important": 70, "static": 500}.items()
    }
    order = [found["metadata"]["name"] for found in rank(pods, usage, "memory")]
    assert order == ["large", "small", "important", "within"]


def test_the_sentence_names_who_used_too_much() -> None:
    text = sentence(
        Crossed("memory.available", "100Mi", 50 << 20), named("p"), Usage(1 << 20, 0, {"c": 1 << 20})
    )
    assert text == (
        "The node was low on resource: memory. Threshold quantity: 100Mi, available: 51200Ki. "
        "Container c was using 1024Ki, request is 0, has larger consumption of memory. "
    )


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


def test_how_much_to_remove() -> None:
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
        assert "Container g was using 51200Ki" in world.status("greedy")["message"]
        path = "/api/v1/namespaces/default/pods/greedy"
        assert world.condition(path, "DisruptionTarget") == "True"
        await world.api.until(lambda: len(world.living()) == 1)
        await world.kubelet.node.report()
        assert world.condition(NODE, "MemoryPressure") == "True"
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
        assert 'EmptyDir volume "v" exceeds the limit "64Ki"' in world.status("p")["message"]

    play(scenario)
