"""The objects that mutations write, as maps: the runtime knows no types of Kubernetes.

`Object.spec{replicas: 3}` becomes `{"replicas": 3}`, and `JSONPatch{op: "remove"}` `{"op": "remove"}`. What
is built is then merged and validated by the schema of the kind that is changed. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

# Strings first (with prefixes, in either quotes, one line or many): nothing in them is to be taken for code.
_TOKENS = re.compile(
    r"""
    (?P<text>
        [rR][bB]?\"{3}.*?\"{3} | [rR][bB]?'{3}.*?'{3} | [rR][bB]?"[^"\n]*" | [rR][bB]?'[^'\n]*'
      | [bB]?\"{3}(?:\\.|.)*?\"{3} | [bB]?'{3}(?:\\.|.)*?'{3}
      | [bB]?"(?:\\.|[^"\\\n])*" | [bB]?'(?:\\.|[^'\\\n])*'
    )
  | (?P<space> \s+ | //[^\n]* )
  | (?P<quoted> `[^`\n]*` )
  | (?P<name> [A-Za-z_][A-Za-z0-9_]* )
  | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
OBJECT, PATCH = "Object", "JSONPatch"


class _Token(NamedTuple):
    kind: str
    text: str


def as_maps(expression: str) -> str:
    """The expression with message literals of `Object` and `JSONPatch` as map literals."""
    tokens = [_Token(str(found.lastgroup), found[0]) for found in _TOKENS.finditer(expression)]
    return "".join(_rewritten(tokens))


def _rewritten(tokens: list[_Token]) -> Iterator[str]:
    braces: list[bool] = []  # of every open bracket: whether a message literal's fields are in it
    fields = False  # whether a field's name comes next
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if (end := _type_name(tokens, at)) is not None:
            braces.append(True)
            fields, at = True, end
            yield "{"
        elif token.kind == "other" and token.text in "([{":
            braces.append(False)
            fields = False
            yield token.text
        elif token.kind == "other" and token.text in ")]}":
            if braces:
                braces.pop()
            fields = False
            yield token.text
        elif token.text == ",":
            fields = bool(braces) and braces[-1]
            yield ","
        elif fields and token.kind in ("name", "quoted"):
            fields = False
            yield f'"{_field(token.text)}"'
        else:
            fields = fields and (token.kind == "space" or token.text == "?")
            yield token.text
        at += 1


def _type_name(tokens: list[_Token], at: int) -> int | None:
    """Where the brace of a message literal is, if its type's name begins here."""
    before = next((token.text for token in reversed(tokens[:at]) if token.kind != "space"), "")
    if tokens[at].text not in (OBJECT, PATCH) or before == ".":
        return None
    wants_name = False
    for position in range(at + 1, len(tokens)):
        token = tokens[position]
        if token.kind == "space":
            continue
        if wants_name and token.kind in ("name", "quoted"):
            wants_name = False
        elif not wants_name and token.text == ".":
            wants_name = True
        else:
            return position if token.text == "{" and not wants_name else None
    return None


_ESCAPED = re.compile(r"__(underscores|dot|dash|slash|[a-z]+)__")
_SIGNS = {"underscores": "__", "dot": ".", "dash": "-", "slash": "/"}


def _field(name: str) -> str:
    """A property's own name: in backquotes as it is, else with Kubernetes' escapes for CEL undone."""
    if name.startswith("`"):
        return name[1:-1]
    return _ESCAPED.sub(lambda found: _SIGNS.get(found[1], found[1]), name)
