"""LimitRanges and ResourceQuotas as a namespace's users meet them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from apiserver.admission import limits
from tests.apiserver.harness import CONFIG_MAPS, DEFAULT_ACCOUNT, PODS, Harness, config_map, harness, pod, run

Object = dict[str, Any]
BASE = "/api/v1/namespaces/default"


def sized(name: str, requests: Object | None = None, bounds: Object | None = None) -> Object:
    out = pod(name)
    resources = {key: value for key, value in (("requests", requests), ("limits", bounds)) if value}
    out["spec"]["containers"][0]["resources"] = resources
    return out


async def prepare(api: Harness, kind: str, spec: Object) -> None:
    await api.call("POST", f"{BASE}/serviceaccounts", DEFAULT_ACCOUNT)
    resource = {"LimitRange": "limitranges", "ResourceQuota": "resourcequotas"}[kind]
    body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "q"}, "spec": spec}
    await api.ok("POST", f"{BASE}/{resource}", body)
    # Admission reads the cache; a consistent list waits until it has the object.
    await api.ok("GET", f"{BASE}/{resource}")


def test_a_limit_range_fills_in_and_says_so() -> None:
    async def body(api: Harness) -> None:
        item = {
            "type": "Container",
            "default": {"cpu": "500m"},
            "defaultRequest": {"cpu": "100m", "memory": "1Mi"},
        }
        await prepare(api, "LimitRange", {"limits": [item]})
        made = await api.ok("POST", PODS, pod("a"))
        resources = made["spec"]["containers"][0]["resources"]
        assert resources == {"limits": {"cpu": "500m"}, "requests": {"cpu": "100m", "memory": "1Mi"}}
        note = made["metadata"]["annotations"]["kubernetes.io/limit-ranger"]
        assert note == (
            "LimitRanger plugin set: cpu limit for container c; cpu request for container c; "
            "memory request for container c"
        )
        own = await api.ok("POST", PODS, sized("b", None, {"cpu": "200m"}))
        assert own["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "200m"

    run(body)


@pytest.mark.parametrize(
    ("item", "requests", "bounds", "why"),
    [
        (
            {"type": "Container", "max": {"cpu": "1"}},
            None,
            {"cpu": "2"},
            "maximum cpu usage per Container is 1, but limit is 2",
        ),
        (
            {"type": "Container", "min": {"memory": "10Mi"}},
            {"memory": "5Mi"},
            {"memory": "20Mi"},
            "minimum memory usage per Container is 10Mi, but request is 5Mi",
        ),
        (
            {"type": "Pod", "max": {"cpu": "1"}},
            None,
            None,
            "maximum cpu usage per Pod is 1.  No limit is specified",
        ),
        (
            {"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}},
            {"cpu": "100m"},
            {"cpu": "300m"},
            "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000",
        ),
    ],
)
def test_a_limit_range_refuses(item: Object, requests: Object, bounds: Object, why: str) -> None:
    async def body(api: Harness) -> None:
        await prepare(api, "LimitRange", {"limits": [item]})
        status = await api.fails(403, "Forbidden", "POST", PODS, sized("a", requests, bounds))
        assert why in status["message"]

    run(body)


def test_the_largest_init_container_counts() -> None:
    spec = {
        "initContainers": [
            {"restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
            {"resources": {"requests": {"cpu": "5"}}},
        ],
        "containers": [{"resources": {"requests": {"cpu": "2"}}}],
    }
    assert str(limits.pod_total({"spec": spec}, "requests")["cpu"]) == "6"


def test_a_quota_counts_and_refuses() -> None:
    async def body(api: Harness) -> None:
        await prepare(api, "ResourceQuota", {"hard": {"configmaps": "2", "count/secrets": "1"}})
        for name in ("a", "b"):
            await api.ok("POST", CONFIG_MAPS, config_map(name))
        status = await api.fails(403, "Forbidden", "POST", CONFIG_MAPS, config_map("c"))
        assert status["message"].endswith(
            "exceeded quota: q, requested: configmaps=1, used: configmaps=2, limited: configmaps=2"
        )
        quota = await api.ok("GET", f"{BASE}/resourcequotas/q")
        assert quota["status"]["used"] == {"configmaps": "2", "count/secrets": "0"}
        await api.ok("POST", f"{CONFIG_MAPS}?dryRun=All", config_map("dry"))
        await api.ok("DELETE", f"{CONFIG_MAPS}/a")
        await api.ok("POST", CONFIG_MAPS, config_map("c"))

    run(body)


def test_an_update_that_takes_more_is_charged() -> None:
    async def body(api: Harness) -> None:
        await prepare(api, "ResourceQuota", {"hard": {"services.nodeports": "2", "services": "5"}})
        path = "/api/v1/namespaces/default/services"
        ports = [{"name": f"p{at}", "port": 80 + at} for at in range(3)]
        made = await api.ok("POST", path, {"metadata": {"name": "s"}, "spec": {"ports": ports[:1]}})
        made["spec"].update(type="NodePort", ports=ports)
        status = await api.fails(403, "Forbidden", "PUT", f"{path}/s", made)
        assert (
            "exceeded quota: q, requested: services.nodeports=3, used: services.nodeports=0"
            in status["message"]
        )
        made["spec"]["ports"] = ports[:2]
        made = await api.ok("PUT", f"{path}/s", made)
        made["metadata"]["labels"] = {"more": "labels"}
        await api.ok("PUT", f"{path}/s", made)  # takes nothing more
        used = (await api.ok("GET", "/api/v1/namespaces/default/resourcequotas/q"))["status"]["used"]
        assert used == {"services.nodeports": "2", "services": "2"}  # with the kubernetes Service

    run(body)


def test_a_quota_on_compute_asks_for_requests() -> None:
    async def body(api: Harness) -> None:
        await prepare(api, "ResourceQuota", {"hard": {"requests.cpu": "1", "pods": "5"}})
        status = await api.fails(403, "Forbidden", "POST", PODS, pod("a"))
        assert "failed quota: q: must specify requests.cpu for: c" in status["message"]
        await api.ok("POST", PODS, sized("a", {"cpu": "600m"}))
        status = await api.fails(403, "Forbidden", "POST", PODS, sized("b", {"cpu": "600m"}))
        assert (
            "requested: requests.cpu=600m, used: requests.cpu=600m, limited: requests.cpu=1"
            in status["message"]
        )

    run(body)


def test_scopes_choose_the_pods() -> None:
    async def body(api: Harness) -> None:
        await prepare(api, "ResourceQuota", {"hard": {"pods": "0"}, "scopes": ["BestEffort"]})
        await api.fails(403, "Forbidden", "POST", PODS, pod("a"))
        await api.ok("POST", PODS, sized("b", {"cpu": "1m"}))

    run(body)


def test_two_servers_together_do_not_exceed_a_quota() -> None:
    async def body() -> None:
        async with harness() as first, harness(store=first.store) as second:
            await prepare(first, "ResourceQuota", {"hard": {"configmaps": "7"}})
            await second.ok("GET", f"{BASE}/resourcequotas")
            asked = [
                api.call("POST", CONFIG_MAPS, config_map(f"c{index}-{at}"))
                for index in range(8)
                for at, api in enumerate((first, second))
            ]
            codes = [answer.status_code for answer in await asyncio.gather(*asked)]
            assert codes.count(201) == 7 and codes.count(403) == 9

    asyncio.run(body())
