"""ValidatingAdmissionPolicies: what they see, refuse, warn of and record; parameters; matching."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from apiserver.cel.runtime import available
from tests.apiserver.harness import CONFIG_MAPS, Harness, config_map, harness, run

pytestmark = pytest.mark.skipif(not available(), reason="needs cel-expr-python")

Object = dict[str, Any]
ROOT = "/apis/admissionregistration.k8s.io/v1"
POLICIES, BINDINGS = f"{ROOT}/validatingadmissionpolicies", f"{ROOT}/validatingadmissionpolicybindings"
RULE = {
    "apiGroups": [""],
    "apiVersions": ["v1"],
    "operations": ["CREATE", "UPDATE"],
    "resources": ["configmaps"],
}


def policy(expression: str = "object.data.x == 'good'", **spec: Any) -> Object:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "demo"},
        "spec": {
            "matchConstraints": {"resourceRules": [RULE]},
            "validations": [{"expression": expression}],
            **spec,
        },
    }


def binding(*actions: str, name: str = "bound", **spec: Any) -> Object:
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": "demo", "validationActions": list(actions) or ["Deny"], **spec},
    }


async def install(api: Harness, what: Object, *bindings: Object) -> None:
    await api.ok("POST", POLICIES, what)
    for each in bindings or (binding(),):
        await api.ok("POST", BINDINGS, each)
    await api.ok("GET", BINDINGS)  # a consistent read: the cache has seen them


async def refused(api: Harness, sent: Object, code: int = 422, reason: str = "Invalid") -> str:
    status = await api.fails(code, reason, "POST", CONFIG_MAPS, sent)
    return str(status["message"])


def test_a_failed_expression_denies_in_the_words_of_kubernetes() -> None:
    async def body(api: Harness) -> None:
        await install(api, policy())
        text = await refused(api, config_map("a", x="bad"))
        assert text == (
            "configmaps \"a\" is forbidden: ValidatingAdmissionPolicy 'demo' with binding 'bound' denied "
            "request: failed expression: object.data.x == 'good'"
        )
        await api.ok("POST", CONFIG_MAPS, config_map("a", x="good"))
        got = await api.ok("GET", f"{CONFIG_MAPS}/a")
        await api.fails(422, "Invalid", "PUT", f"{CONFIG_MAPS}/a", {**got, "data": {"x": "bad"}})
        await api.ok("DELETE", f"{CONFIG_MAPS}/a")  # not among the operations
        table = await api.ok(
            "GET", f"{POLICIES}/demo", headers={"accept": "application/json;as=Table;g=meta.k8s.io;v=v1"}
        )
        assert table["rows"][0]["cells"][:3] == ["demo", 1, "<unset>"]

    run(body)


def test_messages_reasons_and_variables() -> None:
    async def body(api: Harness) -> None:
        validations = [
            {
                "expression": "variables.x == 'good'",
                "messageExpression": "'not ' + variables.x + ' for ' + request.userInfo.username",
                "reason": "Forbidden",
            },
            {"expression": "variables.both", "message": " plain words "},
        ]
        variables = [
            {"name": "x", "expression": "object.data.x"},
            {
                "name": "both",
                "expression": "variables.x == 'good' && namespaceObject.metadata.name == 'default'",
            },
        ]
        await install(api, policy(validations=validations, variables=variables))
        text = await refused(api, config_map("a", x="bad"), 403, "Forbidden")
        assert text.endswith("denied request: not bad for admin")
        await api.ok("POST", CONFIG_MAPS, config_map("a", x="good"))
        validations[0]["expression"] = "true"
        got = await api.ok("GET", f"{POLICIES}/demo")
        got["spec"]["validations"] = validations
        await api.ok("PUT", f"{POLICIES}/demo", got)
        await api.ok("GET", POLICIES)
        assert (await refused(api, config_map("b", x="bad"))).endswith("denied request: plain words")

    run(body)


@pytest.mark.parametrize("ignores", [True, False])
def test_an_expression_that_ends_with_an_error(ignores: bool) -> None:
    async def body(api: Harness) -> None:
        await install(api, policy("object.data.nothing == 1", failurePolicy="Ignore" if ignores else "Fail"))
        if ignores:
            await api.ok("POST", CONFIG_MAPS, config_map("a", x="1"))
        else:
            text = await refused(api, config_map("a", x="1"))
            assert "expression 'object.data.nothing == 1' resulted in error: no such key: nothing" in text

    run(body)


def test_actions_warn_and_audit(tmp_path: Path) -> None:
    async def main() -> None:
        log = tmp_path / "audit.log"
        async with harness(f"--audit-log-path={log}") as api:
            annotations = [{"key": "value", "valueExpression": "'x is ' + object.data.x"}]
            await install(api, policy(auditAnnotations=annotations), binding("Warn", "Audit"))
            answer = await api.call("POST", CONFIG_MAPS, config_map("a", x="bad"))
            assert answer.status_code == 201
            assert answer.headers["warning"] == (
                "299 - \"Validation failed for ValidatingAdmissionPolicy 'demo' with binding 'bound': "
                "failed expression: object.data.x == 'good'\""
            )
        events = [orjson.loads(line) for line in log.read_bytes().splitlines()]
        told = next(
            event["annotations"]
            for event in events
            if event["verb"] == "create" and "demo/value" in event["annotations"]
        )
        assert told["demo/value"] == "x is bad"
        failure = orjson.loads(told["validation.policy.admission.k8s.io/validation_failure"])[0]
        assert failure["policy"] == "demo" and failure["validationActions"] == ["Warn", "Audit"]

    asyncio.run(main())


PARAMS: Object = {
    "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
    "matchConditions": [{"name": "no-params", "expression": "!object.metadata.name.startsWith('param')"}],
}


def test_parameters_by_name_and_by_selector() -> None:
    async def body(api: Harness) -> None:
        for name, most in (("param-1", "5"), ("param-2", "3")):
            sent = config_map(name, most=most)
            sent["metadata"]["labels"] = {"limits": "yes"}
            await api.ok("POST", CONFIG_MAPS, sent)
        by_name = {"name": "param-1", "namespace": "default", "parameterNotFoundAction": "Deny"}
        await install(
            api, policy("int(object.data.x) <= int(params.data.most)", **PARAMS), binding(paramRef=by_name)
        )
        await api.ok("POST", CONFIG_MAPS, config_map("a", x="4"))
        await refused(api, config_map("b", x="6"))
        selected = {"selector": {"matchLabels": {"limits": "yes"}}, "parameterNotFoundAction": "Deny"}
        await api.ok("POST", BINDINGS, binding(name="all", paramRef=selected))
        await api.ok("GET", BINDINGS)
        await refused(api, config_map("c", x="4"))  # param-2 allows 3
        await api.ok("POST", CONFIG_MAPS, config_map("c", x="3"))

    run(body)


@pytest.mark.parametrize("action", ["Deny", "Allow"])
def test_parameters_that_are_not_there(action: str) -> None:
    async def body(api: Harness) -> None:
        ref = {"name": "none", "namespace": "default", "parameterNotFoundAction": action}
        await install(api, policy("params.data.x == '1'", **PARAMS), binding(paramRef=ref))
        if action == "Allow":
            await api.ok("POST", CONFIG_MAPS, config_map("a"))
        else:
            text = await refused(api, config_map("a"))
            assert "no params found for policy binding with `Deny` parameterNotFoundAction" in text

    run(body)


def test_matching_by_namespace_name_and_exclusion() -> None:
    async def body(api: Harness) -> None:
        constraints = {
            "resourceRules": [RULE],
            "excludeResourceRules": [{**RULE, "resourceNames": ["free"]}],
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
        }
        within = {"objectSelector": {"matchLabels": {"checked": "yes"}}}
        await install(api, policy("false", matchConstraints=constraints), binding(matchResources=within))
        await api.ok("POST", CONFIG_MAPS, config_map("unlabelled"))
        for name, namespace, allowed in (
            ("a", "default", False),
            ("free", "default", True),
            ("a", "kube-system", True),
        ):
            sent = config_map(name)
            sent["metadata"]["labels"] = {"checked": "yes"}
            path = CONFIG_MAPS.replace("default", namespace)
            answer = await api.call("POST", path, sent)
            assert (answer.status_code == 201) is allowed, (name, namespace)

    run(body)


def test_the_object_of_another_version_is_judged_as_the_rule_names_it() -> None:
    async def body(api: Harness) -> None:
        rule = {**RULE, "apiGroups": ["autoscaling"], "apiVersions": ["v2"]}
        rule["resources"] = ["horizontalpodautoscalers"]
        expression = "object.spec.metrics[0].resource.target.averageUtilization < 50"
        await install(api, policy(expression, matchConstraints={"resourceRules": [rule]}))
        sent = {
            "kind": "HorizontalPodAutoscaler",
            "apiVersion": "autoscaling/v1",
            "metadata": {"name": "h"},
            "spec": {
                "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
                "maxReplicas": 3,
                "targetCPUUtilizationPercentage": 60,
            },
        }
        path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers"
        await api.fails(422, "Invalid", "POST", path, sent)
        sent["spec"]["targetCPUUtilizationPercentage"] = 40  # type: ignore[index]
        await api.ok("POST", path, sent)

    run(body)


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        (
            {"validations": [{"expression": "object."}]},
            "spec.validations[0].expression",
            "compilation failed",
        ),
        ({"validations": [{"expression": "params.x == 1"}]}, "spec.validations[0].expression", "undeclared"),
        ({"validations": [{"expression": "'x'"}]}, "spec.validations[0].expression", "must evaluate to bool"),
        ({"validations": []}, "spec.validations", "must contain at least one item"),
        (
            {"validations": [{"expression": "true", "reason": "Odd"}]},
            "spec.validations[0].reason",
            "Unsupported",
        ),
        ({"matchConstraints": {"resourceRules": []}}, "spec.matchConstraints.resourceRules", "Required"),
        ({"variables": [{"name": "a-b", "expression": "1"}]}, "spec.variables[0].name", "identifier"),
        ({"failurePolicy": "Maybe"}, "spec.failurePolicy", "Unsupported"),
    ],
)
def test_rules_of_policies(spec: Object, field: str, message: str) -> None:
    async def body(api: Harness) -> None:
        status = await api.fails(422, "Invalid", "POST", POLICIES, policy(**spec))
        causes = {cause["field"]: cause["message"] for cause in status["details"]["causes"]}
        assert message in causes[field]

    run(body)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"validationActions": ["Deny", "Warn"]}, "spec.validationActions"),
        ({"validationActions": ["Deny", "Deny"]}, "spec.validationActions[1]"),
        ({"validationActions": []}, "spec.validationActions"),
        ({"policyName": ""}, "spec.policyName"),
        ({"paramRef": {"parameterNotFoundAction": "Deny"}}, "spec.paramRef"),
        (
            {"paramRef": {"name": "a", "selector": {}, "parameterNotFoundAction": "Deny"}},
            "spec.paramRef.name",
        ),
        ({"paramRef": {"name": "a"}}, "spec.paramRef.parameterNotFoundAction"),
    ],
)
def test_rules_of_bindings(spec: Object, field: str) -> None:
    async def body(api: Harness) -> None:
        status = await api.fails(422, "Invalid", "POST", BINDINGS, binding(**spec))
        assert field in {cause["field"] for cause in status["details"]["causes"]}

    run(body)
