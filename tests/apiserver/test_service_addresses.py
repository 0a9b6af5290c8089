"""IPAddresses are the cluster IPs that are taken; ServiceCIDRs are the ranges they come from."""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Any

import pytest

from apiserver.registry.addresses import BASE, LEAK_SIGHTINGS, holds
from tests.apiserver.harness import Harness, run

Object = dict[str, Any]
SERVICES = "/api/v1/namespaces/default/services"
ROOT = "/apis/networking.k8s.io/v1"
TABLE = {"accept": "application/json;as=Table;g=meta.k8s.io;v=v1"}


def service(name: str, **spec: Any) -> Object:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


def owned(address: str) -> Object:
    parent = {"group": "example.com", "resource": "gateways", "name": "g"}
    return {"kind": "IPAddress", "metadata": {"name": address}, "spec": {"parentRef": parent}}


def cidr(name: str, *cidrs: str) -> Object:
    return {"kind": "ServiceCIDR", "metadata": {"name": name}, "spec": {"cidrs": list(cidrs)}}


async def make_ready(api: Harness, name: str, status: str = "True") -> None:
    """What the service-cidr-controller does."""
    condition = {
        "type": "Ready",
        "status": status,
        "reason": "",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    headers = {"content-type": "application/merge-patch+json"}
    patch = {"status": {"conditions": [condition]}}
    await api.ok("PATCH", f"{ROOT}/servicecidrs/{name}/status", patch, headers=headers)
    await api.ok("GET", f"{ROOT}/servicecidrs")  # a consistent read: the cache has seen it


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
        others = await api.ok("POST", f"{ROOT}/ipaddresses", owned("10.32.0.251"))
        await api.server.bootstrap.repair()
        found = await addresses(api)
        assert address in found and free in found  # its Service may be about to be written
        for _ in range(LEAK_SIGHTINGS):
            await api.server.bootstrap.repair()
        found = await addresses(api)
        assert address in found and free not in found
        assert others["metadata"]["name"] in found  # nobody's here to free

    run(body)


def test_the_range_is_seen() -> None:
    async def body(api: Harness) -> None:
        table = await api.ok("GET", f"{ROOT}/servicecidrs", headers=TABLE)
        assert table["rows"][0]["cells"][:2] == ["kubernetes", "10.32.0.0/24"]
        found = await api.ok("GET", f"{ROOT}/servicecidrs/kubernetes")
        assert found["status"]["conditions"][0]["type"] == "Ready"

    run(body)


def test_the_next_range_is_taken_from_when_one_is_full() -> None:
    async def body(api: Harness) -> None:
        for at in range(2, 6):  # 10.32.0.0/29 has six places, and one is that of `kubernetes`
            await api.ok("POST", SERVICES, service(f"s{at}"))
        await api.ok("POST", SERVICES, service("last"))
        await api.fails(500, "InternalError", "POST", SERVICES, service("more"))
        await api.ok("POST", f"{ROOT}/servicecidrs", cidr("more", "10.99.0.0/29"))
        await api.ok("GET", f"{ROOT}/servicecidrs")
        await api.fails(500, "InternalError", "POST", SERVICES, service("more"))  # it is not ready
        await make_ready(api, "more")
        made = await api.ok("POST", SERVICES, service("more"))
        address = made["spec"]["clusterIP"]
        assert ipaddress.ip_address(address) in ipaddress.ip_network("10.99.0.0/29")
        assert (await addresses(api))[address] == "services/default/more"
        wanted = next(f"10.99.0.{at}" for at in range(1, 7) if f"10.99.0.{at}" != address)
        await api.ok("POST", SERVICES, service("named", clusterIP=wanted))
        await make_ready(api, "more", "False")
        status = await api.fails(422, "Invalid", "POST", SERVICES, service("late", clusterIP="10.99.0.6"))
        assert "The range of valid IPs is 10.32.0.0/29" in status["message"]

    run(body, "--service-cluster-ip-range=10.32.0.0/29")


def test_no_address_is_given_twice_to_services_created_at_once() -> None:
    async def body(api: Harness) -> None:
        made = await asyncio.gather(*(api.call("POST", SERVICES, service(f"s{at}")) for at in range(20)))
        given = [answer.json()["spec"]["clusterIP"] for answer in made if answer.status_code == 201]
        assert len(given) == len(set(given)) == 13  # a /28 without its ends and `kubernetes`
        for answer in made:
            assert answer.status_code in (201, 500), answer.text
        name = next(a.json()["metadata"]["name"] for a in made if a.status_code == 201)
        await api.ok("DELETE", f"{SERVICES}/{name}")
        await api.ok("POST", SERVICES, service("again"))

    run(body, "--service-cluster-ip-range=10.32.0.0/28")


def test_an_address_that_others_hold_is_taken() -> None:
    async def body(api: Harness) -> None:
        await api.ok("POST", f"{ROOT}/ipaddresses", owned("10.32.0.77"))
        status = await api.fails(422, "Invalid", "POST", SERVICES, service("s", clusterIP="10.32.0.77"))
        assert "provided IP is already allocated" in status["message"]
        await api.ok("DELETE", f"{ROOT}/ipaddresses/10.32.0.77")
        await api.ok("POST", SERVICES, service("s", clusterIP="10.32.0.77"))
        await api.fails(409, "AlreadyExists", "POST", f"{ROOT}/ipaddresses", owned("10.32.0.77"))

    run(body)


@pytest.mark.parametrize(
    ("resource", "wrong", "path"),
    [
        ("ipaddresses", owned("10.32.0.07"), "metadata.name"),
        ("ipaddresses", owned("name"), "metadata.name"),
        ("ipaddresses", owned("2001:DB8::1"), "metadata.name"),
        ("ipaddresses", {**owned("10.0.0.1"), "spec": {}}, "spec.parentRef"),
        ("servicecidrs", cidr("c"), "spec.cidrs"),
        ("servicecidrs", cidr("c", "10.1.0.1/16"), "spec.cidrs[0]"),
        ("servicecidrs", cidr("c", "10.1.0.0/16", "10.2.0.0/16"), "spec.cidrs"),
        ("servicecidrs", cidr("c", "10.1.0.0/16", "fd00::/108", "fd01::/108"), "spec.cidrs"),
    ],
)
def test_what_they_must_be(resource: str, wrong: Object, path: str) -> None:
    async def body(api: Harness) -> None:
        status = await api.fails(422, "Invalid", "POST", f"{ROOT}/{resource}", wrong)
        assert path in [cause["field"] for cause in status["details"]["causes"]]

    run(body)


def test_what_never_changes() -> None:
    async def body(api: Harness) -> None:
        merge = {"content-type": "application/merge-patch+json"}
        await api.ok("POST", f"{ROOT}/ipaddresses", owned("2001:db8::1"))
        patch: Object = {"spec": {"parentRef": {"name": "other"}}}
        await api.fails(422, "Invalid", "PATCH", f"{ROOT}/ipaddresses/2001:db8::1", patch, headers=merge)
        sent = {**cidr("c", "10.1.0.0/16"), "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        assert not (await api.ok("POST", f"{ROOT}/servicecidrs", sent)).get("status")
        patch = {"spec": {"cidrs": ["10.2.0.0/16"]}}
        await api.fails(422, "Invalid", "PATCH", f"{ROOT}/servicecidrs/c", patch, headers=merge)
        patch = {"spec": {"cidrs": ["10.1.0.0/16", "fd00::/108"]}}  # a second family may come
        await api.ok("PATCH", f"{ROOT}/servicecidrs/c", patch, headers=merge)

    run(body)


def test_the_ends_of_a_range_are_nobodys() -> None:
    network = ipaddress.ip_network("10.32.0.0/30")
    held = [at for at in range(4) if holds(network, f"10.32.0.{at}")]
    assert held == [1, 2] and not holds(network, "10.32.1.1") and not holds(network, "x")
