"""DaemonSets: where a daemon runs, and its revisions. Pure, by tables."""

from __future__ import annotations

from typing import Any

import pytest

from controllers import (
    history,
    nodeselector,
)
from controllers import taints as tt
from controllers.daemonset import plan as dp
from kubeclient.resources import DEPLOYMENTS
from tests.controllers import make
from tests.controllers.memoryapi import Object


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
