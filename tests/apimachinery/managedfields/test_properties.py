"""Ownership against a reference model of one flat map: who owns which key, and what a write may do."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from apimachinery.errors import StatusError
from apimachinery.managedfields import fieldset, manager, owners, types, walk
from apimachinery.managedfields.manager import Write

Object = dict[str, Any]
CONFIG_MAP = types.of_kind("", "v1", "ConfigMap")
NAMES = st.sampled_from(["a", "b", "c"])
DATA = st.dictionaries(st.sampled_from(["k1", "k2", "k3", "k4"]), st.sampled_from(["1", "2"]), max_size=4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("update"), NAMES, DATA, st.just(False)),
        st.tuples(st.just("apply"), NAMES, DATA, st.booleans()),
    ),
    max_size=8,
)


@dataclass
class Model:
    """The rules, for keys of one map. `owned` maps (name, operation) to keys."""

    data: dict[str, str] = field(default_factory=dict)
    owned: dict[tuple[str, str], set[str]] = field(default_factory=dict)

    def update(self, name: str, data: dict[str, str]) -> None:
        changed = {key for key in data if self.data.get(key) != data[key]}
        self._settle(changed, data, spared=None)
        if changed:
            self.owned.setdefault((name, "Update"), set()).update(changed)

    def apply(self, name: str, config: dict[str, str], force: bool) -> bool:
        me = (name, "Apply")
        new = {**self.data, **config}
        others = [keys for who, keys in self.owned.items() if who != me]
        for key in self.owned.get(me, set()) - config.keys():
            if not any(key in keys for keys in others):
                del new[key]
        changed = {key for key in new if self.data.get(key) != new[key]}
        if not force and any(keys & changed for keys in others):
            return False
        self._settle(changed, new, spared=me)
        self.owned[me] = set(config)
        self.owned = {who: keys for who, keys in self.owned.items() if keys}
        return True

    def _settle(self, changed: set[str], new: dict[str, str], spared: tuple[str, str] | None) -> None:
        gone = self.data.keys() - new.keys()
        for who, keys in self.owned.items():
            keys -= gone if who == spared else changed | gone
        self.owned = {who: keys for who, keys in self.owned.items() if keys}
        self.data = dict(new)


def config_map(data: dict[str, str], **metadata: Any) -> Object:
    out: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", **metadata}}
    return {**out, "data": data} if data else out


def start() -> Object:
    """Something owned by someone who never writes again: an object without any owner has rules of its own."""
    made = manager.update(write("creator"), None, {**config_map({}, labels={"x": "y"}), "data": {}})
    assert made["metadata"]["managedFields"][0]["fieldsV1"]["f:data"] == {}
    return made


def write(name: str) -> Write:
    return Write(CONFIG_MAP, "v1", name, "2026-01-01T00:00:00Z")


def step(live: Object, operation: str, name: str, data: dict[str, str], force: bool) -> Object:
    """One write; the live object itself where an apply conflicts."""
    if operation == "update":
        return manager.update(write(name), live, {**live, "data": data})
    try:
        new = manager.apply(write(name), live, config_map(data), force=force)
    except StatusError as error:
        assert error.code == 409
        return live
    return {**new, "data": new.get("data") or {}}


def owned_keys(obj: Object) -> dict[tuple[str, str], set[str]]:
    known = owners.decode(obj["metadata"]["managedFields"])
    assert known is not None
    found = {
        (who.name, who.operation): {element[2:] for element in own.fields.get("f:data", {}) if element != "."}
        for who, own in known.items()
    }
    return {who: keys for who, keys in found.items() if keys}


@settings(max_examples=400, deadline=None)
@given(STEPS)
def test_any_sequence_of_writes_agrees_with_the_model(
    steps: list[tuple[str, str, dict[str, str], bool]],
) -> None:
    live, model = start(), Model()
    for operation, name, data, force in steps:
        before = copy.deepcopy(live)
        after = step(live, operation, name, data, force)
        assert live == before
        if operation == "update":
            model.update(name, data)
        else:
            assert model.apply(name, data, force) == (after is not live)
        live = after
        assert live["data"] == model.data
        assert owned_keys(live) == model.owned


@settings(deadline=None)
@given(STEPS, NAMES, DATA)
def test_an_apply_twice_is_an_apply_once(
    steps: list[tuple[str, str, dict[str, str], bool]], name: str, data: dict[str, str]
) -> None:
    live = start()
    for taken in steps:
        live = step(live, *taken)
    once = manager.apply(write(name), live, config_map(data), force=True)
    twice = manager.apply(write(name), once, config_map(data), force=False)
    assert twice == once


@settings(deadline=None)
@given(DATA, DATA)
def test_appliers_of_disjoint_fields_never_conflict(one: dict[str, str], other: dict[str, str]) -> None:
    apart = {f"other-{key}": value for key, value in other.items()}
    live = manager.apply(write("a"), {}, config_map(one), force=False)
    live = manager.apply(write("b"), live, config_map(apart), force=False)
    assert (live.get("data") or {}) == {**one, **apart}
    again = manager.apply(write("a"), live, config_map(one), force=False)
    assert again.get("data") == live.get("data")


@settings(deadline=None)
@given(STEPS, NAMES, DATA)
def test_a_forced_apply_is_what_it_says_and_owns_it(
    steps: list[tuple[str, str, dict[str, str], bool]], name: str, data: dict[str, str]
) -> None:
    live = start()
    for taken in steps:
        live = step(live, *taken)
    new = manager.apply(write(name), live, config_map(data), force=True)
    assert {key: (new.get("data") or {}).get(key) for key in data} == data
    known = owners.decode(new["metadata"]["managedFields"]) or {}
    mine = [own.fields for who, own in known.items() if (who.name, who.operation) == (name, "Apply")]
    claimed = fieldset.difference(walk.fields_of(CONFIG_MAP, config_map(data)), manager.STRIPPED)
    assert mine == ([claimed] if claimed else [])


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from(["", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3).map(
    lambda spec: {"apiVersion": "e.io/v1", "kind": "X", "spec": spec}
)


@settings(deadline=None)
@given(OBJECTS, OBJECTS)
def test_a_comparison_says_nothing_exactly_when_two_objects_are_equal(old: Object, new: Object) -> None:
    found = walk.compare(types.custom(None), old, new)
    assert bool(found) == (not walk.same(old, new))
    back = walk.compare(types.custom(None), new, old)
    assert (back.added, back.removed) == (found.removed, found.added)
    assert back.modified == found.modified


@settings(deadline=None)
@given(OBJECTS, OBJECTS)
def test_a_merge_holds_the_configuration_and_repeats_itself(live: Object, config: Object) -> None:
    kind = types.custom(None)
    merged = walk.merge(kind, live, config)
    assert walk.same(walk.merge(kind, merged, config), merged)
    claimed = walk.fields_of(kind, config, lenient=True)
    changed = walk.compare(kind, live, merged).changed
    assert fieldset.difference(fieldset.leaves(changed), _with_parents(claimed)) == {}


def _with_parents(fields: fieldset.FieldSet) -> fieldset.FieldSet:
    paths = {path[:end] for path in fieldset.paths(fields) for end in range(1, len(path) + 1)}
    return fieldset.of(paths)
