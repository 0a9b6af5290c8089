"""From what kubelets say to what is told of it."""

from __future__ import annotations

import pytest

from metricsserver import render
from metricsserver.samples import BadExposition, Point, Scrape, parse
from metricsserver.store import Store, Usage

TEXT = """\
# HELP node_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the node in core-seconds
# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total 100.5 1767225600000
node_memory_working_set_bytes 1.048576e+06 1767225600000
container_cpu_usage_seconds_total{container="web",namespace="d",pod="p"} 2.5 1767225600500
container_memory_working_set_bytes{container="web",namespace="d",pod="p"} 4096 1767225600500
container_start_time_seconds{container="web",namespace="d",pod="p"} 1.767225e+09
container_cpu_usage_seconds_total{container="half",namespace="d",pod="p"} 1 1767225600500
pod_cpu_usage_seconds_total{namespace="d",pod="p"} 2.5 1767225600500
resource_scrape_error 0
"""
POD = ("d", "p")
START = 1_000_000.0


def test_an_exposition_is_read() -> None:
    found = parse(TEXT)
    assert found.node == Point(1767225600.0, 100.5, 1048576)
    assert found.pods == {POD: {"web": Point(1767225600.5, 2.5, 4096, 1767225000.0)}}


@pytest.mark.parametrize("text", ["", "<html>no</html>", "node_cpu_usage_seconds_total x 1"])
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadExposition):
        parse(text)


def node(at: float, cpu: float, memory: int = 4096) -> dict[str, Scrape]:
    return {"n": Scrape(Point(at, cpu, memory))}


def pod(at: float, started: float = 1.0, **cpu: float) -> dict[str, Scrape]:
    points = {name: Point(at, used, 1024, started) for name, used in cpu.items()}
    return {"n": Scrape(None, {POD: points})}


def test_a_rate_needs_two_points() -> None:
    store = Store(15)
    store.put(node(START, 10))
    assert store.node("n") is None and not store.ready
    store.put(node(START + 20, 15, 8192))
    assert store.node("n") == Usage(START + 20, 20, 250_000_000, 8192) and store.ready


def test_a_kubelet_that_did_not_look_again_changes_nothing_and_one_that_is_silent_is_forgotten() -> None:
    store = Store(15)
    store.put(node(START, 10))
    store.put(node(START + 20, 15))
    store.put(node(START + 20, 15))
    assert store.node("n") == Usage(START + 20, 20, 250_000_000, 4096)
    store.put({})
    assert store.node("n") is None
    store.put(node(START + 60, 20))
    assert store.node("n") is None, "what was before the silence does not count"


def test_a_restarted_container_begins_anew() -> None:
    store = Store(15)
    store.put(pod(START, web=100))
    store.put(pod(START + 15, web=101))
    assert store.pod(POD) == {"web": Usage(START + 15, 15, round(1e9 / 15), 1024)}
    store.put(pod(START + 30, started=START + 28, web=0.5))
    assert store.pod(POD) is None
    store.put(pod(START + 45, started=START + 28, web=2))
    assert store.pod(POD) == {"web": Usage(START + 45, 15, 100_000_000, 1024)}


def test_a_container_that_ran_for_ten_seconds_counts_from_its_start() -> None:
    store = Store(15)
    store.put(pod(START + 12, started=START, web=1.2))
    assert store.pod(POD) == {"web": Usage(START + 12, 12, 100_000_000, 1024)}
    young = Store(15)
    young.put(pod(START + 9, started=START, web=1))
    assert young.pod(POD) is None


def test_a_pod_is_told_of_only_when_all_its_containers_are_known() -> None:
    store = Store(15)
    store.put(pod(START, web=1))
    store.put(pod(START + 15, web=2, side=1))
    assert store.pod(POD) is None
    store.put(pod(START + 30, web=3, side=2))
    assert set(store.pod(POD) or {}) == {"web", "side"}


def test_objects_and_tables_as_kubernetes_writes_them() -> None:
    of = {"metadata": {"name": "p", "namespace": "d", "labels": {"a": "b"}, "uid": "x"}}
    usages = {"web": Usage(60, 15, 2_500_000, 2048), "side": Usage(59, 15.0004, 123_456, 1 << 20)}
    made = render.pod_metrics(of, usages, 61)
    assert made == {
        "kind": "PodMetrics",
        "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": {
            "name": "p",
            "namespace": "d",
            "labels": {"a": "b"},
            "creationTimestamp": "1970-01-01T00:01:01Z",
        },
        "timestamp": "1970-01-01T00:00:59Z",
        "window": "15s",
        "containers": [
            {"name": "side", "usage": {"cpu": "123456n", "memory": "1Mi"}},
            {"name": "web", "usage": {"cpu": "2500u", "memory": "2Ki"}},
        ],
    }
    table = render.table([made])
    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "cpu", "memory", "Window"]
    assert table["rows"][0]["cells"] == ["p", "2623456n", "1026Ki", "15s"]
    assert render.table([])["rows"] == []
