"""The pure parts by tables: what is decided, without loops, clocks or an API."""

from __future__ import annotations

from typing import Any

import pytest

from controllers import (
    claims,
    endpoints,
    endpointslices,
    history,
    nodeselector,
    podgc,
    pods,
    replicaset,
    slices,
)
from controllers import objects as o
from controllers import taints as tt
from controllers.daemonset import plan as dp
from controllers.deployment import revisions, rollout
from controllers.deployment import status as st
from controllers.garbage.graph import Graph, Identity, Node, judge
from controllers.hashing import template_hash
from controllers.nodeipam import CidrSet, CidrSetFull
from controllers.nodelifecycle import eviction
from controllers.nodelifecycle import health as hp
from controllers.podcontrol import slow_start_batches
from controllers.written import Written
from kubeclient.resources import CONFIGMAPS, DEPLOYMENTS, PODS, REPLICASETS
from tests.controllers import make
from tests.controllers.memoryapi import Object

NOW = o.parse_time("2026-01-01T01:00:00Z")


# -- objects -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "total", "up", "wanted"),
    [
        (3, 10, True, 3),
        ("25%", 10, True, 3),
        ("25%", 10, False, 2),
        ("0%", 7, True, 0),
        ("100%", 7, False, 7),
        (None, 5, True, 0),
    ],
)
def test_int_or_percent(value: int | str | None, total: int, up: bool, wanted: int) -> None:
    assert o.scaled_value(value, total, round_up=up) == wanted


def test_a_string_that_is_no_percentage_is_refused() -> None:
    with pytest.raises(ValueError, match="IntOrString"):
        o.scaled_value("many", 3, round_up=True)


def test_times_keep_their_fraction() -> None:
    assert o.parse_time("2026-01-01T00:00:00.500000Z") == o.parse_time("2026-01-01T00:00:00Z") + 0.5
    assert o.format_time(o.parse_time("2026-01-01T00:00:00Z")) == "2026-01-01T00:00:00Z"


def test_slow_start_doubles() -> None:
    assert list(slow_start_batches(20)) == [1, 2, 4, 8, 5]
    assert list(slow_start_batches(0)) == []


# -- pods given up first -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (make.pod("a", node=""), make.pod("b")),
        (make.pod("a", phase="Pending", ready=False), make.pod("b", ready=False)),
        (make.pod("a", ready=False), make.pod("b")),
        (make.pod("a", annotations={pods.DELETION_COST: "-5"}), make.pod("b")),
        (make.pod("a", since="2026-01-01T00:59:50Z"), make.pod("b")),
    ],
)
def test_what_a_scale_down_gives_up_first(first: Object, second: Object) -> None:
    assert pods.rank_for_deletion([second, first], {}, NOW) == [first, second]
    assert pods.rank_for_deletion([first, second], {}, NOW) == [first, second]


def test_crowded_nodes_are_relieved_first() -> None:
    rs = make.replicaset(size=2)
    crowd = [
        make.pod("x", node="n1", owner=rs),
        make.pod("y", node="n1", owner=rs),
        make.pod("z", node="n2", owner=rs),
    ]
    plan = replicaset.compute_plan(rs, crowd, crowd, NOW)
    assert len(plan.delete) == 1 and pods.node_name(plan.delete[0]) == "n1"


@pytest.mark.parametrize(
    ("wanted", "have", "create", "delete"), [(3, 1, 2, 0), (3, 3, 0, 0), (1, 3, 0, 2), (900, 0, 500, 0)]
)
def test_replica_counts(wanted: int, have: int, create: int, delete: int) -> None:
    mine = [make.pod(f"p{n}") for n in range(have)] + [make.pod("done", phase="Failed")]
    plan = replicaset.compute_plan(make.replicaset(size=wanted), mine, mine, NOW)
    assert (plan.create, len(plan.delete)) == (create, delete)


def test_status_counts_availability_by_min_ready_seconds() -> None:
    rs = make.replicaset(size=2)
    rs["spec"]["minReadySeconds"] = 30
    mine = [
        make.pod("old", labels={"app": "web"}),
        make.pod("young", since="2026-01-01T00:59:50Z"),
        make.pod("sick", ready=False),
    ]
    status = replicaset.compute_status(rs, mine, replicaset.Failure("FailedCreate", "quota"), NOW)
    counts = {
        name: status[name]
        for name in ("replicas", "readyReplicas", "availableReplicas", "fullyLabeledReplicas")
    }
    assert counts == {"replicas": 3, "readyReplicas": 2, "availableReplicas": 1, "fullyLabeledReplicas": 1}
    assert status["conditions"][0]["reason"] == "FailedCreate"
    assert pods.available_in(mine, 30, NOW) == 20


def test_claims_leave_what_others_manage() -> None:
    owner, other = make.replicaset("mine"), make.replicaset("other")
    good: dict[str, Any] = {"labels": {"app": "web"}}
    keep, lost = make.pod("keep", owner=owner, **good), make.pod("lost", owner=owner)
    orphan, stranger = make.pod("orphan", **good), make.pod("stranger", owner=other, **good)
    going = make.pod("going", deletionTimestamp=make.START, **good)
    found = claims.compute_claims(
        owner, lambda p: o.labels(p).get("app") == "web", [keep, lost, orphan, stranger, going]
    )
    assert (found.keep, found.adopt, found.release) == ((keep,), (orphan,), (lost,))
    owner["metadata"]["deletionTimestamp"] = make.START
    assert claims.compute_claims(owner, lambda p: True, [orphan]).adopt == ()


class _Store:
    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.resource_version = "5"

    @property
    def store(self) -> dict[str, Object]:
        return self.objects


def test_own_writes_are_waited_for() -> None:
    source = _Store()
    written = Written(source)
    pod = make.pod("p")
    source.objects["default/p"] = pod
    assert written.settled("k")
    written.wrote("k", {"metadata": {"resourceVersion": "7"}})
    written.deleted("k", pod)
    assert not written.settled("k")
    source.resource_version = "7"
    assert not written.settled("k")  # the deletion is not shown yet
    source.objects["default/p"] = make.pod("p")  # another of that name
    assert written.settled("k")
    assert written.settled("another")


# -- deployments ---------------------------------------------------------------------------------------------


def rs(name: str, size: int, available: int, age: int = 0, **annotations: str) -> Object:
    created = f"2026-01-01T00:00:{age:02d}Z"
    return make.replicaset(
        name, size, available=available, creationTimestamp=created, annotations=annotations
    )


def scales(steps: list[rollout.Scale]) -> dict[str, tuple[int, int]]:
    return {step.name: (step.before, step.size) for step in steps}


@pytest.mark.parametrize(
    ("size", "surge", "unavailable", "wanted"),
    [
        (4, "25%", "25%", (1, 1)),
        (3, "25%", "25%", (1, 0)),
        (10, 0, 0, (0, 1)),
        (2, 5, 5, (5, 2)),
        (1, "50%", "50%", (1, 0)),
    ],
)
def test_fenceposts(size: int, surge: Any, unavailable: Any, wanted: tuple[int, int]) -> None:
    d = make.deployment(size=size)
    d["spec"]["strategy"]["rollingUpdate"] = {"maxSurge": surge, "maxUnavailable": unavailable}
    assert (rollout.bounds(d).surge, rollout.bounds(d).unavailable) == wanted


@pytest.mark.parametrize(
    ("new", "old", "wanted"),
    [
        ((0, 0), (4, 4), {"new": (0, 1)}),  # grow by the surge first
        ((1, 0), (4, 4), {"old": (4, 3)}),  # one may be missing
        ((1, 0), (3, 3), {"new": (1, 2)}),
        ((2, 0), (3, 3), {}),  # nothing more until a new pod is available
        ((2, 2), (3, 3), {"old": (3, 1)}),
        ((1, 0), (4, 1), {"old": (4, 3)}),  # what does not serve anyway goes, within the budget
        ((6, 6), (0, 0), {"new": (6, 4)}),
        ((4, 4), (0, 0), {}),
    ],
)
def test_rolling_steps(
    new: tuple[int, int], old: tuple[int, int], wanted: dict[str, tuple[int, int]]
) -> None:
    steps = rollout.compute_rolling(make.deployment(size=4), rs("new", *new, age=9), [rs("old", *old)])
    assert scales(steps) == wanted


def test_scaling_in_the_middle_of_a_rollout_is_proportional() -> None:
    d = make.deployment(size=20)
    d["spec"]["strategy"]["rollingUpdate"] = {"maxSurge": 0, "maxUnavailable": 1}
    marks: dict[str, Any] = {revisions.DESIRED: "10", revisions.MAXIMUM: "10"}
    new, old = rs("new", 4, 4, age=9, **marks), rs("old", 6, 6, **marks)
    assert rollout.is_scaling_event(d, [new, old])
    assert scales(rollout.compute_scaling(d, new, [old])) == {"old": (6, 12), "new": (4, 8)}


def test_scaling_to_zero_and_of_a_single_set() -> None:
    marks: dict[str, Any] = {revisions.DESIRED: "4", revisions.MAXIMUM: "5"}
    new, old = rs("new", 2, 2, age=9, **marks), rs("old", 2, 2, **marks)
    assert scales(rollout.compute_scaling(make.deployment(size=0), new, [old])) == {
        "new": (2, 0),
        "old": (2, 0),
    }
    assert scales(rollout.compute_scaling(make.deployment(size=7), rs("new", 4, 4), [rs("old", 0, 0)])) == {
        "new": (4, 7)
    }


def test_the_new_set_is_found_by_its_template_and_hashed_stably() -> None:
    d = make.deployment()
    built = revisions.build_new(d, {"uid": "x"}, size=3, maximum=4, new_revision=1)
    assert built["metadata"]["name"] == f"web-{built['metadata']['labels'][revisions.HASH_LABEL]}"
    assert built["spec"]["selector"]["matchLabels"][revisions.HASH_LABEL] in built["metadata"]["name"]
    stored = {**built, "metadata": {**built["metadata"], "creationTimestamp": make.START}}
    other = rs("other", 1, 1)
    other["spec"]["template"] = {**make.TEMPLATE, "spec": {"containers": [{"name": "c", "image": "web:0"}]}}
    assert revisions.find_new(d, [other, stored]) is stored and revisions.find_new(d, [other]) is None
    d["status"]["collisionCount"] = 1
    assert (
        revisions.build_new(d, {}, size=3, maximum=4, new_revision=1)["metadata"]["name"]
        != built["metadata"]["name"]
    )


def test_hashes_do_not_depend_on_the_order_of_fields() -> None:
    assert (
        template_hash({"a": 1, "b": 2}) == template_hash({"b": 2, "a": 1}) != template_hash({"a": 1, "b": 3})
    )


def test_history_beyond_the_limit_goes_lowest_revision_first() -> None:
    d = make.deployment(revisionHistoryLimit=1)
    marks: list[dict[str, Any]] = [{revisions.REVISION: str(n)} for n in (3, 1, 2)]
    old = [rs(f"r{mark[revisions.REVISION]}", 0, 0, **mark) for mark in marks]
    for each in old:
        each["status"] = {}
    assert [o.name(x) for x in revisions.obsolete(d, old)] == ["r1", "r2"]
    old[1]["spec"]["replicas"] = 1  # r1 still has a pod
    assert [o.name(x) for x in revisions.obsolete(d, old)] == ["r2"]


def test_progress_stalls_into_the_deadline_and_recovers() -> None:
    d = make.deployment(size=2, progressDeadlineSeconds=60)
    new = rs("web-x", 2, 0)
    first = st.compute_status(d, new, [], NOW, rolling_out=True)
    d["status"] = first
    assert o.find_condition(first["conditions"], "Progressing")["reason"] == "ReplicaSetUpdated"  # type: ignore[index]
    late = st.compute_status(d, new, [], NOW + 61, rolling_out=True)
    failed = o.find_condition(late["conditions"], "Progressing")
    assert failed is not None and (failed["status"], failed["reason"]) == (
        "False",
        "ProgressDeadlineExceeded",
    )
    assert failed["message"] == 'ReplicaSet "web-x" has timed out progressing.'
    d["status"] = late
    done = st.compute_status(d, rs("web-x", 2, 2), [], NOW + 90, rolling_out=True)
    good = o.find_condition(done["conditions"], "Progressing")
    assert good is not None and good["reason"] == "NewReplicaSetAvailable"
    assert st.deadline_in(d, done, NOW + 90) is None


# -- daemon sets ---------------------------------------------------------------------------------------------


def ds(**spec: Any) -> Object:
    return {"metadata": make.meta("ds"), "spec": {"template": {"metadata": {}, "spec": spec}}}


@pytest.mark.parametrize(
    ("spec", "node", "run", "stay"),
    [
        ({}, make.node("n1"), True, True),
        ({"nodeSelector": {"disk": "ssd"}}, make.node("n1"), False, False),
        ({"nodeSelector": {"disk": "ssd"}}, make.node("n1", labels={"disk": "ssd"}), True, True),
        ({}, make.node("n1", taints=[{"key": "k", "effect": "NoSchedule"}]), False, True),
        ({}, make.node("n1", taints=[{"key": "k", "effect": "NoExecute"}]), False, False),
        ({}, make.node("n1", taints=[{"key": tt.UNREACHABLE, "effect": "NoExecute"}]), True, True),
        ({}, make.node("n1", taints=[{"key": tt.UNSCHEDULABLE, "effect": "NoSchedule"}]), True, True),
        ({}, make.node("n1", taints=[{"key": tt.NETWORK_UNAVAILABLE, "effect": "NoSchedule"}]), False, True),
        (
            {"hostNetwork": True},
            make.node("n1", taints=[{"key": tt.NETWORK_UNAVAILABLE, "effect": "NoSchedule"}]),
            True,
            True,
        ),
    ],
)
def test_where_a_daemon_runs(spec: Object, node: Object, run: bool, stay: bool) -> None:
    assert dp.fit(ds(**spec), node) == dp.Fit(run, stay)


def test_a_daemon_pod_is_pinned_and_found_again() -> None:
    affinity: Object = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": []}]
            }
        }
    }
    made = dp.template_for(ds(affinity=affinity), "n7", "abc")
    assert dp.target_node({"spec": made["spec"]}) == "n7"
    assert nodeselector.matches(made["spec"], make.node("n7")) and not nodeselector.matches(
        made["spec"], make.node("n6")
    )
    assert made["metadata"]["labels"][history.HASH_LABEL] == "abc"


@pytest.mark.parametrize(
    ("operator", "values", "label", "wanted"),
    [
        ("In", ["a", "b"], "a", True),
        ("In", ["b"], "a", False),
        ("NotIn", ["b"], None, True),
        ("Exists", [], "a", True),
        ("DoesNotExist", [], None, True),
        ("Gt", ["3"], "4", True),
        ("Lt", ["3"], "4", False),
        ("Gt", ["3"], "x", False),
    ],
)
def test_node_affinity_operators(operator: str, values: list[str], label: str | None, wanted: bool) -> None:
    term = {"matchExpressions": [{"key": "k", "operator": operator, "values": values}]}
    spec = {
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
        }
    }
    assert nodeselector.matches(spec, make.node("n1", labels={"k": label} if label else {})) is wanted


def test_revisions_are_reused_on_rollback() -> None:
    owner = ds(containers=[{"image": "a"}])
    first = {**history.build_revision(owner, DEPLOYMENTS, 1)}
    other = history.build_revision(ds(containers=[{"image": "b"}]), DEPLOYMENTS, 2)
    found = history.compute_history(owner, [first, other], in_use=[])
    assert (found.current, found.raise_to, found.number) == (first, 3, 3)
    assert history.compute_history(owner, [], in_use=[]).number == 1


# -- services ------------------------------------------------------------------------------------------------


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


# -- nodes ---------------------------------------------------------------------------------------------------


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


# -- garbage -------------------------------------------------------------------------------------------------


def child(name: str, *owner_uids: str, **extra: Any) -> Object:
    references = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": u, "uid": u, "blockOwnerDeletion": True}
        for u in owner_uids
    ]
    return {"metadata": {"name": name, "namespace": "d", "uid": name, "ownerReferences": references, **extra}}


def test_graph_asks_for_unknown_owners_and_for_those_left_behind() -> None:
    graph = Graph()
    assert graph.put(CONFIGMAPS, child("b", "a")).delete == {"b"}
    assert graph.put(CONFIGMAPS, child("a")).delete == frozenset()
    assert list(graph.node("a").dependents) == ["b"]  # type: ignore[union-attr]
    assert graph.remove("a").delete == {"b"}
    graph.remove("b")
    assert len(graph) == 0


def test_graph_follows_a_foreground_deletion() -> None:
    graph = Graph()
    graph.put(CONFIGMAPS, child("a"))
    graph.put(CONFIGMAPS, child("b", "a"))
    going = child("a", deletionTimestamp=make.START, finalizers=["foregroundDeletion"])
    assert graph.put(CONFIGMAPS, going).delete == {"a", "b"}
    assert [n.identity.uid for n in graph.node("a").blocking] == ["b"]  # type: ignore[union-attr]
    assert graph.remove("b").delete == {"a"}
    orphaning = child("c", deletionTimestamp=make.START, finalizers=["orphan"])
    assert graph.put(CONFIGMAPS, orphaning).orphan == {"c"}


def test_a_reference_across_namespaces_is_looked_at() -> None:
    graph = Graph()
    graph.put(CONFIGMAPS, child("a"))
    foreign = child("b", "a")
    foreign["metadata"]["namespace"] = "elsewhere"
    assert graph.put(CONFIGMAPS, foreign).delete == {"b"}


@pytest.mark.parametrize(
    ("solid", "dangling", "waiting", "finalizers", "delete", "drop"),
    [
        (["a"], [], [], [], "", []),
        (["a"], ["b"], ["c"], [], "", ["b", "c"]),
        ([], ["b"], [], [], "Background", []),
        ([], ["b"], [], ["orphan"], "Orphan", []),
        ([], ["b"], [], ["foregroundDeletion"], "Foreground", []),
        ([], [], ["c"], [], "Background", []),
        ([], [], [], [], "", []),
    ],
)
def test_verdicts(
    solid: list[str],
    dangling: list[str],
    waiting: list[str],
    finalizers: list[str],
    delete: str,
    drop: list[str],
) -> None:
    node = Node(Identity(PODS, "v1", "Pod", "d", "p", "p"), finalizers=frozenset(finalizers))
    verdict = judge(node, solid, dangling, waiting)
    assert (verdict.delete, verdict.drop) == (delete, frozenset(drop))


def test_a_dependent_with_dependents_goes_in_the_foreground_when_its_owner_waits() -> None:
    leaf = Node(Identity(PODS, "v1", "Pod", "d", "p", "p"))
    node = Node(Identity(REPLICASETS, "apps/v1", "ReplicaSet", "d", "r", "r"), dependents={"p": leaf})
    assert judge(node, [], [], ["d"]).delete == "Foreground"
