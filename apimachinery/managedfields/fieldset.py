"""Sets of field paths, kept in the very form in which `fieldsV1` carries them (KEP-555, "FieldsV1").

A set is a dictionary: path element -> node. A node is `{}` for a path that is a member and has no members
below it; otherwise it maps the elements below it to their nodes, with `"."` among them when the path itself
is a member. The empty set is the empty dictionary. So nothing is parsed when a stored entry is read, and
nothing is printed when it is written.

    {"f:spec": {"f:replicas": {}, "f:ports": {".": {}, 'k:{"port":80}': {}}}}

holds `.spec.replicas`, `.spec.ports` and `.spec.ports[port=80]`, but not `.spec`.

Elements: `f:<name>` a field or map key, `k:<json object>` a list item by its keys, `v:<json>` an item of a
set by its value, `i:<n>` an item by its place. No function changes its arguments; results share structure
with them. A union or difference that equals its first argument is that argument: identity tells of changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

FieldSet = dict[str, Any]
Path = tuple[str, ...]  # elements from the root

SELF = "."
_PREFIXES = ("f:", "k:", "v:", "i:")


def field(name: str) -> str:
    return "f:" + name


def key(values: Mapping[str, Any]) -> str:
    """The element of a list item known by these key fields."""
    return "k:" + orjson.dumps(values, option=orjson.OPT_SORT_KEYS).decode()


def value(item: Any) -> str:
    """The element of an item of a set."""
    return "v:" + orjson.dumps(item, option=orjson.OPT_SORT_KEYS).decode()


def index(at: int) -> str:
    return f"i:{at}"


def of(paths: Iterable[Path]) -> FieldSet:
    """The set with exactly these members."""
    out: FieldSet = {}
    for path in paths:
        single: FieldSet = {}
        for element in reversed(path):
            single = {element: single}
        out = union(out, single)
    return out


def paths(fields: FieldSet) -> Iterator[Path]:
    """All members; a path before those below it, elements in fieldsV1 order."""
    for element in sorted(fields):
        if element == SELF:
            continue
        node = fields[element]
        if is_member(node):
            yield (element,)
        for below in paths(node):
            yield (element, *below)


def leaves(fields: FieldSet) -> FieldSet:
    """The members that have no members below them."""
    return {element: leaves(node) for element, node in fields.items() if element != SELF}


def is_member(node: FieldSet) -> bool:
    """Whether the path that leads to this node is itself in the set."""
    return not node or SELF in node


def has(fields: FieldSet, path: Path) -> bool:
    node: FieldSet | None = fields
    for element in path:
        node = node.get(element) if node else None
        if node is None:
            return False
    return bool(path) and node is not None and is_member(node)


def node_of(member: bool, below: FieldSet) -> FieldSet | None:
    """The node with these members below; None when it would say nothing."""
    if not below:
        return {} if member else None
    return {SELF: {}, **below} if member and SELF not in below else below


def below(node: FieldSet) -> FieldSet:
    """The members below a node, as a set of its own."""
    if SELF not in node:
        return node
    return {element: inner for element, inner in node.items() if element != SELF}


def union(left: FieldSet, right: FieldSet) -> FieldSet:
    """Members of either. The left argument itself when it holds all of the right one."""
    if not right:
        return left
    return _union_below(left, right) if left else right


def _union_below(left: FieldSet, right: FieldSet) -> FieldSet:
    out: FieldSet | None = None
    for element, theirs in right.items():
        mine = left.get(element)
        merged = theirs if mine is None else _union_node(mine, theirs)
        if merged is not mine:
            out = dict(left) if out is None else out
            out[element] = merged
    return left if out is None else out


def _union_node(left: FieldSet, right: FieldSet) -> FieldSet:
    if left is right or (not right and is_member(left)):
        return left
    if not left:
        return right if is_member(right) else {SELF: {}, **right}
    return {SELF: {}, **left} if not right else _union_below(left, right)


def difference(left: FieldSet, right: FieldSet) -> FieldSet:
    """Members of the left that are not members of the right; membership of a parent says nothing here."""
    return _difference_below(left, right) if left and right else left


def _difference_below(left: FieldSet, right: FieldSet) -> FieldSet:
    """Also right for nodes: `"."` meets `"."` as an element like any other."""
    out: FieldSet | None = None
    for element, theirs in right.items():
        mine = left.get(element)
        if mine is None:
            continue
        rest = _difference_node(mine, theirs)
        if rest is not mine:
            out = dict(left) if out is None else out
            if rest is None:
                del out[element]
            else:
                out[element] = rest
    return left if out is None else out


def _difference_node(left: FieldSet, right: FieldSet) -> FieldSet | None:
    if not left:
        return None if is_member(right) else left
    kept = left
    if SELF in left and is_member(right):
        kept = below(left)
    rest = _difference_below(kept, below(right)) if right else kept
    if rest and (len(rest) > 1 or SELF not in rest):
        return rest
    return {} if SELF in rest else None


def recursive_difference(left: FieldSet, right: FieldSet) -> FieldSet:
    """The left without the members of the right and everything below them."""
    out: FieldSet = {}
    for element, mine in left.items():
        theirs = right.get(element)
        if theirs is None or element == SELF:
            out[element] = mine
        elif not is_member(theirs) and mine:
            rest = recursive_difference(mine, theirs)
            if rest:
                out[element] = {} if set(rest) == {SELF} else rest
        elif not is_member(theirs):
            out[element] = mine
    return out


def intersection(left: FieldSet, right: FieldSet) -> FieldSet:
    """Members of both."""
    out: FieldSet = {}
    for element in left.keys() & right.keys():
        if element == SELF:
            continue
        mine, theirs = left[element], right[element]
        both = is_member(mine) and is_member(theirs)
        node = node_of(both, intersection(mine, theirs) if mine and theirs else {})
        if node is not None:
            out[element] = node
    return out


def ordered(fields: FieldSet) -> FieldSet:
    """The same set with its elements in the order in which Kubernetes writes them: by name, `.` first."""
    return {element: ordered(fields[element]) if fields[element] else {} for element in sorted(fields)}


def is_valid(fields: Any) -> bool:
    """Whether a value from outside has the form of a set."""
    return isinstance(fields, dict) and all(
        (node == {} if element == SELF else _is_element(element)) and is_valid(node)
        for element, node in fields.items()
    )


def _is_element(element: str) -> bool:
    kind, rest = element[:2], element[2:]
    if kind not in _PREFIXES:
        return False
    if kind == "f:":
        return True
    try:
        parsed = orjson.loads(rest)
    except ValueError:
        return False
    return {"k:": isinstance(parsed, dict), "v:": True, "i:": isinstance(parsed, int)}[kind]


def show(path: Path) -> str:
    """A path as messages carry it: `.spec.containers[name="web"].image`."""
    return "".join(_show_element(element) for element in path)


def _show_element(element: str) -> str:
    kind, rest = element[:2], element[2:]
    if kind == "f:":
        return "." + rest
    if kind == "k:":
        pairs = orjson.loads(rest).items()
        return "[" + ",".join(f"{name}={orjson.dumps(held).decode()}" for name, held in pairs) + "]"
    return f"[={rest}]" if kind == "v:" else f"[{rest}]"
