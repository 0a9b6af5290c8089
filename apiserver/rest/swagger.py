"""The OpenAPI v2 document: schemas in the words of v2, and the protobuf message that kubectl asks for
(`openapi.v2.Document` of gnostic, whose field numbers are below).

Clients up to 1.23 validate by it, and current ones do what v3 does not describe, such as a `List` in a file.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from apimachinery.protobuf import wire

Schema = dict[str, Any]

PROTOBUF = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
"""The media type as clients ask for it."""
PROTOBUF_ANSWER = PROTOBUF.replace("@", ".")
"""As it is answered: "@" is no character of a media type."""

PRODUCED = ("application/json", "application/yaml", "application/vnd.kubernetes.protobuf")

_TEXT, _DOUBLE, _NUMBER = range(3)
# JSON name -> field number and kind, of the message Schema.
_PLAIN: Mapping[str, tuple[int, int]] = {
    "$ref": (1, _TEXT),
    "format": (2, _TEXT),
    "title": (3, _TEXT),
    "description": (4, _TEXT),
    "multipleOf": (6, _DOUBLE),
    "maximum": (7, _DOUBLE),
    "exclusiveMaximum": (8, _NUMBER),
    "minimum": (9, _DOUBLE),
    "exclusiveMinimum": (10, _NUMBER),
    "maxLength": (11, _NUMBER),
    "minLength": (12, _NUMBER),
    "pattern": (13, _TEXT),
    "maxItems": (14, _NUMBER),
    "minItems": (15, _NUMBER),
    "uniqueItems": (16, _NUMBER),
    "maxProperties": (17, _NUMBER),
    "minProperties": (18, _NUMBER),
}
_DEFAULT, _REQUIRED, _ENUM, _ADDITIONAL, _TYPE = 5, 19, 20, 21, 22
_ITEMS, _ALL_OF, _PROPERTIES, _EXTENSION = 23, 24, 25, 31


def to_v2(schema: Schema) -> Schema:
    """A schema of v3 in the words of v2: a reference stands alone, and a choice of scalars is text, as
    Kubernetes publishes Quantity and IntOrString.
    """
    out = {key: value for key, value in schema.items() if key not in ("oneOf", "anyOf", "nullable")}
    references = out.get("allOf") or []
    if len(references) == 1 and set(references[0]) == {"$ref"}:
        del out["allOf"]
        out["$ref"] = references[0]["$ref"]
    if ("oneOf" in schema or schema.get("x-kubernetes-int-or-string")) and "type" not in out:
        out["type"] = "string"
    if "properties" in out:
        out["properties"] = {name: to_v2(value) for name, value in out["properties"].items()}
    for name in ("items", "additionalProperties"):
        if isinstance(out.get(name), dict):
            out[name] = to_v2(out[name])
    if "allOf" in out:
        out["allOf"] = [to_v2(value) for value in out["allOf"]]
    return out


def paths_to_v2(paths: Schema) -> Schema:
    """Paths of v3 in the words of v2: bodies are parameters, media types stand beside them."""
    text = orjson.dumps(paths).replace(b"#/components/schemas/", b"#/definitions/")
    out: Schema = orjson.loads(text)
    for item in out.values():
        item["parameters"] = [_parameter_to_v2(each) for each in item["parameters"]]
        for method, operation in item.items():
            if method != "parameters":
                item[method] = _operation_to_v2(operation)
    return out


def _operation_to_v2(operation: Schema) -> Schema:
    parameters = [_parameter_to_v2(each) for each in operation["parameters"]]
    out = {**operation, "schemes": ["https"], "consumes": ["*/*"], "produces": list(PRODUCED)}
    if body := out.pop("requestBody", None):
        out["consumes"] = list(body["content"])
        schema = next(iter(body["content"].values()))["schema"]
        required = {"required": True} if body.get("required") else {}
        parameters.insert(0, {"name": "body", "in": "body", **required, "schema": schema})
    out["parameters"] = parameters
    out["responses"] = {
        code: {
            "description": answer["description"],
            "schema": next(iter(answer["content"].values()))["schema"],
        }
        for code, answer in operation["responses"].items()
    }
    return out


def _parameter_to_v2(parameter: Schema) -> Schema:
    return {**{key: value for key, value in parameter.items() if key != "schema"}, **parameter["schema"]}


def encode(document: Mapping[str, Any]) -> bytes:
    """A document as bytes."""
    info = document["info"]
    definitions = b"".join(_named(1, name, _schema(each)) for name, each in document["definitions"].items())
    return b"".join(
        (
            _text(1, document["swagger"]),
            wire.delimited(2, _text(1, info["title"]) + _text(2, info["version"])),
            wire.delimited(
                8, b"".join(_named(2, path, _item(item)) for path, item in document["paths"].items())
            ),
            wire.delimited(9, definitions),
        )
    )


# Methods of a PathItem, and members of an Operation, by field number.
_METHODS = {"get": 2, "put": 3, "post": 4, "delete": 5, "patch": 8}
_LISTS = {"tags": 1, "produces": 6, "consumes": 7, "schemes": 10}


def _item(item: Mapping[str, Any]) -> bytes:
    methods = [
        wire.delimited(number, _operation(item[name])) for name, number in _METHODS.items() if name in item
    ]
    return b"".join((*methods, *(wire.delimited(9, _parameter(each)) for each in item["parameters"])))


def _operation(operation: Mapping[str, Any]) -> bytes:
    texts = [_text(number, word) for name, number in _LISTS.items() for word in operation[name]]
    parameters = [wire.delimited(8, _parameter(each)) for each in operation["parameters"]]
    answers = [
        _named(1, code, wire.delimited(1, _text(1, each["description"]) + _answered(each["schema"])))
        for code, each in operation["responses"].items()
    ]
    extensions = [_named(13, name, _any(value)) for name, value in operation.items() if name.startswith("x-")]
    return b"".join(
        (
            *texts,
            _text(5, operation["operationId"]),
            *parameters,
            wire.delimited(9, b"".join(answers)),
            *extensions,
        )
    )


def _answered(schema: Mapping[str, Any]) -> bytes:
    return wire.delimited(2, wire.delimited(1, _schema(schema)))


def _parameter(parameter: Mapping[str, Any]) -> bytes:
    """A ParametersItem: which of its messages, and whose numbers, depends on where the parameter stands."""
    required = wire.integer(4 if parameter["in"] == "body" else 1, int(parameter.get("required", False)))
    if parameter["in"] == "body":
        body = _text(2, parameter["name"]) + _text(3, "body") + required
        return wire.delimited(1, wire.delimited(1, body + wire.delimited(5, _schema(parameter["schema"]))))
    sort, oneof = (6, 3) if parameter["in"] == "query" else (5, 4)
    text = required + _text(2, parameter["in"]) + _text(4, parameter["name"]) + _text(sort, parameter["type"])
    return wire.delimited(1, wire.delimited(2, wire.delimited(oneof, text)))


def _schema(schema: Mapping[str, Any]) -> bytes:
    return b"".join(_members(schema))


def _members(schema: Mapping[str, Any]) -> Iterator[bytes]:
    for name, value in schema.items():
        if name in _PLAIN:
            number, kind = _PLAIN[name]
            yield _SCALARS[kind](number, value)
        elif name in _NESTED:
            yield _NESTED[name](value)
        elif name.startswith("x-"):
            yield _named(_EXTENSION, name, _any(value))


def _text(number: int, value: str) -> bytes:
    return wire.delimited(number, value.encode())


def _double(number: int, value: float) -> bytes:
    return wire.fixed64(number, struct.pack("<d", value))


def _named(number: int, name: str, value: bytes) -> bytes:
    """One entry of a map, which the message writes as pairs of name (1) and value (2)."""
    return wire.delimited(number, _text(1, name) + wire.delimited(2, value))


def _any(value: Any) -> bytes:
    """Any value, as YAML text (2); JSON is YAML."""
    return _text(2, orjson.dumps(value).decode())


def _additional(value: Any) -> bytes:
    inner = wire.integer(2, value) if isinstance(value, bool) else wire.delimited(1, _schema(value))
    return wire.delimited(_ADDITIONAL, inner)


_SCALARS: Mapping[int, Callable[[int, Any], bytes]] = {_TEXT: _text, _DOUBLE: _double, _NUMBER: wire.integer}
_NESTED: Mapping[str, Callable[[Any], bytes]] = {
    "default": lambda value: wire.delimited(_DEFAULT, _any(value)),
    "required": lambda names: b"".join(_text(_REQUIRED, name) for name in names),
    "enum": lambda values: b"".join(wire.delimited(_ENUM, _any(value)) for value in values),
    "type": lambda name: wire.delimited(_TYPE, _text(1, name)),
    "items": lambda schema: wire.delimited(_ITEMS, wire.delimited(1, _schema(schema))),
    "allOf": lambda schemas: b"".join(wire.delimited(_ALL_OF, _schema(schema)) for schema in schemas),
    "properties": lambda schemas: wire.delimited(
        _PROPERTIES, b"".join(_named(1, name, _schema(each)) for name, each in schemas.items())
    ),
    "additionalProperties": _additional,
}
