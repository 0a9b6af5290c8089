"""JSON patch and merge patch: the examples of their RFCs, and that nothing is ever changed in place."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apimachinery.errors import StatusError
from apimachinery.patch import json as json_patch
from apimachinery.patch import merge

# RFC 6902, appendix A.
APPLIED: list[tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]] = [
    ({"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
    ({"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "q"}], {"foo": ["bar", "q", "baz"]}),
    ({"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
    ({"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
    ({"baz": "qux"}, [{"op": "replace", "path": "/baz", "value": "boo"}], {"baz": "boo"}),
    (
        {"foo": {"bar": "baz", "w": "f"}, "qux": {"c": "g"}},
        [{"op": "move", "from": "/foo/w", "path": "/qux/t"}],
        {"foo": {"bar": "baz"}, "qux": {"c": "g", "t": "f"}},
    ),
    (
        {"foo": ["a", "b", "c"]},
        [{"op": "move", "from": "/foo/0", "path": "/foo/2"}],
        {"foo": ["b", "c", "a"]},
    ),
    (
        {"baz": "qux", "foo": ["a", 2]},
        [{"op": "test", "path": "/foo/1", "value": 2}],
        {"baz": "qux", "foo": ["a", 2]},
    ),
    (
        {"foo": "bar"},
        [{"op": "add", "path": "/child", "value": {"g": {}}}],
        {"foo": "bar", "child": {"g": {}}},
    ),
    ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
    ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["abc"]}], {"foo": ["bar", ["abc"]]}),
    ({"a": {"b": 1}}, [{"op": "copy", "from": "/a", "path": "/c"}], {"a": {"b": 1}, "c": {"b": 1}}),
    ({"a": 1}, [{"op": "replace", "path": "", "value": {"b": 2}}], {"b": 2}),
]


@pytest.mark.parametrize(("document", "patch", "expected"), APPLIED)
def test_json_patch(document: dict[str, Any], patch: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    before = copy.deepcopy(document)
    assert json_patch.apply(document, patch) == expected
    assert document == before


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/a", "value": 2},
        {"op": "test", "path": "/t", "value": 1},
        {"op": "remove", "path": "/missing"},
        {"op": "replace", "path": "/missing", "value": 1},
        {"op": "add", "path": "/missing/deep", "value": 1},
        {"op": "add", "path": "/l/9", "value": 1},
        {"op": "add", "path": "/l/01", "value": 1},
        {"op": "add", "path": "/a"},
        {"op": "jump", "path": "/a"},
        {"op": "remove", "path": "a"},
        {"op": "remove"},
        {"op": "move", "from": "/o", "path": "/o/in"},
        {"op": "replace", "path": "", "value": []},
    ],
)
def test_json_patches_that_do_not_apply(operation: dict[str, Any]) -> None:
    with pytest.raises(StatusError) as caught:
        json_patch.apply({"a": 1, "t": True, "l": [1], "o": {}}, [operation])
    assert (caught.value.code, caught.value.reason) == (422, "Invalid")


def test_json_patch_limits_and_form() -> None:
    with pytest.raises(StatusError) as caught:
        json_patch.apply({}, {"op": "add"})
    assert caught.value.code == 400
    with pytest.raises(
        StatusError, match="The allowed maximum operations in a JSON patch is 10000, got 10001"
    ):
        json_patch.apply({}, [{"op": "add", "path": "/a", "value": 1}] * 10001)


# RFC 7386, appendix A (those between objects).
@pytest.mark.parametrize(
    ("document", "patch", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(document: dict[str, Any], patch: dict[str, Any], expected: dict[str, Any]) -> None:
    assert merge.apply(document, patch) == expected


leaves = st.one_of(st.integers(0, 3), st.sampled_from("ab"), st.booleans())
trees = st.recursive(
    leaves, lambda inner: st.dictionaries(st.sampled_from("xyz"), inner, max_size=3), max_leaves=8
)
documents = st.dictionaries(st.sampled_from("xyz"), trees, max_size=3)


def difference(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The merge patch that turns `old` into `new`."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            patch[key] = difference(old[key], value)
        else:
            patch[key] = value
    return patch


@given(documents, documents)
def test_a_merge_patch_made_from_a_difference_gives_the_target(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    before = copy.deepcopy(old)
    assert merge.apply(old, difference(old, new)) == new
    assert old == before


def test_what_a_patch_does_not_touch_is_shared() -> None:
    document = {"left": {"deep": [1]}, "right": {"a": 1}}
    patched = merge.apply(document, {"right": {"a": 2}})
    assert patched["left"] is document["left"]
    moved = json_patch.apply(document, [{"op": "replace", "path": "/right/a", "value": 3}])
    assert moved["left"] is document["left"]


def test_a_merge_patch_is_an_object() -> None:
    with pytest.raises(StatusError) as caught:
        merge.apply({}, [1])
    assert caught.value.code == 400
