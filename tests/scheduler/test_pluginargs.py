"""Plugin arguments: what they change, and what is refused by name."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from scheduler.columns import Columns
from scheduler.config import API_VERSION, ConfigError, parse
from scheduler.core import decide, explain
from scheduler.framework import Profile
from scheduler.plugins.resources_fit import RequestedToCapacityRatio
from scheduler.podinfo import compile_pod
from tests.scheduler.objects import node, pod

GPU = "example.com/gpu"


def profile(name: str, **args: Any) -> Profile:
    config = [{"name": name, "args": args}]
    document = {"apiVersion": API_VERSION, "kind": "KubeSchedulerConfiguration"}
    return parse({**document, "profiles": [{"pluginConfig": config}]}).profiles[0]


def nodes() -> Columns:
    """`full` is half used, `empty` is not; both have gpus."""
    columns = Columns()
    for name in ("full", "empty"):
        columns.set_node(node(name, cpu="4", memory="8Gi", labels={"zone": name}, **{GPU: "4"}))
    columns.add_pod(compile_pod(pod("x", cpu="2", memory="4Gi", node_name="full")), "full")
    return columns


def scores(made: Profile, plugin: str, **wanted: Any) -> dict[str, float]:
    columns = nodes()
    _, explanation = explain(made, compile_pod(pod("p", **wanted)), columns, random.Random(1))
    found = explanation.scores.get(plugin, {})
    return {explanation.node_names[row]: score for row, score in found.items()}


def strategy(kind: str, **more: Any) -> Profile:
    return profile("NodeResourcesFit", scoringStrategy={"type": kind, **more})


def test_least_and_most_allocated_are_opposites() -> None:
    wanted = {"cpu": "1", "memory": "2Gi"}
    assert scores(strategy("LeastAllocated"), "NodeResourcesFit", **wanted) == {"full": 25, "empty": 75}
    assert scores(strategy("MostAllocated"), "NodeResourcesFit", **wanted) == {"full": 75, "empty": 25}


def test_resources_are_weighed() -> None:
    made = strategy("MostAllocated", resources=[{"name": "cpu", "weight": 3}, {"name": "memory"}])
    assert scores(made, "NodeResourcesFit", cpu="2", memory="4Gi") == {"full": 100, "empty": 50}
    assert scores(made, "NodeResourcesFit", cpu="2", memory="0") == {"full": 87, "empty": 37}


@pytest.mark.parametrize(("used", "score"), [(0, 0), (25, 50), (50, 100), (75, 50), (100, 0), (150, 0)])
def test_the_shape_is_a_broken_line(used: int, score: int) -> None:
    line = RequestedToCapacityRatio(((0, 0), (50, 10), (100, 0)))
    assert line(np.array([100]), np.array([used])).tolist() == [score]


def test_ignored_resources_do_not_filter() -> None:
    wanted = compile_pod(pod("p"))
    container = {"image": "x", "resources": {"requests": {"other.io/thing": "1"}}}
    asking = compile_pod(pod("p", containers=[container]))
    rng = random.Random(1)
    assert decide(profile("NodeResourcesFit"), wanted, nodes(), rng).node
    refused = decide(profile("NodeResourcesFit"), asking, nodes(), rng)
    assert refused.message == "0/2 nodes are available: 2 Insufficient other.io/thing."
    assert decide(profile("NodeResourcesFit", ignoredResourceGroups=["other.io"]), asking, nodes(), rng).node
    assert decide(profile("NodeResourcesFit", ignoredResources=["other.io/thing"]), asking, nodes(), rng).node


def test_added_affinity_is_enforced_for_every_pod() -> None:
    term = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["empty"]}]}
    added = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    made = profile("NodeAffinity", addedAffinity=added)
    _, explanation = explain(made, compile_pod(pod("p")), nodes(), random.Random(1))
    assert list(explanation.reasons.values()) == [("node(s) didn't match scheduler-enforced node affinity",)]


def test_hard_pod_affinity_weighs_as_told() -> None:
    friend = {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "p"}}}
    affinity = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [friend]}}
    for weight, expected in ((5, {"full": 200.0, "empty": 0.0}), (0, {})):
        columns = nodes()
        columns.add_pod(compile_pod(pod("f", node_name="full", affinity=affinity)), "full")
        made = profile("InterPodAffinity", hardPodAffinityWeight=weight)
        wanted = compile_pod(pod("p", labels={"app": "p"}))
        _, explanation = explain(made, wanted, columns, random.Random(1))
        found = explanation.scores.get("InterPodAffinity", {})
        assert {columns.names[row]: score for row, score in found.items()} == expected


def owned(name: str, node_name: str = "") -> dict[str, Any]:
    made = pod(name, node_name=node_name, labels={"app": "web"})
    made["metadata"]["ownerReferences"] = [{"kind": "ReplicaSet", "name": "web", "controller": True}]
    return made


def spread_out(made: Profile, *, service: bool = False) -> tuple[str | None, dict[int, float]]:
    columns = nodes()
    if service:
        columns.workloads.set_service(
            {"metadata": {"namespace": "default", "name": "s"}, "spec": {"selector": {"app": "web"}}}
        )
    else:
        owner = {"metadata": {"namespace": "default", "name": "web"}}
        selector = {"selector": {"matchLabels": {"app": "web"}}}
        columns.workloads.set_owner("ReplicaSet", {**owner, "spec": selector})
    columns.add_pod(compile_pod(owned("x1", "empty")), "empty")
    wanted = compile_pod(owned("p"))
    _, explanation = explain(made, wanted, columns, random.Random(1))
    by_node = explanation.scores.get("PodTopologySpread", {})
    return decide(made, wanted, columns, random.Random(1)).node, by_node


@pytest.mark.parametrize("service", [True, False])
def test_pods_of_a_workload_spread_by_default(service: bool) -> None:
    _, rated = spread_out(profile("PodTopologySpread"), service=service)
    full, empty = rated[0], rated[1]
    assert full > empty


def test_default_constraints_may_be_hard_or_absent() -> None:
    rule = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
    hard = profile("PodTopologySpread", defaultingType="List", defaultConstraints=[rule])
    assert spread_out(hard)[0] == "full"
    assert spread_out(profile("PodTopologySpread", defaultingType="List"))[1] == {}


@pytest.mark.parametrize(
    ("name", "args", "named"),
    [
        ("NodePorts", {}, "takes no arguments"),
        ("NodeResourcesFit", {"scoring": {}}, "scoring: not supported"),
        ("NodeResourcesFit", {"scoringStrategy": {"type": "Best"}}, "scoringStrategy.type"),
        (
            "NodeResourcesFit",
            {"scoringStrategy": {"resources": [{"name": "cpu", "weight": 0}]}},
            "scoringStrategy.resources[0].weight",
        ),
        ("NodeResourcesFit", {"scoringStrategy": {"type": "RequestedToCapacityRatio"}}, "shape"),
        ("InterPodAffinity", {"hardPodAffinityWeight": 101}, "hardPodAffinityWeight"),
        ("PodTopologySpread", {"defaultConstraints": [{}]}, "defaultConstraints"),
        ("PodTopologySpread", {"defaultingType": "None"}, "defaultingType"),
        ("DefaultPreemption", {"minCandidateNodesPercentage": -1}, "minCandidateNodesPercentage"),
        ("NodeAffinity", {"addedAffinity": {"required": 1}}, "addedAffinity.required"),
        ("VolumeBinding", {"shape": []}, "shape: not supported"),
        ("DefaultPreemption", {"kind": "OtherArgs"}, "kind"),
    ],
)
def test_what_is_wrong_is_named(name: str, args: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as refused:
        profile(name, **args)
    assert named in str(refused.value)
    assert name in str(refused.value)
