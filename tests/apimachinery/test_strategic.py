"""Strategic merge patch: every directive, and random list merges against a small reference."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apimachinery.errors import StatusError
from apimachinery.patch import strategic

POD = "io.k8s.api.core.v1.Pod"
POD_SPEC = "io.k8s.api.core.v1.PodSpec"
DEPLOYMENT = "io.k8s.api.apps.v1.Deployment"


def spec(**members: Any) -> dict[str, Any]:
    return {"spec": members}


def containers(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "image": f"{name}:1"} for name in names]


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "a list item merges by its key": (
        POD,
        spec(containers=containers("a", "b")),
        spec(containers=[{"name": "b", "image": "b:2"}]),
        spec(containers=[{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:2"}]),
    ),
    "a new item goes to the end": (
        POD,
        spec(containers=containers("a")),
        spec(containers=[{"name": "z"}]),
        spec(containers=[*containers("a"), {"name": "z"}]),
    ),
    "an item is deleted": (
        POD,
        spec(containers=containers("a", "b")),
        spec(containers=[{"name": "a", "$patch": "delete"}]),
        spec(containers=containers("b")),
    ),
    "a list is replaced": (
        POD,
        spec(containers=containers("a", "b")),
        spec(containers=[{"$patch": "replace"}, {"name": "c"}]),
        spec(containers=[{"name": "c"}]),
    ),
    "a map is replaced": (
        POD,
        {"metadata": {"labels": {"a": "1", "b": "2"}}},
        {"metadata": {"labels": {"$patch": "replace", "c": "3"}}},
        {"metadata": {"labels": {"c": "3"}}},
    ),
    "a map is emptied": (
        POD,
        {"metadata": {"labels": {"a": "1"}}},
        {"metadata": {"labels": {"$patch": "delete"}}},
        {"metadata": {"labels": {}}},
    ),
    "null deletes": (
        POD,
        {"metadata": {"labels": {"a": "1", "b": "2"}}},
        {"metadata": {"labels": {"a": None}}},
        {"metadata": {"labels": {"b": "2"}}},
    ),
    "scalars join a primitive list once": (
        POD,
        {"metadata": {"finalizers": ["a", "b"]}},
        {"metadata": {"finalizers": ["b", "c"]}},
        {"metadata": {"finalizers": ["a", "b", "c"]}},
    ),
    "scalars leave a primitive list": (
        POD,
        {"metadata": {"finalizers": ["a", "b", "c"]}},
        {"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}},
        {"metadata": {"finalizers": ["a", "c"]}},
    ),
    "atomic lists are replaced": (
        POD,
        spec(tolerations=[{"key": "a"}]),
        spec(tolerations=[{"key": "b"}]),
        spec(tolerations=[{"key": "b"}]),
    ),
    "the order is set": (
        POD,
        spec(containers=containers("a", "b", "c")),
        {"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}, {"name": "b"}]}},
        spec(containers=containers("c", "a", "b")),
    ),
    "an item changes and the order is set": (
        POD,
        spec(containers=containers("a", "b")),
        {
            "spec": {
                "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
                "containers": [{"name": "a", "image": "a:2"}],
            }
        },
        spec(containers=[{"name": "b", "image": "b:1"}, {"name": "a", "image": "a:2"}]),
    ),
    "an item the order does not name keeps its place": (
        POD,
        spec(containers=containers("server", "a", "b")),
        {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}},
        spec(containers=containers("server", "b", "a")),
    ),
    "keys are retained": (
        DEPLOYMENT,
        spec(strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}),
        spec(strategy={"$retainKeys": ["type"], "type": "Recreate"}),
        spec(strategy={"type": "Recreate"}),
    ),
    "directives in what is new are dropped": (
        POD,
        {},
        spec(containers=[{"name": "a", "$patch": "delete"}, {"name": "b", "ports": [{"$patch": "replace"}]}]),
        spec(containers=[{"name": "b", "ports": []}]),
    ),
    "ports merge inside containers": (
        POD,
        spec(containers=[{"name": "a", "ports": [{"containerPort": 1, "name": "x"}]}]),
        spec(containers=[{"name": "a", "ports": [{"containerPort": 1, "name": "y"}, {"containerPort": 2}]}]),
        spec(containers=[{"name": "a", "ports": [{"containerPort": 1, "name": "y"}, {"containerPort": 2}]}]),
    ),
    "a selector that replaces": (
        "io.k8s.api.policy.v1.PodDisruptionBudget",
        spec(selector={"matchLabels": {"a": "1"}}),
        spec(selector={"matchLabels": {"b": "2"}}),
        spec(selector={"matchLabels": {"b": "2"}}),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_directives(name: str) -> None:
    ref, original, patch, expected = CASES[name]
    before, asked = copy.deepcopy(original), copy.deepcopy(patch)
    assert strategic.apply(original, patch, ref) == expected
    assert (original, patch) == (before, asked)


@pytest.mark.parametrize(
    ("patch", "code", "text"),
    [
        ([], 400, "invalid JSON document"),
        ({"$patch": "shuffle"}, 422, "the server rejected our request"),
        (
            spec(containers=[{"image": "x"}]),
            422,
            "map: map[image:x] does not contain declared merge key: name",
        ),
        (spec(containers=["x"]), 400, "invalid JSON document"),
        (spec(containers=[{"name": "a", "$patch": "merge"}]), 422, "the server rejected our request"),
        (
            {"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}},
            400,
            "invalid patch format of primitive list",
        ),
        ({"spec": {"$setElementOrder/containers": "a"}}, 400, "invalid patch format of setElementOrder list"),
        ({"spec": {"$retainKeys": ["a"], "b": 1}}, 400, "invalid patch format of retainKeys"),
    ],
)
def test_bad_patches(patch: Any, code: int, text: str) -> None:
    with pytest.raises(StatusError) as caught:
        strategic.apply({"metadata": {}, **spec(containers=containers("a"))}, patch, POD)
    assert caught.value.code == code
    assert text in caught.value.message


def test_types_without_a_schema_have_no_strategic_merge() -> None:
    with pytest.raises(StatusError) as caught:
        strategic.apply({}, {}, None)
    assert caught.value.code == 415


names = st.sampled_from("abcde")
items = st.builds(lambda name, image: {"name": name, "image": image}, names, st.integers(0, 3).map(str))
lists = st.lists(items, max_size=5, unique_by=lambda item: item["name"])


@given(lists, lists)
def test_list_merge_against_a_dictionary(original: list[dict[str, str]], patch: list[dict[str, str]]) -> None:
    merged = strategic.apply({"containers": original}, {"containers": patch}, POD_SPEC)["containers"]
    reference = {item["name"]: item for item in original} | {item["name"]: item for item in patch}
    assert {item["name"]: item for item in merged} == reference
    assert len(merged) == len(reference)
    ours = [item["name"] for item in merged]
    order = [item["name"] for item in patch]
    assert [name for name in ours if name in order] == order
    untouched = [item["name"] for item in original if item["name"] not in {item["name"] for item in patch}]
    assert [name for name in ours if name in untouched] == untouched


@given(lists, lists)
def test_an_applied_difference_gives_the_target(old: list[dict[str, str]], new: list[dict[str, str]]) -> None:
    """What kubectl sends: changed items, deletions, and the order of all."""
    before = {item["name"]: item for item in old}
    after = {item["name"] for item in new}
    changed: list[dict[str, str]] = [item for item in new if before.get(item["name"]) != item]
    changed += [{"name": name, "$patch": "delete"} for name in before if name not in after]
    patch = {"$setElementOrder/containers": [{"name": item["name"]} for item in new], "containers": changed}
    assert strategic.apply({"containers": old}, patch, POD_SPEC).get("containers", []) == new


def test_a_patch_copies_only_its_path() -> None:
    original: dict[str, Any] = {
        "metadata": {"labels": {"a": "b"}},
        "spec": {"containers": containers("a", "b")},
    }
    patched = strategic.apply(original, spec(containers=[{"name": "b", "image": "new"}]), POD)
    assert patched["metadata"] is original["metadata"]
    assert patched["spec"]["containers"][0] is original["spec"]["containers"][0]
