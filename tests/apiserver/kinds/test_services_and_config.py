"""Services, endpoints, nodes, namespaces, config, secrets, RBAC and the smaller kinds."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.apiserver.kinds.helpers import accepted, causes, cells, kind_of, made, update_causes

RBAC = "rbac.authorization.k8s.io"
SERVICE = kind_of("", "services")
SLICE = kind_of("discovery.k8s.io", "endpointslices")
SECRET = kind_of("", "secrets")
CONFIG_MAP = kind_of("", "configmaps")
NAMESPACE = kind_of("", "namespaces")
NODE = kind_of("", "nodes")
BINDING = kind_of(RBAC, "rolebindings")
ROLE = kind_of(RBAC, "roles")
CLUSTER_ROLE = kind_of(RBAC, "clusterroles")


def service(**spec: Any) -> dict[str, Any]:
    return made(SERVICE, spec={"ports": [{"port": 80}], "selector": {"app": "web"}, **spec})


def test_service_defaults() -> None:
    assert causes(SERVICE, service()) == []
    assert accepted(SERVICE, service())["spec"] == {
        "internalTrafficPolicy": "Cluster",
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        "selector": {"app": "web"},
        "sessionAffinity": "None",
        "type": "ClusterIP",
    }
    sticky = accepted(SERVICE, service(type="NodePort", sessionAffinity="ClientIP"))["spec"]
    assert sticky["externalTrafficPolicy"] == "Cluster"
    assert sticky["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"ports": []}, "spec.ports: Required value"),
        ({"type": "Odd"}, 'spec.type: Unsupported value: "Odd"'),
        (
            {"ports": [{"port": 0}]},
            "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        ({"ports": [{"port": 1}, {"port": 2}]}, "spec.ports[0].name: Required value"),
        (
            {"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]},
            'spec.ports[1]: Duplicate value: {"port":1,"protocol":"TCP"}',
        ),
        (
            {"ports": [{"port": 1, "nodePort": 30000}]},
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        ({"type": "ExternalName"}, "spec.externalName: Required value"),
        ({"type": "NodePort", "clusterIP": "None"}, 'may not be set to "None" for NodePort services'),
        (
            {"clusterIP": "10.0.0.x"},
            'spec.clusterIPs[0]: Invalid value: "10.0.0.x": must be a valid IP address',
        ),
        ({"sessionAffinity": "Glue"}, 'spec.sessionAffinity: Unsupported value: "Glue"'),
        ({"selector": {"a b": "c"}}, 'spec.selector: Invalid value: "a b"'),
    ],
)
def test_service_rules(spec: dict[str, Any], expected: str) -> None:
    assert any(expected in text for text in causes(SERVICE, service(**spec))), causes(
        SERVICE, service(**spec)
    )


def test_service_updates_keep_what_was_allocated() -> None:
    old = accepted(SERVICE, service(type="NodePort"))
    old["spec"] |= {"clusterIP": "10.32.0.9", "clusterIPs": ["10.32.0.9"]}
    old["spec"]["ports"][0]["nodePort"] = 30080
    new = accepted(SERVICE, service(type="NodePort"))
    SERVICE.strategy.prepare_update(new, old)
    assert new["spec"]["clusterIP"] == "10.32.0.9" and new["spec"]["ports"][0]["nodePort"] == 30080
    plain = accepted(SERVICE, service(ports=[{"port": 80, "nodePort": 30080}]))
    SERVICE.strategy.prepare_update(plain, old)
    assert "nodePort" not in plain["spec"]["ports"][0]
    moved = {**new, "spec": {**new["spec"], "clusterIP": "10.32.0.8", "clusterIPs": ["10.32.0.8"]}}
    found = [cause.message for cause in SERVICE.strategy.validate_update(moved, old)]
    assert found == ['Invalid value: "10.32.0.8": may not change once set']


def test_service_columns() -> None:
    obj = service(
        type="NodePort", clusterIP="10.32.0.9", ports=[{"port": 80, "nodePort": 30080, "protocol": "TCP"}]
    )
    row = cells(SERVICE, obj)
    assert (row["Cluster-IP"], row["External-IP"], row["Port(s)"], row["Selector"]) == (
        "10.32.0.9",
        "<none>",
        "80:30080/TCP",
        "app=web",
    )
    assert cells(SERVICE, service(type="LoadBalancer"))["External-IP"] == "<pending>"


def test_endpoint_slices() -> None:
    def item(**members: Any) -> dict[str, Any]:
        return made(
            SLICE,
            **{"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [], **members},
        )

    assert causes(SLICE, item()) == []
    assert "must be an IPv4 address" in causes(SLICE, item(endpoints=[{"addresses": ["::1"]}]))[0]
    assert "at least 1 address" in causes(SLICE, item(endpoints=[{}]))[0]
    assert any("addressType" in text for text in update_causes(SLICE, item(addressType="IPv6"), item()))
    row = cells(
        SLICE, item(endpoints=[{"addresses": [f"10.0.0.{n}"]} for n in range(5)], ports=[{"port": 80}])
    )
    assert row["Endpoints"] == "10.0.0.0,10.0.0.1,10.0.0.2 + 2 more..." and row["Ports"] == "80"


def test_endpoints_column() -> None:
    kind = kind_of("", "endpoints")
    obj = made(kind, subsets=[{"addresses": [{"ip": "10.0.0.1"}, {"ip": "::1"}], "ports": [{"port": 80}]}])
    assert cells(kind, obj)["Endpoints"] == "10.0.0.1:80,[::1]:80"


def test_secrets() -> None:
    plain = accepted(SECRET, made(SECRET, stringData={"a": "new"}, data={"a": "b2xk", "b": "Yg=="}))
    assert plain["type"] == "Opaque" and "stringData" not in plain
    assert base64.b64decode(plain["data"]["a"]) == b"new" and plain["data"]["b"] == "Yg=="
    assert "data[tls.crt]: Required value" in causes(SECRET, made(SECRET, type="kubernetes.io/tls"))
    assert "a valid config key must consist of" in causes(SECRET, made(SECRET, data={"a/b": ""}))[0]
    old = made(SECRET, data={"a": "YQ=="}, immutable=True)
    new = made(SECRET, data={"a": "Yg=="}, immutable=True, type="other")
    assert update_causes(SECRET, new, old) == [
        'type: Invalid value: "other": field is immutable',
        "data: Forbidden: field is immutable when `immutable` is set",
    ]
    assert SECRET.secret and SECRET.strategy.fields(old | {"type": "Opaque"}) == {"type": "Opaque"}


def test_config_maps() -> None:
    both = made(CONFIG_MAP, data={"a": "1"}, binaryData={"a": "YQ=="})
    assert causes(CONFIG_MAP, both) == ['data[a]: Invalid value: "a": duplicate of key present in binaryData']
    big = made(CONFIG_MAP, data={"a": "x" * (1024 * 1024 + 1)})
    assert "Too long: may not be more than 1048576 bytes" in causes(CONFIG_MAP, big)[0]
    exact = made(CONFIG_MAP, binaryData={"a": base64.b64encode(b"x" * 1024 * 1024).decode()})
    assert causes(CONFIG_MAP, exact) == []
    assert cells(CONFIG_MAP, made(CONFIG_MAP, data={"a": "", "b": ""}))["Data"] == 2


def test_namespaces() -> None:
    ready = accepted(NAMESPACE, made(NAMESPACE))
    assert ready["metadata"]["labels"] == {"kubernetes.io/metadata.name": "x"}
    assert ready["spec"] == {"finalizers": ["kubernetes"]} and ready["status"] == {"phase": "Active"}
    emptied = {**ready, "spec": {"finalizers": []}}
    NAMESPACE.strategy.prepare_update(emptied, ready)
    assert emptied["spec"] == {"finalizers": ["kubernetes"]}
    dotted = made(NAMESPACE)
    dotted["metadata"]["name"] = "a.b"
    assert 'metadata.name: Invalid value: "a.b": a lowercase RFC 1123 label' in causes(NAMESPACE, dotted)[0]


def test_nodes() -> None:
    node = made(
        NODE,
        spec={"unschedulable": True},
        status={
            "addresses": [{"type": "InternalIP", "address": "10.240.0.20"}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kubeletVersion": "v1.34.0"},
        },
    )
    node["metadata"]["labels"] = {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge"}
    row = cells(NODE, node)
    assert (row["Status"], row["Roles"], row["Version"]) == (
        "Ready,SchedulingDisabled",
        "edge,worker",
        "v1.34.0",
    )
    assert (row["Internal-IP"], row["External-IP"], row["OS-Image"]) == ("10.240.0.20", "<none>", "<unknown>")
    kept = accepted(NODE, made(NODE, status={"capacity": {"cpu": "2"}}))["status"]
    assert kept["capacity"] == kept["allocatable"] == {"cpu": "2"}
    older = accepted(NODE, made(NODE, spec={"podCIDR": "10.200.0.0/24"}))["spec"]
    assert older["podCIDRs"] == ["10.200.0.0/24"]
    tainted = made(NODE, spec={"taints": [{"key": "a", "effect": "Odd"}]})
    assert 'metadata.taints[0].effect: Unsupported value: "Odd"' in causes(NODE, tainted)[0]
    moved = accepted(NODE, made(NODE, spec={"podCIDR": "10.200.1.0/24", "podCIDRs": ["10.200.1.0/24"]}))
    old = made(NODE, spec={"podCIDR": "10.200.0.0/24", "podCIDRs": ["10.200.0.0/24"]})
    assert "may not change podCIDR" in update_causes(NODE, moved, old)[0]


def test_roles() -> None:
    good = {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}
    assert causes(ROLE, made(ROLE, rules=[good])) == []
    assert causes(ROLE, made(ROLE, rules=[{}])) == [
        "rules[0].verbs: Required value: verbs must contain at least one value",
        "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
        "rules[0].resources: Required value: resource rules must supply at least one resource",
    ]
    web = {"nonResourceURLs": ["/healthz"], "verbs": ["get"]}
    assert causes(CLUSTER_ROLE, made(CLUSTER_ROLE, rules=[web])) == []
    assert "namespaced rules cannot apply to non-resource URLs" in causes(ROLE, made(ROLE, rules=[web]))[0]


def test_bindings() -> None:
    reference = {"kind": "ClusterRole", "name": "view"}
    obj = made(BINDING, roleRef=reference, subjects=[{"kind": "User", "name": "ann"}])
    assert causes(BINDING, obj) == []
    ready = accepted(BINDING, obj)
    assert ready["roleRef"]["apiGroup"] == RBAC and ready["subjects"][0]["apiGroup"] == RBAC
    homeless = made(BINDING, roleRef=reference, subjects=[{"kind": "ServiceAccount", "name": "a"}])
    assert causes(BINDING, homeless) == ["subjects[0].namespace: Required value"]
    other = made(BINDING, roleRef={"kind": "ClusterRole", "name": "edit"})
    assert "cannot change roleRef" in update_causes(BINDING, other, obj)[0]
    row = cells(BINDING, {**obj, "subjects": [{"kind": "ServiceAccount", "name": "a", "namespace": "n"}]})
    assert (row["Role"], row["ServiceAccounts"]) == ("ClusterRole/view", "n/a")


@pytest.mark.parametrize(
    ("group", "version", "resource", "members", "expected"),
    [
        (
            "scheduling.k8s.io",
            "v1",
            "priorityclasses",
            {"value": 2 * 10**9},
            "maximum allowed value of a user defined",
        ),
        ("node.k8s.io", "v1", "runtimeclasses", {}, "handler: Required value"),
        ("", "v1", "persistentvolumeclaims", {"spec": {}}, "spec.accessModes: Required value"),
        ("storage.k8s.io", "v1", "storageclasses", {}, "provisioner: Required value"),
        (
            "coordination.k8s.io",
            "v1",
            "leases",
            {"spec": {"leaseDurationSeconds": 0}},
            "must be greater than 0",
        ),
        (
            "policy",
            "v1",
            "poddisruptionbudgets",
            {"spec": {"minAvailable": 1, "maxUnavailable": "10%"}},
            "minAvailable and maxUnavailable cannot be both set",
        ),
        (
            "networking.k8s.io",
            "v1",
            "ingresses",
            {"spec": {}},
            "either `defaultBackend` or `rules` must be specified",
        ),
        (
            "networking.k8s.io",
            "v1",
            "networkpolicies",
            {
                "spec": {
                    "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]}]
                }
            },
            "must be a strict subset of `cidr`",
        ),
        ("autoscaling", "v2", "horizontalpodautoscalers", {"spec": {}}, "spec.maxReplicas: Invalid value: 0"),
        (
            "certificates.k8s.io",
            "v1",
            "certificatesigningrequests",
            {"spec": {}},
            "spec.signerName: Required value",
        ),
        ("", "v1", "resourcequotas", {"spec": {"hard": {"pods": "-1"}}}, "spec.hard[pods]: Invalid value"),
        (
            "",
            "v1",
            "limitranges",
            {"spec": {"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}},
            "min value 2 is greater than max value 1",
        ),
    ],
)
def test_small_kinds(group: str, version: str, resource: str, members: dict[str, Any], expected: str) -> None:
    kind = kind_of(group, resource, version)
    found = causes(kind, made(kind, **members))
    assert any(expected in text for text in found), found


def test_limit_range_defaults_follow_the_maximum() -> None:
    kind = kind_of("", "limitranges")
    ready = accepted(
        kind,
        made(kind, spec={"limits": [{"type": "Container", "max": {"cpu": "1"}, "min": {"memory": "1Mi"}}]}),
    )
    limit = ready["spec"]["limits"][0]
    assert limit["default"] == {"cpu": "1"} and limit["defaultRequest"] == {"cpu": "1", "memory": "1Mi"}


def test_event_fields() -> None:
    kind = kind_of("", "events")
    event = made(
        kind, involvedObject={"kind": "Pod", "name": "web"}, reason="Started", source={"component": "kubelet"}
    )
    fields = kind.strategy.fields(event)
    assert (fields["involvedObject.name"], fields["source"], fields["reason"]) == (
        "web",
        "kubelet",
        "Started",
    )
    event |= {"lastTimestamp": "2025-12-31T23:59:00Z", "message": " hi\n", "count": 4}
    row = cells(kind, event)
    assert (row["Last Seen"], row["Object"], row["Message"], row["Count"]) == ("60s", "pod/web", "hi", 4)
