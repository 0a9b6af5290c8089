"""The plugins again, one node and one pod at a time, written from Kubernetes' documentation of each.

Slow and obvious: the oracle against which the columns are checked. Nothing here is shared with `scheduler/`
but the quantity parser.
"""

from __future__ import annotations

import math
from typing import Any

from apimachinery import quantity

Object = dict[str, Any]


def _number(resource: str, text: Any) -> int:
    parsed = quantity.parse(str(text))
    return parsed.milli() if resource == "cpu" else parsed.value()


def requests(pod: Object) -> dict[str, int]:
    total: dict[str, int] = {}
    for container in pod["spec"]["containers"]:
        for resource, text in container.get("resources", {}).get("requests", {}).items():
            total[resource] = total.get(resource, 0) + _number(resource, text)
    return total


def scoring_requests(pod: Object) -> tuple[int, int]:
    cpu = memory = 0
    for container in pod["spec"]["containers"]:
        wanted = container.get("resources", {}).get("requests", {})
        cpu += _number("cpu", wanted["cpu"]) if "cpu" in wanted else 100
        memory += _number("memory", wanted["memory"]) if "memory" in wanted else 200 * 1024 * 1024
    return cpu, memory


def selector_matches(selector: Object | None, labels: dict[str, str]) -> bool:
    if selector is None:
        return False
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    return all(expression_matches(item, labels) for item in selector.get("matchExpressions", []))


def expression_matches(item: Object, labels: dict[str, str]) -> bool:
    key, operator, values = item["key"], item["operator"], item.get("values", [])
    if operator == "In":
        return labels.get(key) in values if key in labels else False
    if operator == "NotIn":
        return labels.get(key) not in values
    if operator == "Exists":
        return key in labels
    if operator == "DoesNotExist":
        return key not in labels
    try:
        have, bound = int(labels[key]), int(values[0])
    except (KeyError, ValueError):
        return False
    return have > bound if operator == "Gt" else have < bound


def term_matches(term: Object, node: Object) -> bool:
    expressions, fields = term.get("matchExpressions", []), term.get("matchFields", [])
    if not expressions and not fields:
        return False
    name = {"metadata.name": node["metadata"]["name"]}
    return all(expression_matches(item, node["metadata"]["labels"]) for item in expressions) and all(
        expression_matches(item, name) for item in fields
    )


def node_affinity(pod: Object, node: Object) -> bool:
    labels = node["metadata"]["labels"]
    if any(labels.get(key) != value for key, value in pod["spec"].get("nodeSelector", {}).items()):
        return False
    required = (
        pod["spec"]
        .get("affinity", {})
        .get("nodeAffinity", {})
        .get("requiredDuringSchedulingIgnoredDuringExecution")
    )
    return required is None or any(term_matches(term, node) for term in required["nodeSelectorTerms"])


def tolerates(pod: Object, taint: Object) -> bool:
    for toleration in pod["spec"].get("tolerations", []):
        if toleration.get("effect") and toleration["effect"] != taint["effect"]:
            continue
        if toleration.get("key") and toleration["key"] != taint["key"]:
            continue
        if toleration.get("operator", "Equal") == "Exists":
            return True
        if toleration.get("key") and toleration.get("value", "") == taint.get("value", ""):
            return True
    return False


def blocking_taint(pod: Object, node: Object) -> Object | None:
    for taint in node["spec"].get("taints", []):
        if taint["effect"] in ("NoSchedule", "NoExecute") and not tolerates(pod, taint):
            found: Object = taint
            return found
    return None


def host_ports(pod: Object) -> set[int]:
    return {
        port["hostPort"]
        for container in pod["spec"]["containers"]
        for port in container.get("ports", [])
        if port.get("hostPort")
    }


class World:
    """Nodes, and the pods that sit on them."""

    def __init__(self, nodes: list[Object], placed: list[Object]) -> None:
        self.nodes = nodes
        self.on = {
            node["metadata"]["name"]: [p for p in placed if p["spec"]["nodeName"] == node["metadata"]["name"]]
            for node in nodes
        }

    def used(self, node: Object, resource: str) -> int:
        return sum(requests(pod).get(resource, 0) for pod in self.on[node["metadata"]["name"]])

    def domain(self, node: Object, key: str) -> list[Object]:
        value = node["metadata"]["labels"].get(key)
        if value is None:
            return []
        return [other for other in self.nodes if other["metadata"]["labels"].get(key) == value]

    def pods_in(self, nodes: list[Object]) -> list[Object]:
        return [pod for node in nodes for pod in self.on[node["metadata"]["name"]]]


def _covers(term: Object, owner: Object, candidate: Object) -> bool:
    namespaces = term.get("namespaces") or [owner["metadata"]["namespace"]]
    if term.get("namespaceSelector") != {} and candidate["metadata"]["namespace"] not in namespaces:
        return False
    return selector_matches(term.get("labelSelector"), candidate["metadata"]["labels"])


def _terms(pod: Object, kind: str) -> list[Object]:
    found: list[Object] = (
        pod["spec"]
        .get("affinity", {})
        .get(kind, {})
        .get("requiredDuringSchedulingIgnoredDuringExecution", [])
    )
    return found


def inter_pod_affinity(pod: Object, node: Object, world: World) -> list[str]:
    near = _terms(pod, "podAffinity")
    if near:
        everyone = world.pods_in(world.nodes)
        exists = any(all(_covers(t, pod, other) for t in near) for other in everyone)
        labelled = all(t["topologyKey"] in node["metadata"]["labels"] for t in near)
        first = not exists and all(_covers(t, pod, pod) for t in near)
        for term in near:
            around = world.pods_in(world.domain(node, term["topologyKey"]))
            if not any(all(_covers(t, pod, other) for t in near) for other in around) and not (
                first and labelled
            ):
                return ["node(s) didn't match pod affinity rules"]
        if not labelled:
            return ["node(s) didn't match pod affinity rules"]
    for term in _terms(pod, "podAntiAffinity"):
        if any(_covers(term, pod, other) for other in world.pods_in(world.domain(node, term["topologyKey"]))):
            return ["node(s) didn't match pod anti-affinity rules"]
    for other_node in world.nodes:
        for other in world.on[other_node["metadata"]["name"]]:
            for term in _terms(other, "podAntiAffinity"):
                shared = node in world.domain(other_node, term["topologyKey"])
                if shared and _covers(term, other, pod):
                    return ["node(s) didn't satisfy existing pods anti-affinity rules"]
    return []


def topology_spread(pod: Object, node: Object, world: World) -> list[str]:
    hard = [
        item
        for item in pod["spec"].get("topologySpreadConstraints", [])
        if item["whenUnsatisfiable"] == "DoNotSchedule"
    ]
    labels = node["metadata"]["labels"]
    if any(item["topologyKey"] not in labels for item in hard):
        return ["node(s) didn't match pod topology spread constraints (missing required label)"]
    for item in hard:
        key = item["topologyKey"]
        eligible = [
            other
            for other in world.nodes
            if all(each["topologyKey"] in other["metadata"]["labels"] for each in hard)
            and node_affinity(pod, other)
        ]
        sums: dict[str, int] = {}
        for other in eligible:
            here = [
                p
                for p in world.on[other["metadata"]["name"]]
                if p["metadata"]["namespace"] == pod["metadata"]["namespace"]
                and selector_matches(item["labelSelector"], p["metadata"]["labels"])
            ]
            value = other["metadata"]["labels"][key]
            sums[value] = sums.get(value, 0) + len(here)
        least = min(sums.values(), default=0)
        if len(sums) < item.get("minDomains", 1):
            least = 0
        itself = int(selector_matches(item["labelSelector"], pod["metadata"]["labels"]))
        if sums.get(labels[key], 0) + itself - least > item["maxSkew"]:
            return ["node(s) didn't match pod topology spread constraints"]
    return []


def filter_node(pod: Object, node: Object, world: World) -> list[str]:
    """Why the pod cannot go to the node, by the first plugin that says no; empty if it can."""
    if node["spec"].get("unschedulable"):
        taint = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
        if not tolerates(pod, taint):
            return ["node(s) were unschedulable"]
    if pod["spec"].get("nodeName") and pod["spec"]["nodeName"] != node["metadata"]["name"]:
        return ["node(s) didn't match the requested node name"]
    taint_found = blocking_taint(pod, node)
    if taint_found is not None:
        return [f"node(s) had untolerated taint {{{taint_found['key']}: {taint_found.get('value', '')}}}"]
    if not node_affinity(pod, node):
        return ["node(s) didn't match Pod's node affinity/selector"]
    here = world.on[node["metadata"]["name"]]
    if any(host_ports(pod) & host_ports(other) for other in here):
        return ["node(s) didn't have free ports for the requested pod ports"]
    short: list[str] = []
    if len(here) + 1 > _number("pods", node["status"]["allocatable"]["pods"]):
        short.append("Too many pods")
    for resource, wanted in requests(pod).items():
        have = _number(resource, node["status"]["allocatable"].get(resource, "0"))
        if wanted and world.used(node, resource) + wanted > have:
            short.append(f"Insufficient {resource}")
    if short:
        return short
    return topology_spread(pod, node, world) or inter_pod_affinity(pod, node, world)


def least_allocated(pod: Object, node: Object, world: World) -> int:
    here = [*world.on[node["metadata"]["name"]], pod]
    scores = []
    for index, resource in enumerate(("cpu", "memory")):
        total = _number(resource, node["status"]["allocatable"][resource])
        if total:
            used = sum(scoring_requests(each)[index] for each in here)
            scores.append(max(total - used, 0) * 100 // total)
    return sum(scores) // max(len(scores), 1)


def balanced(pod: Object, node: Object, world: World) -> int:
    shares = []
    for resource in ("cpu", "memory"):
        total = _number(resource, node["status"]["allocatable"][resource])
        if total:
            used = world.used(node, resource) + requests(pod).get(resource, 0)
            shares.append(min(used / total, 1.0))
    deviation = abs(shares[0] - shares[1]) / 2 if len(shares) == 2 else 0.0
    return math.floor((1 - deviation) * 100)
