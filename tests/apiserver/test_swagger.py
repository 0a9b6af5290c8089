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
    document = {"swagger": "2.0", "info": info, "definitions": {"name": schema}, "paths": {}}
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
        document = await api.ok("GET", "/openapi/v2")
        definitions, operations = document["definitions"], [*operations_of(document)]
        bodies = [each["schema"] for one in operations for each in one["parameters"] if each["in"] == "body"]
        answers = [answer["schema"] for one in operations for answer in one["responses"].values()]
        for schema in [*definitions.values(), *bodies, *answers]:
            for each in below(schema):
                if "$ref" in each:
                    assert each["$ref"].removeprefix("#/definitions/") in definitions
                    assert not {"type", "properties"} & set(each)
        await api.fails(406, "NotAcceptable", "GET", "/openapi/v2", headers={"accept": "text/html"})

    run(test)


def operations_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    items = document["paths"].values()
    return [found for item in items for name, found in item.items() if name != "parameters"]


def test_operations_have_the_ids_that_clients_are_generated_from() -> None:
    async def test(api: Harness) -> None:
        document = await api.ok("GET", "/openapi/v2")
        ids = [operation["operationId"] for operation in operations_of(document)]
        assert len(ids) == len(set(ids)) > 700
        assert {
            *("listCoreV1NamespacedPod", "listCoreV1PodForAllNamespaces", "readCoreV1Node"),
            *("deleteAppsV1CollectionNamespacedDeployment", "replaceCoreV1NamespaceFinalize"),
            *("patchAppsV1NamespacedDeploymentScale", "createCoreV1NamespacedPodEviction"),
            *(
                "connectCoreV1GetNamespacedPodExec",
                "connectCoreV1PutNodeProxyWithPath",
                "readCoreV1NamespacedPodLog",
            ),
            *("watchRbacAuthorizationV1NamespacedRoleList", "watchCoreV1PodListForAllNamespaces"),
            *("createCoreV1NamespacedServiceAccountToken", "createAuthorizationV1SelfSubjectAccessReview"),
        } <= set(ids)

    run(test)


def test_every_path_of_a_named_object_is_answered() -> None:
    """What the document promises is there: no 405, and no 404 that knows no such resource."""

    async def test(api: Harness) -> None:
        document = await api.ok("GET", "/openapi/v2")
        for path in document["paths"]:
            if "get" not in document["paths"][path] or "/watch/" in path:
                continue
            answer = await api.call("GET", path.format(name="x", namespace="default", path="p"))
            found = answer.json()
            assert answer.status_code != 405, path
            assert "requested resource" not in found.get("message", ""), path

    run(test)


def test_older_kubectl_finds_in_protobuf_that_a_dry_run_is_known() -> None:
    """As it looks: a PATCH with the kind's extension that has a query parameter dryRun."""

    async def test(api: Harness) -> None:
        answer = await api.call("GET", "/openapi/v2", headers={"accept": swagger.PROTOBUF})
        supported = set()
        for _, entry in fields(dict(fields(answer.content))[8]):
            patch = dict(fields(dict(fields(entry))[2])).get(8)
            if patch is None:
                continue
            extensions = [fields(value) for number, value in fields(patch) if number == 13]
            kinds = [
                fields(value)[0][1] for (_, name), (_, value) in extensions if name.endswith(b"version-kind")
            ]
            if b"dryRun" in [query_name(value) for number, value in fields(patch) if number == 8]:
                supported |= {bytes(kind) for kind in kinds}
        assert b'{"group":"","version":"v1","kind":"ConfigMap"}' in supported and len(supported) > 40

    run(test)


def query_name(parameter: bytes) -> bytes:
    """Of a ParametersItem: parameter (1), its non-body form (2), of a query (3), name (4)."""
    for number in (1, 2, 3, 4):
        found = dict(fields(parameter)).get(number)
        if found is None:
            return b""
        parameter = found
    return parameter


def below(schema: dict[str, Any]) -> list[dict[str, Any]]:
    inner = [*schema.get("properties", {}).values()]
    inner += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    return [schema, *(found for each in inner for found in below(each))]
