"""Deployments: steps of a rollout, history, progress. Pure, by tables."""

from __future__ import annotations

from typing import Any

import pytest

from controllers import objects as o
from controllers.deployment import revisions, rollout
from controllers.deployment import status as st
from controllers.hashing import template_hash
from tests.controllers import make
from tests.controllers.memoryapi import Object

NOW = o.parse_time("2026-01-01T01:00:00Z")


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
