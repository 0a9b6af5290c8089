"""MutatingAdmissionPolicies: what they write, in which order, and what they may not."""

from __future__ import annotations

from typing import Any

import pytest

from apiserver.cel.literals import as_maps
from apiserver.cel.runtime import available
from tests.apiserver.harness import CONFIG_MAPS, Harness, config_map, run

pytestmark = pytest.mark.skipif(not available(), reason="needs cel-expr-python")

Object = dict[str, Any]
VERSION = "admissionregistration.k8s.io/v1beta1"
POLICIES, BINDINGS = (
    f"/apis/{VERSION}/mutatingadmissionpolicies",
    f"/apis/{VERSION}/mutatingadmissionpolicybindings",
)
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
RULE = {
    "apiGroups": ["", "apps"],
    "apiVersions": ["v1"],
    "operations": ["CREATE", "UPDATE"],
    "resources": ["configmaps", "deployments"],
}


def merges(expression: str) -> Object:
    return {"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}


def patches(expression: str) -> Object:
    return {"patchType": "JSONPatch", "jsonPatch": {"expression": expression}}


def policy(*mutations: Object, name: str = "demo", **spec: Any) -> Object:
    return {
        "apiVersion": VERSION,
        "kind": "MutatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [RULE]},
            "reinvocationPolicy": "Never",
            "mutations": list(mutations),
            **spec,
        },
    }


async def install(api: Harness, what: Object, **spec: Any) -> None:
    name = what["metadata"]["name"]
    await api.ok("POST", POLICIES, what)
    bound = {
        "apiVersion": VERSION,
        "kind": "MutatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, **spec},
    }
    await api.ok("POST", BINDINGS, bound)
    await api.ok("GET", BINDINGS)  # a consistent read: the cache has seen them


def deployment(**spec: Any) -> Object:
    labels = {"app": "a"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": labels}, "template": template, **spec},
    }


def test_a_configuration_is_merged_as_an_apply_would() -> None:
    """A sidecar beside the container, a label beside the others, a number in place of another."""
    text = """Object{
        metadata: Object.metadata{labels: {"by": "policy"}},
        spec: Object.spec{
            replicas: object.spec.replicas > 5 ? 5 : object.spec.replicas,
            template: Object.spec.template{spec: Object.spec.template.spec{
                containers: [Object.spec.template.spec.containers{name: "sidecar", image: "s:1"}]
            }}
        }
    }"""

    async def body(api: Harness) -> None:
        await install(
            api, policy(merges(text), matchConditions=[{"name": "d", "expression": "has(object.spec)"}])
        )
        made = await api.ok(
            "POST", DEPLOYMENTS, {**deployment(replicas=9), "metadata": {"name": "d", "labels": {"a": "b"}}}
        )
        assert made["metadata"]["labels"] == {"a": "b", "by": "policy"} and made["spec"]["replicas"] == 5
        names = [c["name"] for c in made["spec"]["template"]["spec"]["containers"]]
        assert sorted(names) == ["c", "sidecar"]
        added = next(c for c in made["spec"]["template"]["spec"]["containers"] if c["name"] == "sidecar")
        assert added["imagePullPolicy"] == "IfNotPresent"  # defaults come after it
        assert "labels" not in (await api.ok("POST", CONFIG_MAPS, config_map("a")))["metadata"]

    run(body)


def test_a_patch_and_what_later_mutations_see() -> None:
    path = '"/metadata/annotations/" + jsonpatch.escapeKey("a.b/c")'
    annotated = config_map("a", k="v")
    annotated["metadata"]["annotations"] = {"x": "y"}
    first = patches(
        f'[JSONPatch{{op: "add", path: {path}, value: variables.mark + jsonpatch.escapeKey("~/")}}]'
    )
    second = merges('Object{data: {"seen": object.metadata.annotations["a.b/c"] + "!"}}')

    async def body(api: Harness) -> None:
        marks = [{"name": "mark", "expression": "object.metadata.name + '-mark'"}]
        await install(api, policy(first, second, variables=marks))
        made = await api.ok("POST", f"{CONFIG_MAPS}", annotated)
        assert made["metadata"]["annotations"] == {"x": "y", "a.b/c": "a-mark~0~1"}
        assert made["data"] == {"k": "v", "seen": "a-mark~0~1!"}

    run(body)


def test_parameters_and_a_binding_that_narrows() -> None:
    async def body(api: Harness) -> None:
        await api.ok("POST", CONFIG_MAPS, config_map("params", team="red"))
        kind = {"apiVersion": "v1", "kind": "ConfigMap"}
        what = policy(
            merges('Object{metadata: Object.metadata{labels: {"team": params.data.team}}}'), paramKind=kind
        )
        only = {"objectSelector": {"matchLabels": {"want": "it"}}}
        ref = {"name": "params", "parameterNotFoundAction": "Deny"}
        await install(api, what, paramRef=ref, matchResources=only)
        wanted = config_map("a")
        wanted["metadata"]["labels"] = {"want": "it"}
        assert (await api.ok("POST", CONFIG_MAPS, wanted))["metadata"]["labels"]["team"] == "red"
        assert "labels" not in (await api.ok("POST", CONFIG_MAPS, config_map("b")))["metadata"]

    run(body)


def test_a_second_go_for_who_wants_it() -> None:
    count = merges('Object{data: {"n": string(int(object.data.n) + 1)}}')

    async def body(api: Harness) -> None:
        await install(api, policy(count, name="a-first", reinvocationPolicy="IfNeeded"))
        await install(api, policy(merges('Object{data: {"other": "x"}}'), name="b-second"))
        made = await api.ok("POST", CONFIG_MAPS, config_map("a", n="1"))
        assert made["data"] == {"n": "3", "other": "x"}

    run(body)


@pytest.mark.parametrize(
    ("mutation", "why"),
    [
        (
            merges('Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {"x": "y"}}}}'),
            "may not mutate atomic arrays, maps or structs: .spec.selector",
        ),
        (merges("Object{spec: Object.spec{nothing: 1}}"), ".spec.nothing: field not declared in schema"),
        (merges("Object{data: {'a': object.data.missing}}"), "no such key: data"),
        (patches("[JSONPatch{op: 'replace', path: '/spec/none/x', value: 1}]"), "denied request"),
        (patches("[JSONPatch{op: 'replace', path: '/metadata/name', value: 'other'}]"), "must not change"),
    ],
)
def test_what_cannot_be_done_is_refused_or_ignored(mutation: Object, why: str) -> None:
    async def body(api: Harness) -> None:
        await install(api, policy(mutation))
        status = await api.fails(422, "Invalid", "POST", DEPLOYMENTS, deployment())
        assert "policy 'demo' with binding 'demo' denied request" in status["message"]
        assert why in status["message"]
        patch = {"spec": {"failurePolicy": "Ignore"}}
        headers = {"content-type": "application/merge-patch+json"}
        await api.ok("PATCH", f"{POLICIES}/demo", patch, headers=headers)
        await api.ok("GET", POLICIES)
        await api.ok("POST", DEPLOYMENTS, deployment())

    run(body)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"mutations": []}, "spec.mutations"),
        ({"mutations": [{"patchType": "Other"}]}, "spec.mutations[0].patchType"),
        ({"mutations": [{"patchType": "JSONPatch"}]}, "spec.mutations[0].jsonPatch"),
        ({"mutations": [merges("1 +")]}, "spec.mutations[0].applyConfiguration.expression"),
        ({"mutations": [merges("[1]")]}, "spec.mutations[0].applyConfiguration.expression"),
        ({"mutations": [patches("Object{}")]}, "spec.mutations[0].jsonPatch.expression"),
        ({"reinvocationPolicy": ""}, "spec.reinvocationPolicy"),
        ({"matchConstraints": None}, "spec.matchConstraints"),
    ],
)
def test_what_a_policy_must_be(spec: Object, path: str) -> None:
    async def body(api: Harness) -> None:
        wrong = policy(merges("Object{}"))
        wrong["spec"].update(spec)
        status = await api.fails(422, "Invalid", "POST", POLICIES, wrong)
        assert path in [cause["field"] for cause in status["details"]["causes"]]

    run(body)


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ("Object{}", "{}"),
        ("Object.spec{a: 1, b: x ? 1 : 2}", '{"a": 1, "b": x ? 1 : 2}'),
        ("Object{`a.b/c`: 1, d__dash__e: 2}", '{"a.b/c": 1, "d-e": 2}'),
        ("[JSONPatch{op: 'add', value: {'a': b}}]", "[{\"op\": 'add', \"value\": {'a': b}}]"),
        ("Object{?a: optional.none(), b: [c, d]}", '{?"a": optional.none(), "b": [c, d]}'),
        ('\'Object{a: 1}\' + r\'\\\' + """Object{"""', '\'Object{a: 1}\' + r\'\\\' + """Object{"""'),
        ("object.Object.x", "object.Object.x"),
        ("Object // {a: 1}\n{a: 1}", '{"a": 1}'),
    ],
)
def test_literals_become_maps(given: str, made: str) -> None:
    assert as_maps(given) == made
