"""Preemption: against a reference that tries every rule literally, and by cases for messages and budgets."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from scheduler.budgets import Budget, compile_budget, split_by_violation
from scheduler.columns import Columns
from scheduler.config import default_profile
from scheduler.core import decide
from scheduler.framework import Outcome
from scheduler.podinfo import PodInfo, compile_pod
from scheduler.preemption import Candidate, DefaultPreemption, least_harmful
from tests.scheduler import reference
from tests.scheduler.generator import build, random_pod, random_selector
from tests.scheduler.objects import node, pod

Object = dict[str, Any]


def running(
    name: str, node_name: str, priority: int, *, cpu: str = "1", start: int = 0, **more: Any
) -> PodInfo:
    made = pod(name, node_name=node_name, cpu=cpu, priority=priority, **more)
    made["status"]["startTime"] = f"2026-01-01T00:00:{start:02}Z"
    return compile_pod(made)


def preempt(columns: Columns, wanted: PodInfo, nominated: tuple[tuple[PodInfo, str], ...] = ()) -> Outcome:
    profile, rng = default_profile(), random.Random(1)
    decision = decide(profile, wanted, columns, rng, nominated=nominated)
    assert decision.node is None
    return profile.post_filters[0].post_filter(profile, wanted, columns, decision.failures, nominated, rng)


def cluster(*pods: PodInfo, nodes: int = 3, cpu: str = "2") -> Columns:
    columns = Columns()
    for index in range(nodes):
        columns.set_node(node(f"n{index}", cpu=cpu))
    for each in pods:
        columns.add_pod(each, each.node_name)
    return columns


def test_the_least_important_victims_are_chosen() -> None:
    columns = cluster(
        running("a", "n0", 5), running("b", "n0", 5), running("c", "n1", 1), running("d", "n1", 5), nodes=2
    )
    outcome = preempt(columns, compile_pod(pod("p", cpu="1", priority=10)))
    assert (outcome.node, [each.name for each in outcome.victims]) == ("n1", ["c"])


def test_trying_leaves_the_columns_as_they_were() -> None:
    columns = cluster(running("a", "n0", 5), running("b", "n0", 5), nodes=1)
    before = columns.requested.copy(), dict(columns.pods)
    preempt(columns, compile_pod(pod("p", cpu="1", priority=10)))
    assert (columns.requested == before[0]).all()
    assert columns.pods.keys() == before[1].keys()


def test_messages_account_for_every_node() -> None:
    columns = cluster(running("a", "n0", 50, cpu="2"), running("b", "n1", 1, cpu="2"))
    columns.set_node(node("n2", cpu="2", unschedulable=True))
    outcome = preempt(columns, compile_pod(pod("p", cpu="1", priority=1)))
    assert outcome.message == (
        "preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, "
        "2 No preemption victims found for incoming pod."
    )


def test_a_node_too_small_for_the_pod_even_when_empty_is_no_candidate() -> None:
    columns = cluster(running("a", "n0", 1), nodes=1)
    outcome = preempt(columns, compile_pod(pod("p", cpu="4", priority=10)))
    assert outcome.message == (
        "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    )


def test_never_means_never() -> None:
    columns = cluster(running("a", "n0", 1, cpu="2"), nodes=1)
    outcome = preempt(columns, compile_pod(pod("p", cpu="1", priority=9, preemptionPolicy="Never")))
    assert outcome.message == "preemption: not eligible due to preemptionPolicy=Never."


def test_a_pod_whose_victims_are_leaving_waits_for_them() -> None:
    leaving = replace(running("a", "n0", 1, cpu="2"), terminating=True)
    wanted = replace(compile_pod(pod("p", cpu="1", priority=9)), nominated_node="n0")
    outcome = preempt(cluster(leaving, nodes=1), wanted)
    assert outcome.message == "preemption: not eligible due to a terminating pod on the nominated node."


def test_budgets_steer_the_choice_and_give_way_when_they_must() -> None:
    guarded = running("a", "n0", 1, cpu="2", labels={"app": "db"})
    free = running("b", "n1", 5, cpu="2")
    columns = cluster(guarded, free, nodes=2)
    budget: Object = {
        "metadata": {"namespace": "default", "name": "db"},
        "spec": {"selector": {"matchLabels": {"app": "db"}}},
        "status": {"disruptionsAllowed": 0},
    }
    columns.budgets["default/db"] = compile_budget(budget)
    wanted = compile_pod(pod("p", cpu="1", priority=10))
    assert preempt(columns, wanted).node == "n1"
    columns.remove_pod("default/b")
    columns.add_pod(running("b", "n1", 50, cpu="2"), "n1")
    assert preempt(columns, wanted).node == "n0"


def test_budgets_are_spent_pod_by_pod_and_not_on_those_that_leave_already() -> None:
    pods = [running(name, "n0", 1, labels={"app": "db"}) for name in "abc"]
    selector = compile_budget(
        {
            "metadata": {"namespace": "default", "name": "x"},
            "spec": {"selector": {"matchLabels": {"app": "db"}}},
            "status": {"disruptionsAllowed": 1, "disruptedPods": {"a": "2026-01-01T00:00:00Z"}},
        }
    )
    violating, harmless = split_by_violation(pods, [selector])
    assert [each.name for each in violating] == ["c"]
    assert [each.name for each in harmless] == ["a", "b"]


def candidate(name: str, *victims: tuple[int, int], violations: int = 0) -> Candidate:
    made = tuple(
        running(f"{name}{i}", name, priority, start=start) for i, (priority, start) in enumerate(victims)
    )
    return Candidate(name, made, violations)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (candidate("good", (9, 0)), candidate("bad", (1, 0), violations=1)),
        (candidate("good", (4, 0), (4, 0)), candidate("bad", (5, 0))),
        (candidate("good", (5, 0), (1, 0)), candidate("bad", (5, 0), (2, 0))),
        (candidate("good", (5, 0)), candidate("bad", (5, 0), (1, 0))),
        (candidate("good", (5, 30)), candidate("bad", (5, 10))),
        (candidate("good", (5, 30), (1, 0)), candidate("bad", (5, 10), (1, 50))),
    ],
)
def test_the_rules_of_choice_in_their_order(first: Candidate, second: Candidate) -> None:
    assert least_harmful([first, second]).node == "good"
    assert least_harmful([second, first]).node == "good"


def test_room_kept_for_a_nominated_pod_is_not_given_to_a_less_important_one() -> None:
    columns = cluster(nodes=1)
    promised = ((compile_pod(pod("first", cpu="2", priority=10)), "n0"),)
    profile, rng = default_profile(), random.Random(1)
    low, high = (compile_pod(pod("p", cpu="1", priority=priority)) for priority in (1, 20))
    refused = decide(profile, low, columns, rng, nominated=promised)
    assert refused.message == "0/1 nodes are available: 1 Insufficient cpu."
    assert decide(profile, high, columns, rng, nominated=promised).node == "n0"
    assert not columns.pods


# -- the reference -----------------------------------------------------------------------------------------


def reference_candidates(
    wanted: Object, world: reference.World, budgets: list[Budget]
) -> dict[str, set[str]]:
    """Per node that preemption could help: the names of the victims, by removing and putting back one by
    one.
    """
    out = {}
    for each in world.nodes:
        name = each["metadata"]["name"]
        everyone = list(world.on[name])
        lower = [p for p in everyone if p["spec"]["priority"] < wanted["spec"]["priority"]]
        if not lower or not reference.filter_node(wanted, each, world):
            continue
        world.on[name] = [p for p in everyone if p not in lower]
        if not reference.filter_node(wanted, each, world):
            lower.sort(key=lambda p: (-p["spec"]["priority"], p["status"]["startTime"]))
            infos = [compile_pod(p) for p in lower]
            violating = {info.name for info in split_by_violation(infos, budgets)[0]}
            lower.sort(key=lambda p: p["metadata"]["name"] not in violating)  # stable: those first
            victims = set()
            for back in lower:
                world.on[name].append(back)
                if reference.filter_node(wanted, each, world):
                    world.on[name].remove(back)
                    victims.add(back["metadata"]["name"])
            out[name] = victims
        world.on[name] = everyone
    return out


_FINAL = ("untolerated taint", "unschedulable", "node name", "node affinity", "pod affinity rules", "missing")


def _hopeless(wanted: Object, each: Object, world: reference.World) -> bool:
    """The reason is one that no eviction cures."""
    reasons = reference.filter_node(wanted, each, world)
    allocatable = each["status"]["allocatable"]
    too_small = any(
        f"Insufficient {name}" in reasons and value > reference._number(name, allocatable.get(name, "0"))
        for name, value in reference.requests(wanted).items()
    )
    return too_small or any(part in reason for reason in reasons for part in _FINAL)


def test_candidates_and_victims_agree_with_the_reference() -> None:
    planned = 0
    for seed in range(400):
        rng = random.Random(seed)
        columns, world = build(rng)
        selectors = [random_selector(rng) for _ in range(2)]
        budgets = [
            compile_budget(
                {
                    "metadata": {"namespace": "default", "name": str(i)},
                    "spec": {"selector": selector},
                    "status": {"disruptionsAllowed": rng.randrange(2)},
                }
            )
            for i, selector in enumerate(selectors)
        ]
        columns.budgets = {str(i): budget for i, budget in enumerate(budgets)}
        wanted = random_pod(rng, "new")
        wanted["spec"]["priority"] = 50
        info, profile = compile_pod(wanted), default_profile()
        decision = decide(profile, info, columns, rng)
        if decision.node is not None:
            continue
        outcome = DefaultPreemption().post_filter(profile, info, columns, decision.failures, (), rng)
        expected = {
            name: victims
            for name, victims in reference_candidates(wanted, world, budgets).items()
            if not _hopeless(wanted, next(n for n in world.nodes if n["metadata"]["name"] == name), world)
        }
        assert bool(outcome.node) == bool(expected), seed
        if outcome.node:
            planned += 1
            assert {each.name for each in outcome.victims} == expected[outcome.node], seed
    assert planned > 30
