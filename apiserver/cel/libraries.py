"""Kubernetes' function libraries for CEL (k8s.io/apiserver/pkg/cel/library): lists, regex, quantity,
authorizer.

Values of their types are maps with one private member, since the runtime knows no types of ours.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from apimachinery import quantity
from apimachinery.quantity import Quantity

QUANTITY, ASKED, DECIDED = "@quantity", "@authorizer", "@decision"


class _Function(NamedTuple):
    name: str
    returns: Any
    parameters: list[Any]
    run: Callable[..., Any]
    member: bool = True


def declarations(runtime: Any) -> list[Any]:
    """Everything here, as the runtime takes it."""
    kind = runtime.Type
    grouped: dict[str, list[Any]] = {}
    every = (*_lists(kind), *_regex(kind), *_quantities(kind), *_authorizer(kind), *_patches(kind))
    for at, function in enumerate(every):
        overload = runtime.Overload(
            id=f"kubernetes_{function.name}_{at}",
            return_type=function.returns,
            parameters=function.parameters,
            is_member=function.member,
            impl=function.run,
        )
        grouped.setdefault(function.name, []).append(overload)
    return [runtime.FunctionDecl(name, overloads) for name, overloads in grouped.items()]


# -- patches ------------------------------------------------------------------------------------------------


def _patches(kind: Any) -> Iterator[_Function]:
    """A key as a step of a JSON pointer (RFC 6901)."""

    def escape(key: str) -> str:
        return key.replace("~", "~0").replace("/", "~1")

    yield _Function("jsonpatch.escapeKey", kind.STRING, [kind.STRING], escape, member=False)


# -- lists, regex -------------------------------------------------------------------------------------------


def _lists(kind: Any) -> Iterator[_Function]:
    many = kind.List(kind.DYN)
    yield _Function("isSorted", kind.BOOL, [many], lambda items: list(items) == sorted(items))
    yield _Function("sum", kind.DYN, [many], lambda items: sum(items))
    yield _Function("min", kind.DYN, [many], lambda items: min(items))
    yield _Function("max", kind.DYN, [many], lambda items: max(items))


def _regex(kind: Any) -> Iterator[_Function]:
    text, many = kind.STRING, kind.List(kind.STRING)
    yield _Function("find", text, [text, text], _find)
    yield _Function("findAll", many, [text, text], lambda given, pattern: _find_all(given, pattern, -1))
    yield _Function("findAll", many, [text, text, kind.INT], _find_all)


def _find(text: str, pattern: str) -> str:
    found = re.search(pattern, text)
    return found[0] if found else ""


def _find_all(text: str, pattern: str, most: int) -> list[str]:
    found = [match[0] for match in re.finditer(pattern, text)]
    return found if most < 0 else found[:most]


# -- quantity -----------------------------------------------------------------------------------------------


def _quantities(kind: Any) -> Iterator[_Function]:
    text, one = kind.STRING, kind.Map(kind.STRING, kind.DYN)
    yield _Function("quantity", one, [text], _quantity, member=False)
    yield _Function("isQuantity", kind.BOOL, [text], _is_quantity, member=False)
    yield _Function("isGreaterThan", kind.BOOL, [one, one], lambda a, b: _amount(b) < _amount(a))
    yield _Function("isLessThan", kind.BOOL, [one, one], lambda a, b: _amount(a) < _amount(b))
    yield _Function("compareTo", kind.INT, [one, one], _compare)
    yield _Function("add", one, [one, one], lambda a, b: {QUANTITY: str(_amount(a) + _amount(b))})
    yield _Function("sub", one, [one, one], lambda a, b: {QUANTITY: str(_amount(a) - _amount(b))})
    yield _Function("sign", kind.INT, [one], lambda a: _compare(a, {QUANTITY: "0"}))
    yield _Function("isInteger", kind.BOOL, [one], lambda a: _amount(a).milli() % 1000 == 0)
    yield _Function("asInteger", kind.INT, [one], _as_integer)
    yield _Function("asApproximateFloat", kind.DOUBLE, [one], lambda a: _amount(a).milli() / 1000)


def _quantity(text: str) -> Mapping[str, str]:
    quantity.parse(text)
    return {QUANTITY: text}


def _is_quantity(text: str) -> bool:
    try:
        quantity.parse(text)
    except ValueError:
        return False
    return True


def _amount(value: Mapping[str, Any]) -> Quantity:
    return quantity.parse(str(value[QUANTITY]))


def _compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> int:
    left, right = _amount(a), _amount(b)
    return 0 if left == right else -1 if left < right else 1


def _as_integer(value: Mapping[str, Any]) -> int:
    amount = _amount(value)
    if amount.milli() % 1000:
        raise ValueError("cannot convert value to integer")
    return amount.value()


# -- authorizer ---------------------------------------------------------------------------------------------

Decide = Callable[[Mapping[str, str]], tuple[bool, str]]
AUTHORIZER: Mapping[str, Any] = {ASKED: "me"}
_deciding: list[Decide] = []


@contextlib.contextmanager
def deciding(decide: Decide) -> Iterator[None]:
    """While expressions are evaluated, `authorizer` asks this: attributes by name -> allowed, and why."""
    _deciding.append(decide)
    try:
        yield
    finally:
        _deciding.pop()


def _authorizer(kind: Any) -> Iterator[_Function]:
    text, one = kind.STRING, kind.Map(kind.STRING, kind.DYN)
    for name in ("path", "group", "resource", "subresource", "namespace", "name"):
        yield _Function(name, one, [one, text], _with(name))
    yield _Function("serviceAccount", one, [one, text, text], _as_service_account)
    yield _Function("check", one, [one, text], _check)
    yield _Function("allowed", kind.BOOL, [one], lambda decided: bool(decided[DECIDED]))
    yield _Function("reason", text, [one], lambda decided: str(decided["reason"]))
    yield _Function("errored", kind.BOOL, [one], lambda decided: False)
    yield _Function("error", text, [one], lambda decided: "")


def _with(name: str) -> Callable[[Mapping[str, Any], str], Mapping[str, Any]]:
    return lambda asked, value: {**asked, name: value}


def _as_service_account(asked: Mapping[str, Any], namespace: str, name: str) -> Mapping[str, Any]:
    return {**asked, "serviceAccount": f"{namespace}:{name}"}


def _check(asked: Mapping[str, Any], verb: str) -> Mapping[str, Any]:
    if not _deciding:
        raise ValueError("no authorizer")
    allowed, reason = _deciding[-1]({**asked, "verb": verb})
    return {DECIDED: allowed, "reason": reason}


__all__: Sequence[str] = ("AUTHORIZER", "deciding", "declarations")
