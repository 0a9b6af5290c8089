"""What a CustomResourceDefinition's status says: which names it got, and whether it is served. Pure."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from apimachinery import meta

Object = dict[str, Any]

NAMES_ACCEPTED, ESTABLISHED, TERMINATING = "NamesAccepted", "Established", "Terminating"
FINALIZER = "customresourcecleanup.apiextensions.k8s.io"


def is_true(crd: Mapping[str, Any], kind: str) -> bool:
    found = condition(crd, kind)
    return found is not None and found.get("status") == "True"


def condition(crd: Mapping[str, Any], kind: str) -> Object | None:
    conditions = (crd.get("status") or {}).get("conditions") or ()
    return next((item for item in conditions if item.get("type") == kind), None)


def is_terminating(crd: Mapping[str, Any]) -> bool:
    return "deletionTimestamp" in crd["metadata"]


def next_status(crd: Object, others: Iterable[Object], builtin: Iterable[str], now: float) -> Object:
    """The status this definition should have, given the `others` of its group and the names of built-in kinds
    in it. A name once accepted stays with its owner.
    """
    status: Object = copy.deepcopy(crd.get("status") or {})
    wanted, accepted = crd["spec"]["names"], status.get("acceptedNames") or {}
    taken = set(builtin)
    taken_kinds: set[str] = set()
    for other in others:
        theirs = (other.get("status") or {}).get("acceptedNames") or {}
        taken |= {name for name in _resources(theirs) if name}
        taken_kinds |= {name for name in (theirs.get("kind"), theirs.get("listKind")) if name}
    granted, problem = _grant(wanted, accepted, taken, taken_kinds)
    status["acceptedNames"] = granted
    conditions = status.get("conditions") or []
    conditions = with_condition(conditions, _named(problem), now)
    if not problem and not is_true(crd, ESTABLISHED):
        detail = "the initial names have been accepted"
        conditions = with_condition(
            conditions, _condition(ESTABLISHED, "True", "InitialNamesAccepted", detail), now
        )
    elif problem and condition(crd, ESTABLISHED) is None:
        detail = "not all names are accepted"
        conditions = with_condition(conditions, _condition(ESTABLISHED, "False", "NotAccepted", detail), now)
    status["conditions"] = conditions
    storage = next((item["name"] for item in crd["spec"]["versions"] if item.get("storage")), "")
    stored = status.get("storedVersions") or []
    if storage and storage not in stored:
        status["storedVersions"] = [*stored, storage]
    return status


def _resources(names: Mapping[str, Any]) -> list[str]:
    return [names.get("plural", ""), names.get("singular", ""), *(names.get("shortNames") or ())]


def _grant(
    wanted: Object, accepted: Object, taken: set[str], taken_kinds: set[str]
) -> tuple[Object, tuple[str, str] | None]:
    """The names that are free, and the last conflict as (reason, message)."""
    granted: Object = copy.deepcopy(accepted)
    problem: tuple[str, str] | None = None
    for name in ("plural", "singular"):
        value = wanted.get(name, "")
        if value and value in taken:
            problem = (f"{name.title()}Conflict", f'"{value}" is already in use')
        elif value:
            granted[name] = value
    shared = [value for value in wanted.get("shortNames") or () if value in taken]
    if shared:
        problem = ("ShortNamesConflict", ", ".join(f'"{value}" is already in use' for value in shared))
    elif wanted.get("shortNames"):
        granted["shortNames"] = list(wanted["shortNames"])
    else:
        granted.pop("shortNames", None)
    for name, reason in (("kind", "KindConflict"), ("listKind", "ListKindConflict")):
        value = wanted.get(name, "")
        if value in taken_kinds:
            problem = (reason, f'"{value}" is already in use')
        elif value:
            granted[name] = value
    if wanted.get("categories"):
        granted["categories"] = list(wanted["categories"])
    else:
        granted.pop("categories", None)
    for name in ("plural", "kind"):
        granted.setdefault(name, "")
    return granted, problem


def _named(problem: tuple[str, str] | None) -> Object:
    if problem:
        return _condition(NAMES_ACCEPTED, "False", *problem)
    return _condition(NAMES_ACCEPTED, "True", "NoConflicts", "no conflicts found")


def _condition(kind: str, status: str, reason: str, message: str) -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def terminating_condition(status: str, reason: str, message: str) -> Object:
    return _condition(TERMINATING, status, reason, message)


def with_condition(conditions: list[Object], wanted: Object, now: float) -> list[Object]:
    """`wanted` in the place of the one of its type; the time of transition moves with the status alone."""
    out, placed = [], False
    for item in conditions:
        if item.get("type") != wanted["type"]:
            out.append(item)
            continue
        placed = True
        same = item.get("status") == wanted["status"]
        moved = item.get("lastTransitionTime") if same else meta.now_rfc3339(now)
        out.append({"lastTransitionTime": moved, **wanted})
    if not placed:
        out.append({"lastTransitionTime": meta.now_rfc3339(now), **wanted})
    return out
