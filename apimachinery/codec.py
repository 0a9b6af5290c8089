"""Request bodies to documents: JSON with duplicate keys found, YAML without its traps, both with a depth
limit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from typing import Any

import orjson
import yaml

from apimachinery.errors import bad_request

MAX_DEPTH = 200
MAX_ALIASES = 100  # uses of YAML anchors in one document


def encode(document: Any) -> bytes:
    """The JSON bytes of a document."""
    return orjson.dumps(document)


def parse_json(body: bytes, *, find_duplicates: bool = False) -> tuple[Any, tuple[str, ...]]:
    """A document and the paths of duplicate keys (looked for only when asked).

    Raises BadRequest for anything that is not JSON, or is nested deeper than 200.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from None
    keys = _count_keys(document)
    if not find_duplicates or _written_once(body, keys):
        return document, ()
    return document, tuple(_duplicates(body))


_BEFORE_COLON = (b" :", b"\t:", b"\n:", b"\r:")


def _written_once(body: bytes, keys: int) -> bool:
    """Whether no key can have been given twice, which spares a second, slower parse.

    Where no white space stands before a colon, every key that was written is followed by `":`. So there are
    at least as many of those as keys written, and as many keys written as the document has.
    """
    return body.count(b'":') == keys and not any(found in body for found in _BEFORE_COLON)


def _count_keys(document: Any) -> int:
    """The keys of all objects of a document. Raises BadRequest when it is nested too deep."""
    level, keys = [document], 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                keys += len(value)
                below += [child for child in value.values() if isinstance(child, (dict, list))]
            elif isinstance(value, list):
                below += [child for child in value if isinstance(child, (dict, list))]
        if not below:
            return keys
        level = below
    raise bad_request(f"the document is nested deeper than {MAX_DEPTH} levels")


class _Pairs(list[tuple[str, Any]]):
    """An object as it was written."""


def _duplicates(body: bytes) -> list[str]:
    found: list[str] = []
    _walk(json.loads(body, object_pairs_hook=_Pairs), "", found)
    return found


def _walk(value: Any, path: str, found: list[str]) -> None:
    if isinstance(value, _Pairs):
        seen: set[str] = set()
        for key, child in value:
            here = f"{path}.{key}" if path else key
            if key in seen:
                found.append(here)
            seen.add(key)
            _walk(child, here, found)
    elif isinstance(value, list):
        for at, child in enumerate(value):
            _walk(child, f"{path}[{at}]", found)


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: JSON's types only, bounded aliases, no dates, duplicate keys noted."""

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self.aliases = 0
        self.depth = 0
        self.duplicates: list[str] = []

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MAX_ALIASES:
                raise bad_request("document contains excessive aliasing")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise bad_request(f"the document is nested deeper than {MAX_DEPTH} levels")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        self.flatten_mapping(node)
        out: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = _json_key(self.construct_object(key_node, deep=True))
            if key in out:
                self.duplicates.append(key)
            out[key] = self.construct_object(value_node, deep=True)
        return out


def _json_key(key: Any) -> str:
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, (str, int, float)):
        return str(key)
    raise bad_request(f"error converting YAML to JSON: unsupported map key: {type(key).__name__}")


def _construct_map(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    return loader.construct_mapping(node, deep=True)


def _construct_text(loader: _Loader, node: yaml.ScalarNode) -> str:
    """A string. YAML's escapes are of whole characters: half of one, as JSON writes pairs, is none."""
    text = str(loader.construct_scalar(node))
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise bad_request("error converting YAML to JSON: yaml: found invalid Unicode character escape code")
    return text


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_map)
_Loader.add_constructor("tag:yaml.org,2002:str", _construct_text)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _construct_text)


def parse_yaml(body: bytes) -> tuple[Any, tuple[str, ...]]:
    """The one document of a YAML body and its duplicate keys; raises BadRequest."""
    loader: _Loader | None = None
    try:
        loader = _Loader(body)
        document = loader.get_single_data()
    except yaml.YAMLError as error:
        raise bad_request(f"error converting YAML to JSON: yaml: {_one_line(error)}") from None
    except (RecursionError, ValueError, UnicodeDecodeError) as error:
        raise bad_request(f"error converting YAML to JSON: yaml: {error}") from None
    finally:
        if loader is not None:
            loader.dispose()
    _check_expanded(document)
    return document, tuple(f"{key}" for key in loader.duplicates)


_MAX_NODES = 1_000_000


def _check_expanded(document: Any) -> None:
    """Aliases share nodes: count them as written out, which is what an alias bomb multiplies."""
    budget = _MAX_NODES
    stack = [document]
    while stack:
        value = stack.pop()
        budget -= 1
        if budget < 0:
            raise bad_request("document contains excessive aliasing")
        if isinstance(value, dict):
            stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise bad_request("error converting YAML to JSON: json: unsupported value")
        elif value is not None and not isinstance(value, (str, int, float)):
            kind = type(value).__name__
            raise bad_request(f"error converting YAML to JSON: unsupported type {kind}")


def _one_line(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return " ".join(str(error).split())
