"""The sync loop, with an apiserver that is small and a kernel that can refuse."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kubeclient.informer import InformerFactory
from kubeproxy import conntrack
from kubeproxy.app import Healthz, Metrics
from kubeproxy.compiler import Settings
from kubeproxy.nftables import Inventory, Nft, NftError
from kubeproxy.proxy import Proxy
from tests.kubeclient.fakeapi import FakeApi, running
from tests.kubeclient.loops import eventually, on_loop
from tests.kubeproxy.objects import endpoint, service, slice_of

SERVICES = "/api/v1/namespaces/default/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"


class FakeNft(Nft):
    """Takes transactions, or refuses as many as told; `table` says whether ours is there."""

    def __init__(self) -> None:
        super().__init__()
        self.transactions: list[str] = []
        self.refuse = 0
        self.table = False

    async def apply(self, transaction: str) -> None:
        if self.refuse:
            self.refuse -= 1
            raise NftError("no")
        self.transactions.append(transaction)
        self.table = True

    async def present(self) -> bool:
        return self.table

    async def inventory(self) -> Inventory | None:
        return None

    @property
    def full(self) -> list[bool]:
        return ["delete table" in each for each in self.transactions]


@pytest.fixture(autouse=True)
def flows(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    forgotten: list[Any] = []

    async def forget(commands: Any) -> None:
        forgotten.extend(commands)

    monkeypatch.setattr(conntrack, "forget", forget)
    return forgotten


@contextlib.asynccontextmanager
async def proxying(**options: Any) -> AsyncIterator[tuple[FakeApi, FakeNft, Proxy]]:
    async with running() as (api, client):
        api.put(SERVICES, service())
        api.put(SLICES, slice_of("web", endpoint("10.200.0.5")))
        factory = InformerFactory(client)
        nft: Any = FakeNft()
        settings = Settings(("10.200.0.0/16",))
        proxy = Proxy(factory, "node-a", settings, backend=nft, **{"min_sync_period": 0.02, **options})
        async with asyncio.TaskGroup() as group:
            owned = [group.create_task(factory.run()), group.create_task(proxy.run())]
            try:
                yield api, nft, proxy
            finally:
                for task in owned:
                    task.cancel()


def test_the_first_transaction_replaces_and_the_next_ones_change() -> None:
    async def test() -> None:
        async with proxying() as (api, nft, proxy):
            await eventually(lambda: nft.full == [True])
            assert "10.200.0.5 . 8080" in nft.transactions[0]
            api.put(SLICES, slice_of("web", endpoint("10.200.0.5"), endpoint("10.200.1.6", "node-b")))
            await eventually(lambda: nft.full == [True, False])
            assert "10.200.1.6 . 8080" in nft.transactions[1]
            assert "10.200.0.5 . 8080" not in nft.transactions[1]
            assert proxy.lag == 0

    on_loop(test)


def test_what_changes_no_rule_sends_nothing_to_the_kernel() -> None:
    async def test() -> None:
        async with proxying() as (api, nft, proxy):
            await eventually(lambda: nft.full == [True])
            before = proxy.last_synced
            changed = service()
            changed["metadata"]["annotations"] = {"note": "x"}
            api.put(SERVICES, changed)
            await eventually(lambda: proxy.last_synced > before)
            assert len(nft.transactions) == 1

    on_loop(test)


def test_a_refused_transaction_is_followed_by_a_whole_one() -> None:
    async def test() -> None:
        async with proxying() as (api, nft, proxy):
            await eventually(lambda: nft.full == [True])
            nft.refuse = 1
            api.remove(f"{SERVICES}/web")
            await eventually(lambda: nft.refuse == 0)
            assert proxy.lag > 0
            await eventually(lambda: nft.full == [True, True])
            assert "10.32.0.10" not in nft.transactions[1]
            assert proxy.lag == 0

    on_loop(test)


def test_a_table_removed_by_somebody_else_comes_back() -> None:
    async def test() -> None:
        async with proxying(sync_period=0.05) as (_, nft, _):
            await eventually(lambda: nft.full == [True])
            nft.table = False
            await eventually(lambda: nft.full == [True, True])

    on_loop(test)


def test_a_burst_of_changes_is_one_transaction() -> None:
    async def test() -> None:
        async with proxying(min_sync_period=0.3) as (api, nft, _):
            await eventually(lambda: nft.full == [True])
            for n in range(10, 30):
                api.put(SERVICES, service(f"s{n}", ip=f"10.32.0.{n + 1}"))
            await eventually(lambda: len(nft.transactions) == 2)
            assert "10.32.0.30" in nft.transactions[1]

    on_loop(test)


def test_stale_udp_flows_are_forgotten_after_the_rules_changed(flows: list[Any]) -> None:
    async def test() -> None:
        async with proxying() as (api, nft, _):
            ports = [{"name": "dns", "port": 53, "protocol": "UDP"}]
            api.put(SERVICES, service("dns", ip="10.32.0.53", ports=ports))
            api.put(SLICES, slice_of("dns", endpoint("10.200.0.9"), port=53, port_name="dns", protocol="UDP"))
            await eventually(lambda: "10.200.0.9" in "".join(nft.transactions))
            api.remove(f"{SLICES}/dns-1")
            await eventually(lambda: any("10.200.0.9" in command for command in flows))

    on_loop(test)


@pytest.mark.parametrize(
    ("path", "healthy", "eligible", "status"),
    [
        ("/healthz", False, True, 503),
        ("/healthz", True, True, 200),
        ("/healthz", True, False, 503),
        ("/livez", True, False, 200),
        ("/nothing", True, True, 404),
    ],
)
def test_health(path: str, healthy: bool, eligible: bool, status: int) -> None:
    class Standing:
        pass

    proxy: Any = Standing()
    proxy.last_synced, proxy.healthy, proxy.node_eligible = 1000.0, healthy, eligible
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Healthz(proxy)({"path": path}, None, send))
    assert sent[0]["status"] == status


def test_health_turns_bad_when_a_change_waits_too_long() -> None:
    async def test() -> None:
        async with proxying() as (_, nft, proxy):
            assert not proxy.healthy
            await eventually(lambda: nft.full == [True])
            await eventually(lambda: proxy.healthy)
            proxy._dirty_since = proxy._clock.monotonic() - 61
            assert not proxy.healthy

    on_loop(test)


def test_a_node_that_is_about_to_go_takes_no_new_connections() -> None:
    async def test() -> None:
        async with proxying() as (api, _, proxy):
            assert proxy.node_eligible
            taints = [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]
            api.put("/api/v1/nodes", {"metadata": {"name": "node-a"}, "spec": {"taints": taints}})
            await eventually(lambda: not proxy.node_eligible)

    on_loop(test)


def test_a_changed_zone_compiles_everything_anew() -> None:
    async def test() -> None:
        async with proxying() as (api, nft, _):
            await eventually(lambda: nft.full == [True])
            near, far = endpoint("10.200.0.5"), endpoint("10.200.1.6", "node-b")
            near["hints"], far["hints"] = {"forZones": [{"name": "a"}]}, {"forZones": [{"name": "b"}]}
            api.put(SLICES, slice_of("web", near, far))
            await eventually(lambda: len(nft.transactions) == 2)
            assert "10.200.1.6 . 8080" in nft.transactions[1]
            labels = {"topology.kubernetes.io/zone": "a"}
            api.put("/api/v1/nodes", {"metadata": {"name": "node-a", "labels": labels}})
            await eventually(lambda: len(nft.transactions) == 3)
            assert "delete element ip kube-proxy hairpin-connections" in nft.transactions[2]

    on_loop(test)


@pytest.mark.parametrize(
    ("path", "last_synced", "lag", "status"),
    [
        ("/readyz", 0.0, 0.0, 500),
        ("/livez", 0.0, 0.0, 200),
        ("/readyz", 1.0, 0.0, 200),
        ("/livez/rules-fresh", 1.0, 61.0, 500),
        ("/healthz/rules-programmed", 1.0, 61.0, 200),
        ("/proxyMode", 0.0, 0.0, 200),
    ],
)
def test_named_checks(path: str, last_synced: float, lag: float, status: int) -> None:
    class Standing:
        pass

    proxy: Any = Standing()
    proxy.last_synced, proxy.lag = last_synced, lag
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": path, "query_string": b"", "method": "GET"}
    asyncio.run(Metrics("iptables", proxy)(scope, None, send))
    assert sent[0]["status"] == status
    if path == "/proxyMode":
        assert sent[1]["body"] == b"iptables"
