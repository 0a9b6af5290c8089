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


def _asked(container: Object, scoring: bool) -> dict[str, int]:
    wanted = container.get("resources", {}).get("requests", {})
    out = {resource: _number(resource, text) for resource, text in wanted.items()}
    if scoring:
        out = {"cpu": 100, "memory": 200 * 1024 * 1024} | out
    return out


def _plus(*parts: dict[str, int]) -> dict[str, int]:
    return {name: sum(part.get(name, 0) for part in parts) for name in {n for part in parts for n in part}}


def requests(pod: Object, *, scoring: bool = False) -> dict[str, int]:
    """The highest of: what runs in the end, and every moment of the start; plus the overhead."""
    spec = pod["spec"]
    sidecars: list[dict[str, int]] = []
    moments: list[dict[str, int]] = []
    for container in spec.get("initContainers", []):
        asked = _asked(container, scoring)
        moments.append(_plus(asked, *sidecars))
        if container.get("restartPolicy") == "Always":
            sidecars.append(asked)
    moments.append(_plus(*(_asked(each, scoring) for each in spec["containers"]), *sidecars))
    most = {name: max(moment.get(name, 0) for moment in moments) for name in {n for m in moments for n in m}}
    return _plus(most, {name: _number(name, text) for name, text in spec.get("overhead", {}).items()})


def scoring_requests(pod: Object) -> tuple[int, int]:
    found = requests(pod, scoring=True)
    return found["cpu"], found["memory"]


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

    def __init__(
        self, nodes: list[Object], placed: list[Object], namespaces: dict[str, dict[str, str]] | None = None
    ) -> None:
        self.nodes = nodes
        self.namespaces = namespaces or {}
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


def _with_label_keys(item: Object, owner: Object) -> Object | None:
    """The label selector, with the owner's own values for matchLabelKeys and mismatchLabelKeys."""
    selector = item.get("labelSelector")
    if selector is None:
        return None
    labels = owner["metadata"]["labels"]
    extra = [
        {"key": key, "operator": operator, "values": [labels[key]]}
        for field, operator in (("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn"))
        for key in item.get(field, [])
        if key in labels
    ]
    return {**selector, "matchExpressions": [*selector.get("matchExpressions", []), *extra]}


def _covers(term: Object, owner: Object, candidate: Object, world: World) -> bool:
    namespace = candidate["metadata"]["namespace"]
    named, by_label = term.get("namespaces", []), term.get("namespaceSelector")
    if not named and by_label is None:
        named = [owner["metadata"]["namespace"]]
    if namespace not in named and not selector_matches(by_label, world.namespaces.get(namespace, {})):
        return False
    return selector_matches(_with_label_keys(term, owner), candidate["metadata"]["labels"])


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
    if near and not _near_enough(pod, near, node, world):
        return ["node(s) didn't match pod affinity rules"]
    for term in _terms(pod, "podAntiAffinity"):
        around = world.pods_in(world.domain(node, term["topologyKey"]))
        if any(_covers(term, pod, other, world) for other in around):
            return ["node(s) didn't match pod anti-affinity rules"]
    for other_node in world.nodes:
        for other in world.on[other_node["metadata"]["name"]]:
            for term in _terms(other, "podAntiAffinity"):
                shared = node in world.domain(other_node, term["topologyKey"])
                if shared and _covers(term, other, pod, world):
                    return ["node(s) didn't satisfy existing pods anti-affinity rules"]
    return []


def _near_enough(pod: Object, near: list[Object], node: Object, world: World) -> bool:
    labels = node["metadata"]["labels"]
    if not all(term["topologyKey"] in labels for term in near):
        return False
    friends = [
        (each, other)
        for each in world.nodes
        for other in world.on[each["metadata"]["name"]]
        if all(_covers(term, pod, other, world) for term in near)
    ]
    counted = [
        (term["topologyKey"], each["metadata"]["labels"][term["topologyKey"]])
        for term in near
        for each, _ in friends
        if term["topologyKey"] in each["metadata"]["labels"]
    ]
    if not counted and all(_covers(term, pod, pod, world) for term in near):
        return True
    return all((term["topologyKey"], labels[term["topologyKey"]]) in counted for term in near)


def _constraints(pod: Object, mode: str) -> list[Object]:
    return [
        item for item in pod["spec"].get("topologySpreadConstraints", []) if item["whenUnsatisfiable"] == mode
    ]


def _counts_for(item: Object, pod: Object, node: Object) -> bool:
    """The node inclusion policies of a constraint."""
    if item.get("nodeAffinityPolicy", "Honor") == "Honor" and not node_affinity(pod, node):
        return False
    return item.get("nodeTaintsPolicy", "Ignore") == "Ignore" or blocking_taint(pod, node) is None


def _matching(item: Object, pod: Object, node: Object, world: World) -> int:
    """Pods on the node that the constraint selects; those being deleted do not count."""
    selector = _with_label_keys(item, pod)
    return sum(
        other["metadata"]["namespace"] == pod["metadata"]["namespace"]
        and "deletionTimestamp" not in other["metadata"]
        and selector_matches(selector, other["metadata"]["labels"])
        for other in world.on[node["metadata"]["name"]]
    )


def _has_keys(items: list[Object], node: Object) -> bool:
    return all(item["topologyKey"] in node["metadata"]["labels"] for item in items)


def topology_spread(pod: Object, node: Object, world: World) -> list[str]:
    hard = _constraints(pod, "DoNotSchedule")
    labels = node["metadata"]["labels"]
    if not _has_keys(hard, node):
        return ["node(s) didn't match pod topology spread constraints (missing required label)"]
    for item in hard:
        key = item["topologyKey"]
        sums: dict[str, int] = {}
        for other in world.nodes:
            if _has_keys(hard, other) and _counts_for(item, pod, other):
                value = other["metadata"]["labels"][key]
                sums[value] = sums.get(value, 0) + _matching(item, pod, other, world)
        least = min(sums.values(), default=0)
        if len(sums) < item.get("minDomains", 1):
            least = 0
        itself = int(selector_matches(_with_label_keys(item, pod), pod["metadata"]["labels"]))
        if sums.get(labels[key], 0) + itself - least > item["maxSkew"]:
            return ["node(s) didn't match pod topology spread constraints"]
    return []


def filter_node(pod: Object, node: Object, world: World) -> list[str]:
    """Why the pod cannot go to the node, by the first plugin that says no; empty if it can."""
    if claims := pod["spec"].get("resourceClaims"):
        names = ", ".join(claim["name"] for claim in claims)
        return [f"this scheduler allocates no devices (spec.resourceClaims: {names})"]
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


# -- scores over the feasible nodes: name -> score ---------------------------------------------------------

Scores = dict[str, float]


def _by_name(nodes: list[Object], rate: Any) -> Scores:
    return {node["metadata"]["name"]: rate(node) for node in nodes}


def _stretched(raw: Scores, *, reverse: bool = False) -> Scores:
    most = max(raw.values())
    if most == 0:
        return dict.fromkeys(raw, 100 if reverse else 0)
    scaled = {name: int(100 * value) // int(most) for name, value in raw.items()}
    return {name: 100 - value for name, value in scaled.items()} if reverse else dict(scaled)


def taint_scores(pod: Object, nodes: list[Object]) -> Scores:
    def cost(node: Object) -> int:
        soft = [taint for taint in node["spec"]["taints"] if taint["effect"] == "PreferNoSchedule"]
        return sum(not tolerates(pod, taint) for taint in soft)

    return _stretched(_by_name(nodes, cost), reverse=True)


def node_affinity_scores(pod: Object, nodes: list[Object]) -> Scores:
    wanted = (
        pod["spec"]
        .get("affinity", {})
        .get("nodeAffinity", {})
        .get("preferredDuringSchedulingIgnoredDuringExecution", [])
    )
    if not wanted:
        return {}
    return _stretched(
        _by_name(nodes, lambda node: sum(w["weight"] for w in wanted if term_matches(w["preference"], node)))
    )


def _soft_terms(pod: Object, kind: str) -> list[tuple[int, Object]]:
    items = (
        pod["spec"]
        .get("affinity", {})
        .get(kind, {})
        .get("preferredDuringSchedulingIgnoredDuringExecution", [])
    )
    return [(item["weight"], item["podAffinityTerm"]) for item in items]


def inter_pod_scores(pod: Object, nodes: list[Object], world: World) -> Scores:
    """Every pair of this pod and a placed one, both ways, adds to the domain of the placed one."""
    gains: dict[tuple[str, str], int] = {}

    def gain(weight: int, term: Object, where: Object) -> None:
        value = where["metadata"]["labels"].get(term["topologyKey"])
        if value is not None:
            gains[term["topologyKey"], value] = gains.get((term["topologyKey"], value), 0) + weight

    for where in world.nodes:
        for other in world.on[where["metadata"]["name"]]:
            for sign, kind in ((1, "podAffinity"), (-1, "podAntiAffinity")):
                for weight, term in _soft_terms(pod, kind):
                    if _covers(term, pod, other, world):
                        gain(sign * weight, term, where)
                for weight, term in _soft_terms(other, kind):
                    if _covers(term, other, pod, world):
                        gain(sign * weight, term, where)
            for term in _terms(other, "podAffinity"):
                if _covers(term, other, pod, world):
                    gain(1, term, where)
    raw = _by_name(nodes, lambda node: sum(gains.get(pair, 0) for pair in node["metadata"]["labels"].items()))
    least, most = min(raw.values()), max(raw.values())
    if most == least:
        return {}
    return {name: math.floor(100 * ((value - least) / (most - least))) for name, value in raw.items()}


def spread_scores(pod: Object, nodes: list[Object], world: World) -> Scores:
    soft = _constraints(pod, "ScheduleAnyway")
    if not soft:
        return {}
    rated = [node for node in nodes if _has_keys(soft, node)]
    out: Scores = _by_name(nodes, lambda node: 0)
    if not rated:
        return out
    raw = _by_name(
        rated, lambda node: _round(sum(_spread_cost(i, soft, pod, node, rated, world) for i in soft))
    )
    least, most = min(raw.values()), max(raw.values())
    for name, value in raw.items():
        out[name] = 100 if most == 0 else 100 * (most + least - value) // most
    return out


def _round(value: float) -> int:
    return math.floor(value + 0.5)


def _spread_cost(
    item: Object, soft: list[Object], pod: Object, node: Object, rated: list[Object], world: World
) -> float:
    key = item["topologyKey"]
    if key == "kubernetes.io/hostname":
        found, domains = _matching(item, pod, node, world), len(rated)
    else:
        domains = len({each["metadata"]["labels"][key] for each in rated})
        found = sum(
            _matching(item, pod, other, world)
            for other in world.domain(node, key)
            if _has_keys(soft, other) and _counts_for(item, pod, other)
        )
    return found * math.log(domains + 2) + (item["maxSkew"] - 1)


def image_scores(pod: Object, nodes: list[Object], world: World) -> Scores:
    spec = pod["spec"]
    names = [each["image"] for each in [*spec.get("initContainers", []), *spec["containers"]]]
    names = [name if ":" in name else f"{name}:latest" for name in names]

    def holds(node: Object, name: str) -> int:
        for image in node["status"].get("images", []):
            if name in image["names"]:
                return int(image["sizeBytes"])
        return 0

    def rate(node: Object) -> int:
        total = 0
        for name in names:
            share = sum(bool(holds(each, name)) for each in world.nodes) / len(world.nodes)
            total += int(holds(node, name) * share)
        least, most = 23 * 1024 * 1024, 1000 * 1024 * 1024 * len(names)
        return 100 * (min(max(total, least), most) - least) // (most - least)

    return _by_name(nodes, rate)


WEIGHTS = {
    "TaintToleration": 3,
    "NodeAffinity": 2,
    "NodeResourcesFit": 1,
    "PodTopologySpread": 2,
    "InterPodAffinity": 2,
    "NodeResourcesBalancedAllocation": 1,
    "ImageLocality": 1,
}


def scores(pod: Object, feasible: list[Object], world: World) -> dict[str, Scores]:
    """Unweighted scores of the feasible nodes by plugin and node name; {} where a plugin rates nothing."""
    asks = requests(pod)
    return {
        "TaintToleration": taint_scores(pod, feasible),
        "NodeAffinity": node_affinity_scores(pod, feasible),
        "NodeResourcesFit": _by_name(feasible, lambda node: least_allocated(pod, node, world)),
        "PodTopologySpread": spread_scores(pod, feasible, world),
        "InterPodAffinity": inter_pod_scores(pod, feasible, world),
        "NodeResourcesBalancedAllocation": _by_name(feasible, lambda node: balanced(pod, node, world))
        if asks.get("cpu") or asks.get("memory")
        else {},
        "ImageLocality": image_scores(pod, feasible, world),
    }
