"""The walks over values: what is claimed, what differs, what a merge and a removal leave."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from apimachinery.managedfields import types, walk
from apimachinery.managedfields.types import Map, Type
from apimachinery.managedfields.walk import Untypable
from apimachinery.schema import facts
from apimachinery.schema.table import load

POD = types.of_kind("", "v1", "Pod")
DEPLOYMENT = types.of_kind("apps", "v1", "Deployment")
SERVICE = types.of_kind("", "v1", "Service")
WIDGET = types.custom(
    {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {
                    "size": {"type": "integer"},
                    "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {}},
                    "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                    "plain": {"type": "array", "items": {"type": "string"}},
                    "parts": {
                        "type": "array",
                        "x-kubernetes-list-type": "map",
                        "x-kubernetes-list-map-keys": ["name", "side"],
                        "items": {
                            "type": "object",
                            "properties": {
                                "name": {"type": "string"},
                                "side": {"type": "string", "default": "left"},
                                "n": {"type": "integer"},
                            },
                        },
                    },
                    "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                    "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
                },
            }
        },
    }
)


def widget(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": "e.io/v1", "kind": "Widget", "spec": spec}


def claimed(**spec: Any) -> Any:
    return walk.fields_of(WIDGET, widget(**spec)).get("f:spec")


# -- what a configuration claims --------------------------------------------------------------------------


def test_structs_are_not_claimed_but_what_is_in_them() -> None:
    assert claimed(size=1) == {"f:size": {}}
    assert claimed(counts={"a": 1}) == {"f:counts": {"f:a": {}}}


def test_atomic_values_are_claimed_as_a_whole() -> None:
    assert claimed(whole={"a": 1}, plain=["x"]) == {"f:whole": {}, "f:plain": {}}


def test_items_are_known_by_keys_with_defaults() -> None:
    found = claimed(parts=[{"name": "a", "n": 1}, {"name": "a", "side": "right"}])
    assert found == {
        "f:parts": {
            'k:{"name":"a","side":"left"}': {".": {}, "f:name": {}, "f:n": {}},
            'k:{"name":"a","side":"right"}': {".": {}, "f:name": {}, "f:side": {}},
        }
    }


def test_sets_by_value_and_empty_maps_as_leaves() -> None:
    assert claimed(tags=["b", "a"]) == {"f:tags": {'v:"a"': {}, 'v:"b"': {}}}
    assert claimed(counts={}) == {"f:counts": {}}


def test_without_a_schema_maps_are_granular_and_lists_atomic() -> None:
    assert claimed(free={"a": {"b": [1]}, "c": 1}) == {"f:free": {"f:a": {".": {}, "f:b": {}}, "f:c": {}}}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"colour": 1}, ".spec.colour: field not declared in schema"),
        ({"size": "x"}, ".spec.size: expected numeric (int or float), got &{x}"),
        ({"size": True}, ".spec.size: expected numeric (int or float), got &{True}"),
        ({"tags": "x"}, ".spec.tags: expected list, got &{x}"),
        ({"counts": [1]}, ".spec.counts: expected map, got [1]"),
        ({"tags": ["a", "a"]}, '.spec.tags: duplicate entries for key [="a"]'),
        (
            {"parts": [{"n": 1}]},
            '.spec.parts: element 0: associative list with keys has an element that omits key field "name" '
            "(and doesn't have default value)",
        ),
        (
            {"parts": [{"name": "a", "n": "x"}]},
            '.spec.parts[name="a",side="left"].n: expected numeric (int or float), got &{x}',
        ),
    ],
)
def test_what_does_not_fit_is_named(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(Untypable) as caught:
        walk.fields_of(WIDGET, widget(**spec))
    assert str(caught.value) == message


# -- comparison -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "added", "modified", "removed"),
    [
        ({"size": 1}, {"size": 1}, {}, {}, {}),
        ({"size": 1}, {"size": 1.0}, {}, {}, {}),
        ({"size": 1}, {"size": 2}, {}, {"f:size": {}}, {}),
        ({}, {"size": 2}, {"f:size": {}}, {}, {}),
        ({"size": 2}, {"counts": {}}, {"f:counts": {}}, {}, {"f:size": {}}),
        ({}, {"counts": {"a": 1}}, {"f:counts": {".": {}, "f:a": {}}}, {}, {}),
        ({"counts": {}}, {"counts": {"a": 1}}, {"f:counts": {"f:a": {}}}, {}, {}),
        (
            {"counts": {"a": 1}},
            {"counts": {"b": 1}},
            {"f:counts": {"f:b": {}}},
            {},
            {"f:counts": {"f:a": {}}},
        ),
        ({"whole": {"a": 1}}, {"whole": {"b": 1}}, {}, {"f:whole": {}}, {}),
        ({"plain": ["a", "b"]}, {"plain": ["b", "a"]}, {}, {"f:plain": {}}, {}),
        ({"tags": ["a", "b"]}, {"tags": ["b", "a"]}, {}, {}, {}),
        ({"tags": ["a"]}, {"tags": ["b"]}, {"f:tags": {'v:"b"': {}}}, {}, {"f:tags": {'v:"a"': {}}}),
        (
            {"parts": [{"name": "a", "n": 1}]},
            {"parts": [{"name": "a", "n": 2}, {"name": "b"}]},
            {"f:parts": {'k:{"name":"b","side":"left"}': {".": {}, "f:name": {}}}},
            {"f:parts": {'k:{"name":"a","side":"left"}': {"f:n": {}}}},
            {},
        ),
        ({"free": {"x": 1}}, {"free": {"x": True}}, {}, {"f:free": {"f:x": {}}}, {}),
        ({"free": {"x": [1]}}, {"free": {"x": [True]}}, {}, {"f:free": {"f:x": {}}}, {}),
        (
            {"free": {"x": {"y": 1}}},
            {"free": {"x": 2}},
            {},
            {"f:free": {"f:x": {}}},
            {"f:free": {"f:x": {"f:y": {}}}},
        ),
        (
            {"parts": [{"name": "a"}, {"name": "a", "n": 1}]},
            {"parts": [{"name": "a"}, {"name": "a", "n": 2}]},
            {},
            {"f:parts": {'k:{"name":"a","side":"left"}': {}}},
            {},
        ),
    ],
)
def test_comparison(old: Any, new: Any, added: Any, modified: Any, removed: Any) -> None:
    found = walk.compare(WIDGET, widget(**old), widget(**new))
    wrapped = [{"f:spec": part} if part else {} for part in (added, modified, removed)]
    assert [found.added, found.modified, found.removed] == wrapped
    assert bool(found) == bool(added or modified or removed)


def test_a_struct_that_go_always_writes_is_never_added() -> None:
    """`spec`, `strategy` and `template` are values in Go; `rollingUpdate` is a pointer."""
    spec = {
        "strategy": {"type": "x", "rollingUpdate": {"maxSurge": 1}},
        "template": {"spec": {"hostname": "h"}},
    }
    found = walk.compare(DEPLOYMENT, {}, {"spec": spec})
    assert found.added == {
        "f:spec": {
            "f:strategy": {"f:type": {}, "f:rollingUpdate": {".": {}, "f:maxSurge": {}}},
            "f:template": {"f:spec": {"f:hostname": {}}},
        }
    }
    assert walk.compare(DEPLOYMENT, {"spec": spec}, {}).removed == found.added


def test_a_required_zero_is_no_change() -> None:
    node = types.of_kind("apps", "v1", "DaemonSet")
    zero = {"status": {"currentNumberScheduled": 0, "desiredNumberScheduled": 2}}
    assert walk.compare(node, {}, zero).changed == {"f:status": {"f:desiredNumberScheduled": {}}}


def test_lists_of_the_built_in_types() -> None:
    ports = {"spec": {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53}]}}
    found = walk.fields_of(SERVICE, ports)["f:spec"]["f:ports"]
    assert set(found) == {'k:{"port":53,"protocol":"UDP"}', 'k:{"port":53,"protocol":"TCP"}'}
    lone = {"spec": {"selector": {"a": "b"}, "externalIPs": ["1.2.3.4"]}}
    assert walk.fields_of(SERVICE, lone) == {"f:spec": {"f:selector": {}, "f:externalIPs": {}}}
    spec = {"tolerations": [{"key": "a"}], "imagePullSecrets": [{"name": "s"}], "nodeSelector": {"a": "b"}}
    assert walk.fields_of(POD, {"spec": spec}) == {
        "f:spec": {
            "f:tolerations": {},
            "f:imagePullSecrets": {'k:{"name":"s"}': {}},
            "f:nodeSelector": {},
        }
    }


def test_every_fact_about_types_names_a_field() -> None:
    table = load()
    known = {f"{item.short}.{name}" for item in table.values() for name in item.fields}
    assert {*facts.VALUE_STRUCTS, *facts.GRANULAR_FIELDS, *facts.KEY_DEFAULTS} <= known


def test_every_built_in_type_can_be_made() -> None:
    seen: set[int] = set()
    waiting: list[Type] = [
        types.of_kind(*item.gvk) for item in load().values() if item.gvk and "metadata" in item.fields
    ]
    while waiting:
        kind = types.resolve(waiting.pop())
        if id(kind) in seen:
            continue
        seen.add(id(kind))
        if isinstance(kind, Map):
            waiting += [*kind.fields.values(), *([kind.element] if kind.element else [])]
        elif isinstance(kind, types.Keyed):
            assert kind.keys
            waiting.append(kind.element)
    assert len(seen) > 300


# -- merge ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("live", "config", "merged"),
    [
        ({"size": 1}, {"size": 2}, {"size": 2}),
        ({"size": 1, "counts": {"a": 1}}, {"counts": {"b": 2}}, {"size": 1, "counts": {"a": 1, "b": 2}}),
        ({"whole": {"a": 1}}, {"whole": {"b": 1}}, {"whole": {"b": 1}}),
        ({"plain": ["a"]}, {"plain": ["b"]}, {"plain": ["b"]}),
        ({"tags": ["a", "b"]}, {"tags": ["c", "b"]}, {"tags": ["a", "c", "b"]}),
        ({"free": {"a": {"b": 1}}}, {"free": {"a": {"c": 1}}}, {"free": {"a": {"b": 1, "c": 1}}}),
        ({"free": {"a": {"b": 1}}}, {"free": {"a": [1]}}, {"free": {"a": [1]}}),
        ({"counts": {"a": 1}}, {"counts": {}}, {"counts": {"a": 1}}),
        (
            {"parts": [{"name": "a", "n": 1}, {"name": "b", "n": 1}]},
            {"parts": [{"name": "b", "n": 2}, {"name": "c"}]},
            {"parts": [{"name": "a", "n": 1}, {"name": "b", "n": 2}, {"name": "c"}]},
        ),
    ],
)
def test_merge(live: Any, config: Any, merged: Any) -> None:
    before = copy.deepcopy((live, config))
    assert walk.merge(WIDGET, widget(**live), widget(**config)) == widget(**merged)
    assert (live, config) == before


@pytest.mark.parametrize(
    ("live", "config", "order"),
    [
        ("abc", "", "abc"),
        ("", "ab", "ab"),
        ("abc", "cba", "cba"),
        ("abc", "ca", "bca"),
        ("abcd", "bx", "abcdx"),
        ("ab", "xa", "xab"),
        ("abc", "xyz", "abcxyz"),
        ("azb", "ba", "zba"),
    ],
)
def test_the_order_of_merged_items_is_the_configurations(live: str, config: str, order: str) -> None:
    """Items that only the live object has stay in front of those that follow them there."""
    found = walk.merge(WIDGET, widget(tags=list(live)), widget(tags=list(config)))["spec"]["tags"]
    assert "".join(found) == order


# -- removal ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "gone", "left"),
    [
        ({"size": 1, "plain": ["a"]}, {"f:size": {}}, {"plain": ["a"]}),
        ({"counts": {"a": 1, "b": 1}}, {"f:counts": {"f:a": {}}}, {"counts": {"b": 1}}),
        ({"counts": {"a": 1}}, {"f:counts": {"f:a": {}}}, {}),
        ({"tags": ["a", "b"]}, {"f:tags": {'v:"a"': {}}}, {"tags": ["b"]}),
        (
            {"parts": [{"name": "a", "n": 1}, {"name": "b"}]},
            {"f:parts": {'k:{"name":"a","side":"left"}': {"f:n": {}}, 'k:{"name":"b","side":"left"}': {}}},
            {"parts": [{"name": "a"}]},
        ),
        ({"size": 1}, {"f:other": {}}, {"size": 1}),
    ],
)
def test_removal(value: Any, gone: Any, left: Any) -> None:
    before = copy.deepcopy(value)
    assert walk.remove(WIDGET, widget(**value), {"f:spec": gone}) == widget(**left)
    assert value == before


def test_a_type_that_became_atomic_collects_what_was_owned_in_it() -> None:
    owned: dict[str, Any] = {"f:spec": {"f:whole": {"f:a": {}, "f:b": {}}, "f:counts": {"f:x": {}}}}
    assert walk.collapsed(WIDGET, owned) == {"f:spec": {"f:whole": {}, "f:counts": {"f:x": {}}}}
    same: dict[str, Any] = {"f:spec": {"f:size": {}}}
    assert walk.collapsed(WIDGET, same) is same
