"""The algebra of path sets, against sets of tuples."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apimachinery.managedfields import fieldset
from apimachinery.managedfields.fieldset import FieldSet, Path

ELEMENTS = st.sampled_from(["f:a", "f:b", 'k:{"name":"x"}', "v:1", "i:0"])
PATHS = st.lists(ELEMENTS, min_size=1, max_size=4).map(tuple)
SETS = st.sets(PATHS, max_size=12)


def members(fields: FieldSet) -> set[Path]:
    return set(fieldset.paths(fields))


@given(SETS)
def test_a_set_holds_what_it_was_made_of(paths: set[Path]) -> None:
    made = fieldset.of(paths)
    assert members(made) == paths
    assert all(fieldset.has(made, path) for path in paths)
    assert fieldset.is_valid(made)
    assert fieldset.ordered(made) == made


@given(SETS, SETS)
def test_union_difference_and_intersection_are_those_of_sets(one: set[Path], other: set[Path]) -> None:
    left, right = fieldset.of(one), fieldset.of(other)
    before = copy.deepcopy((left, right))
    assert members(fieldset.union(left, right)) == one | other
    assert members(fieldset.difference(left, right)) == one - other
    assert members(fieldset.intersection(left, right)) == one & other
    assert (left, right) == before


@given(SETS, SETS)
def test_results_are_in_canonical_form(one: set[Path], other: set[Path]) -> None:
    """Equal sets are equal dictionaries, so that entries can be compared without being read."""
    left, right = fieldset.of(one), fieldset.of(other)
    assert fieldset.union(left, right) == fieldset.of(one | other)
    assert fieldset.difference(left, right) == fieldset.of(one - other)
    assert fieldset.intersection(left, right) == fieldset.of(one & other)


@given(SETS, SETS)
def test_a_result_without_change_is_the_argument_itself(one: set[Path], other: set[Path]) -> None:
    left = fieldset.of(one)
    assert fieldset.union(left, fieldset.of(one & other)) is left
    assert fieldset.difference(left, fieldset.of(other - one)) is left


@given(SETS, SETS)
def test_recursive_difference_takes_what_is_below_too(one: set[Path], other: set[Path]) -> None:
    expected = {path for path in one if not any(path[: len(gone)] == gone for gone in other)}
    assert members(fieldset.recursive_difference(fieldset.of(one), fieldset.of(other))) == expected


@given(SETS)
def test_leaves_have_nothing_below(paths: set[Path]) -> None:
    expected = {
        path for path in paths if not any(len(p) > len(path) and p[: len(path)] == path for p in paths)
    }
    assert members(fieldset.leaves(fieldset.of(paths))) == expected


def test_the_form_is_that_of_fields_v1() -> None:
    item = ("f:spec", "f:ports", 'k:{"port":80}')
    assert fieldset.of([item, item[:2], (*item, "f:name")]) == {
        "f:spec": {"f:ports": {".": {}, 'k:{"port":80}': {".": {}, "f:name": {}}}}
    }
    assert fieldset.key({"protocol": "TCP", "containerPort": 80}) == 'k:{"containerPort":80,"protocol":"TCP"}'
    assert (fieldset.value("a"), fieldset.index(3), fieldset.field("x")) == ('v:"a"', "i:3", "f:x")


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (("f:spec", "f:replicas"), ".spec.replicas"),
        (("f:metadata", "f:labels", "f:app.kubernetes.io/name"), ".metadata.labels.app.kubernetes.io/name"),
        (("f:c", 'k:{"name":"web"}', "f:image"), '.c[name="web"].image'),
        (("f:p", 'k:{"port":80,"protocol":"TCP"}'), '.p[port=80,protocol="TCP"]'),
        (("f:metadata", "f:finalizers", 'v:"x"'), '.metadata.finalizers[="x"]'),
        (("f:l", "i:2"), ".l[2]"),
    ],
)
def test_paths_are_shown_as_kubernetes_shows_them(path: Path, shown: str) -> None:
    assert fieldset.show(path) == shown


@pytest.mark.parametrize(
    "bad",
    [
        [],
        {"x": {}},
        {"f:a": 1},
        {"k:1": {}},
        {"k:{": {}},
        {"i:x": {}},
        {".": {"f:a": {}}},
        {"f:a": {"q": {}}},
    ],
)
def test_what_is_no_set_is_recognised(bad: object) -> None:
    assert not fieldset.is_valid(bad)
