"""APIServices that this server makes for itself, their rules, and the order of discovery."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from apiserver.aggregation import local
from tests.apiserver.extensions.test_crds import CRDS, define
from tests.apiserver.harness import Harness, run

Object = dict[str, Any]

SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"


def api_service(version: str = "v1alpha1", group: str = "sample.example.com", **spec: Any) -> Object:
    given = {
        "group": group,
        "version": version,
        "groupPriorityMinimum": 2000,
        "versionPriority": 20,
        "service": {"namespace": "default", "name": "sample"},
        **spec,
    }
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{version}.{group}"},
        "spec": {name: value for name, value in given.items() if value is not None},
    }


async def eventually(probe: Any) -> Any:
    async with asyncio.timeout(60):
        while not (found := await probe()):  # noqa: ASYNC110 - what it looks at is behind a server
            await asyncio.sleep(0.01)
    return found


def names_of(listed: Object) -> set[str]:
    return {item["metadata"]["name"] for item in listed["items"]}


def test_what_this_server_serves_is_registered() -> None:
    async def body(api: Harness) -> None:
        async def registered() -> Any:
            listed = await api.ok("GET", SERVICES)
            return listed if {"v1.", "v1.apps", "v2.autoscaling"} <= names_of(listed) else None

        listed = await eventually(registered)
        assert "v1.apiregistration.k8s.io" not in names_of(listed)
        apps = next(item for item in listed["items"] if item["metadata"]["name"] == "v1.apps")
        assert apps["metadata"]["labels"] == {local.MANAGED: "onstart"}
        assert apps["spec"]["groupPriorityMinimum"] == 17800 and apps["spec"]["versionPriority"] == 15
        condition = apps["status"]["conditions"][0]
        assert (condition["type"], condition["status"], condition["reason"]) == ("Available", "True", "Local")
        table = await api.ok(
            "GET", f"{SERVICES}/v1.apps", headers={"accept": "application/json;as=Table;g=meta.k8s.io;v=v1"}
        )
        assert table["rows"][0]["cells"][:3] == ["v1.apps", "Local", "True"]

    run(body)


def test_custom_resources_are_registered_as_long_as_they_are_served() -> None:
    async def body(api: Harness) -> None:
        await define(api)
        path = f"{SERVICES}/v1.stable.example.com"

        async def there() -> bool:
            return (await api.call("GET", path)).status_code == 200

        async def gone() -> bool:
            return not await there()

        await eventually(there)
        await api.ok("DELETE", path)  # somebody takes it away: it is made again
        await eventually(there)
        await api.ok("DELETE", f"{CRDS}/widgets.stable.example.com")
        await eventually(gone)

    run(body)


def test_discovery_is_in_the_order_of_priorities() -> None:
    async def body(api: Harness) -> None:
        groups = [group["name"] for group in (await api.ok("GET", "/apis"))["groups"]]
        assert groups[:3] == ["apiregistration.k8s.io", "apps", "events.k8s.io"]
        scaling = await api.ok("GET", "/apis/autoscaling")
        assert [version["version"] for version in scaling["versions"]] == ["v2", "v1"]

    run(body)


def test_order_is_by_rank_then_name_then_version() -> None:
    found = [("b.io", "v1"), ("a.io", "v1beta1"), ("a.io", "v2"), ("apps", "v1"), ("z.io", "v1")]
    ranks = {("z.io", "v1"): local.Rank(1001, 5), ("a.io", "v1beta1"): local.Rank(900, 200)}
    assert local.ordered(found, ranks) == {
        "apps": ["v1"],
        "z.io": ["v1"],
        "a.io": ["v1beta1", "v2"],
        "b.io": ["v1"],
    }


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"groupPriorityMinimum": 0}, "spec.groupPriorityMinimum", "positive and less than 20000"),
        ({"versionPriority": 1001}, "spec.versionPriority", "positive and less than 1000"),
        ({"version": "V1"}, "spec.version", "a DNS-1035 label"),
        ({"group": "Sample"}, "spec.group", "RFC 1123 subdomain"),
        ({"service": {"namespace": "", "name": "x"}}, "spec.service.namespace", "Required"),
        ({"service": {"namespace": "d", "name": "x", "port": 70000}}, "spec.service.port", "between 1 and"),
        ({"service": None, "caBundle": "AAAA"}, "spec.caBundle", "local APIServices may not have"),
        ({"service": None, "insecureSkipTLSVerify": True}, "spec.insecureSkipTLSVerify", "local APIServices"),
        (
            {"caBundle": "AAAA", "insecureSkipTLSVerify": True},
            "spec.insecureSkipTLSVerify",
            "may not be true",
        ),
    ],
)
def test_rules(change: Object, field: str, message: str) -> None:
    async def body(api: Harness) -> None:
        sent = api_service()
        sent["spec"].update(change)
        if change.get("service", {}) is None:
            del sent["spec"]["service"]
        status = await api.fails(422, "Invalid", "POST", SERVICES, sent)
        causes = {cause["field"]: cause["message"] for cause in status["details"]["causes"]}
        assert message in causes[field]

    run(body)


def test_the_name_says_version_and_group() -> None:
    async def body(api: Harness) -> None:
        sent = api_service()
        sent["metadata"]["name"] = "v1.other"
        status = await api.fails(422, "Invalid", "POST", SERVICES, sent)
        assert 'must be `spec.version+"."+spec.group`' in status["message"]

    run(body)
