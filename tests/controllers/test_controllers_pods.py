"""Which pods are given up, made, adopted and counted. Pure, by tables."""

from __future__ import annotations

from typing import Any

import pytest

from controllers import (
    claims,
    pods,
    replicaset,
)
from controllers import objects as o
from controllers.written import Written
from tests.controllers import make
from tests.controllers.memoryapi import Object

NOW = o.parse_time("2026-01-01T01:00:00Z")


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
