"""Who a target is when its turn comes."""

from __future__ import annotations

from random import Random

import pytest

from deploy.chaos.targets import SELECTORS, Choice, Target, TargetError, View, check, needs_leaders, resolve

THREE = ("c0", "c1", "c2")
VIEW = View(THREE, ("w0", "w1"), ("lb",), leader="c1", holders={"scheduler": "c2"})


def hosts(spec: str, view: View = VIEW, *, struck: tuple[str, ...] = (), seed: int = 1) -> list[str]:
    return [str(target) for target in resolve(spec, Choice(view, Random(seed), struck))]


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ("c2", ["c2"]),
        ("c2/etcdlite", ["c2/etcdlite"]),
        ("leader", ["c1"]),
        ("leader/etcdlite", ["c1/etcdlite"]),
        ("scheduler-holder/scheduler", ["c2/scheduler"]),
        ("controllers", ["c0", "c1", "c2"]),
        ("workers/kubelet", ["w0/kubelet", "w1/kubelet"]),
        ("balancer", ["lb"]),
        ("all", ["c0", "c1", "c2", "w0", "w1", "lb"]),
    ],
)
def test_names_and_roles(spec: str, found: list[str]) -> None:
    assert hosts(spec) == found


def test_next_takes_the_leader_first_and_nobody_twice() -> None:
    assert hosts("next-controller") == ["c1"]
    assert hosts("next-controller", struck=("c1",)) == ["c0"]
    assert hosts("next-controller", struck=("c1", "c0")) == ["c2"]


def test_next_begins_again_when_all_were_struck() -> None:
    assert hosts("next-worker", struck=("w0", "w1")) == ["w0"]


@pytest.mark.parametrize("seed", range(20))
def test_a_minority_leaves_a_quorum_and_a_majority_does_not(seed: int) -> None:
    five = View(("a", "b", "c", "d", "e"), (), leader="d")
    assert len(hosts("minority", five, seed=seed)) == 2
    majority = hosts("majority", five, seed=seed)
    assert len(set(majority)) == 3
    assert "d" in majority


def test_chance_is_the_seed() -> None:
    assert {tuple(hosts("any-host", seed=7)) for _ in range(5)} == {tuple(hosts("any-host", seed=7))}
    assert len({tuple(hosts("any-host", seed=seed)) for seed in range(40)}) == len(VIEW.hosts)


def test_a_follower_is_not_the_leader() -> None:
    assert {hosts("follower", seed=seed)[0] for seed in range(20)} == {"c0", "c2"}


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "is not <host>"),
        ("/etcdlite", "is not <host>"),
        ("c0/", "is not <host>"),
        ("c0/nginx", "no unit is called 'nginx'"),
        ("nobody", "neither a host"),
        ("controllers-holder", "nobody holds its lease"),
    ],
)
def test_refused_by_name(spec: str, words: str) -> None:
    with pytest.raises(TargetError, match=words):
        hosts(spec)


def test_no_leader_is_an_error_that_can_be_waited_out() -> None:
    with pytest.raises(TargetError, match="no leader at the moment"):
        hosts("leader", View(THREE, ()))


def test_a_scenario_is_checked_without_knowing_the_hosts() -> None:
    check("any-name-at-all/kubelet")
    with pytest.raises(TargetError):
        check("x/y/z")


def test_only_selectors_that_need_it_ask_for_leaders() -> None:
    asking = {name for name in SELECTORS if needs_leaders([name])}
    assert asking == {
        "leader", "follower", "next-controller", "next-worker", "next-host",
        "scheduler-holder", "controllers-holder", "majority",
    }  # fmt: skip
    assert Target("a", "b") < Target("b", "a")
