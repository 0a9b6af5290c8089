"""Random clusters and pods that use everything the plugins look at."""

from __future__ import annotations

import random
from typing import Any

from scheduler.columns import Columns
from scheduler.podinfo import compile_pod
from tests.scheduler import reference
from tests.scheduler.objects import node, pod

Object = dict[str, Any]
ZONES, APPS, TIERS = ("z1", "z2", "z3"), ("web", "db", "cache"), ("1", "5", "9", "x")
KEYS = ("zone", "kubernetes.io/hostname")
NAMESPACES = {"default": {"team": "a"}, "other": {"team": "b"}, "third": {"team": "b"}}
GPU = "example.com/gpu"
HARD = "requiredDuringSchedulingIgnoredDuringExecution"
SOFT = "preferredDuringSchedulingIgnoredDuringExecution"


def random_node(rng: random.Random, index: int) -> Object:
    labels = {}
    if rng.random() < 0.85:
        labels["zone"] = rng.choice(ZONES)
    if rng.random() < 0.6:
        labels["tier"] = rng.choice(TIERS)
    taints = []
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        effect = rng.choice(("NoSchedule", "NoExecute", "PreferNoSchedule", "PreferNoSchedule"))
        taints.append({"key": rng.choice(("dedicated", "b")), "value": rng.choice(APPS), "effect": effect})
    made = node(
        f"n{index}",
        cpu=rng.choice(("1", "2", "4500m")),
        memory=rng.choice(("1Gi", "2Gi", "1500M")),
        pods=rng.choice(("3", "110")),
        labels=labels,
        taints=taints,
        unschedulable=rng.random() < 0.1,
        **({GPU: rng.choice(("1", "4"))} if rng.random() < 0.4 else {}),
    )
    made["status"]["images"] = [
        {"names": [f"{name}:latest", f"reg/{name}:1"], "sizeBytes": size * 1024 * 1024}
        for name, size in (("busybox", 400), ("big", 900), ("side", 60))
        if rng.random() < 0.4
    ]
    return made


def random_selector(rng: random.Random) -> Object | None:
    chance = rng.random()
    if chance < 0.05:
        return None
    if chance < 0.7:
        return {"matchLabels": {"app": rng.choice(APPS)}}
    operator = rng.choice(("In", "NotIn", "Exists", "DoesNotExist"))
    values = rng.sample(APPS, 2) if operator in ("In", "NotIn") else []
    return {"matchExpressions": [{"key": "app", "operator": operator, "values": values}]}


def random_pod_term(rng: random.Random) -> Object:
    term: Object = {"topologyKey": rng.choice(KEYS), "labelSelector": random_selector(rng)}
    chance = rng.random()
    if chance < 0.2:
        term["namespaceSelector"] = {}
    elif chance < 0.35:
        term["namespaceSelector"] = {"matchLabels": {"team": rng.choice("ab")}}
    if rng.random() < 0.25:
        term["namespaces"] = ["other"]
    if term["labelSelector"] is not None and rng.random() < 0.25:
        term[rng.choice(("matchLabelKeys", "mismatchLabelKeys"))] = ["rev"]
    return term


def random_node_term(rng: random.Random) -> Object:
    operator = rng.choice(("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"))
    key = "tier" if operator in ("Gt", "Lt") else "zone"
    values = {"In": ["z1", "z2"], "NotIn": ["z1"], "Gt": ["4"], "Lt": ["6"]}.get(operator, [])
    return {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}


def random_affinity(rng: random.Random) -> Object:
    affinity: Object = {}
    wanted: Object = {}
    if rng.random() < 0.3:
        terms = [random_node_term(rng)]
        if rng.random() < 0.4:
            terms.append({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n0"]}]})
        wanted[HARD] = {"nodeSelectorTerms": terms}
    if rng.random() < 0.3:
        wanted[SOFT] = [
            {"weight": rng.randrange(1, 100), "preference": random_node_term(rng)}
            for _ in range(rng.choice((1, 2)))
        ]
    if wanted:
        affinity["nodeAffinity"] = wanted
    for kind, chance in (("podAffinity", 0.3), ("podAntiAffinity", 0.4)):
        wanted = {}
        if rng.random() < chance:
            wanted[HARD] = [random_pod_term(rng) for _ in range(rng.choice((1, 1, 2)))]
        if rng.random() < chance:
            wanted[SOFT] = [
                {"weight": rng.randrange(1, 100), "podAffinityTerm": random_pod_term(rng)}
                for _ in range(rng.choice((1, 2)))
            ]
        if wanted:
            affinity[kind] = wanted
    return affinity


def random_spread(rng: random.Random) -> Object:
    spread: Object = {
        "maxSkew": rng.choice((1, 2)),
        "topologyKey": rng.choice(KEYS),
        "whenUnsatisfiable": rng.choice(("DoNotSchedule", "ScheduleAnyway")),
        "labelSelector": random_selector(rng),
    }
    if spread["whenUnsatisfiable"] == "DoNotSchedule" and rng.random() < 0.3:
        spread["minDomains"] = rng.choice((1, 2, 4))
    if rng.random() < 0.3:
        spread["nodeAffinityPolicy"] = rng.choice(("Honor", "Ignore"))
    if rng.random() < 0.3:
        spread["nodeTaintsPolicy"] = rng.choice(("Honor", "Ignore"))
    if spread["labelSelector"] is not None and rng.random() < 0.3:
        spread["matchLabelKeys"] = ["rev"]
    return spread


def random_tolerations(rng: random.Random) -> list[Object]:
    if rng.random() < 0.1:
        return [{"operator": "Exists"}]
    out = []
    for _ in range(rng.choice((0, 1, 2))):
        item: Object = {"key": rng.choice(("dedicated", "b")), "operator": rng.choice(("Equal", "Exists"))}
        if item["operator"] == "Equal":
            item["value"] = rng.choice(APPS)
        if rng.random() < 0.5:
            item["effect"] = rng.choice(("NoSchedule", "NoExecute", "PreferNoSchedule"))
        out.append(item)
    return out


def random_container(rng: random.Random, *, init: bool) -> Object:
    requests = {}
    for resource, choices in (
        ("cpu", (None, "100m", "300m")),
        ("memory", (None, "64Mi", "300Mi")),
        (GPU, (None, None, None, "1")),
        ("ephemeral-storage", (None, None, None, "0")),
    ):
        value = rng.choice(choices)
        if value is not None:
            requests[resource] = value
    made: Object = {
        "name": "x",
        "image": rng.choice(("busybox", "reg/big:1", "side:latest", "unknown")),
        "resources": {"requests": requests},
    }
    if init and rng.random() < 0.5:
        made["restartPolicy"] = "Always"
    return made


def random_pod(rng: random.Random, name: str, node_name: str = "") -> Object:
    spec: Object = {"affinity": random_affinity(rng), "tolerations": random_tolerations(rng)}
    if rng.random() < 0.2:
        spec["nodeSelector"] = {"zone": rng.choice(ZONES)}
    if rng.random() < 0.5:
        spec["topologySpreadConstraints"] = [random_spread(rng) for _ in range(rng.choice((1, 2)))]
    if rng.random() < 0.3:
        spec["initContainers"] = [random_container(rng, init=True) for _ in range(rng.choice((1, 3)))]
    if rng.random() < 0.2:
        spec["overhead"] = {"cpu": "50m", "memory": "16Mi"}
    labels = {"app": rng.choice(APPS)} if rng.random() < 0.9 else {}
    if rng.random() < 0.5:
        labels["rev"] = rng.choice(("1", "2"))
    made = pod(
        name,
        namespace=rng.choice(tuple(NAMESPACES)),
        cpu=rng.choice((None, "100m", "700m")),
        memory=rng.choice((None, "64Mi", "600Mi")),
        labels=labels,
        node_name=node_name,
        ports=[rng.choice((80, 443))] if rng.random() < 0.2 else None,
        **spec,
    )
    if rng.random() < 0.3:
        made["spec"]["containers"].append(random_container(rng, init=False))
    if rng.random() < 0.03:
        made["spec"]["resourceClaims"] = [{"name": "gpu", "resourceClaimName": "mine"}]
    made["spec"]["priority"] = rng.choice((0, 0, 0, 5, 100))
    if node_name:
        made["status"]["startTime"] = f"2026-01-01T00:00:{rng.randrange(60):02}Z"
        if rng.random() < 0.1:
            made["metadata"]["deletionTimestamp"] = "2026-01-02T00:00:00Z"
    return made


def build(rng: random.Random) -> tuple[Columns, reference.World]:
    nodes = [random_node(rng, i) for i in range(rng.randrange(1, 24))]
    placed = [
        random_pod(rng, f"p{i}", rng.choice(nodes)["metadata"]["name"]) for i in range(rng.randrange(0, 30))
    ]
    columns = Columns()
    for name, labels in NAMESPACES.items():
        columns.set_namespace_labels(name, labels)
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
    return columns, reference.World(nodes, placed, NAMESPACES)
