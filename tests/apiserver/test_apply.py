"""Server-side apply and managedFields over the API, then by an unmodified kubectl."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.apiserver.devserver import Running, running
from tests.apiserver.harness import CONFIG_MAPS, PODS, Harness, Object, config_map, run

DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
APPLY = {"content-type": "application/apply-patch+yaml"}
MERGE = {"content-type": "application/merge-patch+json"}
AGENT = {"user-agent": "tester/1.0 (linux)"}


def deployment(**spec: Any) -> Object:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template, **spec}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}


async def apply(api: Harness, path: str, config: Object, manager: str, query: str = "") -> httpx.Response:
    body = json.dumps(config).encode()
    return await api.call("PATCH", f"{path}?fieldManager={manager}{query}", body, headers=APPLY)


async def applied(api: Harness, path: str, config: Object, manager: str, query: str = "") -> Object:
    answer = await apply(api, path, config, manager, query)
    assert answer.status_code < 300, answer.text
    out: Object = answer.json()
    return out


def owned(obj: Object) -> dict[tuple[str, str, str], Any]:
    """(manager, operation, subresource) -> fieldsV1."""
    return {
        (entry["manager"], entry["operation"], entry.get("subresource", "")): entry["fieldsV1"]
        for entry in obj["metadata"].get("managedFields") or ()
    }


def test_apply_creates_then_changes_then_does_nothing() -> None:
    async def test(api: Harness) -> None:
        path = f"{CONFIG_MAPS}/a"
        first = await apply(api, path, config_map("a", k="1", gone="1"), "me")
        assert first.status_code == 201
        second = await apply(api, path, config_map("a", k="2"), "me")
        assert (second.status_code, second.json()["data"]) == (200, {"k": "2"})
        third = await applied(api, path, config_map("a", k="2"), "me")
        assert third["metadata"]["resourceVersion"] == second.json()["metadata"]["resourceVersion"]
        assert owned(third) == {("me", "Apply", ""): {"f:data": {"f:k": {}}}}

    run(test)


def test_apply_reads_yaml() -> None:
    async def test(api: Harness) -> None:
        body = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  k: '1'\n"
        made = await api.ok("PATCH", f"{CONFIG_MAPS}/a?fieldManager=me", body, headers=APPLY)
        assert made["data"] == {"k": "1"}
        twice = body + b"  k: '2'\n"
        strict = f"{CONFIG_MAPS}/a?fieldManager=me&fieldValidation=Strict"
        await api.fails(400, "BadRequest", "PATCH", strict, twice, headers=APPLY)
        await api.fails(
            400, "BadRequest", "PATCH", f"{CONFIG_MAPS}/a?fieldManager=me", b"a: [", headers=APPLY
        )
        await api.fails(400, "BadRequest", "PATCH", f"{CONFIG_MAPS}/a?fieldManager=me", b"- 1", headers=APPLY)

    run(test)


def test_what_an_apply_must_say() -> None:
    async def test(api: Harness) -> None:
        path, config = f"{CONFIG_MAPS}/a", json.dumps(config_map("a")).encode()
        status = await api.fails(422, "Invalid", "PATCH", path, config, headers=APPLY)
        assert status["message"] == (
            'PatchOptions.meta.k8s.io "" is invalid: '
            "fieldManager: Required value: is required for apply patch"
        )
        forced = await api.fails(422, "Invalid", "PATCH", f"{path}?force=true", b"{}", headers=MERGE)
        assert "may not be specified for non-apply patch" in forced["message"]
        named = f"{path}?fieldManager={'x' * 129}"
        await api.fails(422, "Invalid", "PATCH", named, config, headers=APPLY)
        await api.fails(422, "Invalid", "PATCH", f"{path}?fieldManager=%01", config, headers=APPLY)
        untyped = await apply(api, path, {"metadata": {"name": "a"}}, "me")
        assert (untyped.status_code, untyped.json()["message"]) == (400, "invalid object type: /, Kind=")
        other = await apply(api, path, config_map("b"), "me")
        assert other.status_code == 400 and "does not match" in other.json()["message"]
        meant = config_map("a")
        meant["metadata"]["uid"] = "1234"
        assert (await apply(api, path, meant, "me")).status_code == 409
        wrong = await apply(api, path, {**config_map("a"), "dada": {}}, "me")
        assert wrong.status_code == 400 and ".dada: field not declared in schema" in wrong.json()["message"]
        for metadata in ("x", [1], 1, {"name": 1}, {"labels": "x"}, {"name": "a", "finalizers": [{}]}):
            bad = await apply(api, path, {**config_map("a"), "metadata": metadata}, "me")
            assert bad.status_code == 400, bad.text
        await api.fails(404, "NotFound", "GET", path)

    run(test)


def test_a_conflict_its_causes_and_force() -> None:
    async def test(api: Harness) -> None:
        await api.ok("POST", f"{DEPLOYMENTS}?fieldManager=kubectl-client-side-apply", deployment(replicas=1))
        path = f"{DEPLOYMENTS}/web"
        refused = await apply(api, path, deployment(replicas=2), "me")
        assert (refused.status_code, refused.json()) == (
            409,
            {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": "Apply failed with 1 conflict: conflict with "
                '"kubectl-client-side-apply" using apps/v1: .spec.replicas',
                "reason": "Conflict",
                "details": {
                    "causes": [
                        {
                            "reason": "FieldManagerConflict",
                            "message": 'conflict with "kubectl-client-side-apply" using apps/v1',
                            "field": ".spec.replicas",
                        }
                    ]
                },
                "code": 409,
            },
        )
        forced = await applied(api, path, deployment(replicas=2), "me", "&force=true")
        assert forced["spec"]["replicas"] == 2 and forced["metadata"]["generation"] == 2
        assert "f:replicas" not in owned(forced)[("kubectl-client-side-apply", "Update", "")]["f:spec"]

    run(test)


def test_a_false_that_is_applied_overrules_a_true() -> None:
    """A zero that Go would leave out is still what the configuration says."""

    async def test(api: Harness) -> None:
        path = f"{DEPLOYMENTS}/web"
        await applied(api, path, deployment(paused=True), "me")
        assert "paused" not in (await applied(api, path, deployment(paused=False), "me"))["spec"]

    run(test)


def test_what_nobody_applies_any_more_goes_as_far_as_the_object_stays_valid() -> None:
    async def test(api: Harness) -> None:
        path = f"{DEPLOYMENTS}/web"
        made = await applied(api, path, deployment(replicas=3, minReadySeconds=5), "me")
        assert made["spec"]["minReadySeconds"] == 5
        less = await applied(api, path, deployment(), "me")
        # Its default comes in the place of what is gone.
        assert less["spec"]["replicas"] == 1 and "minReadySeconds" not in less["spec"]
        bare = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}}
        refused = await apply(api, path, bare, "me")
        assert (refused.status_code, refused.json()["reason"]) == (422, "Invalid"), refused.text

    run(test)


def test_dry_run_stores_nothing() -> None:
    async def test(api: Harness) -> None:
        path = f"{CONFIG_MAPS}/a"
        made = await applied(api, path, config_map("a", k="1"), "me", "&dryRun=All")
        assert owned(made) == {("me", "Apply", ""): {"f:data": {"f:k": {}}}}
        await api.fails(404, "NotFound", "GET", path)
        kept = await applied(api, path, config_map("a", k="1"), "me")
        assert (await applied(api, path, config_map("a", k="2"), "me", "&dryRun=All"))["data"] == {"k": "2"}
        assert await api.ok("GET", path) == kept

    run(test)


def test_creating_by_apply_needs_the_right_to_create() -> None:
    async def test(api: Harness) -> None:
        rules = [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["patch"]}]
        roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
        await api.ok("POST", f"{roles}/roles", {"metadata": {"name": "r"}, "rules": rules})
        subject = {"kind": "User", "name": "bob", "apiGroup": "rbac.authorization.k8s.io"}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}
        await api.ok(
            "POST",
            f"{roles}/rolebindings",
            {"metadata": {"name": "r"}, "subjects": [subject], "roleRef": role},
        )
        path, body = f"{CONFIG_MAPS}/a?fieldManager=me", json.dumps(config_map("a", k="1")).encode()
        await api.server.registry.reader.reach("")
        status = await api.fails(403, "Forbidden", "PATCH", path, body, headers=APPLY, user="bob")
        assert 'User "bob" cannot create resource "configmaps"' in status["message"]
        await api.ok("POST", CONFIG_MAPS, config_map("a"))
        await api.ok("PATCH", path, body, headers=APPLY, user="bob")

    run(test)


def test_every_write_is_tracked_under_its_name() -> None:
    async def test(api: Harness) -> None:
        made = await api.ok("POST", CONFIG_MAPS, config_map("a", k="1"), headers=AGENT)
        assert owned(made) == {("tester", "Update", ""): {"f:data": {".": {}, "f:k": {}}}}
        path = f"{CONFIG_MAPS}/a"
        put = await api.ok("PUT", f"{path}?fieldManager=putter", {**made, "data": {"k": "1", "p": "1"}})
        patched = await api.ok("PATCH", f"{path}?fieldManager=patcher", b'{"data":{"k":"2"}}', headers=MERGE)
        assert owned(put)[("putter", "Update", "")] == {"f:data": {"f:p": {}}}
        assert owned(patched) == {
            ("patcher", "Update", ""): {"f:data": {"f:k": {}}},
            ("putter", "Update", ""): {"f:data": {"f:p": {}}},
            ("tester", "Update", ""): {"f:data": {}},
        }

    run(test)


def test_a_write_that_changes_nothing_keeps_its_version() -> None:
    async def test(api: Harness) -> None:
        made = await api.ok("POST", CONFIG_MAPS, config_map("a", k="1"), headers=AGENT)
        again = await api.ok("PUT", f"{CONFIG_MAPS}/a?fieldManager=other", made)
        assert again == made

    run(test)


def test_status_and_spec_have_owners_of_their_own() -> None:
    async def test(api: Harness) -> None:
        made = await api.ok("POST", f"{DEPLOYMENTS}?fieldManager=me", deployment())
        path = f"{DEPLOYMENTS}/web"
        status = {**made, "status": {"observedGeneration": 1, "replicas": 1}, "spec": {}}
        put = await api.ok("PUT", f"{path}/status?fieldManager=controller", status)
        assert owned(put)[("controller", "Update", "status")] == {
            "f:status": {"f:observedGeneration": {}, "f:replicas": {}}
        }
        assert "f:status" not in owned(put)[("me", "Update", "")]
        config = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}}
        late = {**config, "status": {"replicas": 5}, "spec": {"replicas": 9}}
        refused = await apply(api, f"{path}/status", late, "other")
        assert refused.json()["message"].endswith(
            'conflict with "controller" with subresource "status" using apps/v1: .status.replicas'
        )
        forced = await applied(api, f"{path}/status", late, "other", "&force=true")
        assert (forced["status"]["replicas"], forced["spec"]["replicas"]) == (5, 1)
        assert owned(forced)[("other", "Apply", "status")] == {"f:status": {"f:replicas": {}}}

    run(test)


def test_scale_owns_the_replicas() -> None:
    async def test(api: Harness) -> None:
        await api.ok("POST", f"{DEPLOYMENTS}?fieldManager=me", deployment(replicas=1))
        path = f"{DEPLOYMENTS}/web"
        body = b'{"spec":{"replicas":3}}'
        await api.ok("PATCH", f"{path}/scale?fieldManager=hpa", body, headers=MERGE)
        found = await api.ok("GET", path)
        assert owned(found)[("hpa", "Update", "scale")] == {"f:spec": {"f:replicas": {}}}
        scale = {"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "web"}}
        config = {**scale, "spec": {"replicas": 4}}
        assert (await apply(api, f"{path}/scale", config, "other")).status_code == 409
        answer = await applied(api, f"{path}/scale", config, "other", "&force=true")
        assert (answer["kind"], answer["spec"]["replicas"]) == ("Scale", 4)
        assert owned(await api.ok("GET", path))[("other", "Apply", "scale")] == {"f:spec": {"f:replicas": {}}}

    run(test)


def test_owners_can_be_forgotten_by_one_empty_entry() -> None:
    async def test(api: Harness) -> None:
        await api.ok("POST", CONFIG_MAPS, config_map("a", k="1"), headers=AGENT)
        path = f"{CONFIG_MAPS}/a"
        kept = await api.ok("PATCH", path, b'{"metadata":{"managedFields":[]}}', headers=MERGE)
        assert owned(kept)
        reset = await api.ok("PATCH", path, b'{"metadata":{"managedFields":[{}]}}', headers=MERGE)
        assert "managedFields" not in reset["metadata"]
        body = b'{"data":{"k":"2"}}'
        assert "managedFields" not in (await api.ok("PATCH", path, body, headers=MERGE))["metadata"]
        late = await applied(api, path, config_map("a", z="1"), "me")
        assert set(owned(late)) == {("me", "Apply", ""), ("before-first-apply", "Update", "")}

    run(test)


def test_a_binding_and_what_admission_adds_belong_to_nobody() -> None:
    async def test(api: Harness) -> None:
        account = {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default"}}
        await api.ok("POST", "/api/v1/namespaces/default/serviceaccounts", account)
        spec = {"containers": [{"name": "c", "image": "i"}]}
        pod = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}, "spec": spec}
        made = await api.ok("POST", f"{PODS}?fieldManager=me", pod)
        fields = owned(made)[("me", "Update", "")]["f:spec"]
        assert "f:restartPolicy" in fields and "f:serviceAccountName" not in fields
        assert made["spec"]["serviceAccountName"] == "default"
        target = {"target": {"kind": "Node", "name": "n"}, "metadata": {"name": "p"}}
        await api.ok("POST", f"{PODS}/p/binding?fieldManager=scheduler", target)
        bound = await api.ok("GET", f"{PODS}/p")
        assert bound["spec"]["nodeName"] == "n" and set(owned(bound)) == {("me", "Update", "")}

    run(test)


def test_apply_with_a_version_is_optimistic() -> None:
    async def test(api: Harness) -> None:
        path = f"{CONFIG_MAPS}/a"
        first = await applied(api, path, config_map("a", k="1"), "me")
        await applied(api, path, config_map("a", k="2"), "me")
        late = config_map("a", k="3")
        late["metadata"]["resourceVersion"] = first["metadata"]["resourceVersion"]
        refused = await apply(api, path, late, "me")
        assert refused.status_code == 409 and "has been modified" in refused.json()["message"]

    run(test)


def test_two_who_apply_at_once_both_have_it_their_way() -> None:
    async def test(api: Harness) -> None:
        path = f"{CONFIG_MAPS}/a"
        names = [f"m{at}" for at in range(6)]
        async with asyncio.TaskGroup() as tasks:
            for name in names:
                tasks.create_task(applied(api, path, config_map("a", **{name: "1"}), name), name=name)
        found = await api.ok("GET", path)
        assert found["data"] == dict.fromkeys(names, "1")
        assert owned(found) == {(name, "Apply", ""): {"f:data": {f"f:{name}": {}}} for name in names}

    run(test)


PARTS = {
    "type": "array",
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["name"],
    "items": {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "n": {"type": "integer"}},
    },
}
WIDGETS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.example.io"},
    "spec": {
        "group": "example.io",
        "scope": "Namespaced",
        "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {"spec": {"type": "object", "properties": {"parts": PARTS}}},
                    }
                },
            }
        ],
    },
}


def widget(*parts: Object) -> Object:
    spec = {"parts": list(parts)}
    return {"apiVersion": "example.io/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": spec}


def test_a_custom_resource_is_owned_by_its_schema() -> None:
    async def test(api: Harness) -> None:
        definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        await api.ok("POST", definitions, WIDGETS)
        widgets = "/apis/example.io/v1/namespaces/default/widgets"
        async with asyncio.timeout(10):
            while True:
                if (await api.call("GET", widgets)).status_code == 200:
                    break
                await api.server.registry.reader.reach("")
        path = f"{widgets}/w"
        await applied(api, path, widget({"name": "x", "n": 1}), "a")
        both = await applied(api, path, widget({"name": "y", "n": 1}), "b")
        assert both["spec"]["parts"] == [{"name": "x", "n": 1}, {"name": "y", "n": 1}]
        refused = (await apply(api, path, widget({"name": "x", "n": 2}), "b")).json()
        assert refused["message"] == (
            'Apply failed with 1 conflict: conflict with "a": .spec.parts[name="x"].n'
        )
        assert (await applied(api, path, widget(), "a"))["spec"]["parts"] == [{"name": "y", "n": 1}]
        wrong = (await apply(api, path, {**widget(), "spec": {"colour": 1}}, "a")).json()
        assert wrong["code"] == 400 and ".spec.colour: field not declared in schema" in wrong["message"]

    run(test)


# -- kubectl ------------------------------------------------------------------------------------------------

MANIFEST = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: busybox, ports: [{containerPort: 80}]}]}
"""
needs_kubectl = pytest.mark.skipif(
    shutil.which("etcd") is None or shutil.which("kubectl") is None, reason="needs etcd and kubectl"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("dev"), quiet=True) as started:
        yield started


def kubectl(server: Running, *arguments: str, stdin: str = "", code: int = 0) -> str:
    """Its output; on failure what it says about that."""
    command = ["kubectl", f"--kubeconfig={server.admin}", f"--cache-dir={_cache(server)}", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout if not code or not done.stderr else done.stderr


def _cache(server: Running) -> Path:
    return server.directory / "cache"


def server_side(server: Running, manifest: str, *more: str, code: int = 0) -> str:
    return kubectl(server, "apply", "--server-side", "-f", "-", *more, stdin=manifest, code=code)


@needs_kubectl
def test_kubectl_applies_conflicts_and_forces(server: Running) -> None:
    manifest = MANIFEST.replace("NAME", "one")
    assert server_side(server, manifest) == "deployment.apps/one serverside-applied\n"
    kubectl(server, "scale", "deploy/one", "--replicas=2")
    refused = server_side(server, manifest, code=1)
    assert 'Apply failed with 1 conflict: conflict with "kubectl" with subresource "scale"' in refused
    assert ".spec.replicas" in refused and "--force-conflicts" in refused
    server_side(server, manifest, "--force-conflicts")
    assert kubectl(server, "get", "deploy", "one", "-o", "jsonpath={.spec.replicas}") == "3"
    other = server_side(server, manifest.replace("busybox", "b:2"), "--field-manager=other", code=1)
    assert 'conflict with "kubectl": .spec.template.spec.containers[name="c"].image' in other
    wrong = server_side(server, manifest.replace("replicas", "replica"), code=1)
    assert ".spec.replica: field not declared in schema" in wrong


@needs_kubectl
def test_kubectl_diff_shows_what_an_apply_would_change(server: Running) -> None:
    manifest = MANIFEST.replace("NAME", "two")
    server_side(server, manifest)
    assert kubectl(server, "diff", "--server-side", "-f", "-", stdin=manifest) == ""
    changed = manifest.replace("busybox", "busybox:2")
    shown = kubectl(server, "diff", "--server-side", "-f", "-", stdin=changed, code=1)
    assert "-      - image: busybox\n" in shown and "+      - image: busybox:2\n" in shown
    assert kubectl(server, "get", "deploy", "two", "-o", "jsonpath={..image}") == "busybox"


@needs_kubectl
def test_kubectl_shows_managed_fields_when_asked(server: Running) -> None:
    kubectl(server, "create", "configmap", "c", "--from-literal=a=b")
    assert "managedFields" not in kubectl(server, "get", "cm", "c", "-o", "yaml")
    shown = json.loads(kubectl(server, "get", "cm", "c", "-o", "json", "--show-managed-fields"))
    assert owned(shown) == {("kubectl-create", "Update", ""): {"f:data": {".": {}, "f:a": {}}}}


@needs_kubectl
def test_kubectl_moves_from_client_side_to_server_side_and_back(server: Running) -> None:
    manifest = MANIFEST.replace("NAME", "three")
    kubectl(server, "apply", "-f", "-", stdin=manifest)
    server_side(server, manifest.replace("replicas: 3", "replicas: 4"))
    shown = json.loads(kubectl(server, "get", "deploy", "three", "-o", "json", "--show-managed-fields"))
    assert shown["spec"]["replicas"] == 4
    assert ("kubectl", "Apply", "") in owned(shown)
    assert ("kubectl-client-side-apply", "Update", "") not in owned(shown)
    assert "configured" in kubectl(server, "apply", "-f", "-", stdin=manifest)
    assert kubectl(server, "get", "deploy", "three", "-o", "jsonpath={.spec.replicas}") == "3"
