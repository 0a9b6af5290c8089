"""HorizontalPodAutoscaler: arithmetic and limits by tables, the loop with and without a metrics API."""

from __future__ import annotations

from typing import Any

import pytest

from controllers import objects as o
from controllers.autoscaling import HorizontalPodAutoscalerController, calculator
from controllers.autoscaling import behavior as hb
from controllers.autoscaling.calculator import Groups, NoMetric, Samples, Tuning
from controllers.autoscaling.controller import samples_of
from kubeclient.resources import DEPLOYMENTS, HORIZONTALPODAUTOSCALERS, PODS
from tests.controllers import make
from tests.controllers.conftest import run
from tests.controllers.memoryapi import MemoryApi, Object
from tests.controllers.world import World

NOW = o.parse_time(make.START) + 1000
FULL = dict.fromkeys((f"p{n}" for n in range(10)), 1000)


@pytest.mark.parametrize(
    ("why", "current", "ready", "unready", "missing", "wanted"),
    [
        ("on target", 3, [500, 500, 500], 0, 0, 3),
        ("within tolerance", 3, [540, 540, 540], 0, 0, 3),
        ("twice the load", 3, [1000, 1000, 1000], 0, 0, 6),
        ("half the load", 4, [250] * 4, 0, 0, 2),
        ("unready pods are idle", 3, [1000, 1000], 1, 0, 4),
        ("and may cancel a step up", 4, [700, 700], 2, 0, 4),
        ("missing pods are idle on the way up", 3, [1000, 1000], 0, 1, 4),
        ("and busy on the way down", 4, [100, 100], 0, 2, 4),
        ("unready ones do not matter on the way down", 3, [100, 100], 1, 0, 1),
    ],
)
def test_replicas(why: str, current: int, ready: list[int], unready: int, missing: int, wanted: int) -> None:
    names = [f"p{n}" for n in range(len(ready) + unready + missing)]
    groups = Groups(
        tuple(names[: len(ready)]),
        tuple(names[len(ready) : len(ready) + unready]),
        tuple(names[len(ready) + unready :]),
        (),
    )
    samples = dict(zip(names, ready, strict=False))
    assert calculator.replicas_for(current, groups, samples, 50.0, FULL, Tuning()) == wanted


def test_average_values_need_no_requests() -> None:
    groups = Groups(("p0", "p1"), (), (), ())
    samples = {"p0": 300_000, "p1": 100_000}
    assert calculator.replicas_for(2, groups, samples, 100_000.0, None, Tuning()) == 4


def test_pods_are_sorted_by_what_their_sample_is_worth() -> None:
    pods = [
        make.pod("ok"),
        make.pod("new", phase="Pending"),
        make.pod("none"),
        make.pod("bad", phase="Failed"),
    ]
    for pod in pods:
        pod["status"]["startTime"] = make.START
    young = make.pod("young", ready=False)
    young["status"]["startTime"] = o.format_time(NOW - 10)
    samples = Samples(dict.fromkeys(("ok", "new", "bad", "young"), 1))
    groups = calculator.group([*pods, young], samples, "cpu", Tuning(), NOW)
    assert groups == Groups(("ok",), ("new", "young"), ("none",), ("bad",))


@pytest.mark.parametrize(
    ("age", "window_began", "counts"),
    [(100, -10, False), (100, 10, True), (400, -10, True)],  # seconds; the window's beginning after readiness
)
def test_the_work_of_starting_is_no_load(age: float, window_began: float, counts: bool) -> None:
    ready_at = NOW - 20
    pod = make.pod("p", since=o.format_time(ready_at))
    pod["status"]["startTime"] = o.format_time(NOW - age)
    samples = Samples({"p": 900}, {"p": ready_at + window_began})
    groups = calculator.group([pod], samples, "cpu", Tuning(), NOW)
    assert (groups.ready == ("p",)) is counts and (groups.unready == ("p",)) is not counts


def test_a_missing_request_is_named() -> None:
    pod = {"metadata": make.meta("p"), "spec": {"containers": [{"name": "c", "resources": {}}]}}
    with pytest.raises(NoMetric, match="missing request for cpu in container c of Pod p"):
        calculator.requests_of([pod], "cpu")


def test_samples_are_sums_over_containers() -> None:
    entry = {"metadata": {"name": "p"}, "containers": [usage("a", "250m"), usage("b", "1")]}
    half = {"metadata": {"name": "q"}, "containers": [usage("a", "1"), {"name": "b", "usage": {}}]}
    assert samples_of([entry, half], "cpu") == Samples({"p": 1250})
    assert samples_of([entry, half], "cpu", "a") == Samples({"p": 250, "q": 1000})
    dated = {**entry, "timestamp": o.format_time(NOW), "window": "15.5s"}
    assert samples_of([dated], "cpu").since == {"p": NOW - 15.5}


def usage(name: str, cpu: str) -> Object:
    return {"name": name, "usage": {"cpu": cpu}}


# -- behaviour -----------------------------------------------------------------------------------------------


def scaler(least: int = 1, most: int = 20, **spec: Any) -> Object:
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
    metric = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}
    return {
        "metadata": make.meta("hpa", generation=1),
        "spec": {
            "minReplicas": least,
            "maxReplicas": most,
            "scaleTargetRef": target,
            "metrics": [{"type": "Resource", "resource": metric}],
            **spec,
        },
        "status": {},
    }


def rule(kind: str, value: int, seconds: int = 60, **extra: Any) -> Object:
    return {"policies": [{"type": kind, "value": value, "periodSeconds": seconds}], **extra}


NONE = hb.History()


@pytest.mark.parametrize(
    ("behavior", "current", "desired", "history", "replicas", "reason"),
    [
        ({}, 2, 5, NONE, 5, "DesiredWithinRange"),
        ({}, 2, 9, NONE, 6, "ScaleUpLimit"),  # four pods or double, whichever is more
        ({}, 10, 30, NONE, 20, "TooManyReplicas"),
        ({}, 5, 1, NONE, 1, "DesiredWithinRange"),
        ({}, 5, 0, NONE, 1, "TooFewReplicas"),
        ({}, 5, 1, hb.History([hb.Mark(NOW - 100, 4)]), 4, "DesiredWithinRange"),
        ({}, 5, 1, hb.History([hb.Mark(NOW - 301, 4)]), 1, "DesiredWithinRange"),
        ({"scaleUp": rule("Pods", 1)}, 2, 9, NONE, 3, "ScaleUpLimit"),
        ({"scaleUp": rule("Pods", 2)}, 3, 9, hb.History(raised=[hb.Mark(NOW - 30, 1)]), 4, "ScaleUpLimit"),
        ({"scaleUp": {"selectPolicy": "Disabled"}}, 3, 9, NONE, 3, "ScaleUpLimit"),
        ({"scaleDown": rule("Percent", 10)}, 10, 1, NONE, 9, "ScaleDownLimit"),
        ({"scaleDown": rule("Pods", 2)}, 10, 1, hb.History(lowered=[hb.Mark(NOW - 5, 1)]), 9,
         "ScaleDownLimit"),
        ({"scaleUp": {"stabilizationWindowSeconds": 60}}, 2, 5, hb.History([hb.Mark(NOW - 5, 3)]), 3,
         "DesiredWithinRange"),
    ],
)  # fmt: skip
def test_limits(
    behavior: Object, current: int, desired: int, history: hb.History, replicas: int, reason: str
) -> None:
    found = hb.compute(scaler(behavior=behavior), current, desired, history, 300.0, NOW)
    assert (found.replicas, found.limited[1]) == (replicas, reason)


# -- loops ---------------------------------------------------------------------------------------------------


class WithMetrics(MemoryApi):
    """Serves pods.metrics.k8s.io when it has any, and scale of Deployments."""

    cpu: str | None = None

    def _handle(self, method: str, path: str, params: Any, body: Any, content_type: str) -> Object:
        if path.startswith("/apis/metrics.k8s.io/v1beta1/namespaces/default/pods"):
            if self.cpu is None:
                from apimachinery.errors import StatusError

                text = "the server could not find the requested resource"
                raise StatusError({"kind": "Status", "code": 404, "reason": "NotFound", "message": text})
            items = [
                {"metadata": {"name": o.name(pod)}, "containers": [usage("c", self.cpu)]}
                for pod in self.all(PODS)
            ]
            return {"kind": "PodMetricsList", "items": items}
        if path.endswith("/scale"):
            found = self.get(DEPLOYMENTS, "web", "default")
            assert found is not None
            if method == "PUT":
                found["spec"]["replicas"] = body["spec"]["replicas"]
                self.put(DEPLOYMENTS, found)
            metadata = {"name": "web", "namespace": "default"}
            spec = {"replicas": found["spec"]["replicas"]}
            return {"metadata": metadata, "spec": spec, "status": {"selector": "app=web"}}
        return super()._handle(method, path, params, body, content_type)


def fill(api: MemoryApi, size: int) -> None:
    for number in range(size):
        pod = make.pod(f"web-{number}", labels={"app": "web"})
        pod["spec"]["containers"] = [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]
        pod["status"]["startTime"] = make.START
        api.put(PODS, pod)


def condition(api: MemoryApi, kind: str) -> tuple[str, str, str]:
    found = api.get(HORIZONTALPODAUTOSCALERS, "hpa", "default")
    assert found is not None
    entry = o.condition(found, kind)
    assert entry is not None
    return entry["status"], entry["reason"], entry["message"]


def size(api: MemoryApi) -> int:
    found = api.get(DEPLOYMENTS, "web", "default")
    assert found is not None
    return o.replicas(found)


def test_it_follows_the_load_up_at_once_and_down_after_a_while() -> None:
    async def scenario() -> None:
        api = WithMetrics()
        world = World(api)
        api.put(DEPLOYMENTS, make.deployment(size=2))
        fill(api, 2)
        api.cpu = "1"
        api.put(HORIZONTALPODAUTOSCALERS, scaler())
        async with world.running(HorizontalPodAutoscalerController):
            await world.settle()
            assert size(api) == 4
            assert condition(api, "ScalingActive")[:2] == ("True", "ValidMetricFound")
            expected = "New size: 4; reason: cpu resource utilization (percentage of request) above target"
            assert ("Normal", "SuccessfulRescale", expected) in world.events.seen
            fill(api, 4)
            api.cpu = "100m"
            await world.pass_time(200, step=5)
            assert size(api) == 4 and condition(api, "AbleToScale")[1] == "ScaleDownStabilized"
            await world.pass_time(150, step=5)
            assert size(api) == 1

    run(scenario())


def test_without_a_metrics_api_it_says_so_and_does_nothing() -> None:
    async def scenario() -> None:
        api = WithMetrics()
        world = World(api)
        api.put(DEPLOYMENTS, make.deployment(size=2))
        fill(api, 2)
        api.put(HORIZONTALPODAUTOSCALERS, scaler())
        async with world.running(HorizontalPodAutoscalerController):
            await world.settle()
            status, reason, message = condition(api, "ScalingActive")
            assert (status, reason) == ("False", "FailedGetResourceMetric")
            assert message.endswith(
                "unable to fetch metrics from resource metrics API: the server could not find the requested "
                "resource (get pods.metrics.k8s.io)"
            )
            assert size(api) == 2
            assert "FailedComputeMetricsReplicas" in world.events.reasons

    run(scenario())


def test_bounds_and_absent_targets() -> None:
    async def scenario() -> None:
        api = WithMetrics()
        world = World(api)
        api.put(DEPLOYMENTS, make.deployment(size=9))
        api.put(HORIZONTALPODAUTOSCALERS, scaler(most=5))
        odd = scaler(scaleTargetRef={"apiVersion": "x.io/v1", "kind": "Odd", "name": "y"})
        odd["metadata"] |= {"name": "odd", "uid": "odd"}
        api.put(HORIZONTALPODAUTOSCALERS, odd)
        async with world.running(HorizontalPodAutoscalerController):
            await world.settle()
            assert size(api) == 5
            found = api.get(HORIZONTALPODAUTOSCALERS, "odd", "default")
            assert found is not None
            entry = o.condition(found, "AbleToScale")
            assert entry is not None and entry["reason"] == "FailedGetScale"
            assert 'no matches for kind "Odd"' in entry["message"]

    run(scenario())
