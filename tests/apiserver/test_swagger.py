"""The OpenAPI v2 document in both of its forms."""

from __future__ import annotations

from typing import Any

import pytest

from apiserver.rest import swagger
from tests.apiserver.harness import Harness, run

REF = {"$ref": "#/definitions/a.B"}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"allOf": [REF], "description": "d", "default": {}}, {**REF, "description": "d", "default": {}}),
        ({"allOf": [REF, REF]}, {"allOf": [REF, REF]}),
        (
            {"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "f"},
            {"format": "f", "type": "string"},
        ),
        (
            {
                "properties": {
                    "oneOf": {"items": {"allOf": [REF]}},
                    "m": {"additionalProperties": {"allOf": [REF]}},
                }
            },
            {"properties": {"oneOf": {"items": REF}, "m": {"additionalProperties": REF}}},
        ),
        ({"additionalProperties": True, "nullable": True}, {"additionalProperties": True}),
    ],
)
def test_words_of_v2(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    assert swagger.to_v2(schema) == expected


def fields(data: bytes) -> list[tuple[int, Any]]:
    """A protobuf message taken apart: field numbers and values, by the wire format alone."""
    out, position = [], 0
    while position < len(data):
        key, position = varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = varint(data, position)
            out.append((number, value))
        else:
            size, position = varint(data, position) if wire == 2 else (8, position)
            out.append((number, data[position : position + size]))
            position += size
    return out


def varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value, shift, position = value | (byte & 0x7F) << shift, shift + 7, position + 1
        if byte < 0x80:
            return value, position


def test_a_document_as_protobuf() -> None:
    schema = {
        "type": "object",
        "required": ["a", "b"],
        "properties": {"a": {"$ref": "#/definitions/x"}},
        "additionalProperties": False,
        "minLength": 300,
        "x-kubernetes-group-version-kind": [{"kind": "K"}],
    }
    info = {"title": "t", "version": "v"}
    document = {"swagger": "2.0", "info": info, "definitions": {"name": schema}}
    made = dict(fields(swagger.encode(document)))
    assert made[1] == b"2.0" and fields(made[2]) == [(1, b"t"), (2, b"v")]
    [(_, pair)] = fields(made[9])
    (_, name), (_, encoded) = fields(pair)
    assert name == b"name"
    found = fields(encoded)
    assert found[:3] == [(22, b"\x0a\x06object"), (19, b"a"), (19, b"b")]
    assert found[4:6] == [(21, b"\x10\x00"), (12, 300)]
    [(_, entry)] = fields(found[3][1])
    assert fields(entry)[0] == (1, b"a") and fields(fields(entry)[1][1]) == [(1, b"#/definitions/x")]
    (_, extension), (_, value) = fields(found[6][1])
    assert (found[6][0], extension) == (31, b"x-kubernetes-group-version-kind")
    assert fields(value) == [(2, b'[{"kind":"K"}]')]


@pytest.mark.parametrize(
    ("accepted", "answered"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        (swagger.PROTOBUF, swagger.PROTOBUF_ANSWER),
        (f"{swagger.PROTOBUF},*/*", swagger.PROTOBUF_ANSWER),
        (f"application/json;q=0.9, {swagger.PROTOBUF}", "application/json"),
    ],
)
def test_the_form_that_is_asked_for(accepted: str, answered: str) -> None:
    async def test(api: Harness) -> None:
        answer = await api.call("GET", "/openapi/v2", headers={"accept": accepted})
        assert answer.headers["content-type"] == answered
        if answered == swagger.PROTOBUF_ANSWER:
            assert dict(fields(answer.content))[1] == b"2.0"

    run(test)


def test_every_reference_leads_somewhere_and_stands_alone() -> None:
    async def test(api: Harness) -> None:
        definitions = (await api.ok("GET", "/openapi/v2"))["definitions"]
        for schema in definitions.values():
            for each in below(schema):
                if "$ref" in each:
                    assert each["$ref"].removeprefix("#/definitions/") in definitions
                    assert not {"type", "properties"} & set(each)
        await api.fails(406, "NotAcceptable", "GET", "/openapi/v2", headers={"accept": "text/html"})

    run(test)


def below(schema: dict[str, Any]) -> list[dict[str, Any]]:
    inner = [*schema.get("properties", {}).values()]
    inner += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    return [schema, *(found for each in inner for found in below(each))]
