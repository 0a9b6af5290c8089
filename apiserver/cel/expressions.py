"""Which variables the expressions of admission have, and the rules for expressions that are stored
(KEP-3488, KEP-3716).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from apimachinery import field, meta
from apimachinery.errors import Cause
from apiserver.cel.runtime import Unusable, compile_expression

ANY = (
    *("BOOL", "INT", "UINT", "DOUBLE", "STRING", "BYTES", "LIST", "MAP", "NULL"),
    *("TIMESTAMP", "DURATION", "OPTIONAL"),
)
# What a mutation's expression gives (KEP-3962), by its patchType.
MUTATION_RETURNS = {"ApplyConfiguration": ("MAP",), "JSONPatch": ("LIST",)}
MAX_CONDITIONS = 64
CONDITION = ("authorizer", "object", "oldObject", "request")
POLICY = ("authorizer", "namespaceObject", "object", "oldObject", "request", "variables")


def policy_variables(*, params: bool) -> tuple[str, ...]:
    """What expressions of a policy may name; `params` only if it has a paramKind."""
    return (*POLICY, "params") if params else POLICY


def compiles(
    text: str,
    path: str,
    variables: tuple[str, ...],
    returns: tuple[str, ...] = ("BOOL",),
    *,
    form: Callable[[str], str] = str,
) -> Iterator[Cause]:
    """Why an expression cannot be used, which is compiled in this form."""
    if not text.strip():
        yield field.required(path, "expression is not specified")
        return
    try:
        compile_expression(form(text), variables, returns)
    except Unusable as error:
        yield field.invalid(path, text, str(error))


def match_conditions(
    given: Sequence[Mapping[str, Any]], path: str, names: tuple[str, ...]
) -> Iterator[Cause]:
    """The rules of `matchConditions`."""
    if len(given) > MAX_CONDITIONS:
        yield field.too_many(path, len(given), MAX_CONDITIONS)
    seen: set[str] = set()
    for at, condition in enumerate(given):
        name = condition.get("name", "")
        if not name:
            yield field.required(f"{path}[{at}].name")
        for problem in meta.qualified_name(name) if name else ():
            yield field.invalid(f"{path}[{at}].name", name, problem)
        if name in seen:
            yield field.duplicate(f"{path}[{at}].name", name)
        seen.add(name)
        yield from compiles(condition.get("expression", ""), f"{path}[{at}].expression", names)
