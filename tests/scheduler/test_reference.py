"""Random clusters: the columns and the one-node-at-a-time reference must agree on every node and every
reason.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from scheduler.columns import Columns
from scheduler.config import default_profile
from scheduler.core import decide, explain
from scheduler.plugins.balanced_allocation import BalancedAllocation
from scheduler.plugins.resources_fit import ResourcesFit
from scheduler.podinfo import compile_pod
from tests.scheduler import reference
from tests.scheduler.objects import node, pod

Object = dict[str, Any]
ZONES, APPS, TIERS = ("z1", "z2", "z3"), ("web", "db", "cache"), ("1", "5", "9", "x")
KEYS = ("zone", "kubernetes.io/hostname")


def random_node(rng: random.Random, index: int) -> Object:
    labels = {}
    if rng.random() < 0.85:
        labels["zone"] = rng.choice(ZONES)
    if rng.random() < 0.6:
        labels["tier"] = rng.choice(TIERS)
    taints = []
    if rng.random() < 0.25:
        effect = rng.choice(("NoSchedule", "NoExecute", "PreferNoSchedule"))
        taints.append({"key": "dedicated", "value": rng.choice(APPS), "effect": effect})
    return node(
        f"n{index}",
        cpu=rng.choice(("1", "2", "4500m")),
        memory=rng.choice(("1Gi", "2Gi", "1500M")),
        pods=rng.choice(("3", "110")),
        labels=labels,
        taints=taints,
        unschedulable=rng.random() < 0.1,
    )


def random_selector(rng: random.Random) -> Object:
    if rng.random() < 0.7:
        return {"matchLabels": {"app": rng.choice(APPS)}}
    operator = rng.choice(("In", "NotIn", "Exists", "DoesNotExist"))
    values = rng.sample(APPS, 2) if operator in ("In", "NotIn") else []
    return {"matchExpressions": [{"key": "app", "operator": operator, "values": values}]}


def random_pod_term(rng: random.Random) -> Object:
    term: Object = {"topologyKey": rng.choice(KEYS), "labelSelector": random_selector(rng)}
    if rng.random() < 0.3:
        term["namespaceSelector"] = {}
    elif rng.random() < 0.3:
        term["namespaces"] = ["other"]
    return term


def random_affinity(rng: random.Random) -> Object:
    affinity: Object = {}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    if rng.random() < 0.3:
        operator = rng.choice(("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"))
        key = "tier" if operator in ("Gt", "Lt") else "zone"
        values = {"In": ["z1", "z2"], "NotIn": ["z1"], "Gt": ["4"], "Lt": ["6"]}.get(operator, [])
        terms = [{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]
        if rng.random() < 0.4:
            terms.append({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n0"]}]})
        affinity["nodeAffinity"] = {required: {"nodeSelectorTerms": terms}}
    if rng.random() < 0.3:
        affinity["podAffinity"] = {required: [random_pod_term(rng) for _ in range(rng.choice((1, 1, 2)))]}
    if rng.random() < 0.4:
        affinity["podAntiAffinity"] = {required: [random_pod_term(rng)]}
    return affinity


def random_pod(rng: random.Random, name: str, node_name: str = "") -> Object:
    spec: Object = {"affinity": random_affinity(rng)}
    if rng.random() < 0.3:
        spec["tolerations"] = [{"key": "dedicated", "operator": "Equal", "value": rng.choice(APPS)}]
    if rng.random() < 0.1:
        spec["tolerations"] = [{"operator": "Exists"}]
    if rng.random() < 0.2:
        spec["nodeSelector"] = {"zone": rng.choice(ZONES)}
    if rng.random() < 0.4:
        spec["topologySpreadConstraints"] = [
            {
                "maxSkew": rng.choice((1, 2)),
                "topologyKey": rng.choice(KEYS),
                "whenUnsatisfiable": rng.choice(("DoNotSchedule", "ScheduleAnyway")),
                "labelSelector": random_selector(rng),
            }
            for _ in range(rng.choice((1, 2)))
        ]
    return pod(
        name,
        namespace=rng.choice(("default", "other")),
        cpu=rng.choice((None, "100m", "700m")),
        memory=rng.choice((None, "64Mi", "600Mi")),
        labels={"app": rng.choice(APPS)} if rng.random() < 0.9 else {},
        node_name=node_name,
        ports=[rng.choice((80, 443))] if rng.random() < 0.2 else None,
        **spec,
    )


def build(rng: random.Random) -> tuple[Columns, reference.World]:
    nodes = [random_node(rng, i) for i in range(rng.randrange(1, 24))]
    placed = [
        random_pod(rng, f"p{i}", rng.choice(nodes)["metadata"]["name"]) for i in range(rng.randrange(0, 30))
    ]
    columns = Columns()
    # Churn: rows that were used and freed, pods that came before their node, nodes that changed.
    columns.set_node(node("gone", labels={"zone": "z1"}))
    columns.add_pod(compile_pod(pod("was", node_name="gone", labels={"app": "web"})), "gone")
    late = nodes[0]
    for each in nodes[1:]:
        columns.set_node(node(each["metadata"]["name"], labels={"zone": "z3", "old": "yes"}))
        columns.set_node(each)
    for each in placed:
        columns.add_pod(compile_pod(each), each["spec"]["nodeName"])
    columns.set_node(late)
    columns.remove_node("gone")
    return columns, reference.World(nodes, placed)


@pytest.mark.parametrize("block", range(10))
def test_columns_agree_with_the_reference(block: int) -> None:
    profile = default_profile()
    for seed in range(block * 40, block * 40 + 40):
        rng = random.Random(seed)
        columns, world = build(rng)
        for attempt in range(3):
            wanted = random_pod(rng, f"new{attempt}")
            decision, explanation = explain(profile, compile_pod(wanted), columns, rng)
            verdicts = {
                each["metadata"]["name"]: reference.filter_node(wanted, each, world) for each in world.nodes
            }
            ours = {
                name: sorted(explanation.reasons.get(row, ())) for row, name in explanation.node_names.items()
            }
            assert ours == {name: sorted(reasons) for name, reasons in verdicts.items()}, f"seed {seed}"
            feasible = {name for name, reasons in verdicts.items() if not reasons}
            assert (decision.node in feasible) if feasible else decision.node is None, f"seed {seed}"


def test_resource_scores_agree_with_the_reference() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        columns, world = build(rng)
        wanted = random_pod(rng, "new")
        rows = columns.live_rows()
        info = compile_pod(wanted)
        by_name = {each["metadata"]["name"]: each for each in world.nodes}
        nodes = [by_name[columns.names[row]] for row in rows.tolist()]
        least = ResourcesFit().score(info, columns, rows)
        assert least is not None
        assert least.tolist() == [reference.least_allocated(wanted, each, world) for each in nodes], seed
        even = BalancedAllocation().score(info, columns, rows)
        if even is not None:
            assert even.tolist() == [reference.balanced(wanted, each, world) for each in nodes], seed


def test_removing_everything_leaves_the_columns_empty() -> None:
    for seed in range(50):
        columns, world = build(random.Random(seed))
        for pods in world.on.values():
            for each in pods:
                columns.remove_pod(f"{each['metadata']['namespace']}/{each['metadata']['name']}")
        assert not columns.requested.any()
        assert not columns.scoring.any()
        assert not columns.anti_affinity
        assert not columns.weighted_terms
        assert not columns.pods
        assert all(not used for used in columns.ports.values())


def test_equal_nodes_share_the_load() -> None:
    columns = Columns()
    for index in range(4):
        columns.set_node(node(f"n{index}"))
    rng = random.Random(7)
    chosen = [decide(default_profile(), compile_pod(pod("p")), columns, rng).node for _ in range(400)]
    shares = np.unique(np.array(chosen), return_counts=True)[1]
    assert len(shares) == 4
    assert shares.min() > 60


def test_the_message_counts_every_node() -> None:
    columns = Columns()
    columns.set_node(node("a", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}]))
    columns.set_node(node("b", cpu="1"))
    columns.set_node(node("c", cpu="1", unschedulable=True))
    decision = decide(default_profile(), compile_pod(pod("p", cpu="2")), columns, random.Random(1))
    assert decision.message == (
        "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {k: v}, "
        "1 node(s) were unschedulable."
    )


def test_no_nodes_at_all() -> None:
    decision = decide(default_profile(), compile_pod(pod("p")), Columns(), random.Random(1))
    assert decision.message == "0/0 nodes are available."
