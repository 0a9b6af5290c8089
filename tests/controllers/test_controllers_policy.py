"""PodDisruptionBudgets and ResourceQuotas: numbers by tables, loops."""

from __future__ import annotations

from typing import Any

import pytest

from controllers import disruption as pdb
from controllers import objects as o
from controllers.disruption import DisruptionController, Need
from controllers.quota import ResourceQuotaController, usage
from controllers.quota.controller import compute_status
from kubeclient.resources import (
    CONFIGMAPS,
    DEPLOYMENTS,
    INGRESSES,
    PODDISRUPTIONBUDGETS,
    PODS,
    REPLICASETS,
    RESOURCEQUOTAS,
    SERVICES,
)
from tests.controllers import make
from tests.controllers.conftest import run
from tests.controllers.memoryapi import MemoryApi, Object
from tests.controllers.world import World

NOW = o.parse_time(make.START) + 1000


@pytest.mark.parametrize(
    ("spec", "need"),
    [
        ({"minAvailable": 2}, Need(4, 2)),
        ({"minAvailable": "50%"}, Need(5, 3)),
        ({"maxUnavailable": 1}, Need(5, 4)),
        ({"maxUnavailable": "30%"}, Need(5, 3)),
        ({"maxUnavailable": 9}, Need(5, 0)),
        ({}, Need(4, 1)),
    ],
)
def test_what_a_budget_needs(spec: Object, need: Need) -> None:
    assert pdb.compute_need(spec, 4, 5) == need


def budget(**spec: Any) -> Object:
    return {
        "metadata": make.meta("pdb", generation=1),
        "spec": {"selector": {"matchLabels": {"app": "web"}}, **spec},
        "status": {},
    }


def test_evicted_pods_are_not_counted_until_they_are_gone_or_stay_too_long() -> None:
    mine = [make.pod(f"p{n}") for n in range(4)]
    mine[3]["metadata"]["deletionTimestamp"] = make.START
    early, late = o.format_time(NOW - 121), o.format_time(NOW - 20)
    owner = o.with_status(budget(), {"disruptedPods": {"p0": early, "p1": late, "p3": late, "gone": late}})
    disrupted = pdb.compute_disrupted(owner, mine, NOW)
    assert (disrupted.pods, disrupted.failed, disrupted.wait) == ({"p1": late}, (mine[0],), 100)
    status = pdb.compute_status(owner, mine, Need(4, 1), disrupted, NOW)
    assert (status["currentHealthy"], status["disruptionsAllowed"]) == (2, 1)
    assert status["disruptedPods"] == {"p1": late}


def owned(api: MemoryApi, size: int) -> None:
    deployment = api.put(DEPLOYMENTS, make.deployment(size=size))
    reference = o.owner_reference(deployment, "apps/v1", "Deployment")
    rs = api.put(REPLICASETS, make.replicaset("web-1", size, ownerReferences=[reference]))
    for number in range(size):
        api.put(PODS, make.pod(f"web-{number}", owner=rs, labels={"app": "web"}))


def status_of(api: MemoryApi) -> Object:
    found = api.get(PODDISRUPTIONBUDGETS, "pdb", "default")
    assert found is not None
    return o.status(found)


def allowed_condition(api: MemoryApi) -> tuple[str, str]:
    found = o.find_condition(status_of(api)["conditions"], "DisruptionAllowed")
    assert found is not None
    return found["status"], found["reason"]


def test_a_budget_follows_its_deployment() -> None:
    async def scenario() -> None:
        world = World()
        owned(world.api, 4)
        world.api.put(PODDISRUPTIONBUDGETS, budget(maxUnavailable="25%"))
        async with world.running(DisruptionController):
            await world.settle()
            status = status_of(world.api)
            assert (status["expectedPods"], status["desiredHealthy"], status["disruptionsAllowed"]) == (
                4,
                3,
                1,
            )
            assert allowed_condition(world.api) == ("True", "SufficientPods")
            pod = world.api.get(PODS, "web-0", "default")
            assert pod is not None
            pod["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
            world.api.put(PODS, pod)
            await world.settle()
            assert status_of(world.api)["disruptionsAllowed"] == 0
            assert allowed_condition(world.api) == ("False", "InsufficientPods")
            found = world.api.get(DEPLOYMENTS, "web", "default")
            assert found is not None
            world.api.put(DEPLOYMENTS, {**found, "spec": {**found["spec"], "replicas": 2}})
            await world.settle()
            assert (status_of(world.api)["expectedPods"], status_of(world.api)["desiredHealthy"]) == (2, 1)

    run(scenario())


def test_pods_of_a_kind_without_scale_allow_no_eviction() -> None:
    async def scenario() -> None:
        world = World()
        owner = {"metadata": make.meta("odd")}
        pod = make.pod("p", owner=owner, kind="Oddity", labels={"app": "web"})
        pod["metadata"]["ownerReferences"][0]["apiVersion"] = "example.com/v1"
        world.api.put(PODS, pod)
        world.api.put(PODDISRUPTIONBUDGETS, budget(maxUnavailable=1))
        async with world.running(DisruptionController):
            await world.settle()
            assert status_of(world.api)["disruptionsAllowed"] == 0
            assert allowed_condition(world.api) == ("False", "SyncFailed")
            assert "CalculateExpectedPodCountFailed" in world.events.reasons

    run(scenario())


def test_a_disruption_that_did_not_come_is_withdrawn() -> None:
    async def scenario() -> None:
        world = World()
        pod = make.pod("p")
        target = {"type": "DisruptionTarget", "status": "True", "lastTransitionTime": world.now()}
        pod["status"]["conditions"].append(target)
        world.api.put(PODS, pod)
        async with world.running(DisruptionController):
            await world.pass_time(125, step=5)
            assert o.condition_status(world.api.all(PODS)[0], "DisruptionTarget") == "False"
            assert o.condition_status(world.api.all(PODS)[0], "Ready") == "True"

    run(scenario())


# -- quotas --------------------------------------------------------------------------------------------------


def container(**resources: Any) -> Object:
    return {"name": "c", "resources": {"requests": resources, "limits": resources}}


def used(pod: Object) -> dict[str, str]:
    return {name: str(amount) for name, amount in usage.pod_usage(pod, NOW).items()}


def test_what_pods_use() -> None:
    pod = make.pod("p")
    pod["spec"] = {
        "initContainers": [
            container(cpu="2"),
            {**container(cpu="100m"), "restartPolicy": "Always"},
        ],
        "containers": [container(cpu="1", memory="1Gi"), container(cpu="500m", **{"example.com/gpu": "1"})],
        "overhead": {"cpu": "50m"},
    }
    out = used(pod)
    assert (out["cpu"], out["requests.cpu"], out["limits.cpu"]) == ("2050m", "2050m", "2050m")
    assert (out["memory"], out["requests.example.com/gpu"], out["pods"]) == ("1Gi", "1", "1")
    assert "example.com/gpu" not in out and "limits.example.com/gpu" not in out
    pod["status"]["phase"] = "Succeeded"
    assert used(pod) == {"count/pods": "1"}


def test_scopes() -> None:
    best, bounded = make.pod("a"), make.pod("b")
    bounded["spec"] = {
        "containers": [container(cpu="1")],
        "activeDeadlineSeconds": 5,
        "priorityClassName": "high",
    }
    cases: dict[str, tuple[bool, bool]] = {
        "BestEffort": (True, False),
        "NotBestEffort": (False, True),
        "Terminating": (False, True),
        "NotTerminating": (True, False),
    }
    for scope, expected in cases.items():
        quota = {"spec": {"scopes": [scope]}}
        assert (usage.in_scope(quota, best), usage.in_scope(quota, bounded)) == expected, scope
    for operator, values, expected in (
        ("In", ["high"], (False, True)),
        ("NotIn", ["high"], (True, False)),
        ("Exists", [], (False, True)),
        ("DoesNotExist", [], (True, False)),
    ):
        rule = {"scopeName": "PriorityClass", "operator": operator, "values": values}
        quota = {"spec": {"scopeSelector": {"matchExpressions": [rule]}}}  # type: ignore[dict-item]
        assert (usage.in_scope(quota, best), usage.in_scope(quota, bounded)) == expected, operator


def test_what_services_and_claims_use() -> None:
    service = make.service(type="NodePort")
    assert str(usage.service_usage(service)["services.nodeports"]) == "1"
    service["spec"] |= {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False}
    out = usage.service_usage(service)
    assert (str(out["services.nodeports"]), str(out["services.loadbalancers"])) == ("0", "1")
    claim = {"spec": {"resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "fast"}}
    claim["status"] = {"allocatedResources": {"storage": "2Gi"}}
    names = {name: str(amount) for name, amount in usage.claim_usage(claim).items()}
    assert names["requests.storage"] == names["fast.storageclass.storage.k8s.io/requests.storage"] == "2Gi"


def test_the_status_shows_what_is_limited() -> None:
    quota = {"spec": {"hard": {"pods": "10", "requests.cpu": "1000m"}}}
    assert compute_status(quota, {"pods": usage.ONE, "services": usage.ONE}) == {
        "hard": {"pods": "10", "requests.cpu": "1"},
        "used": {"pods": "1", "requests.cpu": "0"},
    }


def test_a_quota_follows_its_namespace() -> None:
    async def scenario() -> None:
        world = World()
        hard = {
            "pods": "5",
            "services": "3",
            "count/configmaps": "9",
            "count/ingresses.networking.k8s.io": "2",
        }
        world.api.put(RESOURCEQUOTAS, {"metadata": make.meta("q"), "spec": {"hard": hard}, "status": {}})
        world.api.put(PODS, make.pod("p"))
        world.api.put(SERVICES, make.service())
        world.api.put(INGRESSES, {"metadata": make.meta("i"), "spec": {}})
        world.api.put(CONFIGMAPS, {"metadata": make.meta("elsewhere", "other")})

        def amounts() -> list[str]:
            found = world.api.get(RESOURCEQUOTAS, "q", "default")
            assert found is not None
            return [o.status(found)["used"][name] for name in hard]

        async with world.running(ResourceQuotaController):
            await world.settle()
            assert amounts() == ["1", "1", "0", "1"]
            world.api.drop(PODS, "p", "default")
            await world.settle()
            assert amounts() == ["0", "1", "0", "1"]
            world.api.drop(INGRESSES, "i", "default")  # nobody tells: found at the next look
            await world.pass_time(301, step=10)
            assert amounts() == ["0", "1", "0", "0"]

    run(scenario())
