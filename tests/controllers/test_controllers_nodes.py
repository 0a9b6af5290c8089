"""Nodes: silence, taints, zones, evictions, addresses, lost pods. Pure, by tables."""

from __future__ import annotations

import pytest

from controllers import objects as o
from controllers import (
    podgc,
)
from controllers import taints as tt
from controllers.nodeipam import CidrSet, CidrSetFull
from controllers.nodelifecycle import eviction
from controllers.nodelifecycle import health as hp
from tests.controllers import make
from tests.controllers.memoryapi import Object

NOW = o.parse_time("2026-01-01T01:00:00Z")


@pytest.mark.parametrize(
    ("toleration", "wanted"),
    [
        ({"operator": "Exists"}, True),
        ({"key": "k", "operator": "Exists"}, True),
        ({"key": "k", "value": "v"}, True),
        ({"key": "k", "value": "w"}, False),
        ({"key": "k", "value": "v", "effect": "NoSchedule"}, False),
        ({"value": "v"}, False),
    ],
)
def test_tolerations(toleration: Object, wanted: bool) -> None:
    assert tt.tolerates(toleration, {"key": "k", "value": "v", "effect": "NoExecute"}) is wanted


def test_silence_is_measured_on_our_own_clock() -> None:
    grace, node = hp.Grace(40, 60), make.node("n1")
    lease = {"spec": {"renewTime": "2020-01-01T00:00:00Z"}}  # a host whose clock is years behind
    seen = hp.observe(node, lease, None, 100.0, grace)
    assert not hp.is_silent(hp.observe(node, lease, seen, 139.0, grace), 139.0)
    assert hp.is_silent(hp.observe(node, lease, seen, 141.0, grace), 141.0)
    renewed = hp.observe(node, {"spec": {"renewTime": "2020-01-01T00:00:01Z"}}, seen, 141.0, grace)
    assert not hp.is_silent(renewed, 180.0)
    assert hp.observe(make.node("n2", ready=""), None, None, 0.0, grace).grace == 60


def test_unknown_conditions_are_set_once() -> None:
    node = make.node("n1")
    conditions = hp.unknown_conditions(node, NOW)
    assert conditions is not None
    by_type = {c["type"]: (c["status"], c["reason"]) for c in conditions}
    assert by_type["Ready"] == ("Unknown", "NodeStatusUnknown")
    assert by_type["DiskPressure"] == ("Unknown", "NodeStatusNeverUpdated")
    assert hp.unknown_conditions({**node, "status": {"conditions": conditions}}, NOW + 5) is None


def test_foreign_taints_stay_and_times_are_kept() -> None:
    foreign = {"key": "dedicated", "effect": "NoSchedule"}
    node = make.node("n1", ready="Unknown", taints=[foreign], unschedulable=True)
    once = hp.schedule_taints(node, NOW)
    assert once is not None and foreign in once
    assert {t["key"] for t in once} == {"dedicated", tt.UNREACHABLE, tt.UNSCHEDULABLE}
    assert hp.schedule_taints({**node, "spec": {**node["spec"], "taints": once}}, NOW + 60) is None
    back = make.node("n1", taints=once)
    assert hp.schedule_taints(back, NOW) == [foreign]


@pytest.mark.parametrize(
    ("ready", "not_ready", "state"),
    [
        (3, 0, "NORMAL"),
        (2, 1, "NORMAL"),
        (1, 2, "NORMAL"),
        (2, 3, "PARTIAL"),
        (4, 3, "NORMAL"),
        (0, 1, "FULL"),
    ],
)
def test_zone_states(ready: int, not_ready: int, state: str) -> None:
    nodes = [make.node(f"a{n}") for n in range(ready)] + [
        make.node(f"b{n}", ready="Unknown") for n in range(not_ready)
    ]
    assert hp.zone_states(nodes, 0.55) == {":": hp.ZoneState[state]}


def test_eviction_rates_by_zone() -> None:
    rates, full, partial, normal = (
        hp.Rates(0.1, 0.01, 50, 0.55),
        hp.ZoneState.FULL,
        hp.ZoneState.PARTIAL,
        hp.ZoneState.NORMAL,
    )
    assert hp.eviction_rates({"a": full, "b": full}, {}, rates) == {"a": 0.0, "b": 0.0}
    assert hp.eviction_rates({"a": full, "b": normal}, {}, rates) == {"a": 0.1, "b": 0.1}
    assert hp.eviction_rates({"a": partial, "b": normal}, {"a": 60}, rates)["a"] == 0.01
    assert hp.eviction_rates({"a": partial, "b": normal}, {"a": 6}, rates)["a"] == 0.0


@pytest.mark.parametrize(
    ("tolerations", "wanted"),
    [
        ([], NOW),
        ([{"operator": "Exists"}], None),
        ([{"key": tt.UNREACHABLE, "operator": "Exists", "tolerationSeconds": 300}], NOW - 100 + 300),
        ([{"key": tt.UNREACHABLE, "operator": "Exists", "tolerationSeconds": -1}], NOW - 100),
        ([{"key": tt.NOT_READY, "operator": "Exists"}], NOW),
    ],
)
def test_when_a_pod_has_to_leave(tolerations: list[Object], wanted: float | None) -> None:
    pod = make.pod("p")
    pod["spec"]["tolerations"] = tolerations
    taint = {"key": tt.UNREACHABLE, "effect": "NoExecute", "timeAdded": o.format_time(NOW - 100)}
    assert eviction.compute_verdict(pod, [taint], NOW).at == wanted
    assert eviction.compute_verdict(pod, [{**taint, "effect": "NoSchedule"}], NOW).at is None


def test_cidrs_are_unique_stable_and_come_back() -> None:
    cidrs = CidrSet("10.200.0.0/22", 24)
    assert cidrs.occupy("10.200.1.0/24", "b")
    assert not cidrs.occupy("10.200.1.0/24", "other") and not cidrs.occupy("10.9.0.0/24", "x")
    assert [cidrs.allocate(n) for n in ("a", "c", "d", "a")] == [
        "10.200.0.0/24",
        "10.200.2.0/24",
        "10.200.3.0/24",
        "10.200.0.0/24",
    ]
    with pytest.raises(CidrSetFull):
        cidrs.allocate("e")
    cidrs.release("b")
    assert cidrs.allocate("e") == "10.200.1.0/24"


def test_the_service_range_is_never_given_and_bad_masks_are_refused() -> None:
    cidrs = CidrSet("10.32.0.0/22", 24)
    cidrs.reserve("10.32.0.0/23")
    assert cidrs.allocate("a") == "10.32.2.0/24"
    with pytest.raises(ValueError, match="--node-cidr-mask-size"):
        CidrSet("10.200.0.0/24", 16)


def test_pod_garbage_by_reason() -> None:
    finished = [
        make.pod(f"f{n}", phase="Succeeded", creationTimestamp=f"2026-01-01T00:00:0{n}Z") for n in range(4)
    ]
    dead = make.node("n2", ready="Unknown", taints=[{"key": tt.OUT_OF_SERVICE, "effect": "NoExecute"}])
    stuck = make.pod("stuck", node="n2", deletionTimestamp=make.START)
    plan = podgc.compute_plan([*finished, stuck, make.pod("lost", node="n9")], {"n2": dead}, {"n9"}, 3)
    assert [o.name(p) for p in plan.terminated] == ["f0"]
    assert [o.name(p) for p in plan.orphaned] == ["lost"] and plan.out_of_service == (stuck,)
