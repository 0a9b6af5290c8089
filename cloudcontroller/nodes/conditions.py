"""Conditions and taints of a Node. Pure; nothing here changes its argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Object = dict[str, Any]

UNINITIALIZED = "node.cloudprovider.kubernetes.io/uninitialized"
SHUT_DOWN = "node.cloudprovider.kubernetes.io/shutdown"
NO_SCHEDULE = "NoSchedule"


def all_of(node: Mapping[str, Any]) -> Sequence[Object]:
    """`status.conditions`."""
    return (node.get("status") or {}).get("conditions") or ()


def find(node: Mapping[str, Any], kind: str) -> Object | None:
    """The condition of that type, if there is one."""
    return next((each for each in all_of(node) if each.get("type") == kind), None)


def replaced(node: Mapping[str, Any], new: Object) -> list[Object]:
    """The node's conditions with `new` in place of the one of its type, or at the end."""
    old = all_of(node)
    out = [new if each.get("type") == new["type"] else each for each in old]
    return out if find(node, new["type"]) else [*out, new]


def taints(node: Mapping[str, Any]) -> Sequence[Object]:
    """`spec.taints`."""
    return (node.get("spec") or {}).get("taints") or ()


def has_taint(node: Mapping[str, Any], key: str) -> bool:
    return any(each.get("key") == key for each in taints(node))


def without_taint(node: Mapping[str, Any], key: str) -> list[Object]:
    return [each for each in taints(node) if each.get("key") != key]
