"""The API over ASGI, and the scraper that fills it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import orjson
import pytest

from apimachinery.errors import forbidden
from componentbase.clock import FakeClock
from componentbase.health import Health
from kubeclient.delegated import Delegated, FrontProxy, User
from metricsserver.app import front_proxy
from metricsserver.flags import complaint, declare
from metricsserver.samples import Point, Scrape
from metricsserver.scrape import ScrapeFailed, Scraper, address_of
from metricsserver.server import Cluster, Server
from metricsserver.store import Store

Object = dict[str, Any]
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
V1 = "/apis/metrics.k8s.io/v1beta1"


class Doorkeeper(Delegated):
    """Lets alice read; remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, str]] = []

    async def authenticate(self, scope: Any) -> User | None:
        name = dict(scope["headers"]).get(b"who", b"alice").decode()
        return User(name) if name != "nobody" else None

    async def allowed(
        self,
        user: User,
        *,
        resource: Mapping[str, str] | None = None,
        path: Mapping[str, str] | None = None,
    ) -> tuple[bool, str]:
        self.asked.append(resource or path or {})
        return user.name == "alice", ""


def labelled(name: str, namespace: str = "", **labels: str) -> Object:
    metadata = {"name": name, "labels": labels, **({"namespace": namespace} if namespace else {})}
    return {"metadata": metadata}


class World:
    def __init__(self, *, leads: bool = True) -> None:
        self.nodes = {
            name: labelled(name, zone=zone) for name, zone in (("n1", "a"), ("n2", "b"), ("n3", "b"))
        }
        pods = [labelled("web", "d", app="web"), labelled("db", "d", app="db"), labelled("web", "e")]
        self.pods = {f"{pod['metadata']['namespace']}/{pod['metadata']['name']}": pod for pod in pods}
        store, self.door = Store(15), Doorkeeper()
        for at, cpu in ((100.0, 1.0), (115.0, 4.0)):
            point = Point(at, cpu, 4096, 1.0)
            keys = [("d", "web"), ("d", "db"), ("e", "web")]
            found = Scrape(point, {key: {"main": point} for key in keys})
            store.put({"n1": found, "n2": Scrape(point)})
        cluster = Cluster(
            lambda: self.nodes.values(),
            lambda: self.pods.values(),
            self.nodes.get,
            self.pods.get,
            lambda: 120.0,
        )
        self.app = Server(store, cluster, self.door, Health(), lambda: leads)

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Object]:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
                return await client.request(method, path, headers=headers)

        answer = asyncio.run(ask())
        try:
            return answer.status_code, orjson.loads(answer.content)
        except orjson.JSONDecodeError:
            return answer.status_code, {"text": answer.text}


def names(answer: tuple[int, Object]) -> list[str]:
    assert answer[0] == 200, answer
    return [item["metadata"]["name"] for item in answer[1]["items"]]


def test_discovery() -> None:
    world = World()
    status, listed = world.get(V1)
    assert status == 200
    assert {(each["name"], each["kind"], each["namespaced"]) for each in listed["resources"]} == {
        ("nodes", "NodeMetrics", False),
        ("pods", "PodMetrics", True),
    }
    assert world.get("/apis")[1]["groups"] == [world.get("/apis/metrics.k8s.io")[1]]
    assert world.door.asked[0] == {"path": V1, "verb": "get"}


def test_nodes_and_pods_are_got_listed_and_selected() -> None:
    world = World()
    assert names(world.get(f"{V1}/nodes")) == ["n1", "n2"], "n3 has no metrics"
    assert names(world.get(f"{V1}/nodes?labelSelector=zone%3Db")) == ["n2"]
    assert names(world.get(f"{V1}/nodes?fieldSelector=metadata.name%3Dn1")) == ["n1"]
    assert names(world.get(f"{V1}/pods")) == ["db", "web", "web"]
    assert names(world.get(f"{V1}/namespaces/d/pods?labelSelector=app+in+(web)")) == ["web"]
    status, one = world.get(f"{V1}/namespaces/d/pods/web")
    assert status == 200 and one["containers"] == [
        {"name": "main", "usage": {"cpu": "200m", "memory": "4Ki"}}
    ]
    assert world.door.asked[-1] == {
        "verb": "get",
        "group": "metrics.k8s.io",
        "version": "v1beta1",
        "resource": "pods",
        "namespace": "d",
        "name": "web",
    }
    assert world.door.asked[0]["verb"] == "list"


def test_tables_for_who_asks_for_them() -> None:
    world = World()
    _, table = world.get(f"{V1}/nodes", accept=TABLE)
    assert [row["cells"] for row in table["rows"]] == [
        ["n1", "200m", "4Ki", "15s"],
        ["n2", "200m", "4Ki", "15s"],
    ]
    assert world.get(f"{V1}/nodes/n1", accept=TABLE)[1]["kind"] == "Table"
    assert world.get(f"{V1}/nodes", accept="application/json")[1]["kind"] == "NodeMetricsList"


@pytest.mark.parametrize(
    ("path", "method", "code", "text"),
    [
        (f"{V1}/nodes/n9", "GET", 404, 'nodemetrics.metrics.k8s.io "n9" not found'),
        (f"{V1}/nodes/n3", "GET", 404, 'nodemetrics.metrics.k8s.io "n3" not found'),
        (f"{V1}/namespaces/d/pods/x", "GET", 404, 'podmetrics.metrics.k8s.io "d/x" not found'),
        (f"{V1}/nodes?labelSelector=%3D", "GET", 400, ""),
        (f"{V1}/nodes?fieldSelector=spec.x%3D1", "GET", 400, "spec.x"),
        (f"{V1}/nodes?watch=true", "GET", 405, "watch"),
        (f"{V1}/nodes/n1", "DELETE", 405, "delete"),
        (f"{V1}/secrets", "GET", 404, "could not find"),
    ],
)
def test_refusals_are_statuses(path: str, method: str, code: int, text: str) -> None:
    status, answer = World().get(path, method)
    assert (status, answer["kind"], answer["code"]) == (code, "Status", code)
    assert text in answer["message"]


def test_strangers_are_kept_out() -> None:
    world = World()
    assert world.get(f"{V1}/nodes", who="nobody")[0] == 401
    status, answer = world.get(f"{V1}/namespaces/d/pods", who="eve")
    assert status == 403
    expected = 'User "eve" cannot list resource "pods" in API group "metrics.k8s.io" in the namespace "d"'
    assert answer["message"] == str(forbidden("metrics.k8s.io", "pods", "", expected))
    assert world.get("/metrics", who="eve")[0] == 403
    assert world.get("/metrics")[0] == 200
    assert world.get("/healthz", who="nobody")[0] == 200


def test_a_standby_is_discovered_but_tells_nothing() -> None:
    world = World(leads=False)
    assert world.get(V1)[0] == 200
    for path in (f"{V1}/nodes", f"{V1}/pods", f"{V1}/namespaces/d/pods/web"):
        status, answer = world.get(path)
        assert (status, answer["reason"]) == (503, "ServiceUnavailable"), "no list rather than an empty one"


def addressed(name: str, **addresses: str) -> Object:
    listed = [{"type": kind, "address": address} for kind, address in addresses.items()]
    endpoint = {"kubeletEndpoint": {"Port": 10250}}
    return {"metadata": {"name": name}, "status": {"addresses": listed, "daemonEndpoints": endpoint}}


def test_a_kubelet_is_found_by_its_best_address() -> None:
    node = addressed("n", Hostname="n.local", InternalIP="10.0.0.1")
    assert address_of(node, ["InternalIP", "Hostname"], None) == "10.0.0.1:10250"
    assert address_of(node, ["ExternalIP", "Hostname"], 9) == "n.local:9"
    assert address_of(addressed("n", InternalIP="fd00::1"), ["InternalIP"], None) == "[fd00::1]:10250"
    assert address_of(node, ["ExternalIP"], None) is None


def test_a_round_tells_of_the_kubelets_that_answered() -> None:
    async def scenario() -> None:
        clock, store, round_ = FakeClock(), Store(15), [0]
        nodes = [addressed(name, InternalIP=name) for name in ("good", "dead", "odd")]

        async def fetch(address: str, path: str) -> str:
            assert path == "/metrics/resource"
            if address.startswith("dead"):
                raise ScrapeFailed("no route to host")
            if address.startswith("odd"):
                return "<html>"
            at = int((1000 + 15 * round_[0]) * 1000)
            return f"node_cpu_usage_seconds_total {round_[0]} {at}\nnode_memory_working_set_bytes 1 {at}\n"

        def locate(node: Mapping[str, Any]) -> str | None:
            return address_of(node, ["InternalIP"], 1)

        scraper = Scraper(lambda: nodes, locate, fetch, store, clock, jitter=lambda: 0.0)
        async with asyncio.TaskGroup() as group:
            work = group.create_task(scraper.run())
            await clock.settle(50)
            assert not store.ready
            round_[0] = 1
            clock.advance(5)
            await clock.settle(50)
            usage = store.node("good")
            assert usage is not None and usage.cpu_nanocores == round(1e9 / 15)
            assert store.node("dead") is None and store.node("odd") is None
            work.cancel()

    asyncio.run(scenario())


def test_who_may_name_users_is_read_from_what_the_api_server_publishes() -> None:
    data = {
        "requestheader-client-ca-file": "PEM",
        "requestheader-allowed-names": '["front-proxy-client"]',
        "requestheader-username-headers": '["X-Remote-User"]',
        "requestheader-group-headers": '["X-Remote-Group"]',
        "requestheader-extra-headers-prefix": '["X-Remote-Extra-"]',
    }
    assert front_proxy(data) == FrontProxy(b"PEM", frozenset({"front-proxy-client"}))
    assert front_proxy({"client-ca-file": "PEM"}) is None


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--metric-resolution=5s"], "--metric-resolution"),
        (["--metric-resolution=10s", "--kubelet-request-timeout=10s"], "--kubelet-request-timeout"),
        (["--tls-cert-file=x"], "--tls-private-key-file"),
        (["--leader-elect"], "--bind-address"),
        (["--leader-elect", "--bind-address=127.0.0.1"], "--bind-address"),
        (["--leader-elect", "--bind-address=metrics.example"], "--bind-address"),
        (["--leader-elect", "--bind-address=10.240.0.10"], None),
        ([], None),
    ],
)
def test_flags_that_do_not_go_together(argv: list[str], text: str | None) -> None:
    found = complaint(declare().parse(argv))
    assert found is None if text is None else text in (found or "")
