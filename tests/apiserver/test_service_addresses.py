"""IPAddresses follow the cluster IPs of Services; the range is a ServiceCIDR."""

from __future__ import annotations

from typing import Any

from apiserver.registry.addresses import BASE
from tests.apiserver.harness import Harness, run

Object = dict[str, Any]
SERVICES = "/api/v1/namespaces/default/services"
ROOT = "/apis/networking.k8s.io/v1"
TABLE = {"accept": "application/json;as=Table;g=meta.k8s.io;v=v1"}


async def addresses(api: Harness) -> dict[str, str]:
    table = await api.ok("GET", f"{ROOT}/ipaddresses", headers=TABLE)
    return {row["cells"][0]: row["cells"][1] for row in table["rows"]}


def test_every_cluster_ip_has_an_object_as_long_as_it_is_used() -> None:
    async def body(api: Harness) -> None:
        made = await api.ok("POST", SERVICES, {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}})
        address = made["spec"]["clusterIP"]
        found = await addresses(api)
        assert found[address] == "services/default/s"
        assert found["10.32.0.1"] == "services/default/kubernetes"
        stored = await api.ok("GET", f"{ROOT}/ipaddresses/{address}")
        assert stored["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"] == "IPv4"
        await api.ok("DELETE", f"{SERVICES}/s")
        assert address not in await addresses(api)
        await api.fails(405, "MethodNotAllowed", "POST", f"{ROOT}/ipaddresses", stored)

    run(body)


def test_repair_adds_what_is_missing_and_takes_away_leftovers() -> None:
    async def body(api: Harness) -> None:
        made = await api.ok("POST", SERVICES, {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}})
        address = made["spec"]["clusterIP"]
        held, _ = await api.store.get(BASE + address)
        assert held is not None
        await api.store.delete(BASE + address, held.revision)
        free = next(f"10.32.0.{at}" for at in range(2, 250) if f"10.32.0.{at}" != address)
        await api.store.create(BASE + free, held.value.replace(address.encode(), free.encode()))
        await api.server.bootstrap.repair()
        found = await addresses(api)
        assert address in found and free not in found

    run(body)


def test_the_range_is_seen() -> None:
    async def body(api: Harness) -> None:
        table = await api.ok("GET", f"{ROOT}/servicecidrs", headers=TABLE)
        assert table["rows"][0]["cells"][:2] == ["kubernetes", "10.32.0.0/24"]
        found = await api.ok("GET", f"{ROOT}/servicecidrs/kubernetes")
        assert found["status"]["conditions"][0]["type"] == "Ready"

    run(body)
