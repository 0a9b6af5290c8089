"""Go clients' own wire: every built-in kind can be written in protobuf, and is read so if asked."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from apimachinery.protobuf import decode, wire
from apiserver import kinds
from apiserver.rest import negotiate, protobuf
from tests.apiserver.extensions.test_crds import WIDGETS, define
from tests.apiserver.harness import CONFIG_MAPS, Harness, config_map, run

Object = dict[str, Any]
SENT = {"content-type": protobuf.MEDIA_TYPE}
ONLY = {"accept": protobuf.MEDIA_TYPE}
WEBHOOK: Object = {
    "name": "w.example.com",
    "clientConfig": {"url": "https://example.com/", "caBundle": ""},
    "sideEffects": "None",
    "admissionReviewVersions": ["v1"],
    "rules": [
        {
            "operations": ["CREATE"],
            "apiGroups": ["x"],
            "apiVersions": ["v1"],
            "resources": ["ys"],
            "scope": "*",
        }
    ],
}
POLICY: Object = {
    "matchConstraints": {
        "resourceRules": [
            {
                "operations": ["CREATE"],
                "apiGroups": ["apps"],
                "apiVersions": ["v1"],
                "resources": ["deployments"],
                "resourceNames": ["d"],
            }
        ]
    },
    "validations": [{"expression": "object.spec.replicas <= 5"}],
}
SCHEMA: Object = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "size": {"type": "integer", "minimum": 1, "maximum": 9.5, "default": 3},
                "mode": {"type": "string", "enum": ["a", "b"]},
                "ports": {"type": "array", "items": {"x-kubernetes-int-or-string": True}},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            },
            "x-kubernetes-validations": [{"rule": "self.size > 0", "message": "too small"}],
        }
    },
}
CRD: Object = {
    "group": "example.com",
    "names": {"plural": "widgets", "kind": "Widget"},
    "scope": "Namespaced",
    "versions": [
        {
            "name": "v1",
            "served": True,
            "storage": True,
            "schema": {"openAPIV3Schema": SCHEMA},
            "subresources": {"status": {}},
        }
    ],
}
# resource, apiVersion, kind, name and the rest, of the groups whose numbers are easily forgotten.
WRITTEN: list[tuple[str, str, str, str, Object]] = [
    (
        "validatingwebhookconfigurations",
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        "a",
        {"webhooks": [WEBHOOK]},
    ),
    (
        "mutatingwebhookconfigurations",
        "admissionregistration.k8s.io/v1",
        "MutatingWebhookConfiguration",
        "a",
        {"webhooks": [{**WEBHOOK, "reinvocationPolicy": "IfNeeded"}]},
    ),
    (
        "validatingadmissionpolicies",
        "admissionregistration.k8s.io/v1",
        "ValidatingAdmissionPolicy",
        "a",
        {"spec": POLICY},
    ),
    (
        "validatingadmissionpolicybindings",
        "admissionregistration.k8s.io/v1",
        "ValidatingAdmissionPolicyBinding",
        "a",
        {"spec": {"policyName": "a", "validationActions": ["Deny"]}},
    ),
    (
        "customresourcedefinitions",
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        "widgets.example.com",
        {"spec": CRD},
    ),
    (
        "apiservices",
        "apiregistration.k8s.io/v1",
        "APIService",
        "v1.metrics.example.com",
        {
            "spec": {
                "group": "metrics.example.com",
                "version": "v1",
                "groupPriorityMinimum": 100,
                "versionPriority": 10,
                "insecureSkipTLSVerify": True,
                "service": {"namespace": "default", "name": "m", "port": 443},
            }
        },
    ),
    (
        "prioritylevelconfigurations",
        "flowcontrol.apiserver.k8s.io/v1",
        "PriorityLevelConfiguration",
        "a",
        {
            "spec": {
                "type": "Limited",
                "limited": {"nominalConcurrencyShares": 0, "limitResponse": {"type": "Reject"}},
            }
        },
    ),
    (
        "deviceclasses",
        "resource.k8s.io/v1",
        "DeviceClass",
        "a",
        {"spec": {"selectors": [{"cel": {"expression": "device.driver == 'd'"}}]}},
    ),
    (
        "volumeattributesclasses",
        "storage.k8s.io/v1",
        "VolumeAttributesClass",
        "a",
        {"driverName": "d.example.com", "parameters": {"iops": "5"}},
    ),
]


def test_every_built_in_kind_has_a_form_in_protobuf() -> None:
    for kind in kinds.SCHEME:
        assert protobuf.definition_of(kind.api_version, kind.kind), kind.kind
        assert protobuf.definition_of(kind.api_version, kind.list_kind), kind.list_kind


@pytest.mark.parametrize(("resource", "version", "kind", "name", "rest"), WRITTEN)
def test_what_is_written_in_protobuf_is_what_json_would_have_written(
    resource: str, version: str, kind: str, name: str, rest: Object
) -> None:
    sent = {"kind": kind, "apiVersion": version, "metadata": {"name": name}, **rest}

    async def test(api: Harness) -> None:
        path = f"/apis/{version}/{resource}"
        wanted = await api.ok("POST", f"{path}?dryRun=All", sent)
        created = await api.ok("POST", path, protobuf.write(sent), headers=SENT)
        for part in ("spec", "webhooks", "parameters", "driverName"):
            assert created.get(part) == wanted.get(part)
        answer = await api.call("GET", f"{path}/{name}", headers=ONLY)
        assert answer.headers["content-type"] == protobuf.MEDIA_TYPE
        read = protobuf.read(answer.content)
        assert (read["kind"], read["metadata"]["uid"]) == (kind, created["metadata"]["uid"])
        assert read.get("spec") == created.get("spec") and read.get("webhooks") == created.get("webhooks")

    run(test)


def test_lists_and_watches_in_protobuf() -> None:
    async def test(api: Harness) -> None:
        await api.ok("POST", CONFIG_MAPS, config_map("a", k="v"))
        listed = protobuf.read((await api.call("GET", CONFIG_MAPS, headers=ONLY)).content)
        assert listed["kind"] == "ConfigMapList" and [item["data"] for item in listed["items"]] == [
            {"k": "v"}
        ]
        version = listed["metadata"]["resourceVersion"]
        await api.ok("DELETE", f"{CONFIG_MAPS}/a")
        query = f"?watch=1&timeoutSeconds=1&allowWatchBookmarks=true&resourceVersion={version}"
        answer = await api.call("GET", CONFIG_MAPS + query, headers=ONLY)
        assert answer.headers["content-type"] == f"{protobuf.MEDIA_TYPE};stream=watch"
        events = list(frames(answer.content))
        assert [(kind, obj["metadata"].get("name")) for kind, obj in events] == [
            ("DELETED", "a"),
            ("BOOKMARK", None),
        ]
        kind = api.server.scheme.resource("", "v1", "configmaps")
        assert kind is not None
        api.server.cacher.of(kind).floor = api.server.cacher.revision  # as if the window had moved on
        gone = await api.call("GET", f"{CONFIG_MAPS}?watch=1&resourceVersion={version}", headers=ONLY)
        assert [(kind, obj["code"]) for kind, obj in frames(gone.content)] == [("ERROR", 410)]

    run(test)


def frames(data: bytes) -> list[tuple[str, Object]]:
    """Events of a watch: four bytes of length, then a WatchEvent in its envelope."""
    out = []
    while data:
        (size,) = struct.unpack(">I", data[:4])
        envelope, data = data[4 : 4 + size], data[4 + size :]
        event = dict(wire.fields(dict(wire.fields(envelope[4:]))[2]))  # type: ignore[arg-type]
        raw = dict(wire.fields(event[2]))[1]  # type: ignore[arg-type]
        assert isinstance(raw, bytes) and isinstance(event[1], bytes)
        out.append((event[1].decode(), protobuf.read(raw)))
    return out


def test_who_takes_json_as_well_gets_json() -> None:
    either = f"{protobuf.MEDIA_TYPE},application/json"
    assert negotiate.accept(either) == negotiate.accept(f"{protobuf.MEDIA_TYPE}, */*") == negotiate.Form()
    assert negotiate.accept(protobuf.MEDIA_TYPE) == negotiate.Form(protobuf=True)


def test_custom_resources_have_no_protobuf() -> None:
    async def test(api: Harness) -> None:
        await define(api)
        widget = {"kind": "Widget", "apiVersion": "stable.example.com/v1", "metadata": {"name": "w"}}
        await api.fails(406, "NotAcceptable", "POST", WIDGETS, widget, headers=ONLY)
        assert (await api.ok("GET", WIDGETS))["items"] == []
        envelope = wire.delimited(1, b"stable.example.com/v1") + wire.delimited(2, b"Widget")
        body = protobuf.MAGIC + wire.delimited(1, envelope)
        await api.fails(415, "UnsupportedMediaType", "POST", WIDGETS, body, headers=SENT)

    run(test)


def test_delete_options_in_protobuf() -> None:
    async def test(api: Harness) -> None:
        uid = (await api.ok("POST", CONFIG_MAPS, config_map("a")))["metadata"]["uid"]
        wrong = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "other"}}
        await api.fails(409, "Conflict", "DELETE", f"{CONFIG_MAPS}/a", protobuf.write(wrong), headers=SENT)
        right = {**wrong, "preconditions": {"uid": uid}}
        headers = {**SENT, **ONLY}
        answer = await api.call("DELETE", f"{CONFIG_MAPS}/a", protobuf.write(right), headers=headers)
        assert protobuf.read(answer.content)["status"] == "Success"

    run(test)


def test_a_time_beyond_all_years_is_a_bad_request() -> None:
    """It was an error of ours once: a 500."""
    meta = wire.delimited(1, wire.delimited(1, b"a") + wire.delimited(8, wire.integer(1, 1 << 50)))
    types = wire.delimited(1, b"v1") + wire.delimited(2, b"ConfigMap")
    body = protobuf.MAGIC + wire.delimited(1, types) + wire.delimited(2, meta)

    async def test(api: Harness) -> None:
        await api.fails(400, "BadRequest", "POST", CONFIG_MAPS, body, headers=SENT)

    run(test)
    with pytest.raises(wire.Malformed):
        decode.message(meta, "io.k8s.api.core.v1.ConfigMap")
