"""Job: counting, endings and plans by tables; the loop against the memory API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controllers import objects as o
from controllers.job import JobController, indexes, policy
from controllers.job.plan import build_template, compute_ending, compute_plan, compute_status
from controllers.job.tally import FINALIZER, compute_tally
from kubeclient.resources import JOBS, PODS
from tests.controllers import make
from tests.controllers.conftest import run
from tests.controllers.memoryapi import MemoryApi, Object
from tests.controllers.world import World, running_status

NOW = o.parse_time(make.START) + 1000


def job(**spec: Any) -> Object:
    return {
        "metadata": make.meta("sum", generation=1),
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": 6,
            "completionMode": "NonIndexed",
            "podReplacementPolicy": "TerminatingOrFailed",
            "selector": {"matchLabels": {"app": "web"}},
            "template": {**make.TEMPLATE, "spec": {**make.TEMPLATE["spec"], "restartPolicy": "Never"}},
            **spec,
        },
        "status": {"startTime": make.START},
    }


def indexed(completions: int, **spec: Any) -> Object:
    return job(
        **{"completions": completions, "completionMode": "Indexed", "parallelism": completions, **spec}
    )


def pod(
    owner: Object,
    phase: str = "Running",
    *,
    index: int | None = None,
    code: int = 1,
    conditions: tuple[str, ...] = (),
    failures: int | None = None,
    ended: float = 0.0,
    **extra: Any,
) -> Object:
    notes = {} if index is None else {indexes.INDEX: str(index)}
    if failures is not None:
        notes[indexes.FAILURES] = str(failures)
    extra = {"finalizers": [FINALIZER], "labels": {"app": "web"}, "annotations": notes, **extra}
    out = make.pod(f"sum-{id(extra)}", owner=owner, kind="Job", phase=phase, **extra)
    if phase in ("Failed", "Succeeded"):
        code = code if phase == "Failed" else 0
        state = {"terminated": {"exitCode": code, "finishedAt": o.format_time(ended or NOW - 900)}}
        out["status"]["containerStatuses"] = [{"name": "c", "state": state}]
    out["status"]["conditions"] += [{"type": kind, "status": "True"} for kind in conditions]
    return out


@pytest.mark.parametrize(
    ("numbers", "text"),
    [((), ""), ((3,), "3"), ((1, 2), "1,2"), ((1, 2, 3), "1-3"), ((0, 2, 3, 4, 9), "0,2-4,9")],
)
def test_index_text(numbers: tuple[int, ...], text: str) -> None:
    assert indexes.text_of(numbers) == text
    assert indexes.parse(text, 10) == set(numbers)


@given(st.sets(st.integers(0, 300)))
def test_index_text_goes_there_and_back(numbers: set[int]) -> None:
    assert indexes.parse(indexes.text_of(numbers), 301) == numbers


def test_indexes_beyond_completions_are_forgotten() -> None:
    assert indexes.parse("0-99999999,2000000000", 3) == {0, 1, 2}


# -- counting ------------------------------------------------------------------------------------------------


def test_a_pod_is_counted_in_two_steps_and_never_twice() -> None:
    owner = job(completions=3, parallelism=3)
    won, lost, at_work = pod(owner, "Succeeded"), pod(owner, "Failed"), pod(owner)
    first = compute_tally(owner, [won, lost, at_work])
    assert (first.succeeded, first.failed) == (0, 0)
    assert first.uncounted_succeeded == (o.uid(won),) and first.uncounted_failed == (o.uid(lost),)
    assert first.release == (won, lost) and first.active == (at_work,)
    owner = o.with_status(owner, compute_status(owner, first, None, 1, NOW))
    again = compute_tally(owner, [won, lost, at_work])
    assert again == first  # died before the finalizers went: the same once more
    bare = {**won, "metadata": {**won["metadata"], "finalizers": []}}
    half = compute_tally(owner, [bare, lost, at_work])
    assert (half.succeeded, half.uncounted_succeeded, half.failed) == (1, (), 0)
    gone = compute_tally(owner, [at_work])
    assert (gone.succeeded, gone.failed) == (1, 1)
    owner = o.with_status(owner, compute_status(owner, gone, None, 1, NOW))
    settled = compute_tally(owner, [bare, at_work])
    assert (settled.succeeded, settled.failed, settled.uncounted_succeeded) == (1, 1, ())


def test_indexed_successes_are_counted_by_index() -> None:
    owner = indexed(3)
    pods = [pod(owner, "Succeeded", index=1), pod(owner, "Succeeded", index=1)]
    pods += [pod(owner, "Succeeded", index=7)]
    tally = compute_tally(owner, pods)
    assert tally.completed == {1} and tally.succeeded == 1 and len(tally.release) == 3
    assert tally.uncounted_succeeded == ()


def test_a_deleted_pod_has_failed_unless_only_failed_ones_are_replaced() -> None:
    for rule, count in (("TerminatingOrFailed", 1), ("Failed", 0)):
        owner = job(podReplacementPolicy=rule)
        going = pod(owner, deletionTimestamp=make.START)
        tally = compute_tally(owner, [going])
        assert (len(tally.uncounted_failed), tally.terminating, tally.active) == (count, 1, ())
        ending = compute_ending(owner, tally, [going], NOW)
        plan = compute_plan(owner, tally, [going], ending, NOW)
        assert plan.create == count


# -- policies ------------------------------------------------------------------------------------------------

ON_42 = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}}
NOT_1 = {"action": "Ignore", "onExitCodes": {"operator": "NotIn", "values": [1], "containerName": "c"}}
DISRUPTED = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}


@pytest.mark.parametrize(
    ("rules", "code", "conditions", "action"),
    [
        ([], 42, (), "Count"),
        ([ON_42], 42, (), "FailJob"),
        ([ON_42], 1, (), "Count"),
        ([ON_42, NOT_1], 7, (), "Ignore"),
        ([NOT_1, ON_42], 42, (), "Ignore"),
        ([NOT_1], 1, (), "Count"),
        ([DISRUPTED], 1, ("DisruptionTarget",), "Ignore"),
        ([{**NOT_1, "onExitCodes": {**NOT_1["onExitCodes"], "containerName": "d"}}], 7, (), "Count"),  # type: ignore[dict-item]
    ],
)
def test_failure_policy(rules: list[Object], code: int, conditions: tuple[str, ...], action: str) -> None:
    owner = job(podFailurePolicy={"rules": rules})
    assert policy.judge(owner, pod(owner, "Failed", code=code, conditions=conditions)).action == action


def test_the_message_of_the_failure_policy() -> None:
    owner = job(podFailurePolicy={"rules": [NOT_1, ON_42]})
    owner["spec"]["podFailurePolicy"]["rules"][0] = DISRUPTED
    failed = pod(owner, "Failed", code=42)
    tally = compute_tally(owner, [failed])
    ending = compute_ending(owner, tally, [failed], NOW)
    assert ending is not None and ending.reason == "PodFailurePolicy"
    assert ending.message == (
        f"Container c for pod {o.key(failed)} failed with exit code 42 matching FailJob rule at index 1"
    )


@pytest.mark.parametrize(
    ("rules", "succeeded", "number"),
    [
        ([{"succeededIndexes": "0-2"}], {0, 1}, None),
        ([{"succeededIndexes": "0-2"}], {0, 1, 2}, 0),
        ([{"succeededIndexes": "0-2", "succeededCount": 1}], {2}, 0),
        ([{"succeededIndexes": "9"}, {"succeededCount": 2}], {3, 4}, 1),
        ([{"succeededCount": 3}], {3, 4}, None),
    ],
)
def test_success_policy(rules: list[Object], succeeded: set[int], number: int | None) -> None:
    assert policy.success_rule(indexed(10, successPolicy={"rules": rules}), succeeded) == number


@pytest.mark.parametrize(("failures", "seconds"), [(0, 0), (1, 10), (2, 20), (3, 40), (7, 600), (99, 600)])
def test_delays(failures: int, seconds: float) -> None:
    assert policy.delay_after(failures) == seconds


def test_backoff_counts_failures_since_the_last_success() -> None:
    owner = job()
    early, late = pod(owner, "Failed", ended=NOW - 50), pod(owner, "Failed", ended=NOW - 5)
    won = pod(owner, "Succeeded", ended=NOW - 20)
    assert policy.backoff_left([early, late], [], NOW) == 15
    assert policy.backoff_left([early, late], [won], NOW) == 5
    assert policy.backoff_left([early], [won], NOW) == 0


# -- endings -------------------------------------------------------------------------------------------------


def reason(owner: Object, *mine: Object, now: float = NOW) -> str:
    ending = compute_ending(owner, compute_tally(owner, mine), mine, now)
    return ending.reason if ending else ""


def test_endings() -> None:
    owner = job(backoffLimit=1)
    assert reason(owner, pod(owner, "Failed")) == ""
    assert reason(owner, pod(owner, "Failed"), pod(owner, "Failed")) == "BackoffLimitExceeded"
    assert reason(job(activeDeadlineSeconds=999)) == "DeadlineExceeded"
    assert reason(job(activeDeadlineSeconds=1001)) == ""
    assert reason(job(activeDeadlineSeconds=1, suspend=True)) == ""
    owner = job(completions=None, parallelism=2)
    assert reason(owner, pod(owner, "Succeeded"), pod(owner)) == ""
    assert reason(owner, pod(owner, "Succeeded")) == "CompletionsReached"
    owner = indexed(3, backoffLimitPerIndex=0, backoffLimit=99)
    lost = pod(owner, "Failed", index=0, failures=0)
    won = [pod(owner, "Succeeded", index=n) for n in (1, 2)]
    assert reason(owner, lost) == ""
    assert reason(owner, lost, *won) == "FailedIndexes"
    owner = indexed(3, backoffLimitPerIndex=0, maxFailedIndexes=0, backoffLimit=99)
    assert reason(owner, pod(owner, "Failed", index=0, failures=0)) == "MaxFailedIndexesExceeded"


def test_restarts_use_up_the_limit_with_on_failure() -> None:
    owner = job(backoffLimit=2)
    owner["spec"]["template"]["spec"]["restartPolicy"] = "OnFailure"
    at_work = pod(owner)
    at_work["status"]["containerStatuses"] = [{"name": "c", "restartCount": 1, "state": {}}]
    assert reason(owner, at_work) == ""
    at_work["status"]["containerStatuses"][0]["restartCount"] = 2
    assert reason(owner, at_work) == "BackoffLimitExceeded"


# -- pods ----------------------------------------------------------------------------------------------------


def plan_of(owner: Object, *mine: Object, now: float = NOW) -> tuple[int, tuple[int, ...], int, int]:
    tally = compute_tally(owner, mine)
    plan = compute_plan(owner, tally, mine, compute_ending(owner, tally, mine, now), now)
    return plan.create, plan.indexes, len(plan.discard), len(plan.end)


def test_plans() -> None:
    owner = job(completions=5, parallelism=3)
    assert plan_of(owner) == (3, (), 0, 0)
    assert plan_of(owner, pod(owner), *(pod(owner, "Succeeded") for _ in range(3))) == (1, (), 0, 0)
    assert plan_of(owner, *(pod(owner) for _ in range(5))) == (0, (), 2, 0)
    owner = job(completions=None, parallelism=3)
    assert plan_of(owner, pod(owner, "Succeeded"), pod(owner)) == (0, (), 0, 0)
    owner = job(suspend=True)
    assert plan_of(owner, pod(owner)) == (0, (), 1, 0)
    owner = job(backoffLimit=0, parallelism=2)
    assert plan_of(owner, pod(owner), pod(owner, "Failed")) == (0, (), 0, 1)
    assert plan_of(job(), pod(job(), "Failed", ended=NOW - 1))[0] == 0


def test_indexed_plans() -> None:
    owner = indexed(5, parallelism=3)
    assert plan_of(owner) == (3, (0, 1, 2), 0, 0)
    done = [pod(owner, "Succeeded", index=n) for n in (0, 2)]
    assert plan_of(owner, pod(owner, index=1), *done) == (2, (3, 4), 0, 0)
    double = [pod(owner, index=1), pod(owner, index=1), pod(owner, index=9)]
    assert plan_of(owner, *double)[2] == 2


def test_an_index_carries_its_failures_over_and_waits_for_itself() -> None:
    owner = indexed(2, backoffLimitPerIndex=3, backoffLimit=99)
    first = pod(owner, "Failed", index=0, failures=1, ended=NOW - 15)
    tally = compute_tally(owner, [first])
    assert tally.release == () and tally.uncounted_failed == ()  # held until its successor stands
    plan = compute_plan(owner, tally, [first], None, NOW)
    assert plan.indexes == (1,) and plan.wait == 5
    later = compute_plan(owner, tally, [first], None, NOW + 5)
    assert later.indexes == (0, 1)
    made = build_template(owner, 0, first)
    assert made["metadata"]["annotations"] == {indexes.INDEX: "0", indexes.FAILURES: "2"}
    assert made["spec"]["hostname"] == "sum-0"
    assert made["spec"]["containers"][0]["env"][0]["name"] == "JOB_COMPLETION_INDEX"
    successor = pod(owner, index=0, failures=2)
    assert compute_tally(owner, [first, successor]).release == (first,)


# -- loops ---------------------------------------------------------------------------------------------------


def work(
    world: World, end: Callable[[Object, int], str] = lambda pod, number: "Succeeded"
) -> Callable[[], None]:
    """Pods run at the first look and end at the second as `end` says; terminating ones fail or vanish."""
    seen = [0]

    def play() -> None:
        for found in world.api.all(PODS):
            phase = found.get("status", {}).get("phase", "Pending")
            if o.is_terminating(found):
                if found["metadata"].get("finalizers") and phase not in ("Failed", "Succeeded"):
                    world.api.put(PODS, {**found, "status": {**found["status"], "phase": "Failed"}})
                elif not found["metadata"].get("finalizers"):
                    world.api.drop(PODS, o.name(found), o.namespace(found))
            elif phase == "Pending":
                found["spec"]["nodeName"] = "n1"
                world.api.put(PODS, {**found, "status": running_status(world.now())})
            elif phase == "Running":
                seen[0] += 1
                outcome = end(found, seen[0])
                if outcome != "Running":
                    code = 0 if outcome == "Succeeded" else 1
                    state = {"terminated": {"exitCode": code, "finishedAt": world.now()}}
                    status = {"phase": outcome, "containerStatuses": [{"name": "c", "state": state}]}
                    world.api.put(PODS, {**found, "status": status})

    return play


def status_of(api: MemoryApi) -> Object:
    found = api.get(JOBS, "sum", "default")
    assert found is not None
    return o.status(found)


def has(api: MemoryApi, kind: str) -> bool:
    found = o.find_condition(status_of(api).get("conditions") or (), kind)
    return found is not None and found["status"] == "True"


def new(**spec: Any) -> Object:
    return {**job(**spec), "status": {}}


def test_a_job_runs_to_its_end_and_counts_every_pod_once() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(JOBS, new(completions=7, parallelism=3))
        async with world.running(JobController):
            await world.until(lambda: has(world.api, "Complete"), each=work(world))
            status = status_of(world.api)
            assert status["succeeded"] == 7 and not status.get("failed") and not status.get("active")
            assert status["uncountedTerminatedPods"] == {}
            assert [c["type"] for c in status["conditions"]] == ["SuccessCriteriaMet", "Complete"]
            assert status["startTime"] and status["completionTime"]
            assert len(world.api.all(PODS)) == 7
            assert not any(o.finalizers(found) for found in world.api.all(PODS))
            assert world.events.reasons.count("Completed") == 1

    run(scenario())


def test_a_job_that_fails_too_often_says_so() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(JOBS, new(completions=2, parallelism=2, backoffLimit=1))
        play = work(world, lambda pod, number: "Failed" if number < 3 else "Running")
        async with world.running(JobController):
            await world.until(lambda: has(world.api, "Failed"), each=play)
            status = status_of(world.api)
            found = o.find_condition(status["conditions"], "Failed")
            assert found is not None and found["reason"] == "BackoffLimitExceeded"
            assert status["failed"] >= 2 and not status.get("active")
            assert not any(o.finalizers(found) for found in world.api.all(PODS))
            expected = ("Warning", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
            assert expected in world.events.seen

    run(scenario())


def test_indexed_job_with_a_limit_per_index() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(JOBS, {**indexed(3, backoffLimitPerIndex=1, backoffLimit=99), "status": {}})

        def end(pod: Object, _: int) -> str:
            return "Failed" if indexes.index_of(pod) == 1 else "Succeeded"

        async with world.running(JobController):
            await world.until(lambda: has(world.api, "Failed"), each=work(world, end))
            status = status_of(world.api)
            assert (status["completedIndexes"], status["failedIndexes"]) == ("0,2", "1")
            assert (status["succeeded"], status["failed"]) == (2, 2)

    run(scenario())


def test_suspending_and_resuming() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(JOBS, new(suspend=True, completions=2, parallelism=2))

        def suspend(value: bool) -> None:
            found = world.api.get(JOBS, "sum", "default")
            assert found is not None
            found["spec"]["suspend"] = value
            world.api.put(JOBS, found)

        async with world.running(JobController):
            await world.until(lambda: has(world.api, "Suspended"))
            assert not world.api.all(PODS) and "startTime" not in status_of(world.api)
            suspend(False)
            await world.until(lambda: len(world.api.all(PODS)) == 2)
            suspend(True)
            await world.until(lambda: not world.api.all(PODS), each=work(world, lambda *_: "Running"))
            await world.until(lambda: has(world.api, "Suspended"))
            assert not status_of(world.api).get("failed")
            suspend(False)
            await world.until(lambda: has(world.api, "Complete"), each=work(world))
            assert world.events.reasons.count("Suspended") == 2
            assert world.events.reasons.count("Resumed") == 2

    run(scenario())


def test_an_adopted_pod_is_counted_like_any_other() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(PODS, make.pod("stray", labels={"app": "web"}, phase="Running"))
        world.api.put(JOBS, new(manualSelector=True))
        async with world.running(JobController):
            await world.until(lambda: any(o.finalizers(found) for found in world.api.all(PODS)))
            assert [o.name(found) for found in world.api.all(PODS)] == ["stray"]
            await world.until(lambda: has(world.api, "Complete"), each=work(world))
            assert status_of(world.api)["succeeded"] == 1
            assert not any(o.finalizers(found) for found in world.api.all(PODS))

    run(scenario())


def test_pods_of_a_deleted_job_lose_their_finalizer() -> None:
    async def scenario() -> None:
        world = World()
        world.api.put(JOBS, new(completions=2, parallelism=2))
        async with world.running(JobController):
            await world.until(lambda: len(world.api.all(PODS)) == 2)
            world.api.drop(JOBS, "sum", "default")
            await world.until(lambda: not any(o.finalizers(found) for found in world.api.all(PODS)))
            orphan = world.api.all(PODS)[0]
            orphan["metadata"] |= {"ownerReferences": [], "finalizers": [FINALIZER, "else/where"]}
            world.api.put(PODS, orphan)
            await world.until(lambda: o.finalizers(world.api.all(PODS)[0]) == ["else/where"])

    run(scenario())
