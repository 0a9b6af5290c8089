"""The same by the official Python client: what a program does that kubectl does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.lab import Lab, eventually
from tests.e2e.manifests import template
from tests.e2e.space import Space, space

kubernetes = pytest.importorskip("kubernetes")


@pytest.fixture(scope="module")
def here(lab: Lab) -> Iterator[Space]:
    with space(lab, "client") as made:
        yield made


@pytest.fixture(scope="module")
def api(here: Space) -> Iterator[Any]:
    with kubernetes.config.new_client_from_config(str(here.lab.kubeconfig)) as client:
        yield client


def web(replicas: int) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": template("web", container={"resources": {"requests": {"cpu": "20m"}}}),
        },
    }


def test_a_watch_sees_a_deployment_become_available(here: Space, api: Any) -> None:
    apps = kubernetes.client.AppsV1Api(api)
    apps.create_namespaced_deployment(here.name, web(2))
    seen = []
    watch = kubernetes.watch.Watch()
    for event in watch.stream(apps.list_namespaced_deployment, here.name, timeout_seconds=90):
        seen.append(event["object"].status.available_replicas or 0)
        if seen[-1] == 2:
            watch.stop()
    assert seen[-1] == 2 and seen[0] in (0, 1)
    found = apps.read_namespaced_deployment("web", here.name)
    assert {c.type: c.status for c in found.status.conditions} == {"Available": "True", "Progressing": "True"}


def test_the_scale_subresource(here: Space, api: Any) -> None:
    apps = kubernetes.client.AppsV1Api(api)
    scale = apps.read_namespaced_deployment_scale("web", here.name)
    assert (scale.spec.replicas, scale.status.selector) == (2, "app=web")
    scale.spec.replicas = 3
    apps.replace_namespaced_deployment_scale("web", here.name, scale)
    eventually("three", lambda: len(here.living("web")) == 3)


def test_services_follow_their_pods(here: Space, api: Any) -> None:
    core, discovery = kubernetes.client.CoreV1Api(api), kubernetes.client.DiscoveryV1Api(api)
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    body = {"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": ports}}
    core.create_namespaced_service(here.name, body)

    def agree() -> bool:
        ips = {pod["status"].get("podIP") for pod in here.living("web")}
        slices = discovery.list_namespaced_endpoint_slice(
            here.name, label_selector="kubernetes.io/service-name=web"
        )
        found = {
            a for s in slices.items for e in s.endpoints or [] if e.conditions.ready for a in e.addresses
        }
        subsets = core.read_namespaced_endpoints("web", here.name).subsets or []
        listed = {address.ip for subset in subsets for address in subset.addresses or []}
        return len(found) == 3 and found == ips == listed

    eventually("slices hold the addresses", agree)


def test_a_service_by_hand_is_mirrored(here: Space, api: Any) -> None:
    core, discovery = kubernetes.client.CoreV1Api(api), kubernetes.client.DiscoveryV1Api(api)
    core.create_namespaced_service(
        here.name, {"metadata": {"name": "by-hand"}, "spec": {"ports": [{"port": 80}]}}
    )
    subsets = [{"addresses": [{"ip": "192.0.2.7"}], "ports": [{"port": 80}]}]
    core.create_namespaced_endpoints(here.name, {"metadata": {"name": "by-hand"}, "subsets": subsets})

    def mirrored() -> bool:
        label = "kubernetes.io/service-name=by-hand"
        found = discovery.list_namespaced_endpoint_slice(here.name, label_selector=label).items
        return [e.addresses for s in found for e in s.endpoints] == [["192.0.2.7"]]

    eventually("mirrored", mirrored)


def test_an_eviction_is_refused_by_a_budget(here: Space, api: Any) -> None:
    core, policy = kubernetes.client.CoreV1Api(api), kubernetes.client.PolicyV1Api(api)
    spec = {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "web"}}}
    policy.create_namespaced_pod_disruption_budget(here.name, {"metadata": {"name": "web"}, "spec": spec})
    eventually("seen", lambda: here.get("pdb", "web")["status"].get("observedGeneration") == 1)
    name = here.living("web")[0]["metadata"]["name"]
    body = kubernetes.client.V1Eviction(metadata=kubernetes.client.V1ObjectMeta(name=name))
    with pytest.raises(kubernetes.client.ApiException) as refused:
        core.create_namespaced_pod_eviction(name, here.name, body)
    assert refused.value.status == 429
    policy.delete_namespaced_pod_disruption_budget("web", here.name)


def test_autoscaling_by_both_versions(here: Space, api: Any) -> None:
    """Idle pods are scaled down to the minimum at once, since no higher size was ever recommended."""
    here.kubectl("autoscale", "deployment", "web", "--min=1", "--max=4", "--cpu-percent=50")
    old = kubernetes.client.AutoscalingV1Api(api).read_namespaced_horizontal_pod_autoscaler("web", here.name)
    assert old.spec.target_cpu_utilization_percentage == 50
    autoscaling = kubernetes.client.AutoscalingV2Api(api)

    def behave(**scale_down: Any) -> None:
        spec = {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0, **scale_down}}}
        autoscaling.patch_namespaced_horizontal_pod_autoscaler("web", here.name, {"spec": spec})

    behave(policies=[{"type": "Pods", "value": 1, "periodSeconds": 300}])

    def active() -> bool:
        found = autoscaling.read_namespaced_horizontal_pod_autoscaler("web", here.name)
        conditions = {c.type: c.status for c in found.status.conditions or []}
        return conditions.get("ScalingActive") == "True" and found.status.current_metrics is not None

    eventually("metrics were read", active, timeout=120)

    def held_back() -> bool:
        found = autoscaling.read_namespaced_horizontal_pod_autoscaler("web", here.name)
        limited = next(c for c in found.status.conditions if c.type == "ScalingLimited")
        assert (limited.status, limited.reason) == ("True", "ScaleDownLimit")
        return bool(here.get("deployment", "web")["spec"]["replicas"] == 2)

    eventually("one pod in five minutes", held_back, timeout=120)
    behave(policies=None)
    eventually("scaled down", lambda: here.get("deployment", "web")["spec"]["replicas"] == 1, timeout=120)
    assert "SuccessfulRescale" in here.reasons("web")


def test_deletion_options(here: Space, api: Any) -> None:
    apps = kubernetes.client.AppsV1Api(api)
    apps.delete_namespaced_deployment("web", here.name, propagation_policy="Foreground")

    def gone() -> bool:
        try:
            apps.read_namespaced_deployment("web", here.name)
        except kubernetes.client.ApiException as absent:
            return bool(absent.status == 404)
        return False

    def nothing() -> bool:
        return here.items("deployments,replicasets,pods", "-l", "app=web") == [] and gone()

    eventually("all of it is gone", nothing, timeout=90)
