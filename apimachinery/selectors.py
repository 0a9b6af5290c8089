"""Label and field selectors: the query language of LIST, WATCH and of every `selector` field.

Grammar of `k8s.io/apimachinery/pkg/labels` (equality-based and set-based requirements, comma means AND) and
`pkg/fields`. Values are immutable; matching never raises.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from apimachinery import field, meta
from apimachinery.errors import Cause, StatusError, bad_request

IN, NOT_IN, EXISTS, NOT_EXISTS, GREATER, LESS = "in", "notin", "exists", "!", "gt", "lt"


class Requirement(NamedTuple):
    """One condition on one label; `operator` is a constant above, and equality is `in` with one value."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        operator = self.operator
        if operator == IN:
            return value is not None and value in self.values
        if operator == NOT_IN:
            return value is None or value not in self.values
        if operator == EXISTS:
            return value is not None
        if operator == NOT_EXISTS:
            return value is None
        return self._compares(value)

    def _compares(self, value: str | None) -> bool:
        bound = int(next(iter(self.values)))
        if value is None or not _INTEGER.fullmatch(value):
            return False
        return int(value) > bound if self.operator == GREATER else int(value) < bound

    def __str__(self) -> str:
        values = sorted(self.values)
        if self.operator == IN and len(values) == 1:
            return f"{self.key}={values[0]}"
        if self.operator == NOT_IN and len(values) == 1:
            return f"{self.key}!={values[0]}"
        if self.operator in (IN, NOT_IN):
            return f"{self.key} {self.operator} ({','.join(values)})"
        if self.operator == EXISTS:
            return self.key
        if self.operator == NOT_EXISTS:
            return f"!{self.key}"
        return f"{self.key}{'>' if self.operator == GREATER else '<'}{values[0]}"


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements must hold. `nothing` is the selector that a nil `LabelSelector` means."""

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether it selects everything."""
        return not self.requirements and not self.nothing

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        if self.nothing:
            return False
        found = labels or {}
        return all(requirement.matches(found) for requirement in self.requirements)

    def __str__(self) -> str:
        return ",".join(str(requirement) for requirement in self.requirements)


EVERYTHING = LabelSelector()
NOTHING = LabelSelector(nothing=True)

_INTEGER = re.compile(r"[+-]?[0-9]+")
_TOKEN = re.compile(r"\s*(?:(==|!=|[=!(),<>])|([^\s=!(),<>]+)|$)")
_MARKS = frozenset({"==", "!=", "=", "!", "(", ")", ",", "<", ">"})


class _Parser:
    """Recursive descent over the tokens of one label selector."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._at = 0

    def parse(self) -> LabelSelector:
        if not self._tokens:
            return EVERYTHING
        found = [self._requirement()]
        while self._peek() == ",":
            self._next()
            found.append(self._requirement())
        if self._peek():
            raise self._error(f"found '{self._peek()}', expected: ',' or 'end of string'")
        return LabelSelector(tuple(sorted(found, key=lambda requirement: requirement.key)))

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _error(self, why: str) -> StatusError:
        return bad_request(f"unable to parse requirement: {why}")

    def _requirement(self) -> Requirement:
        negated = self._peek() == "!"
        if negated:
            self._next()
        key = self._next()
        if not key or key in _MARKS:
            raise self._error(f"found '{key}', expected: identifier" + ("" if negated else ", !"))
        self._check(meta.qualified_name(key), "key", key)
        if negated or self._peek() in ("", ","):
            return Requirement(key, NOT_EXISTS if negated else EXISTS)
        return self._comparison(key, self._next())

    def _comparison(self, key: str, operator: str) -> Requirement:
        if operator in ("in", "notin"):
            return Requirement(key, operator, frozenset(self._checked(key, self._set())))
        if operator in ("=", "=="):
            return Requirement(key, IN, frozenset(self._checked(key, [self._exact()])))
        if operator == "!=":
            return Requirement(key, NOT_IN, frozenset(self._checked(key, [self._exact()])))
        if operator in ("<", ">"):
            value = self._exact()
            if not _INTEGER.fullmatch(value):
                why = "for 'Gt', 'Lt' operators, the value must be an integer"
                raise self._error(f"values[0][{key}]: Invalid value: {field.quote(value)}: {why}")
            return Requirement(key, GREATER if operator == ">" else LESS, frozenset({value}))
        raise self._error(f"found '{operator}', expected: in, notin, =, ==, !=, gt, lt")

    def _exact(self) -> str:
        token = self._peek()
        if token in ("", ","):
            return ""
        if token in _MARKS:
            raise self._error(f"found '{token}', expected: identifier")
        return self._next()

    def _set(self) -> list[str]:
        if (found := self._next()) != "(":
            raise self._error(f"found '{found}' expected: '('")
        values: list[str] = []
        while True:
            values.append(self._exact() if self._peek() != ")" else "")
            mark = self._next()
            if mark == ")":
                return values
            if mark != ",":
                raise self._error(f"found '{mark}', expected: ',' or ')'")

    def _checked(self, key: str, values: list[str]) -> list[str]:
        for at, value in enumerate(values):
            self._check(meta.label_value(value), f"values[{at}][{key}]", value)
        return values

    def _check(self, problems: Iterable[str], what: str, value: str) -> None:
        for problem in problems:
            raise self._error(f"{what}: Invalid value: {field.quote(value)}: {problem}")


def _tokens(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None or found.end() == at:
            return
        token = found.group(1) or found.group(2)
        if token:
            yield token
        at = found.end()


def parse_label_selector(text: str) -> LabelSelector:
    """`a=b,c!=d,e in (f,g),!h`; raises BadRequest when it is none."""
    return _Parser(text).parse()


_OPERATORS = {"In": IN, "NotIn": NOT_IN, "Exists": EXISTS, "DoesNotExist": NOT_EXISTS}


def label_selector_from(selector: Mapping[str, Any] | None) -> LabelSelector:
    """A `metav1.LabelSelector`; absent selects nothing, empty everything. Raises BadRequest for a bad
    operator.
    """
    if selector is None:
        return NOTHING
    found = [
        Requirement(key, IN, frozenset({value})) for key, value in (selector.get("matchLabels") or {}).items()
    ]
    for expression in selector.get("matchExpressions") or ():
        operator = _OPERATORS.get(expression.get("operator", ""))
        if operator is None:
            raise bad_request(
                f"{field.quote(expression.get('operator', ''))} is not a valid label selector operator"
            )
        found.append(Requirement(expression["key"], operator, frozenset(expression.get("values") or ())))
    return LabelSelector(tuple(sorted(found, key=lambda requirement: requirement.key)))


def from_set(labels: Mapping[str, str]) -> LabelSelector:
    """The selector of a Service or ReplicationController: every label must be equal; no label selects
    everything.
    """
    return LabelSelector(
        tuple(Requirement(key, IN, frozenset({value})) for key, value in sorted(labels.items()))
    )


from_label_selector = label_selector_from


def validate_label_selector(selector: Mapping[str, Any], path: str) -> Iterator[Cause]:
    """Rules of a `metav1.LabelSelector` field."""
    yield from meta.validate_labels(selector.get("matchLabels") or {}, f"{path}.matchLabels")
    for at, expression in enumerate(selector.get("matchExpressions") or ()):
        yield from _validate_expression(expression, f"{path}.matchExpressions[{at}]")


def _validate_expression(expression: Mapping[str, Any], path: str) -> Iterator[Cause]:
    operator, values = expression.get("operator", ""), expression.get("values") or ()
    if operator in ("In", "NotIn"):
        if not values:
            yield field.required(f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'")
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
            yield field.forbidden(f"{path}.values", detail)
    else:
        yield field.invalid(f"{path}.operator", operator, "not a valid selector operator")
    for text in meta.qualified_name(expression.get("key", "")):
        yield field.invalid(f"{path}.key", expression.get("key", ""), text)
    for at, value in enumerate(values):
        for text in meta.label_value(value):
            yield field.invalid(f"{path}.values[{at}]", value, text)


# -- fields -------------------------------------------------------------------------------------------------


class FieldRequirement(NamedTuple):
    """`field=value` or `field!=value`."""

    field: str
    operator: str  # "=" or "!="
    value: str

    def matches(self, fields: Mapping[str, str]) -> bool:
        return (fields.get(self.field, "") == self.value) is (self.operator == "=")


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """All requirements must hold. Which fields exist is the kind's matter, not the selector's."""

    requirements: tuple[FieldRequirement, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not self.requirements

    def matches(self, fields: Mapping[str, str]) -> bool:
        return all(requirement.matches(fields) for requirement in self.requirements)

    def exact(self, name: str) -> str | None:
        """The value this selector demands of a field, if it does."""
        return next(
            (item.value for item in self.requirements if item.field == name and item.operator == "="), None
        )

    def __str__(self) -> str:
        return ",".join(f"{item.field}{item.operator}{_escape(item.value)}" for item in self.requirements)


def _escape(value: str) -> str:
    return re.sub(r"([\\,=])", r"\\\1", value)


def _unescape(value: str, whole: str) -> str:
    if not re.fullmatch(r"(?:[^\\,=]|\\[\\,=])*", value):
        raise bad_request(f"invalid field selector: {field.quote(value)} in {field.quote(whole)}")
    return re.sub(r"\\(.)", r"\1", value)


def parse_field_selector(text: str) -> FieldSelector:
    """`a.b=c,d!=e`, values escaped with a backslash; raises BadRequest when it is none."""
    found: list[FieldRequirement] = []
    for term in re.split(r"(?<!\\),", text):
        if not term:
            continue
        parts = re.fullmatch(r"((?:[^\\=!]|\\.)*?)(!=|==|=)(.*)", term, re.DOTALL)
        if parts is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        operator = "!=" if parts.group(2) == "!=" else "="
        found.append(FieldRequirement(parts.group(1).strip(), operator, _unescape(parts.group(3), text)))
    return FieldSelector(tuple(found))
