"""`x-kubernetes-validations`: rules of custom resources in CEL (KEP-2876), compiled once a definition."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from apimachinery import field
from apimachinery.errors import Cause
from apiserver.cel.runtime import (
    NOT_INSTALLED,
    Failed,
    Unusable,
    available,
    compile_expression,
    evaluate,
    moment,
)
from apiserver.extensions.structural import RULES, Schema, subschemas

MISSING: Any = object()
MAX_RULE_ERRORS = 100
_REASONS = {
    "FieldValueInvalid": "FieldValueInvalid",
    "FieldValueForbidden": "FieldValueForbidden",
    "FieldValueRequired": "FieldValueRequired",
    "FieldValueDuplicate": "FieldValueDuplicate",
}
# Names of CEL itself, which a field has to be escaped not to collide with (KEP-2876).
_RESERVED = frozenset(
    {
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    }
)
_OLD_SELF = re.compile(r"\boldSelf\b")
_OLD, _HAS_OLD = "__oldSelf", "__hasOldSelf"
_ESCAPES = (("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__"))


def compile_rule(text: str, *, returns: str = "BOOL", optional_old: bool = False) -> Any:
    """A compiled expression over `self` and `oldSelf`. Raises Unusable.

    With `optionalOldSelf` the name stands for an optional value, empty at creation (KEP-4008).
    """
    if optional_old:
        text = f"cel.bind(oldSelf, {_HAS_OLD} ? optional.of({_OLD}) : optional.none(), {text})"
        return compile_expression(text, ("self", _OLD, _HAS_OLD), (returns,))
    return compile_expression(text, ("self", "oldSelf"), (returns,))


def check_rules(schema: Schema, path: str) -> Iterator[Cause]:
    """Why the rules of a schema cannot be served."""
    for where, below in subschemas(schema, path):
        for at, rule in enumerate(below.get(RULES) or ()):
            place, text = f"{where}.{RULES}[{at}]", rule.get("rule", "")
            if not text.strip():
                yield field.required(f"{place}.rule", "rule is not specified")
                continue
            if not available():
                why = f"x-kubernetes-validations is not supported: {NOT_INSTALLED}"
                yield field.forbidden(f"{where}.{RULES}", why)
                return
            optional = bool(rule.get("optionalOldSelf"))
            if optional and not _OLD_SELF.search(text):
                detail = "option optionalOldSelf is only allowed for rules that use oldSelf"
                yield field.invalid(f"{place}.optionalOldSelf", True, detail)
            yield from _compiles(text, f"{place}.rule", "BOOL", optional)
            if rule.get("messageExpression"):
                where_message = f"{place}.messageExpression"
                yield from _compiles(rule["messageExpression"], where_message, "STRING", optional)
            if rule.get("reason") and rule["reason"] not in _REASONS:
                yield field.not_supported(f"{place}.reason", rule["reason"], _REASONS)


def _compiles(text: str, path: str, returns: str, optional: bool) -> Iterator[Cause]:
    try:
        compile_rule(text, returns=returns, optional_old=optional)
    except Unusable as error:
        yield field.invalid(path, text, str(error))


@dataclass(frozen=True, slots=True)
class Rule:
    text: str
    program: Any
    message: str
    message_program: Any
    reason: str
    field_path: str
    is_transition: bool
    optional_old: bool


@dataclass(frozen=True, slots=True)
class Node:
    """Where in a schema rules are: here, and below."""

    schema: Schema
    rules: tuple[Rule, ...]
    properties: Mapping[str, Node]
    items: Node | None
    rest: Node | None


class Rules:
    """All rules of a schema, ready to run."""

    def __init__(self, root: Node | None) -> None:
        self._root = root

    def check(self, obj: Any, old: Any = MISSING) -> Iterator[Cause]:
        if self._root is None:
            return
        for count, cause in enumerate(_check(self._root, obj, old, "")):
            if count >= MAX_RULE_ERRORS:
                return
            yield cause


def compile_rules(schema: Schema) -> Rules:
    """Raises Unusable for a rule that does not compile: `check_rules` has refused those."""
    return Rules(_node(schema))


def _node(schema: Schema) -> Node | None:
    properties = {
        name: node for name, member in (schema.get("properties") or {}).items() if (node := _node(member))
    }
    below = {
        name: _node(schema[name]) if isinstance(schema.get(name), Mapping) else None
        for name in ("items", "additionalProperties")
    }
    rules = tuple(_rule(rule) for rule in schema.get(RULES) or ())
    if not rules and not properties and not any(below.values()):
        return None
    return Node(schema, rules, properties, below["items"], below["additionalProperties"])


def _rule(rule: Mapping[str, Any]) -> Rule:
    text, message = rule["rule"], rule.get("messageExpression")
    optional = bool(rule.get("optionalOldSelf"))
    return Rule(
        text,
        compile_rule(text, optional_old=optional),
        rule.get("message", ""),
        compile_rule(message, returns="STRING", optional_old=optional) if message else None,
        rule.get("reason") or "FieldValueInvalid",
        rule.get("fieldPath", ""),
        _OLD_SELF.search(text) is not None,
        optional,
    )


def _check(node: Node, value: Any, old: Any, path: str) -> Iterator[Cause]:
    if value is None:
        return
    yield from _run(node, value, old, path)
    if isinstance(value, dict):
        earlier = old if isinstance(old, dict) else {}
        for name, item in value.items():
            below = node.properties.get(name) or node.rest
            if below is not None:
                yield from _check(below, item, earlier.get(name, MISSING), f"{path}.{name}" if path else name)
    elif isinstance(value, list) and node.items is not None:
        keys = node.schema.get("x-kubernetes-list-map-keys") or ()
        before = {_key(item, keys): item for item in old} if keys and isinstance(old, list) else {}
        for at, item in enumerate(value):
            yield from _check(node.items, item, before.get(_key(item, keys), MISSING), f"{path}[{at}]")


def _key(item: Any, keys: Any) -> tuple[Any, ...]:
    return tuple(item.get(key) for key in keys) if isinstance(item, dict) else ()


def _run(node: Node, value: Any, old: Any, path: str) -> Iterator[Cause]:
    if not node.rules:
        return
    unchanged = old is not MISSING and old == value
    names = {"self": to_cel(value, node.schema), "oldSelf": None, _OLD: None, _HAS_OLD: old is not MISSING}
    if old is not MISSING:
        names["oldSelf"] = names[_OLD] = to_cel(old, node.schema)
    for rule in node.rules:
        if rule.is_transition and old is MISSING and not rule.optional_old:
            continue
        found = _evaluate(rule.program, names)
        if found is True or (unchanged and not rule.is_transition):
            continue
        yield _cause(rule, found, names, value, path)


def _evaluate(program: Any, names: Mapping[str, Any]) -> Any:
    """The value of an expression, or the error it ended with as text."""
    try:
        return evaluate(program, names)
    except Failed as error:
        return f"rule evaluation error: {error}"


def _cause(rule: Rule, found: Any, names: Mapping[str, Any], value: Any, path: str) -> Cause:
    text = rule.message.strip() or f"failed rule: {rule.text.strip()}"
    if found is not False:
        text = str(found)
    elif rule.message_program is not None:
        made = _evaluate(rule.message_program, names)
        text = made.strip() if isinstance(made, str) and made.strip() else text
    where = f"{path}{rule.field_path}".lstrip(".") or "<nil>"
    shown = (
        value if isinstance(value, (str, int, float)) else "object" if isinstance(value, dict) else "array"
    )
    if rule.reason == "FieldValueInvalid":
        return field.invalid(where, shown, text)
    if rule.reason == "FieldValueForbidden":
        return field.forbidden(where, text)
    return (
        field.required(where, text) if rule.reason == "FieldValueRequired" else field.duplicate(where, shown)
    )


def escape(name: str) -> str:
    """A field name as an identifier of CEL."""
    if name in _RESERVED:
        return f"__{name}__"
    for plain, spelled in _ESCAPES:
        name = name.replace(plain, spelled)
    return name


def to_cel(value: Any, schema: Schema) -> Any:
    """A JSON value as CEL sees it through its schema: floats where numbers are, times where formats say
    so.
    """
    kind = schema.get("type")
    if isinstance(value, dict):
        properties, rest = schema.get("properties"), schema.get("additionalProperties")
        if properties is None:
            below = rest if isinstance(rest, Mapping) else {}
            return {name: to_cel(item, below) for name, item in value.items()}
        return {escape(name): to_cel(item, properties.get(name) or {}) for name, item in value.items()}
    if isinstance(value, list):
        items = schema.get("items") or {}
        return [to_cel(item, items) for item in value]
    if kind == "number" and isinstance(value, int):
        return float(value)
    if kind == "string" and schema.get("format") == "date-time":
        return moment(value)
    return value
