"""The graph of owners and dependents. Pure, by tables."""

from __future__ import annotations

from typing import Any

import pytest

from controllers.garbage.graph import Graph, Identity, Node, judge
from kubeclient.resources import CONFIGMAPS, PODS, REPLICASETS
from tests.controllers import make
from tests.controllers.memoryapi import Object


def child(name: str, *owner_uids: str, **extra: Any) -> Object:
    references = [
        {"apiVersion": "v1", "kind": "ConfigMap", "name": u, "uid": u, "blockOwnerDeletion": True}
        for u in owner_uids
    ]
    return {"metadata": {"name": name, "namespace": "d", "uid": name, "ownerReferences": references, **extra}}


def test_graph_asks_for_unknown_owners_and_for_those_left_behind() -> None:
    graph = Graph()
    assert graph.put(CONFIGMAPS, child("b", "a")).delete == {"b"}
    assert graph.put(CONFIGMAPS, child("a")).delete == frozenset()
    assert list(graph.node("a").dependents) == ["b"]  # type: ignore[union-attr]
    assert graph.remove("a").delete == {"b"}
    graph.remove("b")
    assert len(graph) == 0


def test_graph_follows_a_foreground_deletion() -> None:
    graph = Graph()
    graph.put(CONFIGMAPS, child("a"))
    graph.put(CONFIGMAPS, child("b", "a"))
    going = child("a", deletionTimestamp=make.START, finalizers=["foregroundDeletion"])
    assert graph.put(CONFIGMAPS, going).delete == {"a", "b"}
    assert [n.identity.uid for n in graph.node("a").blocking] == ["b"]  # type: ignore[union-attr]
    assert graph.remove("b").delete == {"a"}
    orphaning = child("c", deletionTimestamp=make.START, finalizers=["orphan"])
    assert graph.put(CONFIGMAPS, orphaning).orphan == {"c"}


def test_a_reference_across_namespaces_is_looked_at() -> None:
    graph = Graph()
    graph.put(CONFIGMAPS, child("a"))
    foreign = child("b", "a")
    foreign["metadata"]["namespace"] = "elsewhere"
    assert graph.put(CONFIGMAPS, foreign).delete == {"b"}


@pytest.mark.parametrize(
    ("solid", "dangling", "waiting", "finalizers", "delete", "drop"),
    [
        (["a"], [], [], [], "", []),
        (["a"], ["b"], ["c"], [], "", ["b", "c"]),
        ([], ["b"], [], [], "Background", []),
        ([], ["b"], [], ["orphan"], "Orphan", []),
        ([], ["b"], [], ["foregroundDeletion"], "Foreground", []),
        ([], [], ["c"], [], "Background", []),
        ([], [], [], [], "", []),
    ],
)
def test_verdicts(
    solid: list[str],
    dangling: list[str],
    waiting: list[str],
    finalizers: list[str],
    delete: str,
    drop: list[str],
) -> None:
    node = Node(Identity(PODS, "v1", "Pod", "d", "p", "p"), finalizers=frozenset(finalizers))
    verdict = judge(node, solid, dangling, waiting)
    assert (verdict.delete, verdict.drop) == (delete, frozenset(drop))


def test_a_dependent_with_dependents_goes_in_the_foreground_when_its_owner_waits() -> None:
    leaf = Node(Identity(PODS, "v1", "Pod", "d", "p", "p"))
    node = Node(Identity(REPLICASETS, "apps/v1", "ReplicaSet", "d", "r", "r"), dependents={"p": leaf})
    assert judge(node, [], [], ["d"]).delete == "Foreground"
