"""CustomResourceDefinitions through the whole server: what a definition serves, refuses and takes with it."""

from __future__ import annotations

import asyncio
import copy
from typing import Any

import pytest

from apiserver.extensions import cel
from tests.apiserver.harness import Harness, harness, run

Object = dict[str, Any]

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GROUP = "/apis/stable.example.com"
WIDGETS = f"{GROUP}/v1/namespaces/default/widgets"
SPEC_SCHEMA: Object = {
    "type": "object",
    "required": ["size"],
    "properties": {
        "size": {"type": "integer", "minimum": 1, "maximum": 10},
        "color": {"type": "string", "default": "red", "enum": ["red", "blue"]},
        "port": {"x-kubernetes-int-or-string": True},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "replicas": {"type": "integer", "default": 1},
        "parts": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "weight": {"type": "number"}},
            },
        },
    },
}
STATUS_SCHEMA: Object = {
    "type": "object",
    "properties": {
        "phase": {"type": "string"},
        "replicas": {"type": "integer"},
        "selector": {"type": "string"},
    },
}
SCHEMA: Object = {"type": "object", "properties": {"spec": SPEC_SCHEMA, "status": STATUS_SCHEMA}}


def definition(plural: str = "widgets", kind: str = "Widget", **version: Any) -> Object:
    served = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": copy.deepcopy(SCHEMA)},
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "additionalPrinterColumns": [
            {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
            {"name": "Born", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        ],
        "selectableFields": [{"jsonPath": ".spec.color"}],
        **version,
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.stable.example.com"},
        "spec": {
            "group": "stable.example.com",
            "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind, "shortNames": [plural[:2]], "categories": ["all"]},
            "versions": [served],
        },
    }


def widget(name: str = "w", api_version: str = "v1", **spec: Any) -> Object:
    return {
        "apiVersion": f"stable.example.com/{api_version}",
        "kind": "Widget",
        "metadata": {"name": name},
        "spec": {"size": 3, **spec},
    }


async def condition(api: Harness, name: str, kind: str, status: str = "True") -> Object:
    """Wait until a definition has this condition."""
    async with asyncio.timeout(5):
        while True:
            found = await api.ok("GET", f"{CRDS}/{name}")
            for item in (found.get("status") or {}).get("conditions") or ():
                if item["type"] == kind and item["status"] == status:
                    return found
            await asyncio.sleep(0.01)


async def gone(api: Harness, path: str) -> None:
    await until(api, 404, "GET", path)


async def until(api: Harness, code: int, method: str, path: str, body: Any = None) -> None:
    """Ask until the answer has this code: what is waited for happens in the server's own time."""
    async with asyncio.timeout(5):
        while (await api.call(method, path, body)).status_code != code:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def define(api: Harness, body: Object | None = None) -> Object:
    """Until it is established, and this server has heard of that."""
    created = await api.ok("POST", CRDS, body or definition())
    found = await condition(api, created["metadata"]["name"], "Established")
    await until(api, 200, "GET", f"{GROUP}/v1")
    await until(api, 200, "GET", f"/openapi/v3{GROUP}/v1")
    return found


def test_a_definition_is_established_and_its_kind_served() -> None:
    async def body(api: Harness) -> None:
        crd = await define(api)
        assert crd["status"]["acceptedNames"]["listKind"] == "WidgetList"
        assert crd["status"]["storedVersions"] == ["v1"]
        assert [item["type"] for item in crd["status"]["conditions"]] == ["NamesAccepted", "Established"]
        listed = await api.ok("GET", f"{GROUP}/v1")
        names = {item["name"]: item for item in listed["resources"]}
        assert set(names) == {"widgets", "widgets/status", "widgets/scale"}
        assert names["widgets"]["shortNames"] == ["wi"] and names["widgets"]["categories"] == ["all"]
        made = await api.ok("POST", WIDGETS, widget())
        assert made["spec"] == {"size": 3, "color": "red", "replicas": 1}
        assert made["metadata"]["generation"] == 1
        assert (await api.ok("GET", WIDGETS))["kind"] == "WidgetList"

    run(body)


def test_unknown_fields_are_pruned_told_or_refused() -> None:
    async def body(api: Harness) -> None:
        await define(api)
        sent = widget(extra=1, free={"any": {"thing": 1}})
        answer = await api.call("POST", f"{WIDGETS}?fieldValidation=Warn", sent)
        assert answer.status_code == 201 and 'unknown field \\"spec.extra\\"' in answer.headers["warning"]
        assert answer.json()["spec"]["free"] == {"any": {"thing": 1}}
        assert "extra" not in answer.json()["spec"]
        refused = await api.fails(400, "BadRequest", "POST", f"{WIDGETS}?fieldValidation=Strict", sent)
        assert 'strict decoding error: unknown field "spec.extra"' in refused["message"]

    run(body)


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        ({"size": "big"}, "spec.size", 'spec.size in body must be of type integer: "string"'),
        ({"size": 11}, "spec.size", "should be less than or equal to 10"),
        ({"color": "green"}, "spec.color", 'supported values: "red", "blue"'),
        ({"port": []}, "spec.port", "must be of type integer,string"),
        ({"parts": [{"name": "a"}, {"name": "a"}]}, "spec.parts[1]", "Duplicate value"),
        ({"parts": [{"weight": 1}]}, "spec.parts[0].name", "Required value"),
    ],
)
def test_values_are_validated_with_their_paths(spec: Object, field: str, message: str) -> None:
    async def body(api: Harness) -> None:
        await define(api)
        status = await api.fails(422, "Invalid", "POST", WIDGETS, widget(**spec))
        causes = {cause["field"]: cause["message"] for cause in status["details"]["causes"]}
        assert message in causes[field]

    run(body)


def test_generation_and_status_are_separate() -> None:
    async def body(api: Harness) -> None:
        await define(api)
        made = await api.ok("POST", WIDGETS, {**widget(), "status": {"phase": "forged"}})
        assert "status" not in made
        made["status"] = {"phase": "Ready", "replicas": 2, "selector": "a=b"}
        made["spec"]["size"] = 9
        got = await api.ok("PUT", f"{WIDGETS}/w/status", made)
        assert got["status"]["phase"] == "Ready" and got["spec"]["size"] == 3
        assert got["metadata"]["generation"] == 1
        got["spec"]["size"], got["status"] = 4, {}
        got = await api.ok("PUT", f"{WIDGETS}/w", got)
        assert got["metadata"]["generation"] == 2 and got["status"]["phase"] == "Ready"
        scale = await api.ok("GET", f"{WIDGETS}/w/scale")
        assert scale["spec"] == {"replicas": 1} and scale["status"] == {"replicas": 2, "selector": "a=b"}
        scale["spec"]["replicas"] = 5
        assert (await api.ok("PUT", f"{WIDGETS}/w/scale", scale))["spec"]["replicas"] == 5
        assert (await api.ok("GET", f"{WIDGETS}/w"))["metadata"]["generation"] == 3

    run(body)


def test_columns_selectable_fields_and_patches() -> None:
    async def body(api: Harness) -> None:
        await define(api)
        await api.ok("POST", WIDGETS, widget("one"))
        await api.ok("POST", WIDGETS, widget("two", color="blue"))
        table = await api.ok(
            "GET", WIDGETS, headers={"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
        )
        assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "Size", "Born"]
        assert table["rows"][0]["cells"][:2] == ["one", 3] and table["rows"][0]["cells"][2].endswith("s")
        found = await api.ok("GET", f"{WIDGETS}?fieldSelector=spec.color%3Dblue")
        assert [item["metadata"]["name"] for item in found["items"]] == ["two"]
        await api.fails(400, "BadRequest", "GET", f"{WIDGETS}?fieldSelector=spec.size%3D3")
        merge = {"content-type": "application/merge-patch+json"}
        patched = await api.ok("PATCH", f"{WIDGETS}/one", b'{"spec":{"size":7,"junk":1}}', headers=merge)
        assert patched["spec"]["size"] == 7 and "junk" not in patched["spec"]
        strategic = {"content-type": "application/strategic-merge-patch+json"}
        await api.fails(415, "UnsupportedMediaType", "PATCH", f"{WIDGETS}/one", b"{}", headers=strategic)
        no_version = widget("one", size=5)
        await api.fails(422, "Invalid", "PUT", f"{WIDGETS}/one", no_version)

    run(body)


def test_versions_share_one_stored_form() -> None:
    async def body(api: Harness) -> None:
        crd = definition()
        old = copy.deepcopy(crd["spec"]["versions"][0])
        old.update(name="v1beta1", storage=False, deprecated=True)
        old["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["color"]["default"] = "blue"
        crd["spec"]["versions"].insert(0, old)
        await define(api, crd)
        group = await api.ok("GET", GROUP)
        assert group["preferredVersion"]["version"] == "v1"
        answer = await api.call("POST", WIDGETS.replace("/v1/", "/v1beta1/"), widget(api_version="v1beta1"))
        assert answer.json()["apiVersion"] == "stable.example.com/v1beta1"
        assert answer.json()["spec"]["color"] == "blue" and "is deprecated" in answer.headers["warning"]
        assert (await api.ok("GET", f"{WIDGETS}/w"))["apiVersion"] == "stable.example.com/v1"
        stored, _ = await api.store.get("/registry/stable.example.com/widgets/default/w")
        assert stored is not None and b'"stable.example.com/v1"' in stored.value

    run(body)


def test_deleting_a_definition_deletes_its_instances() -> None:
    async def body(api: Harness) -> None:
        crd = await define(api)
        assert "finalizers" not in crd["metadata"]
        for index in range(3):
            await api.ok("POST", WIDGETS, widget(f"w{index}"))
        held = widget("held")
        held["metadata"]["finalizers"] = ["example.com/hold"]
        await api.ok("POST", WIDGETS, held)
        name = "widgets.stable.example.com"
        deleted = await api.ok("DELETE", f"{CRDS}/{name}")
        assert deleted["metadata"]["finalizers"] == ["customresourcecleanup.apiextensions.k8s.io"]
        await condition(api, name, "Terminating")
        await gone(api, f"{WIDGETS}/w0")
        await api.fails(405, "MethodNotAllowed", "POST", WIDGETS, widget("late"))
        merge = {"content-type": "application/merge-patch+json"}
        await api.ok("PATCH", f"{WIDGETS}/held", b'{"metadata":{"finalizers":null}}', headers=merge)
        await gone(api, f"{CRDS}/{name}")
        await gone(api, f"{GROUP}/v1")
        assert not (await api.store.list("/registry/stable.example.com/")).items
        await define(api)
        assert (await api.ok("GET", WIDGETS))["items"] == []

    run(body)


def test_names_in_use_are_not_granted() -> None:
    async def body(api: Harness) -> None:
        await define(api)
        rival = definition("gadgets", "Widget")
        await api.ok("POST", CRDS, rival)
        found = await condition(api, "gadgets.stable.example.com", "NamesAccepted", "False")
        reasons = {item["type"]: item["reason"] for item in found["status"]["conditions"]}
        assert reasons == {"NamesAccepted": "ListKindConflict", "Established": "NotAccepted"}
        await api.fails(404, "NotFound", "GET", WIDGETS.replace("widgets", "gadgets"))
        await api.ok("DELETE", f"{CRDS}/widgets.stable.example.com")
        await condition(api, "gadgets.stable.example.com", "Established")
        assert (await api.ok("GET", WIDGETS.replace("widgets", "gadgets")))["kind"] == "WidgetList"

    run(body)


def test_a_changed_schema_is_served_and_stored_objects_ratchet() -> None:
    async def body(api: Harness) -> None:
        crd = await define(api)
        await api.ok("POST", WIDGETS, widget(size=9))
        version = crd["spec"]["versions"][0]
        version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["size"]["maximum"] = 5
        await api.ok("PUT", f"{CRDS}/widgets.stable.example.com", crd)
        await until(api, 422, "POST", f"{WIDGETS}?dryRun=All", widget("b", size=9))
        merge = {"content-type": "application/merge-patch+json"}
        await api.ok("PATCH", f"{WIDGETS}/w", b'{"spec":{"color":"blue"}}', headers=merge)
        await api.fails(422, "Invalid", "PATCH", f"{WIDGETS}/w", b'{"spec":{"size":8}}', headers=merge)

    run(body)


def test_watch_and_a_second_server() -> None:
    async def body() -> None:
        async with harness() as first, harness(store=first.store) as second:
            await define(first)
            made = await second.ok("POST", WIDGETS, widget())
            version = made["metadata"]["resourceVersion"]
            await first.ok("DELETE", f"{WIDGETS}/w")
            path = f"{WIDGETS}?watch=1&resourceVersion={version}&timeoutSeconds=1"
            lines = (await second.call("GET", path)).text.splitlines()
            assert '"type":"DELETED"' in lines[0] and '"kind":"Widget"' in lines[0]

    asyncio.run(body())


def test_openapi_describes_the_kind() -> None:
    async def body(api: Harness) -> None:
        await define(api)
        document = await api.ok("GET", "/openapi/v3/apis/stable.example.com/v1")
        schema = document["components"]["schemas"]["com.example.stable.v1.Widget"]
        assert schema["properties"]["spec"]["properties"]["size"]["maximum"] == 10
        assert "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta" in document["components"]["schemas"]
        assert f"{GROUP}/v1/namespaces/{{namespace}}/widgets/{{name}}" in document["paths"]
        await api.ok("DELETE", f"{CRDS}/widgets.stable.example.com")
        await gone(api, "/openapi/v3/apis/stable.example.com/v1")

    run(body)


def test_apply_knows_list_keys_of_the_schema() -> None:
    async def body(api: Harness) -> None:
        await define(api)
        applied = {"content-type": "application/apply-patch+yaml"}
        for owner in ("a", "b"):
            sent = widget(parts=[{"name": owner, "weight": 1}])
            await api.ok("PATCH", f"{WIDGETS}/w?fieldManager={owner}", sent, headers=applied)
        found = await api.ok("GET", f"{WIDGETS}/w")
        assert [part["name"] for part in found["spec"]["parts"]] == ["a", "b"]

    run(body)


def _broken(path: str, value: Any) -> Object:
    crd = definition()
    *parents, last = path.split("/")
    target: Any = crd
    for part in parents:
        target = target[int(part) if part.isdigit() else part]
    if value is None:
        target.pop(last)
    else:
        target[last] = value
    return crd


V = "spec/versions/0"
S = f"{V}/schema/openAPIV3Schema"


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("metadata/name", "other", "metadata.name"),
        ("spec/scope", "Everywhere", "spec.scope"),
        (f"{V}/storage", False, "spec.versions"),
        (f"{V}/schema", None, "spec.versions[0].schema.openAPIV3Schema"),
        (f"{S}/type", "string", "spec.versions[0].schema.openAPIV3Schema.type"),
        (f"{S}/properties/spec", {"properties": {}}, "openAPIV3Schema.properties[spec].type"),
        (f"{S}/properties/spec", {"type": "array"}, "openAPIV3Schema.properties[spec].items"),
        (f"{S}/properties/spec", {"type": "string", "pattern": "("}, "properties[spec].pattern"),
        (f"{S}/properties/spec", {"type": "integer", "default": "x"}, "properties[spec].default"),
        ("spec/preserveUnknownFields", True, "spec.preserveUnknownFields"),
        ("spec/conversion", {"strategy": "Webhook"}, "spec.conversion.webhookClientConfig"),
        ("spec/group", "k8s.io", "metadata.annotations[api-approved.kubernetes.io]"),
        (f"{V}/selectableFields", [{"jsonPath": ".spec.parts"}], "selectableFields[0].jsonPath"),
        (f"{V}/additionalPrinterColumns", [{"name": "X", "type": "string", "jsonPath": "x"}], "jsonPath"),
        (f"{V}/subresources/scale/specReplicasPath", ".status.x", "scale.specReplicasPath"),
    ],
)
def test_what_is_wrong_with_a_definition_is_named(path: str, value: Any, field: str) -> None:
    async def body(api: Harness) -> None:
        status = await api.fails(422, "Invalid", "POST", CRDS, _broken(path, value))
        assert any(cause["field"].endswith(field) for cause in status["details"]["causes"]), status["message"]

    run(body)


RULED = {
    "x-kubernetes-validations": [
        {"rule": "self.size >= self.replicas", "message": "more replicas than size"},
        {"rule": "self.color == oldSelf.color", "message": "color is immutable", "fieldPath": ".color"},
    ]
}


def test_rules_are_evaluated_or_refused_by_name() -> None:
    async def body(api: Harness) -> None:
        crd = definition()
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].update(RULED)
        if not cel.available():
            status = await api.fails(422, "Invalid", "POST", CRDS, crd)
            assert "x-kubernetes-validations is not supported" in status["message"]
            return
        await define(api, crd)
        status = await api.fails(422, "Invalid", "POST", WIDGETS, widget(replicas=5))
        assert status["details"]["causes"][0]["message"].endswith("more replicas than size")
        await api.ok("POST", WIDGETS, widget(replicas=2))
        merge = {"content-type": "application/merge-patch+json"}
        status = await api.fails(
            422, "Invalid", "PATCH", f"{WIDGETS}/w", b'{"spec":{"color":"blue"}}', headers=merge
        )
        assert status["details"]["causes"][0]["field"] == "spec.color"
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["x-kubernetes-validations"] = [
            {"rule": "nope"}
        ]
        status = await api.fails(422, "Invalid", "PUT", f"{CRDS}/widgets.stable.example.com", crd)
        assert "undeclared reference" in status["message"]

    run(body)
