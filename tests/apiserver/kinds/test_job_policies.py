"""What decides when a Job has failed or succeeded, and what of it is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apiserver.kinds.jobpolicies import count_indexes
from tests.apiserver.kinds.helpers import causes, kind_of, made, update_causes

Object = dict[str, Any]
JOBS = kind_of("batch", "jobs")
TEMPLATE: Object = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}
EXIT: Object = {
    "action": "FailJob",
    "onExitCodes": {"operator": "In", "values": [1, 2], "containerName": "c"},
}
INDEXED: Object = {"completionMode": "Indexed", "completions": 5}


def job(**spec: Any) -> Object:
    return made(JOBS, spec={"template": copy.deepcopy(TEMPLATE), **copy.deepcopy(spec)})


def found(**spec: Any) -> list[str]:
    return causes(JOBS, job(**spec))


def test_good_policies_are_accepted() -> None:
    condition = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    per_index = {**INDEXED, "backoffLimitPerIndex": 1, "maxFailedIndexes": 2}
    rules = [EXIT, condition, {**EXIT, "action": "FailIndex"}]
    success = {"rules": [{"succeededIndexes": "0,2-3", "succeededCount": 2}]}
    assert found(**per_index, podFailurePolicy={"rules": rules}, successPolicy=success) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"action": "Odd"}, ".action: Unsupported value"),
        ({"action": "FailIndex"}, "requires the backoffLimitPerIndex to be set"),
        ({"onExitCodes": None}, "specifying one of OnExitCodes and OnPodConditions is required"),
        ({"onPodConditions": [{"type": "A", "status": "True"}]}, "specifying both OnExitCodes and"),
        ({"onExitCodes": {"operator": "In", "values": [0]}}, "must not be 0 for the In operator"),
        ({"onExitCodes": {"operator": "In", "values": [2, 1]}}, "must be ordered"),
        ({"onExitCodes": {"operator": "In", "values": [1, 1]}}, "values[1]: Duplicate value: 1"),
        ({"onExitCodes": {"operator": "In", "values": []}}, "at least one value is required"),
        (
            {"onExitCodes": {"operator": "In", "values": [1], "containerName": "x"}},
            "must be one of the container or initContainer names",
        ),
    ],
)
def test_what_is_wrong_with_a_failure_rule(change: Object, text: str) -> None:
    rule = {name: value for name, value in {**EXIT, **change}.items() if value is not None}
    assert any(text in cause for cause in found(podFailurePolicy={"rules": [rule]}))


def test_a_failure_policy_goes_with_never_and_failed() -> None:
    spec = job(podFailurePolicy={"rules": [EXIT]}, podReplacementPolicy="TerminatingOrFailed")
    spec["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure"
    text = "\n".join(causes(JOBS, spec))
    assert 'only "Never" is supported when podFailurePolicy is specified' in text
    assert 'spec.podReplacementPolicy: Unsupported value: "TerminatingOrFailed"' in text


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"backoffLimitPerIndex": 1}, "requires indexed completion mode"),
        ({**INDEXED, "maxFailedIndexes": 1}, "when maxFailedIndexes is specified"),
        ({**INDEXED, "backoffLimitPerIndex": 1, "maxFailedIndexes": 6}, "less than or equal to completions"),
        ({"successPolicy": {"rules": [{"succeededCount": 1}]}}, "requires indexed completion mode"),
        ({**INDEXED, "successPolicy": {"rules": []}}, "at least one rules must be specified"),
        ({**INDEXED, "successPolicy": {"rules": [{}]}}, "at least one of succeededCount or"),
        (
            {**INDEXED, "successPolicy": {"rules": [{"succeededCount": 6}]}},
            "the number of specified completions",
        ),
        (
            {**INDEXED, "successPolicy": {"rules": [{"succeededCount": 3, "succeededIndexes": "0-1"}]}},
            "the number of indexes in the specified succeededIndexes field",
        ),
        ({**INDEXED, "successPolicy": {"rules": [{"succeededIndexes": "5"}]}}, "too large index"),
        ({"managedBy": "someone"}, "must be a domain-prefixed path"),
    ],
)
def test_what_is_wrong_with_limits_and_success(spec: Object, text: str) -> None:
    assert any(text in cause for cause in found(**spec))


def test_policies_do_not_change() -> None:
    old = job(**INDEXED, successPolicy={"rules": [{"succeededCount": 1}]})
    new = job(**INDEXED, successPolicy={"rules": [{"succeededCount": 2}]})
    assert any(
        cause.startswith("spec.successPolicy: Invalid value") for cause in update_causes(JOBS, new, old)
    )


@given(st.sets(st.integers(0, 99), min_size=1))
def test_indexes_are_counted(chosen: set[int]) -> None:
    """Against the plainest spelling: every index by itself, and runs of two or more as ranges."""
    ordered, runs = sorted(chosen), list[list[int]]()
    for index in ordered:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    assert count_indexes(",".join(str(index) for index in ordered), 100) == len(chosen)
    spelled = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    assert count_indexes(spelled, 100) == len(chosen)
