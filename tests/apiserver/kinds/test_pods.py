"""Pods: defaults, rules, updates and what `kubectl get pods` shows."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from apiserver.kinds.pods import qos_class
from apiserver.kinds.podspec import image_tag
from tests.apiserver.kinds.helpers import accepted, causes, cells, kind_of, made, update_causes

POD = kind_of("", "pods")


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return made(POD, spec={"containers": list(containers) or [{"name": "web", "image": "web:1"}], **spec})


def container(**members: Any) -> dict[str, Any]:
    return {"name": "web", "image": "web:1", **members}


def test_defaults_of_a_minimal_pod() -> None:
    ready = accepted(POD, pod())
    assert ready["spec"] == {
        "containers": [
            {
                "name": "web",
                "image": "web:1",
                "imagePullPolicy": "IfNotPresent",
                "resources": {},
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
            }
        ],
        "dnsPolicy": "ClusterFirst",
        "enableServiceLinks": True,
        "restartPolicy": "Always",
        "schedulerName": "default-scheduler",
        "securityContext": {},
        "terminationGracePeriodSeconds": 30,
    }
    assert ready["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    assert causes(POD, pod()) == []


@pytest.mark.parametrize(
    ("image", "tag"),
    [
        ("nginx", "latest"),
        ("nginx:1.2", "1.2"),
        ("host:5000/nginx", "latest"),
        ("host:5000/nginx:2", "2"),
        ("nginx@sha256:abc", ""),
        ("nginx:latest@sha256:abc", "latest"),
    ],
)
def test_image_tags(image: str, tag: str) -> None:
    assert image_tag(image) == tag


def test_defaults_deep_inside() -> None:
    ready = accepted(
        POD,
        pod(
            container(
                image="web",
                ports=[{"containerPort": 80}],
                livenessProbe={"httpGet": {"port": 80}},
                readinessProbe={"tcpSocket": {"port": 80}, "periodSeconds": 3},
                env=[{"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                resources={"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
            ),
            serviceAccountName="robot",
            hostNetwork=True,
            volumes=[
                {"name": "a"},
                {"name": "b", "secret": {"secretName": "s"}},
                {"name": "c", "hostPath": {"path": "/x"}},
                {"name": "d", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
            ],
        ),
    )
    spec, web = ready["spec"], ready["spec"]["containers"][0]
    assert web["imagePullPolicy"] == "Always"
    assert web["ports"] == [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]
    probe = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
    assert web["livenessProbe"] == {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, **probe}
    assert web["readinessProbe"] == {"tcpSocket": {"port": 80}, **probe, "periodSeconds": 3}
    assert web["env"][0]["valueFrom"]["fieldRef"]["apiVersion"] == "v1"
    assert web["resources"]["requests"] == {"cpu": "500m", "memory": "1Gi"}
    assert spec["serviceAccount"] == "robot"
    empty, secret, host, projected = spec["volumes"]
    assert empty == {"name": "a", "emptyDir": {}}
    assert secret["secret"]["defaultMode"] == 420
    assert host["hostPath"]["type"] == ""
    assert projected["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"] == 3600


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (made(POD, spec={}), "spec.containers: Required value"),
        (pod({"image": "a:1"}), "spec.containers[0].name: Required value"),
        (pod({"name": "a"}), "spec.containers[0].image: Required value"),
        (pod(container(name="A")), 'spec.containers[0].name: Invalid value: "A": a lowercase RFC 1123 label'),
        (pod(container(), container()), 'spec.containers[1].name: Duplicate value: "web"'),
        (
            pod(restartPolicy="Sometimes"),
            'spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", '
            '"Never", "OnFailure"',
        ),
        (pod(dnsPolicy="None"), "spec.dnsConfig: Required value: must provide at least one DNS nameserver"),
        (
            pod(container(ports=[{"containerPort": 70000}])),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and "
            "65535, inclusive",
        ),
        (
            pod(container(ports=[{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 9}])),
            'spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//9"',
        ),
        (
            pod(container(volumeMounts=[{"name": "none", "mountPath": "/a"}])),
            'spec.containers[0].volumeMounts[0].name: Not found: "none"',
        ),
        (
            pod(container(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})),
            'spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal '
            "to cpu limit of 1",
        ),
        (
            pod(container(resources={"requests": {"cpu": "-1"}})),
            'spec.containers[0].resources.requests[cpu]: Invalid value: "-1": must be greater than '
            "or equal to 0",
        ),
        (
            pod(container(resources={"requests": {"gpus": "1"}})),
            'requests[gpus]: Invalid value: "gpus": must be a standard resource type or fully qualified',
        ),
        (
            pod(container(livenessProbe={})),
            "spec.containers[0].livenessProbe: Required value: must specify a handler",
        ),
        (
            pod(container(livenessProbe={"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}})),
            "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
        (
            pod(container(livenessProbe={"exec": {"command": ["a"]}, "successThreshold": 2})),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            pod(
                container(
                    env=[
                        {"name": "A", "value": "1", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
                    ]
                )
            ),
            'env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty',
        ),
        (
            pod(volumes=[{"name": "v", "emptyDir": {}, "hostPath": {"path": "/a"}}]),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (pod(volumes=[{"name": "v"}, {"name": "v"}]), 'spec.volumes[1].name: Duplicate value: "v"'),
        (pod(volumes=[{"name": "v", "secret": {}}]), "spec.volumes[0].secret.secretName: Required value"),
        (
            pod(tolerations=[{"key": "a", "operator": "Exists", "value": "b"}]),
            "value must be empty when `operator`",
        ),
        (
            pod(nodeSelector={"a b": "c"}),
            'spec.nodeSelector: Invalid value: "a b": name part must consist of',
        ),
        (pod(nodeName="A"), 'spec.nodeName: Invalid value: "A"'),
        (pod(terminationGracePeriodSeconds=-1), "spec.terminationGracePeriodSeconds: Invalid value: -1"),
        (pod(activeDeadlineSeconds=0), "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and"),
        (
            pod(affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}),
            "nodeSelectorTerms: Required value: must have at least one node selector term",
        ),
        (
            pod(affinity={"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}}),
            "topologyKey: Required value: can not be empty",
        ),
    ],
)
def test_rules(obj: dict[str, Any], expected: str) -> None:
    assert any(expected in text for text in causes(POD, obj)), causes(POD, obj)


def test_updates_may_change_images_and_add_tolerations() -> None:
    old = pod(tolerations=[{"key": "a", "operator": "Exists"}])
    new = copy.deepcopy(old)
    new["spec"]["containers"][0]["image"] = "web:2"
    new["spec"]["tolerations"].append({"key": "b", "operator": "Exists"})
    new["spec"]["activeDeadlineSeconds"] = 5
    assert update_causes(POD, accepted(POD, new), old) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"nodeName": "n"}, "spec: Forbidden: pod updates may not change fields other than"),
        ({"tolerations": []}, "spec.tolerations: Forbidden: existing toleration can not be modified"),
        ({"restartPolicy": "Never"}, "spec: Forbidden: pod updates may not change"),
        ({"containers": [container(args=["x"])]}, "spec: Forbidden: pod updates may not change"),
    ],
)
def test_updates_may_not_change_the_rest(change: dict[str, Any], expected: str) -> None:
    old = pod(tolerations=[{"key": "a", "operator": "Exists"}])
    new = accepted(POD, {**old, "spec": {**old["spec"], **change}})
    assert any(expected in text for text in update_causes(POD, new, old))


@pytest.mark.parametrize(
    ("resources", "qos"),
    [
        ([{}], "BestEffort"),
        ([{"limits": {"cpu": "1", "memory": "1"}, "requests": {"cpu": "1", "memory": "1"}}], "Guaranteed"),
        ([{"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}], "Burstable"),
        ([{"requests": {"cpu": "1"}}, {}], "Burstable"),
        ([{"requests": {"example.com/gpu": "1"}}], "BestEffort"),
        ([{"requests": {"cpu": "0"}}], "BestEffort"),
    ],
)
def test_quality_of_service(resources: list[dict[str, Any]], qos: str) -> None:
    assert qos_class({"spec": {"containers": [{"resources": item} for item in resources]}}) == qos


def status(phase: str, *states: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {**pod(), "status": {"phase": phase, "containerStatuses": list(states), **members}}


RUNNING = {"ready": True, "restartCount": 0, "state": {"running": {}}}
CRASHED = {
    "ready": False,
    "restartCount": 3,
    "state": {"waiting": {"reason": "CrashLoopBackOff"}},
    "lastState": {"terminated": {"finishedAt": "2025-12-31T23:55:00Z"}},
}


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (status("Pending"), ("0/1", "Pending", "0")),
        (status("Running", RUNNING), ("1/1", "Running", "0")),
        (status("Running", CRASHED), ("0/1", "CrashLoopBackOff", "3 (5m ago)")),
        (
            status("Failed", {"restartCount": 0, "state": {"terminated": {"reason": "Error"}}}),
            ("0/1", "Error", "0"),
        ),
        (
            status("Failed", {"restartCount": 0, "state": {"terminated": {"exitCode": 7}}}),
            ("0/1", "ExitCode:7", "0"),
        ),
        (
            status("Failed", {"restartCount": 0, "state": {"terminated": {"signal": 9}}}),
            ("0/1", "Signal:9", "0"),
        ),
        (status("Failed", reason="Evicted"), ("0/1", "Evicted", "0")),
        (
            status(
                "Pending",
                initContainerStatuses=[{"restartCount": 1, "state": {"waiting": {"reason": "Bad"}}}],
            ),
            ("0/1", "Init:Bad", "1"),
        ),
        (
            status(
                "Pending",
                initContainerStatuses=[{"restartCount": 0, "state": {"terminated": {"exitCode": 2}}}],
            ),
            ("0/1", "Init:ExitCode:2", "0"),
        ),
    ],
)
def test_printing(obj: dict[str, Any], expected: tuple[str, str, str]) -> None:
    row = cells(POD, obj)
    assert (row["Ready"], row["Status"], row["Restarts"]) == expected


def test_printing_of_pods_on_their_way_out() -> None:
    obj = status("Running", RUNNING)
    obj["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:30Z"
    assert cells(POD, obj)["Status"] == "Terminating"
    assert POD.row_conditions is not None
    assert POD.row_conditions(status("Running")) is None
    conditions = POD.row_conditions(status("Succeeded"))
    assert conditions is not None and conditions[0]["reason"] == "Succeeded"


def test_wide_columns() -> None:
    obj = status("Running", RUNNING, podIPs=[{"ip": "10.200.0.2"}])
    obj["spec"]["nodeName"] = "worker-0"
    row = cells(POD, obj)
    assert (row["IP"], row["Node"], row["Nominated Node"], row["Readiness Gates"]) == (
        "10.200.0.2",
        "worker-0",
        "<none>",
        "<none>",
    )


def test_a_container_that_ended_for_good_stays_ended() -> None:
    old = {
        **pod(restartPolicy="Never"),
        "status": {"containerStatuses": [{"name": "a", "state": {"terminated": {}}}]},
    }
    new = {**old, "status": {"containerStatuses": [{"name": "a", "state": {"running": {}}}]}}
    found = [cause.message for cause in POD.strategy.status_validate_update(new, old)]
    assert found == ["Forbidden: may not be transitioned to non-terminated state"]
    assert list(POD.strategy.status_validate_update(old, old)) == []


@pytest.mark.parametrize(
    ("given", "old", "expected"),
    [
        ({"podIP": "10.0.0.1"}, {}, ("10.0.0.1", ["10.0.0.1"])),
        ({"podIPs": [{"ip": "10.0.0.1"}]}, {}, ("10.0.0.1", ["10.0.0.1"])),
        (
            {"podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.1"}]},
            {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]},
            ("10.0.0.2", ["10.0.0.2"]),
        ),
    ],
)
def test_the_two_spellings_of_an_address_agree(
    given: dict[str, Any], old: dict[str, Any], expected: tuple[str, list[str]]
) -> None:
    new = {**pod(), "status": dict(given)}
    POD.strategy.status_prepare_update(new, {**pod(), "status": old})
    assert (new["status"]["podIP"], [item["ip"] for item in new["status"]["podIPs"]]) == expected
