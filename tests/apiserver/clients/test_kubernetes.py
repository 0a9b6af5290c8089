"""The official Python client: typed, dynamic, watching."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.apiserver.devserver import Running

kubernetes = pytest.importorskip("kubernetes")
# A watch that is left early leaves its socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Any]:
    made = kubernetes.config.new_client_from_config(str(server.admin))
    yield made
    made.close()


def test_typed_objects_round_trip(client: Any) -> None:
    core = kubernetes.client.CoreV1Api(client)
    body = kubernetes.client.V1ConfigMap(metadata={"name": "typed", "labels": {"a": "b"}}, data={"x": "1"})
    core.create_namespaced_config_map("default", body)
    found = core.read_namespaced_config_map("typed", "default")
    assert found.data == {"x": "1"} and found.metadata.uid
    core.patch_namespaced_config_map("typed", "default", {"data": {"y": "2"}})
    listed = core.list_namespaced_config_map("default", label_selector="a=b")
    assert listed.items[0].data == {"x": "1", "y": "2"}
    found.data = {"late": "1"}
    with pytest.raises(kubernetes.client.ApiException) as refused:
        core.replace_namespaced_config_map("typed", "default", found)
    assert refused.value.status == 409
    core.delete_namespaced_config_map("typed", "default")
    with pytest.raises(kubernetes.client.ApiException) as missing:
        core.read_namespaced_config_map("typed", "default")
    assert missing.value.status == 404


def test_apps_scale_and_both_forms_of_an_autoscaler(client: Any) -> None:
    apps = kubernetes.client.AppsV1Api(client)
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template, "replicas": 1}
    apps.create_namespaced_deployment("default", {"metadata": {"name": "web"}, "spec": spec})
    apps.patch_namespaced_deployment_scale("web", "default", {"spec": {"replicas": 3}})
    assert apps.read_namespaced_deployment_scale("web", "default").spec.replicas == 3
    first = kubernetes.client.AutoscalingV1Api(client)
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    wanted = {"scaleTargetRef": target, "maxReplicas": 5, "targetCPUUtilizationPercentage": 70}
    first.create_namespaced_horizontal_pod_autoscaler(
        "default", {"metadata": {"name": "web"}, "spec": wanted}
    )
    second = kubernetes.client.AutoscalingV2Api(client)
    shown = second.read_namespaced_horizontal_pod_autoscaler("web", "default")
    assert shown.spec.metrics[0].resource.target.average_utilization == 70
    memory = {
        "type": "Resource",
        "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}},
    }
    cpu = {
        "type": "Resource",
        "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}},
    }
    second.patch_namespaced_horizontal_pod_autoscaler("web", "default", {"spec": {"metrics": [cpu, memory]}})
    old = first.read_namespaced_horizontal_pod_autoscaler("web", "default")
    assert old.spec.target_cpu_utilization_percentage == 60
    old.spec.max_replicas = 9
    first.replace_namespaced_horizontal_pod_autoscaler("web", "default", old)
    kept = second.read_namespaced_horizontal_pod_autoscaler("web", "default")
    assert kept.spec.max_replicas == 9 and [item.resource.name for item in kept.spec.metrics] == [
        "cpu",
        "memory",
    ]
    apps.delete_namespaced_deployment("web", "default")


def test_watch_sees_every_change(client: Any) -> None:
    core = kubernetes.client.CoreV1Api(client)
    start = core.list_namespaced_config_map("default").metadata.resource_version
    core.create_namespaced_config_map("default", {"metadata": {"name": "seen"}, "data": {"n": "0"}})
    core.patch_namespaced_config_map("seen", "default", {"data": {"n": "1"}})
    core.delete_namespaced_config_map("seen", "default")
    seen = []
    watch = kubernetes.watch.Watch()
    for event in watch.stream(
        core.list_namespaced_config_map, "default", resource_version=start, timeout_seconds=10
    ):
        seen.append((event["type"], event["object"].data))
        if event["type"] == "DELETED":
            watch.stop()
    assert seen == [("ADDED", {"n": "0"}), ("MODIFIED", {"n": "1"}), ("DELETED", {"n": "1"})]


def test_the_dynamic_client_finds_custom_resources(client: Any, widgets: str) -> None:
    dynamic = kubernetes.dynamic.DynamicClient(client)
    kind = dynamic.resources.get(api_version=widgets, kind="Widget")
    body = {"apiVersion": widgets, "kind": "Widget", "metadata": {"name": "dyn"}, "spec": {"size": 2}}
    made = kind.create(body=body, namespace="default")
    assert made.spec.color == "red"
    kind.status.patch(
        name="dyn",
        namespace="default",
        body={"status": {"phase": "Ready"}},
        content_type="application/merge-patch+json",
    )
    assert kind.get(name="dyn", namespace="default").status.phase == "Ready"
    start = kind.get(namespace="default").metadata.resourceVersion
    kind.delete(name="dyn", namespace="default")
    events = kind.watch(namespace="default", resource_version=start, timeout=5)
    first = next(iter(events))
    assert (first["type"], first["object"].metadata.name) == ("DELETED", "dyn")
