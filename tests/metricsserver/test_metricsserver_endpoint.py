"""The Service leads to the server that leads, whoever else writes its slice."""

from __future__ import annotations

import asyncio
from typing import Any

from metricsserver.endpoint import Endpoint, leads_alike, slice_of
from tests.kubeclient.fakeapi import FakeApi, running
from tests.kubeclient.loops import eventually, on_loop

Object = dict[str, Any]
SLICES = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices"
PATH = f"{SLICES}/metrics-server"


class Applying(FakeApi):
    """Creates what is applied and not there, as server-side apply does."""

    def _handle(self, method: str, path: str, query: dict[str, str], body: bytes) -> tuple[int, Object]:
        if method == "PATCH" and path not in self.objects:
            assert (query["fieldManager"], query["force"]) == ("metrics-server", "true")
            return super()._handle("POST", path.rpartition("/")[0], query, body)
        return super()._handle(method, path, query, body)

    def addresses(self) -> list[str]:
        found = self.objects.get(PATH, {}).get("endpoints", [])
        return [address for each in found for address in each["addresses"]]

    def writes(self) -> int:
        return sum(method == "PATCH" for method, _ in self.requests)


def of(address: str) -> Object:
    return slice_of("kube-system", "metrics-server", address, 4443)


def test_the_slice_leads_to_one_server_of_the_service() -> None:
    made = of("10.240.0.11")
    assert made["metadata"]["labels"]["kubernetes.io/service-name"] == "metrics-server"
    assert (made["addressType"], made["ports"][0]["port"]) == ("IPv4", 4443)
    assert [each["addresses"] for each in made["endpoints"]] == [["10.240.0.11"]]
    assert of("fd00::1")["addressType"] == "IPv6"


def test_slices_are_alike_when_they_lead_alike() -> None:
    wanted = of("10.240.0.11")
    stored = {**wanted, "metadata": {**wanted["metadata"], "resourceVersion": "7", "generation": 1}}
    assert leads_alike(stored, wanted)
    assert not leads_alike(None, wanted)
    assert not leads_alike(of("10.240.0.12"), wanted)
    assert not leads_alike({**wanted, "endpoints": None}, wanted)
    assert not leads_alike({**wanted, "ports": [{"name": "https", "port": 1}]}, wanted)
    assert not leads_alike({**wanted, "metadata": {"name": "metrics-server", "labels": {}}}, wanted)


def test_what_a_leader_of_the_past_writes_does_not_stay() -> None:
    async def scenario() -> None:
        async with running(Applying()) as (api, client):
            assert isinstance(api, Applying)
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(Endpoint(client, of("10.240.0.11")).keep())
                await eventually(lambda: api.addresses() == ["10.240.0.11"])
                await eventually(lambda: api.watchers == 1)
                api.put(SLICES, of("10.240.0.12"))
                await eventually(lambda: api.addresses() == ["10.240.0.11"])
                api.remove(PATH)
                await eventually(lambda: api.addresses() == ["10.240.0.11"])
                keeping.cancel()

    on_loop(scenario)


def test_a_slice_that_is_right_is_not_written_and_a_refusal_is_tried_again() -> None:
    async def scenario() -> None:
        async with running(Applying()) as (api, client):
            assert isinstance(api, Applying)
            api.answers.append((503, {}, {"kind": "Status", "code": 503, "reason": "ServiceUnavailable"}))
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(Endpoint(client, of("10.240.0.11")).keep())
                await eventually(lambda: api.addresses() == ["10.240.0.11"] and api.watchers == 1)
                written = api.writes()
                api.objects[PATH]["metadata"]["annotations"] = {"seen": "yes"}
                api.put(SLICES, api.objects[PATH])
                api.put(SLICES, of("10.240.0.12"))
                await eventually(lambda: api.addresses() == ["10.240.0.11"])
                assert api.writes() == written + 1, "the annotation alone changes nothing"
                keeping.cancel()

    on_loop(scenario)
