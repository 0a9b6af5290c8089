"""Services: endpoints and slices. Pure, by tables."""

from __future__ import annotations

from typing import Any

import pytest

from controllers import (
    endpoints,
    endpointslices,
    slices,
)
from tests.controllers import make
from tests.controllers.memoryapi import Object


def web_pod(name: str, ip: str = "10.200.0.9", **extra: Any) -> Object:
    found = make.pod(name, labels={"app": "web"}, **extra)
    found["status"]["podIP"] = ip
    return found


def test_endpoints_are_cut_at_a_thousand_and_say_so() -> None:
    many = [web_pod(f"p{n}", f"10.200.{n // 250}.{n % 250 + 1}") for n in range(1100)]
    found = endpoints.compute_endpoints(make.service(), many)
    assert len(found["subsets"][0]["addresses"]) == 1000
    assert found["metadata"]["annotations"][endpoints.OVER_CAPACITY] == "truncated"


def test_named_ports_differ_between_pods() -> None:
    a, b = web_pod("a", "10.200.0.1"), web_pod("b", "10.200.0.2")
    a["spec"]["containers"] = [{"ports": [{"name": "web", "containerPort": 80}]}]
    b["spec"]["containers"] = [{"ports": [{"name": "web", "containerPort": 81}]}]
    svc = make.service(ports=[{"name": "http", "port": 80, "targetPort": "web"}])
    found = endpoints.compute_endpoints(svc, [a, b, web_pod("no-such-port", "10.200.0.3")])
    assert [(s["ports"][0]["port"], s["addresses"][0]["ip"]) for s in found["subsets"]] == [
        (80, "10.200.0.1"),
        (81, "10.200.0.2"),
    ]
    assert len(endpointslices.compute_plan(svc, [a, b], [], {}, 100).create) == 2


@pytest.mark.parametrize(
    ("publish", "ready", "terminating", "wanted"),
    [
        (False, True, False, (True, True, False)),
        (False, False, False, (False, False, False)),
        (False, True, True, (False, True, True)),
        (True, False, True, (True, False, True)),
    ],
)
def test_endpoint_conditions(
    publish: bool, ready: bool, terminating: bool, wanted: tuple[bool, bool, bool]
) -> None:
    extra = {"deletionTimestamp": make.START} if terminating else {}
    made = endpointslices.compute_endpoint(
        make.service(publishNotReadyAddresses=publish),
        web_pod("p", ready=ready, **extra),
        "IPv4",
        {"n1": "zone-a"},
    )
    assert tuple(made["conditions"][name] for name in ("ready", "serving", "terminating")) == wanted
    assert made["zone"] == "zone-a"


ZONE_HINT = [{"name": "zone-a"}]


@pytest.mark.parametrize(
    ("distribution", "ready", "zones", "wanted"),
    [
        (None, True, {"n1": "zone-a"}, None),
        ("PreferClose", True, {"n1": "zone-a"}, {"forZones": ZONE_HINT}),
        ("PreferSameZone", True, {"n1": "zone-a"}, {"forZones": ZONE_HINT}),
        ("PreferSameZone", True, {}, None),
        ("PreferSameZone", False, {"n1": "zone-a"}, None),
        ("PreferSameNode", True, {"n1": "zone-a"}, {"forZones": ZONE_HINT, "forNodes": [{"name": "n1"}]}),
        ("PreferSameNode", True, {}, {"forNodes": [{"name": "n1"}]}),
    ],
)
def test_hints_keep_traffic_near(
    distribution: str | None, ready: bool, zones: dict[str, str], wanted: Object | None
) -> None:
    spec = {"trafficDistribution": distribution} if distribution else {}
    made = endpointslices.compute_endpoint(make.service(**spec), web_pod("p", ready=ready), "IPv4", zones)
    assert made.get("hints") == wanted


def test_a_service_that_starts_to_prefer_near_changes_its_slices() -> None:
    members, zones = [web_pod("p")], {"n1": "zone-a"}
    plain = endpointslices.compute_plan(make.service(), members, [], zones, 100)
    near = make.service(trafficDistribution="PreferClose")
    (changed,) = endpointslices.compute_plan(near, members, stored(plain), zones, 100).update
    assert changed["endpoints"][0]["hints"] == {"forZones": ZONE_HINT}


def stored(plan: slices.SlicePlan) -> list[Object]:
    return [
        {**s, "metadata": {**s["metadata"], "name": f"s{n}", "uid": f"s{n}"}}
        for n, s in enumerate(plan.create)
    ]


def test_slices_hold_a_hundred_and_change_as_little_as_possible() -> None:
    svc = make.service()
    many = [web_pod(f"p{n}", f"10.200.{n // 250}.{n % 250 + 1}") for n in range(250)]
    first = endpointslices.compute_plan(svc, many, [], {}, 100)
    assert sorted(len(s["endpoints"]) for s in first.create) == [50, 100, 100]
    have = stored(first)
    assert endpointslices.compute_plan(svc, many, have, {}, 100) == slices.SlicePlan()
    added = endpointslices.compute_plan(svc, [*many, web_pod("more", "10.200.9.9")], have, {}, 100)
    assert (len(added.create), [len(s["endpoints"]) for s in added.update], added.delete) == (0, [51], ())
    gone = endpointslices.compute_plan(svc, many[1:], have, {}, 100)
    assert len(gone.update) == 1 and not gone.create and not gone.delete


def test_a_service_without_pods_keeps_one_empty_slice() -> None:
    svc = make.service()
    empty = endpointslices.compute_plan(svc, [], [], {}, 100)
    assert [s["endpoints"] for s in empty.create] == [[]]
    assert endpointslices.compute_plan(svc, [], stored(empty), {}, 100) == slices.SlicePlan()
    one = stored(endpointslices.compute_plan(svc, [web_pod("p")], [], {}, 100))
    emptied = endpointslices.compute_plan(svc, [], one, {}, 100)
    assert [s["endpoints"] for s in emptied.update] == [[]] and not emptied.create and not emptied.delete
