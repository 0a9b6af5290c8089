"""The four walks over a value by its type: its field set, the comparison of two, the merge of an applied
configuration into a live object, and the removal of fields (`structured-merge-diff`, package typed).

No walk changes what it is given; results share structure with the arguments. Live objects were checked when
they were written, so only `fields_of` validates: it is the walk that an applied configuration goes through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from apimachinery.managedfields import fieldset
from apimachinery.managedfields.fieldset import SELF, FieldSet
from apimachinery.managedfields.types import (
    ABSENT,
    ANY,
    Deduced,
    Keyed,
    Lazy,
    Leaf,
    Map,
    Type,
    Values,
    of_value,
    resolve,
)


class Untypable(Exception):
    """A value that does not fit its type; `path` is where, as messages carry it."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why
        self.path = ""

    def below(self, element: str) -> Untypable:
        """The same mistake as seen from one level up."""
        self.path = element + self.path
        return self

    def __str__(self) -> str:
        return f"{self.path}: {self.why}" if self.path else self.why


@dataclass(frozen=True, slots=True)
class Comparison:
    """The paths in which a new value differs from an old one."""

    added: FieldSet
    modified: FieldSet
    removed: FieldSet

    @property
    def changed(self) -> FieldSet:
        return fieldset.union(self.added, self.modified)

    def without(self, ignored: FieldSet) -> Comparison:
        """What is left when these paths and all below them do not count."""
        parts = (self.added, self.modified, self.removed)
        return Comparison(*(fieldset.recursive_difference(part, ignored) for part in parts))

    def __bool__(self) -> bool:
        return bool(self.added or self.modified or self.removed)


# -- items of lists -----------------------------------------------------------------------------------------


def element_of(kind: Keyed | Values, item: Any) -> str:
    """The path element of a list item. Raises Untypable where its keys are missing."""
    if isinstance(kind, Values):
        if isinstance(item, (dict, list)) or item is None:
            raise Untypable("invalid set element: must be a scalar")
        return fieldset.value(item)
    if not isinstance(item, dict):
        raise Untypable("associative list with keys may not have non-map elements")
    found = {}
    for name in kind.keys:
        if name in item:
            found[name] = item[name]
        elif name in kind.defaults:
            found[name] = kind.defaults[name]
        else:
            raise Untypable(
                f'associative list with keys has an element that omits key field "{name}" '
                "(and doesn't have default value)"
            )
    return fieldset.key(found)


def indexed(kind: Keyed | Values, items: Sequence[Any]) -> dict[str, list[Any]]:
    """Items by element, in order; a live list may hold one element several times, or items without keys."""
    out: dict[str, list[Any]] = {}
    for at, item in enumerate(items):
        try:
            element = element_of(kind, item)
        except Untypable:
            element = fieldset.index(at)
        out.setdefault(element, []).append(item)
    return out


def item_type(kind: Keyed | Values) -> Type:
    return kind.element if isinstance(kind, Keyed) else ANY


# -- the field set of a value -------------------------------------------------------------------------------


def fields_of(kind: Type, value: Any, *, lenient: bool = False) -> FieldSet:
    """The paths that a configuration claims. Raises Untypable where it does not fit the type; `lenient` is
    for live objects, which may hold what a configuration may not (items without keys, the same item twice).
    """
    node = _node(kind, value, lenient)
    return fieldset.below(node) if node else {}


def _node(kind: Type, value: Any, lenient: bool) -> FieldSet | None:
    match kind:
        case Lazy():
            return _node(resolve(kind), value, lenient)
        case Deduced():
            return _node(of_value(value), value, lenient)
        case Leaf():
            if not lenient:
                _check_shape(kind.shape, value)
            return {}
        case Map():
            return _map_node(kind, value, lenient)
        case _:
            return _list_node(kind, value, lenient)


def _map_node(kind: Map, value: Any, lenient: bool) -> FieldSet | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise Untypable(f"expected map, got {_shown(value)}")
    out: FieldSet = {}
    for name, item in value.items():
        known = kind.fields.get(name)
        inner = kind.element if known is None else known
        if inner is None and not lenient:
            raise Untypable("field not declared in schema").below("." + name)
        try:
            node = _node(inner or ANY, item, lenient)
        except Untypable as error:
            raise error.below("." + name) from None
        if known is None or item is None or item == {}:
            node = fieldset.node_of(True, node or {})
        if node is not None:
            out["f:" + name] = node
    return out or None


def _list_node(kind: Keyed | Values, value: Any, lenient: bool) -> FieldSet | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise Untypable(f"expected list, got {_shown(value)}")
    if not lenient:
        _check_items(kind, value)
    out: FieldSet = {}
    for element, items in indexed(kind, value).items():
        try:
            node = _node(item_type(kind), items[0], lenient)
        except Untypable as error:
            raise error.below(fieldset.show((element,))) from None
        out[element] = {SELF: {}, **node} if node else {}
    return out or None


def _check_items(kind: Keyed | Values, value: Sequence[Any]) -> None:
    seen = set()
    for at, item in enumerate(value):
        try:
            element = element_of(kind, item)
        except Untypable as error:
            raise Untypable(f"element {at}: {error.why}") from None
        if element in seen:
            raise Untypable(f"duplicate entries for key {fieldset.show((element,))}")
        seen.add(element)


_SHAPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "numeric": (int, float),
    "boolean": (bool,),
    "list": (list,),
    "map": (dict,),
}
_EXPECTED = {"numeric": "numeric (int or float)"}


def _check_shape(shape: str, value: Any) -> None:
    if shape == "any" or value is None:
        return
    if not isinstance(value, _SHAPES[shape]) or (shape == "numeric" and isinstance(value, bool)):
        raise Untypable(f"expected {_EXPECTED.get(shape, shape)}, got {_shown(value)}")


def _shown(value: Any) -> str:
    return f"&{{{value}}}" if isinstance(value, (str, int, float)) else orjson.dumps(value).decode()


# -- comparison ---------------------------------------------------------------------------------------------

# Nodes of what was added, modified and removed; None where nothing was.
Difference = tuple[FieldSet | None, FieldSet | None, FieldSet | None]
Parts = tuple[FieldSet, FieldSet, FieldSet]
_CHANGED: Difference = (None, {}, None)


def compare(kind: Type, old: Any, new: Any) -> Comparison:
    """What was added, modified and removed between two versions of an object."""
    found = _compare(kind, old, new)
    if found is None:
        return Comparison({}, {}, {})
    added, modified, removed = (fieldset.below(node) if node else {} for node in found)
    return Comparison(added, modified, removed)


def _compare(kind: Type, old: Any, new: Any) -> Difference | None:
    """The difference of two values that are both there; None where they are equal."""
    match kind:
        case Lazy():
            return None if old == new else _compare(resolve(kind), old, new)
        case Deduced():
            return _compare_deduced(old, new)
        case Leaf():
            return None if same(old, new) else _CHANGED
        case Map():
            return _compare_maps(
                kind, old if isinstance(old, dict) else {}, new if isinstance(new, dict) else {}
            )
        case _:
            return _compare_lists(kind, old or (), new or ())


def _compare_deduced(old: Any, new: Any) -> Difference | None:
    before, after = of_value(old), of_value(new)
    if isinstance(before, Map) and isinstance(after, Map):
        return _compare_maps(before, old, new)
    if isinstance(before, Leaf) and isinstance(after, Leaf):
        return None if same(old, new) else _CHANGED
    # From a map to something else, or back: what was below goes, what is below comes.
    return (fieldset.below(_all(after, new)) or None, {}, fieldset.below(_all(before, old)) or None)


def _compare_maps(kind: Map, old: Mapping[str, Any], new: Mapping[str, Any]) -> Difference | None:
    parts: Parts = ({}, {}, {})
    for name, value in new.items():
        before = old.get(name, ABSENT)
        if before is value:
            continue
        _compare_field(kind, name, before, value, parts)
    for name, value in old.items():
        if name not in new:
            _compare_field(kind, name, value, ABSENT, parts)
    return _collected(parts)


def _compare_field(kind: Map, name: str, old: Any, new: Any, parts: Parts) -> None:
    known = kind.fields.get(name, kind.element)
    inner = ANY if known is None else known
    if type(inner) is Leaf and old is not ABSENT and new is not ABSENT:
        if not same(old, new):
            parts[1]["f:" + name] = {}
        return
    old = kind.zero.get(name, ABSENT) if old is ABSENT else old
    new = kind.zero.get(name, ABSENT) if new is ABSENT else new
    _put("f:" + name, _difference(inner, old, new), parts)


def _difference(kind: Type, old: Any, new: Any) -> Difference | None:
    """The difference of two values of which one may be absent."""
    if old is ABSENT:
        return (_all(kind, new), None, None) if new is not ABSENT else None
    if new is ABSENT:
        return (None, None, _all(kind, old))
    return _compare(kind, old, new)


def _put(element: str, found: Difference | None, parts: Parts) -> None:
    if found is not None:
        for part, node in zip(parts, found, strict=True):
            if node is not None:
                part[element] = node


def _collected(parts: Parts) -> Difference | None:
    added, modified, removed = parts
    return (added or None, modified or None, removed or None) if added or modified or removed else None


def _compare_lists(kind: Keyed | Values, old: Sequence[Any], new: Sequence[Any]) -> Difference | None:
    before, after = indexed(kind, old), indexed(kind, new)
    parts: Parts = ({}, {}, {})
    inner = item_type(kind)
    for element, items in after.items():
        others = before.get(element)
        if others is None:
            parts[0][element] = _all(inner, items[0])
        elif len(items) == len(others) == 1:
            _put(element, _compare(inner, others[0], items[0]), parts)
        elif not same(items, others):
            parts[1][element] = {}
    for element, items in before.items():
        if element not in after:
            parts[2][element] = _all(inner, items[0])
    return _collected(parts)


def _all(kind: Type, value: Any) -> FieldSet:
    """The node of a value that is wholly new, or wholly gone: every path in it, containers too."""
    match kind:
        case Lazy():
            return _all(resolve(kind), value)
        case Deduced():
            return _all(of_value(value), value)
        case Map() if isinstance(value, dict) and value:
            below = {
                "f:" + name: _all(kind.fields.get(name) or kind.element or ANY, item)
                for name, item in value.items()
            }
            return {SELF: {}, **below}
        case Keyed() | Values() if isinstance(value, list) and value:
            inner = item_type(kind)
            items = {element: _all(inner, found[0]) for element, found in indexed(kind, value).items()}
            return {SELF: {}, **items}
        case _:
            return {}


def same(left: Any, right: Any) -> bool:
    """Equality of JSON values: numbers by value, and `true` is not 1."""
    if left is right:
        return True
    if left != right:
        return False
    if type(left) is type(right) and type(left) is not dict and type(left) is not list:
        return True
    if isinstance(left, dict):
        return all(same(value, right[name]) for name, value in left.items())
    if isinstance(left, list):
        return all(same(one, other) for one, other in zip(left, right, strict=True))
    return isinstance(left, bool) == isinstance(right, bool)


# -- merge --------------------------------------------------------------------------------------------------


def merge(kind: Type, live: Any, config: Any) -> Any:
    """The live value with the configuration's fields over its own; lists by keys are merged item by item."""
    match kind:
        case Lazy():
            return merge(resolve(kind), live, config)
        case Deduced():
            both = isinstance(live, dict) and isinstance(config, dict)
            return merge(of_value(config), live, config) if both else config
        case Map():
            return _merge_maps(kind, live, config)
        case Keyed() | Values():
            return _merge_lists(kind, live, config)
        case _:
            return config


def _merge_maps(kind: Map, live: Any, config: Any) -> Any:
    if not isinstance(live, dict) or not live:
        return config
    if not config:
        return live
    out = dict(live)
    for name, value in config.items():
        inner = kind.fields.get(name, kind.element)
        out[name] = value if inner is None or name not in live else merge(inner, live[name], value)
    return out


def _merge_lists(kind: Keyed | Values, live: Any, config: Any) -> Any:
    if not isinstance(live, list) or not live:
        return config
    if not config:
        return live
    ours, theirs = indexed(kind, live), indexed(kind, config)
    inner = item_type(kind)
    merged = {
        element: merge(inner, ours[element][0], items[0]) if element in ours else items[0]
        for element, items in theirs.items()
    }
    out: list[Any] = []
    for element in _merged_order(list(ours), list(theirs)):
        out += [merged[element]] if element in merged else ours[element]
    return out


def _merged_order(live: list[str], config: list[str]) -> list[str]:
    """The configuration's order for its own items; the others keep their place before the items that follow
    them in the live list.
    """
    wanted, present = set(config), set(live)
    shared = iter([element for element in config if element in present])
    following = next(shared, None)
    out: list[str] = []
    done: set[str] = set()
    left = right = 0
    while left < len(live) or right < len(config):
        mine = live[left] if left < len(live) else None
        theirs = config[right] if right < len(config) else None
        if mine is not None and theirs is not None and mine in wanted and mine not in (theirs, following):
            left += 1  # shared, but its turn in the configuration's order is another one
            continue
        if mine is not None and mine not in wanted:
            out.append(mine)
            left += 1
            continue
        if mine is not None and (mine == theirs or mine in done):
            left += 1
        if theirs is not None:
            out.append(theirs)
            done.add(theirs)
            right += 1
            following = next(shared, None) if theirs == following else following
    return out


# -- removal ------------------------------------------------------------------------------------------------


def remove(kind: Type, value: Any, gone: FieldSet) -> Any:
    """The value without these paths; None where nothing of a map or list is left."""
    match kind:
        case Lazy():
            return remove(resolve(kind), value, gone)
        case Deduced():
            return remove(of_value(value), value, gone)
        case Map() if isinstance(value, dict):
            return _remove_fields(kind, value, gone)
        case Keyed() | Values() if isinstance(value, list):
            return _remove_items(kind, value, gone)
        case Leaf(shape) if shape in ("list", "map"):
            return None
        case _:
            return value


def _remove_fields(kind: Map, value: Mapping[str, Any], gone: FieldSet) -> Any:
    out: dict[str, Any] = {}
    emptied = False
    for name, item in value.items():
        node = gone.get("f:" + name)
        if node is None:
            out[name] = item
        elif not fieldset.is_member(node):
            inner = kind.fields.get(name, kind.element)
            left = item if inner is None else remove(inner, item, node)
            if left is None:
                emptied = True  # the field goes, what holds it stays
            else:
                out[name] = left
    return out if out or emptied else None


def _remove_items(kind: Keyed | Values, value: Sequence[Any], gone: FieldSet) -> Any:
    out: list[Any] = []
    for element, items in indexed(kind, value).items():
        node = gone.get(element)
        if node is None:
            out += items
        elif not fieldset.is_member(node):
            out += [remove(item_type(kind), item, node) for item in items]
    return out or None


# -- sets by type -------------------------------------------------------------------------------------------


def with_structs(kind: Type, fields: FieldSet) -> FieldSet:
    """The set and every declared struct field on the way to its members: removal has to see those too."""
    out: FieldSet = {}
    kind = resolve(kind)
    for element, node in fields.items():
        if element == SELF or not node:
            out[element] = node
            continue
        inner, declared = _inner(kind, element)
        grown = with_structs(inner, node)
        out[element] = {SELF: {}, **grown} if declared else grown
    return out


def collapsed(kind: Type, fields: FieldSet) -> FieldSet:
    """The set after a type has become atomic: whoever owned a part of it now owns the whole."""
    kind = resolve(kind)
    out: FieldSet | None = None
    for element, node in fields.items():
        if not node:
            continue
        inner, _ = _inner(kind, element)
        inner = resolve(inner)
        grown = {} if isinstance(inner, Leaf) and inner.shape != "any" else collapsed(inner, node)
        if grown is not node:
            out = dict(fields) if out is None else out
            out[element] = grown
    return fields if out is None else out


def _inner(kind: Type, element: str) -> tuple[Type, bool]:
    """The type behind an element, and whether it is a declared field."""
    match kind:
        case Map() if element.startswith("f:"):
            name = element[2:]
            declared = name in kind.fields
            return (kind.fields[name] if declared else kind.element or Deduced()), declared
        case Keyed():
            return kind.element, False
        case _:
            return Deduced(), False
