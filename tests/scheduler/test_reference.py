"""Random clusters: the columns and the one-node-at-a-time reference must agree on every node, every reason
and every score (`python -m tests.scheduler.agreement` does the same for as many as wanted).
"""

from __future__ import annotations

import random

import numpy as np
import pytest

from scheduler.columns import Columns
from scheduler.config import default_profile
from scheduler.core import decide
from scheduler.podinfo import compile_pod
from tests.scheduler.agreement import check
from tests.scheduler.generator import build
from tests.scheduler.objects import node, pod


@pytest.mark.parametrize("block", range(10))
def test_columns_agree_with_the_reference(block: int) -> None:
    profile = default_profile()
    for seed in range(block * 40, block * 40 + 40):
        check(seed, profile)


def test_removing_everything_leaves_the_columns_empty() -> None:
    for seed in range(50):
        columns, world = build(random.Random(seed))
        for pods in world.on.values():
            for each in pods:
                columns.remove_pod(f"{each['metadata']['namespace']}/{each['metadata']['name']}")
        assert not columns.requested.any()
        assert not columns.scoring.any()
        assert not columns.repelling.tallies
        assert not columns.preferring.tallies
        assert not columns.pods
        assert all(not used for used in columns.ports.values())


def test_equal_nodes_share_the_load() -> None:
    columns = Columns()
    for index in range(4):
        columns.set_node(node(f"n{index}"))
    rng = random.Random(7)
    chosen = [decide(default_profile(), compile_pod(pod("p")), columns, rng).node for _ in range(400)]
    shares = np.unique(np.array(chosen), return_counts=True)[1]
    assert len(shares) == 4
    assert shares.min() > 60


def test_the_message_counts_every_node() -> None:
    columns = Columns()
    columns.set_node(node("a", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}]))
    columns.set_node(node("b", cpu="1"))
    columns.set_node(node("c", cpu="1", unschedulable=True))
    decision = decide(default_profile(), compile_pod(pod("p", cpu="2")), columns, random.Random(1))
    assert decision.message == (
        "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {k: v}, "
        "1 node(s) were unschedulable."
    )


def test_no_nodes_at_all() -> None:
    decision = decide(default_profile(), compile_pod(pod("p")), Columns(), random.Random(1))
    assert decision.message == "no nodes available to schedule pods"
