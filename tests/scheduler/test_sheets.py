"""What is kept from decision to decision equals what a fresh look finds, whatever happened in between."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest

from scheduler.columns import Columns, Journal
from scheduler.config import default_profile
from scheduler.core import decide
from scheduler.podinfo import compile_pod
from scheduler.sheets import Sheet, Sheets
from tests.scheduler.generator import build, random_node, random_pod
from tests.scheduler.objects import node, pod

Object = dict[str, Any]


def churn(rng: random.Random, columns: Columns, step: int) -> None:
    """One random change of the cluster."""
    chance, names = rng.random(), list(columns.row_of)
    if chance < 0.5 and names:
        made = random_pod(rng, f"churn{step}", rng.choice(names))
        columns.add_pod(compile_pod(made), made["spec"]["nodeName"])
    elif chance < 0.75 and columns.pods:
        columns.remove_pod(rng.choice(sorted(columns.pods)))
    elif chance < 0.9:
        columns.set_node(random_node(rng, rng.randrange(24)))
    elif chance < 0.95 and len(names) > 1:
        columns.remove_node(rng.choice(names))
    else:
        columns.set_namespace_labels("third", {"team": rng.choice("abc")})


@pytest.mark.parametrize("seed", range(60))
def test_cached_equals_uncached(seed: int) -> None:
    rng, profile = random.Random(seed), default_profile()
    columns, _ = build(rng)
    templates = [random_pod(rng, f"t{i}") for i in range(4)]
    sheets = Sheets()
    for step in range(60):
        churn(rng, columns, step)
        template = copy.deepcopy(rng.choice(templates))
        template["metadata"] |= {"name": f"new{step}", "uid": f"uid-new{step}"}
        info = compile_pod(template)
        kept = decide(profile, info, columns, random.Random(step), sheets=sheets)
        fresh = decide(profile, info, columns, random.Random(step))
        assert kept == fresh, step
        ranked = sheets.of(profile, info).refresh(profile, info, columns)
        assert np.array_equal(ranked, Sheet().refresh(profile, info, columns)), step
        if kept.node is not None:
            columns.add_pod(info, kept.node)


@pytest.mark.parametrize("seed", range(30))
def test_kept_counts_equal_counts_taken_anew(seed: int) -> None:
    rng, profile = random.Random(seed), default_profile()
    columns, _ = build(rng)
    wanted = [compile_pod(random_pod(rng, f"w{i}")) for i in range(6)]
    for step in range(40):
        churn(rng, columns, step)
        for info in wanted:  # makes the tallies, and has them kept from here on
            decide(profile, info, columns, random.Random(1))
    for tally in list(columns._tallies.values()):
        kept = tally.sums(columns.shape).copy()
        counts = tally.counts.copy()
        tally.counts[:] = 0
        tally.total = 0
        columns._count(tally)
        tally._shape = -1
        assert np.array_equal(counts, tally.counts)
        assert np.array_equal(kept, tally.sums(columns.shape))


def test_a_reader_that_lags_is_told_to_look_at_everything() -> None:
    journal = Journal()
    start = journal.position
    journal.note(3)
    journal.note(5)
    journal.note(3)
    assert journal.since(start) == [3, 5]
    assert journal.since(journal.position) == []
    for row in range(10000):
        journal.note(row % 7)
    assert journal.since(start) is None
    assert journal.since(journal.position - 2) == [9998 % 7, 9999 % 7]


def test_pods_of_one_template_share_a_sheet_and_others_do_not() -> None:
    columns, profile, sheets = Columns(), default_profile(), Sheets()
    columns.set_node(node("n1"))
    one, two = compile_pod(pod("a", cpu="1")), compile_pod(pod("b", cpu="1"))
    other = compile_pod(pod("c", cpu="2"))
    assert sheets.of(profile, one) is sheets.of(profile, two)
    assert sheets.of(profile, one) is not sheets.of(profile, other)
