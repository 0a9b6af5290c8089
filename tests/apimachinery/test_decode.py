"""Decoding: types, Go's words for mistakes, unknown fields, and what `omitempty` drops."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from apimachinery.errors import StatusError
from apimachinery.schema.decode import decode, definition_of
from apimachinery.scheme import Kind

DEPLOYMENT = "io.k8s.api.apps.v1.Deployment"
POD = "io.k8s.api.core.v1.Pod"
SECRET = "io.k8s.api.core.v1.Secret"  # noqa: S105 -- a type


def pod_spec(**members: Any) -> dict[str, Any]:
    return {"spec": members}


def refused(ref: str, obj: Any) -> str:
    with pytest.raises(StatusError) as caught:
        decode(ref, obj)
    assert (caught.value.code, caught.value.reason) == (400, "BadRequest")
    return caught.value.message


@pytest.mark.parametrize(
    ("obj", "why"),
    [
        (
            {"spec": {"replicas": "3"}},
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            {"spec": {"replicas": 1.5}},
            "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of "
            "type int32",
        ),
        (
            {"spec": {"replicas": 2**31}},
            "json: cannot unmarshal number 2147483648 into Go struct field "
            "DeploymentSpec.spec.replicas of type int32",
        ),
        (
            {"spec": {"replicas": True}},
            "json: cannot unmarshal bool into Go struct field DeploymentSpec.spec.replicas of type int32",
        ),
        (
            {"spec": {"paused": "no"}},
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.paused of type bool",
        ),
        (
            {"spec": []},
            "json: cannot unmarshal array into Go struct field Deployment.spec of type v1.DeploymentSpec",
        ),
        (
            {"metadata": {"labels": {"a": 1}}},
            "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (
            {"metadata": {"labels": []}},
            "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type "
            "map[string]string",
        ),
        (
            {"spec": {"template": {"spec": {"containers": {}}}}},
            "json: cannot unmarshal object into Go struct field PodSpec.spec.template.spec.containers "
            "of type []v1.Container",
        ),
        (
            {"spec": {"template": {"spec": {"containers": [{"ports": [{"containerPort": "x"}]}]}}}},
            "json: cannot unmarshal string into Go struct field "
            "ContainerPort.spec.template.spec.containers.ports.containerPort of type int32",
        ),
        ([], "json: cannot unmarshal array into Go value of type v1.Deployment"),
        ("x", "json: cannot unmarshal string into Go value of type v1.Deployment"),
        (
            {"metadata": {"creationTimestamp": "soon"}},
            'parsing time "soon" as "2006-01-02T15:04:05Z07:00": cannot parse "soon" as "2006"',
        ),
        (
            {"spec": {"template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}}}},
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
    ],
)
def test_wrong_types_in_gos_words(obj: Any, why: str) -> None:
    assert refused(DEPLOYMENT, obj) == f'Deployment in version "v1" cannot be handled as a Deployment: {why}'


@pytest.mark.parametrize("value", ["%%%%", "YQ", "YQ=", "====", "a b="])
def test_bytes_are_base64(value: str) -> None:
    assert "illegal base64 data at input byte" in refused(SECRET, {"data": {"k": value}})
    assert decode(SECRET, {"data": {"k": "YQ==", "empty": ""}})[0] == {"data": {"k": "YQ==", "empty": ""}}


def test_unknown_fields_are_dropped_and_told() -> None:
    obj = pod_spec(containers=[{"name": "a", "imagee": "x"}], foo=1) | {"extra": {}}
    decoded, warnings = decode(POD, obj)
    assert decoded == pod_spec(containers=[{"name": "a"}])
    paths = ("spec.containers[0].imagee", "spec.foo", "extra")
    assert warnings == [f'unknown field "{path}"' for path in paths]
    assert decode(POD, obj, strict="Ignore") == (decoded, [])
    with pytest.raises(StatusError) as caught:
        decode(POD, obj, strict="Strict", duplicates=("spec.foo",))
    assert caught.value.message == (
        'Pod in version "v1" cannot be handled as a Pod: strict decoding error: duplicate field "spec.foo", '
        'unknown field "spec.containers[0].imagee", unknown field "spec.foo", unknown field "extra"'
    )


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"containers": [], "volumes": []}, {"containers": []}),
        (
            {"nodeSelector": {}, "affinity": {}, "securityContext": {}},
            {"affinity": {}, "securityContext": {}},
        ),
        (
            {"hostNetwork": False, "automountServiceAccountToken": False},
            {"automountServiceAccountToken": False},
        ),
        (
            {"terminationGracePeriodSeconds": 0, "priority": 0},
            {"terminationGracePeriodSeconds": 0, "priority": 0},
        ),
        ({"nodeName": "", "hostname": "a"}, {"hostname": "a"}),
        ({"nodeName": None, "volumes": None, "containers": None}, {}),
        ({"volumes": [{"name": "v", "emptyDir": {}}]}, {"volumes": [{"name": "v", "emptyDir": {}}]}),
        ({"containers": [None]}, {"containers": [{}]}),
    ],
)
def test_what_empty_means(given: dict[str, Any], kept: dict[str, Any]) -> None:
    assert decode(POD, {"spec": given})[0] == {"spec": kept}


def test_zeroes_behind_values_vanish_and_behind_pointers_stay() -> None:
    probe = {"initialDelaySeconds": 0, "timeoutSeconds": 0, "terminationGracePeriodSeconds": 0}
    obj = pod_spec(
        containers=[{"name": "a", "livenessProbe": probe, "ports": [{"containerPort": 0, "hostPort": 0}]}]
    )
    container = decode(POD, obj)[0]["spec"]["containers"][0]
    assert container["livenessProbe"] == {"terminationGracePeriodSeconds": 0}
    assert container["ports"] == [{"containerPort": 0}]
    scaled = decode(DEPLOYMENT, {"spec": {"replicas": 0}, "status": {"replicas": 0, "collisionCount": 0}})[0]
    assert scaled == {"spec": {"replicas": 0}, "status": {"collisionCount": 0}}


def test_leases_may_be_released() -> None:
    lease = {"spec": {"holderIdentity": "", "renewTime": "2026-01-01T00:00:00.000000Z"}}
    assert decode("io.k8s.api.coordination.v1.Lease", lease)[0] == lease


def test_quantities_become_canonical_and_values_in_maps_stay() -> None:
    obj = pod_spec(containers=[{"resources": {"requests": {"cpu": 0.5, "memory": "1024Mi"}}}])
    resources = decode(POD, obj)[0]["spec"]["containers"][0]["resources"]
    assert resources == {"requests": {"cpu": "500m", "memory": "1Gi"}}
    empty = {"data": {"a": ""}}
    assert decode("io.k8s.api.core.v1.ConfigMap", empty)[0] == empty


def test_numbers_or_names() -> None:
    port = {"spec": {"ports": [{"port": 80, "targetPort": "http"}, {"port": 81, "targetPort": 8080}]}}
    assert decode("io.k8s.api.core.v1.Service", port)[0] == port
    message = refused("io.k8s.api.core.v1.Service", {"spec": {"ports": [{"port": 1, "targetPort": True}]}})
    assert "cannot unmarshal bool into Go struct field ServicePort.spec.ports.targetPort" in message


def test_the_input_is_not_changed() -> None:
    obj = pod_spec(containers=[{"name": "a", "x": 1, "resources": {"limits": {"cpu": "1000m"}}}])
    before = copy.deepcopy(obj)
    decode(POD, obj)
    assert obj == before


def test_kinds_without_a_schema_keep_everything_but_odd_metadata() -> None:
    widget = Kind("example.com", "v1", "Widget", "widgets", True, "example.com/widgets")
    obj = {"metadata": {"name": "a", "color": 1}, "spec": {"any": [1, None]}}
    decoded, warnings = decode(widget, obj)
    assert decoded == {"metadata": {"name": "a"}, "spec": {"any": [1, None]}}
    assert warnings == ['unknown field "metadata.color"']
    with pytest.raises(StatusError, match="Widget in version"):
        decode(widget, {"metadata": []})


def test_definitions_are_found_by_kind() -> None:
    assert definition_of("apps", "v1", "Deployment") == DEPLOYMENT
    assert definition_of("autoscaling", "v1", "Scale") == "io.k8s.api.autoscaling.v1.Scale"
    assert definition_of("policy", "v1", "Eviction") == "io.k8s.api.policy.v1.Eviction"
    assert definition_of("apps", "v1", "Nothing") is None


def test_an_empty_hostname_is_absent_but_for_endpoints_where_it_is_a_pointer() -> None:
    """kubectl's protobuf spells every string out; kept, it made two templates of one, and an undo made a
    third ReplicaSet.
    """
    decoded, _ = decode(POD, pod_spec(hostname="", subdomain="", containers=[]))
    assert not {"hostname", "subdomain"} & set(decoded["spec"])
    endpoints = {"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "hostname": ""}]}
    decoded, _ = decode("io.k8s.api.discovery.v1.EndpointSlice", endpoints)
    assert decoded["endpoints"][0]["hostname"] == ""
