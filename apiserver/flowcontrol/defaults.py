"""The FlowSchemas and PriorityLevelConfigurations every cluster starts with
(k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap/default.go). The mandatory ones are always in force.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Object = dict[str, Any]

API_VERSION = "flowcontrol.apiserver.k8s.io/v1"
AUTO_UPDATE = "apf.kubernetes.io/autoupdate-spec"
MANDATORY = frozenset({"exempt", "catch-all"})
EVERY = ["*"]
AUTHENTICATED = ("system:unauthenticated", "system:authenticated")
CONTROLLER_MANAGER, SCHEDULER = "system:kube-controller-manager", "system:kube-scheduler"


def _metadata(name: str) -> Object:
    return {"name": name, "annotations": {AUTO_UPDATE: "true"}}


def _level(name: str, shares: int, lendable: int, queues: tuple[int, int, int] | None) -> Object:
    """`queues`: how many, how many a hand has, how long each may get; None: nobody waits."""
    response: Object = {"type": "Reject"}
    if queues is not None:
        count, hand, length = queues
        queuing = {"queues": count, "handSize": hand, "queueLengthLimit": length}
        response = {"type": "Queue", "queuing": queuing}
    limited = {
        "nominalConcurrencyShares": shares,
        "lendablePercent": lendable,
        "limitResponse": response,
    }
    return {
        "kind": "PriorityLevelConfiguration",
        "apiVersion": API_VERSION,
        "metadata": _metadata(name),
        "spec": {"type": "Limited", "limited": limited},
    }


EXEMPT: Object = {
    "kind": "PriorityLevelConfiguration",
    "apiVersion": API_VERSION,
    "metadata": _metadata("exempt"),
    "spec": {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}},
}
LEVELS: Sequence[Object] = (
    EXEMPT,
    _level("catch-all", 5, 0, None),
    _level("system", 30, 33, (64, 6, 50)),
    _level("node-high", 40, 25, (64, 6, 50)),
    _level("leader-election", 10, 0, (16, 4, 50)),
    _level("workload-high", 40, 50, (128, 6, 50)),
    _level("workload-low", 100, 90, (128, 6, 50)),
    _level("global-default", 20, 50, (128, 6, 50)),
)


def _groups(*names: str) -> list[Object]:
    return [{"kind": "Group", "group": {"name": name}} for name in names]


def _users(*names: str) -> list[Object]:
    return [{"kind": "User", "user": {"name": name}} for name in names]


def _accounts(*names: str) -> list[Object]:
    """Service accounts of kube-system."""
    return [
        {"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}}
        for name in names
    ]


def _on(verbs: list[str], group: str, *resources: str, cluster: bool = False) -> Object:
    out: Object = {"verbs": verbs, "apiGroups": [group], "resources": list(resources), "namespaces": EVERY}
    return {**out, "clusterScope": True} if cluster else out


ANYTHING = _on(EVERY, "*", "*", cluster=True)
ANY_PATH: Object = {"verbs": EVERY, "nonResourceURLs": EVERY}
LEASES = _on(["get", "create", "update"], "coordination.k8s.io", "leases")
PROBES: Object = {"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}


def _schema(name: str, level: str, precedence: int, by: str, *rules: Object) -> Object:
    spec: Object = {
        "priorityLevelConfiguration": {"name": level},
        "matchingPrecedence": precedence,
        "rules": list(rules),
    }
    if by:
        spec["distinguisherMethod"] = {"type": by}
    return {"kind": "FlowSchema", "apiVersion": API_VERSION, "metadata": _metadata(name), "spec": spec}


def _all_of(subjects: list[Object]) -> Object:
    return {"subjects": subjects, "resourceRules": [ANYTHING], "nonResourceRules": [ANY_PATH]}


def _some(subjects: list[Object], *resources: Object) -> Object:
    return {"subjects": subjects, "resourceRules": list(resources)}


_NODES = _on(EVERY, "", "nodes", "nodes/status", cluster=True)
_NODE_LEASES = _on(EVERY, "coordination.k8s.io", "leases")
_ENDPOINTS = _on(["get", "create", "update"], "", "endpoints")
SCHEMAS: Sequence[Object] = (
    _schema("exempt", "exempt", 1, "", _all_of(_groups("system:masters"))),
    _schema("catch-all", "catch-all", 10_000, "ByUser", _all_of(_groups(*AUTHENTICATED))),
    _schema("probes", "exempt", 2, "", {"subjects": _groups(*AUTHENTICATED), "nonResourceRules": [PROBES]}),
    _schema(
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        _some(_users(CONTROLLER_MANAGER, SCHEDULER), LEASES),
    ),
    _schema(
        "endpoint-controller",
        "workload-high",
        150,
        "ByUser",
        _some([*_users(CONTROLLER_MANAGER), *_accounts("endpoint-controller")], _ENDPOINTS),
    ),
    _schema("workload-leader-election", "leader-election", 200, "ByUser", _some(_accounts("*"), LEASES)),
    _schema(
        "system-node-high", "node-high", 400, "ByUser", _some(_groups("system:nodes"), _NODES, _NODE_LEASES)
    ),
    _schema("system-nodes", "system", 500, "ByUser", _all_of(_groups("system:nodes"))),
    _schema(
        "kube-controller-manager", "workload-high", 800, "ByNamespace", _all_of(_users(CONTROLLER_MANAGER))
    ),
    _schema("kube-scheduler", "workload-high", 800, "ByNamespace", _all_of(_users(SCHEDULER))),
    _schema("kube-system-service-accounts", "workload-high", 900, "ByNamespace", _all_of(_accounts("*"))),
    _schema("service-accounts", "workload-low", 9000, "ByUser", _all_of(_groups("system:serviceaccounts"))),
    _schema("global-default", "global-default", 9900, "ByUser", _all_of(_groups(*AUTHENTICATED))),
)
