"""The pod plan, by tables: a spec and what is seen, and the steps that must follow."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet.pods.observed import ContainerView, PodView, SandboxView
from kubelet.pods.plan import (
    Backoff,
    KillContainer,
    PodActions,
    Probed,
    StartContainer,
    compute_pod_actions,
)
from tests.kubelet.builders import CREATED, EXITED, NOW, RUNNING, UNKNOWN, container, pod, sandbox, seen, view

SIDECAR = container("side", restartPolicy="Always")


def plan(
    spec: dict[str, Any],
    *parts: SandboxView | ContainerView,
    now: float = NOW,
    backoffs: dict[str, Backoff] | None = None,
    probed: dict[str, Probed] | None = None,
) -> PodActions:
    return compute_pod_actions(spec, view(*parts), now=now, backoffs=backoffs or {}, probed=probed or {})


def test_a_new_pod_gets_a_sandbox_and_all_its_containers() -> None:
    assert plan(pod(container("a"), container("b"))) == PodActions(
        create_sandbox=True, start=(StartContainer("a", 0), StartContainer("b", 0))
    )


def test_a_new_pod_with_init_containers_starts_the_first_alone() -> None:
    made = pod(init=(container("i"), container("j")))
    assert plan(made) == PodActions(create_sandbox=True, start=(StartContainer("i", 0, init=True),))


def test_a_running_pod_is_left_alone() -> None:
    assert plan(pod(), sandbox(), seen()).nothing


@pytest.mark.parametrize(
    ("policy", "code", "restarted"),
    [
        ("Always", 0, True),
        ("Always", 1, True),
        ("OnFailure", 0, False),
        ("OnFailure", 1, True),
        ("Never", 0, False),
        ("Never", 1, False),
    ],
)
def test_restart_policy(policy: str, code: int, restarted: bool) -> None:
    """A second container keeps running, so that the pod as a whole is not over."""
    made = pod(container("a"), container("b"), restartPolicy=policy)
    actions = plan(made, sandbox(), seen("a", EXITED, code=code), seen("b"))
    assert actions.start == ((StartContainer("a", 1),) if restarted else ())


@pytest.mark.parametrize(("policy", "codes"), [("Never", (0, 3)), ("OnFailure", (0, 0))])
def test_a_pod_that_is_over_loses_its_sandbox(policy: str, codes: tuple[int, int]) -> None:
    made = pod(container("a"), container("b"), restartPolicy=policy)
    ended = [seen(name, EXITED, code=code) for name, code in zip("ab", codes, strict=True)]
    assert plan(made, sandbox(), *ended) == PodActions(kill_pod=True)


def test_a_crashed_container_rests_before_it_starts_again() -> None:
    crashed = seen(state=EXITED, code=1, ended=NOW)
    early = plan(pod(), sandbox(), crashed, now=NOW + 9.9, backoffs={"c": Backoff(10.0)})
    assert early.nothing
    assert early.waiting == {"c": NOW + 10.0}
    late = plan(pod(), sandbox(), crashed, now=NOW + 10.0, backoffs={"c": Backoff(10.0)})
    assert late.start == (StartContainer("c", 1),)


def test_init_containers_run_one_after_another() -> None:
    made = pod(init=(container("i"), container("j")))
    done = seen("i", EXITED)
    assert plan(made, sandbox(), seen("i")).nothing
    assert plan(made, sandbox(), done).start == (StartContainer("j", 0, init=True),)
    assert plan(made, sandbox(), done, seen("j", EXITED)).start == (StartContainer("c", 0),)


def test_a_failed_init_container_is_retried_unless_the_policy_is_never() -> None:
    failed = seen("i", EXITED, code=1)
    retried = plan(pod(init=(container("i"),)), sandbox(), failed)
    assert retried.start == (StartContainer("i", 1, init=True),)
    assert plan(pod(init=(container("i"),), restartPolicy="Never"), sandbox(), failed).kill_pod


def test_a_sidecar_must_run_before_the_next_starts_and_is_kept_afterwards() -> None:
    made = pod(init=(SIDECAR, container("i")))
    assert plan(made, sandbox(), seen("side")).start == (StartContainer("i", 0, init=True),)
    crashed = plan(made, sandbox(), seen("side", EXITED, code=1), seen("i", EXITED), seen("c"))
    assert crashed.start == (StartContainer("side", 1, init=True),)


def test_a_sidecar_with_a_startup_probe_holds_the_others_until_it_passed() -> None:
    probed_sidecar = {**SIDECAR, "startupProbe": {"exec": {"command": ["true"]}}}
    made = pod(init=(probed_sidecar,))
    assert plan(made, sandbox(), seen("side")).nothing
    passed = plan(made, sandbox(), seen("side"), probed={"side-0": Probed(startup=True)})
    assert passed.start == (StartContainer("c", 0),)


@pytest.mark.parametrize(
    ("verdict", "reason"), [(Probed(live=False), "LivenessProbe"), (Probed(startup=False), "StartupProbe")]
)
def test_a_failed_probe_kills_and_the_next_pass_restarts(verdict: Probed, reason: str) -> None:
    actions = plan(pod(), sandbox(), seen(), probed={"c-0": verdict})
    assert [(kill.id, kill.reason) for kill in actions.kill] == [("c-0", reason)]
    assert actions.start == ()


@pytest.mark.parametrize("state", [CREATED, UNKNOWN])
def test_a_container_in_limbo_is_replaced(state: str) -> None:
    actions = plan(pod(), sandbox(), seen(state=state))
    assert [kill.id for kill in actions.kill] == ["c-0"]
    assert actions.start == (StartContainer("c", 1),)


def test_a_new_image_replaces_the_container() -> None:
    actions = plan(pod(container(image="other:2")), sandbox(), seen())
    message = "Container c definition changed, will be restarted"
    assert actions.kill == (KillContainer("c-0", "c", message),)
    assert actions.start == (StartContainer("c", 1),)


def test_after_a_power_cut_the_pod_is_made_anew_with_the_next_attempt() -> None:
    dead = seen(state=EXITED, code=255)
    actions = plan(pod(), sandbox(0, ready=False), dead)
    assert actions == PodActions(create_sandbox=True, attempt=1, start=(StartContainer("c", 1),))


def test_after_a_power_cut_a_pod_that_never_restarts_is_over() -> None:
    made = pod(restartPolicy="Never")
    assert plan(made, sandbox(0, ready=False), seen(state=EXITED, code=255)).nothing


def test_init_containers_run_again_in_a_new_sandbox() -> None:
    made = pod(init=(container("i"),))
    old = [seen("i", EXITED), seen("c", EXITED)]
    first = plan(made, sandbox(0, ready=False), *old)
    assert first.start == (StartContainer("i", 1, init=True),)
    again = plan(made, sandbox(1), sandbox(0, ready=False), *old)
    assert again.start == (StartContainer("i", 1, init=True),)


states = st.sampled_from([CREATED, RUNNING, EXITED, UNKNOWN])


@given(
    policy=st.sampled_from(["Always", "OnFailure", "Never"]),
    found=st.dictionaries(st.sampled_from(["i", "side", "a", "b"]), st.tuples(states, st.integers(0, 2))),
    ready=st.booleans(),
)
def test_no_plan_starts_what_runs_or_starts_anything_twice(
    policy: str, found: dict[str, tuple[str, int]], ready: bool
) -> None:
    made = pod(container("a"), container("b"), init=(container("i"), SIDECAR), restartPolicy=policy)
    held: PodView = view(sandbox(ready=ready), *(seen(n, s, code=c) for n, (s, c) in found.items()))
    actions = compute_pod_actions(made, held, now=NOW, backoffs={}, probed={})
    names = [start.name for start in actions.start]
    assert len(names) == len(set(names))
    killed = {kill.name for kill in actions.kill}
    if not (actions.kill_pod or actions.create_sandbox):
        running = {name for name, (state, _) in found.items() if state == RUNNING}
        assert not (running & set(names)) - killed
    for start in actions.start:
        last = held.latest(start.name)
        assert start.attempt == (last.attempt + 1 if last else 0)
