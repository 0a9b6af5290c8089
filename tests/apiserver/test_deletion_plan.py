"""What a deletion leaves alone: the object that is stored is in the watch cache too, and others read it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from apiserver.kinds import SCHEME
from apiserver.registry import deletion
from apiserver.rest.options import DeleteOptions

NOW = 1_800_000_000.0


def stored(**more: Any) -> dict[str, Any]:
    metadata = {"name": "a", "uid": "u", "generation": 1, "finalizers": ["example.com/hold"]}
    return {"metadata": metadata, "spec": {"nodeName": "n"}, "status": {"phase": "Running"}, **more}


@pytest.mark.parametrize("propagation", ["", "Orphan", "Foreground", "Background"])
@pytest.mark.parametrize(
    ("group", "kind", "more"),
    [
        ("", "Pod", {}),
        ("", "Namespace", {"spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
        ("apps", "Deployment", {}),
        ("apiextensions.k8s.io", "CustomResourceDefinition", {}),
    ],
)
def test_what_is_stored_stays_as_it_is(group: str, kind: str, more: dict[str, Any], propagation: str) -> None:
    known = next(each for each in SCHEME if (each.group, each.kind) == (group, kind))
    before = stored(**more)
    kept = copy.deepcopy(before)
    plan = deletion.plan(known, before, DeleteOptions(propagation=propagation), NOW)
    assert before == kept
    assert plan.action == "mark" and plan.obj["metadata"]["deletionTimestamp"]
    deletion.plan(known, plan.obj, DeleteOptions(grace_seconds=0), NOW + 1)
    assert before == kept, "nor by the second deletion"
