"""Compiling and evaluating expressions by Google's CEL runtime.

The runtime is an optional dependency. Where it is not installed, what needs it is refused by name, never
accepted and ignored. Values are dynamically typed. The runtime stops an expression after its own budget of
iterations, which is an error like any other.
"""

from __future__ import annotations

import datetime
import importlib
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from apimachinery import meta
from apiserver.cel import libraries

NOT_INSTALLED = "the package cel-expr-python is not installed"
COMPILED = 4096  # expressions kept


class Unusable(Exception):
    """An expression that does not compile, with the reason."""


class Failed(Exception):
    """An expression that ended with an error."""


@cache
def _runtime() -> Any:
    """The runtime and its extensions; None when it is not installed."""
    try:
        runtime: Any = importlib.import_module("cel_expr_python.cel")
        extensions = [
            getattr(importlib.import_module(f"cel_expr_python.ext.ext_{name}"), f"Ext{name.title()}")()
            for name in ("strings", "optional", "bindings")
        ]
    except ImportError:
        return None
    return runtime, extensions


@lru_cache(64)
def _environment(variables: tuple[str, ...]) -> Any:
    found = _runtime()
    if found is None:
        return None
    runtime, extensions = found
    return runtime.NewEnv(
        variables=dict.fromkeys(variables, runtime.Type.DYN),
        extensions=extensions,
        functions=libraries.declarations(runtime),
    )


def available() -> bool:
    return _runtime() is not None


@lru_cache(COMPILED)
def compile_expression(text: str, variables: tuple[str, ...], returns: tuple[str, ...] = ("BOOL",)) -> Any:
    """A compiled expression over these variables, which gives one of the types (or one not known until it
    runs). Raises Unusable.
    """
    environment = _environment(variables)
    if environment is None:
        raise Unusable(f"CEL is not supported: {NOT_INSTALLED}")
    try:
        program = environment.compile(text)
    except RuntimeError as error:
        raise Unusable(f"compilation failed: {str(error).strip()}") from None
    given = program.return_type().name()
    if given != "DYN" and not any(given == wanted or given.startswith(f"{wanted}<") for wanted in returns):
        named = " or ".join(wanted.lower() for wanted in returns)
        raise Unusable(f"must evaluate to {named}")
    return program


def evaluate(program: Any, values: Mapping[str, Any]) -> Any:
    """The plain value of an expression. Raises Failed."""
    try:
        found = program.eval(data=values)
    except RuntimeError as error:
        raise Failed(str(error)) from None
    if found.type().name() == "ERROR":
        raise Failed(_reason(str(found.value())))
    return found.plain_value()


def moment(text: str) -> Timestamp:
    """A time (RFC 3339) as expressions see it. The runtime takes Python's own only as a whole variable."""
    out = Timestamp()
    out.FromDatetime(datetime.datetime.fromtimestamp(meta.parse_time(text), datetime.UTC))
    return out


def _reason(text: str) -> str:
    """The runtime's error without its status code, in cel-go's words where those differ."""
    text = text.partition(": ")[2] or text
    prefix = "Key not found in map : "
    if text.startswith(prefix):
        return f"no such key: {text[len(prefix) :].strip(chr(34))}"
    return text
