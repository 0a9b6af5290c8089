"""Dynamic admission against a webhook server of our own, over TLS."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from apiserver.admission.webhookrules import matches
from apiserver.auth.user import User
from apiserver.cel.runtime import available
from apiserver.kinds import SCHEME
from apiserver.registry.call import Call
from pki.ca import Authority, certificate_pem, key_pem
from pki.certs import Profile, Usage
from tests.apiserver.harness import CONFIG_MAPS, Harness, config_map, harness

Object = dict[str, Any]
Respond = Callable[[Object], Object]
HOOKS = "/apis/admissionregistration.k8s.io/v1"


@contextlib.asynccontextmanager
async def webhook(
    directory: Path, respond: Respond, *, delay: float = 0
) -> AsyncIterator[tuple[str, str, list[Object]]]:
    """A server on loopback; gives its URL, its CA bundle and the requests it was asked about."""
    cert, key, bundle = credentials(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    asked: list[Object] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length")
        )
        request = orjson.loads(await reader.readexactly(length))["request"]
        asked.append(request)
        await asyncio.sleep(delay)
        response = {"uid": request["uid"], "allowed": True, **respond(request)}
        body = orjson.dumps(
            {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}
        )
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
            b"content-length: %d\r\n\r\n" % len(body) + body
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield f"https://127.0.0.1:{port}/check", bundle, asked


def credentials(directory: Path) -> tuple[Path, Path, str]:
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    authority = Authority.create("webhook-ca", keys[0])
    profile = Profile(
        common_name="hook", dns=("hook.default.svc",), ips=("127.0.0.1",), usages=frozenset({Usage.SERVER})
    )
    cert, key = directory / "cert.pem", directory / "key.pem"
    cert.write_bytes(certificate_pem(authority.issue(profile, keys[1])))
    key.write_bytes(key_pem(keys[1]))
    return cert, key, base64.b64encode(authority.pem).decode()


def configuration(kind: str, url: str, bundle: str, **hook: Any) -> Object:
    entry = {
        "name": "check.example.com",
        "clientConfig": {"url": url, "caBundle": bundle},
        "rules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}
        ],
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}},
        **hook,
    }
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": "test"},
        "webhooks": [entry],
    }


async def register(api: Harness, kind: str, url: str, bundle: str, **hook: Any) -> None:
    resource = f"{HOOKS}/{kind.lower()}s"
    await api.ok("POST", resource, configuration(kind, url, bundle, **hook))
    await api.ok("GET", resource)


def patching(request: Object) -> Object:
    patch = [{"op": "add", "path": "/data/added", "value": request["operation"]}]
    return {
        "patchType": "JSONPatch",
        "patch": base64.b64encode(orjson.dumps(patch)).decode(),
        "warnings": ["hello"],
    }


def test_a_mutating_webhook_changes_the_object(tmp_path: Path) -> None:
    async def body() -> None:
        async with harness() as api, webhook(tmp_path, patching) as (url, bundle, asked):
            await register(api, "MutatingWebhookConfiguration", url, bundle)
            answer = await api.call("POST", CONFIG_MAPS, config_map("a", x="1"))
            assert answer.json()["data"] == {"x": "1", "added": "CREATE"}
            assert answer.headers["warning"] == '299 - "hello"'
            assert asked[0]["userInfo"]["username"] == "admin" and asked[0]["dryRun"] is False
            assert asked[0]["resource"] == {"group": "", "version": "v1", "resource": "configmaps"}
            skipped = config_map("b", x="1")
            skipped["metadata"]["labels"] = {"skip": "me"}
            await api.ok("POST", CONFIG_MAPS, skipped)
            await api.ok("POST", CONFIG_MAPS.replace("default", "kube-system"), config_map("c"))
            assert len(asked) == 1

    asyncio.run(body())


def test_a_validating_webhook_refuses_and_sees_deletions(tmp_path: Path) -> None:
    def refuse(request: Object) -> Object:
        if request["operation"] == "CREATE":
            return {}
        return {"allowed": False, "status": {"code": 403, "reason": "Forbidden", "message": "keep it"}}

    async def body() -> None:
        async with harness() as api, webhook(tmp_path, refuse) as (url, bundle, asked):
            await register(api, "ValidatingWebhookConfiguration", url, bundle)
            await api.ok("POST", CONFIG_MAPS, config_map("a", x="1"))
            status = await api.fails(403, "Forbidden", "DELETE", f"{CONFIG_MAPS}/a")
            assert status["message"] == 'admission webhook "check.example.com" denied the request: keep it'
            assert asked[-1]["operation"] == "DELETE" and asked[-1]["oldObject"]["data"] == {"x": "1"}
            assert asked[-1]["object"] is None

    asyncio.run(body())


def test_failure_policy_and_timeout(tmp_path: Path) -> None:
    async def body() -> None:
        async with harness() as api, webhook(tmp_path, lambda _: {}, delay=5) as (url, bundle, _):
            await register(api, "ValidatingWebhookConfiguration", url, bundle, timeoutSeconds=1)
            status = await api.fails(500, "InternalError", "POST", CONFIG_MAPS, config_map("a"))
            assert (
                'failed calling webhook "check.example.com": context deadline exceeded' in status["message"]
            )
            path = f"{HOOKS}/validatingwebhookconfigurations/test"
            patch = b'[{"op":"replace","path":"/webhooks/0/failurePolicy","value":"Ignore"}]'
            await api.ok("PATCH", path, patch, headers={"content-type": "application/json-patch+json"})
            await api.ok("GET", path)
            await api.ok("POST", CONFIG_MAPS, config_map("a"))

    asyncio.run(body())


def test_a_service_is_reached_at_its_endpoints(tmp_path: Path) -> None:
    async def body() -> None:
        async with harness() as api, webhook(tmp_path, patching) as (url, bundle, asked):
            service = {"name": "hook", "namespace": "default", "path": "/check"}
            await register(
                api,
                "MutatingWebhookConfiguration",
                url,
                bundle,
                clientConfig={"service": service, "caBundle": bundle},
            )
            status = await api.fails(500, "InternalError", "POST", CONFIG_MAPS, config_map("a", x="1"))
            assert 'service "hook" not found' in status["message"]
            await expose(api, int(url.split(":")[2].split("/")[0]))
            await api.ok("POST", CONFIG_MAPS, config_map("a", x="1"))
            assert asked[0]["name"] == "a"

    asyncio.run(body())


async def expose(api: Harness, port: int) -> None:
    service = {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": "hook"},
        "spec": {"ports": [{"port": 443}]},
    }
    await api.ok("POST", "/api/v1/namespaces/default/services", service)
    slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    labels = {"kubernetes.io/service-name": "hook"}
    endpoints = {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": "hook-1", "labels": labels},
        "addressType": "IPv4",
        "ports": [{"port": port, "name": ""}],
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
    }
    await api.ok("POST", slices, endpoints)
    await api.ok("GET", slices)


needs_cel = pytest.mark.skipif(not available(), reason="needs cel-expr-python")


@needs_cel
def test_match_conditions_decide_which_requests_are_sent(tmp_path: Path) -> None:
    async def body() -> None:
        async with harness() as api, webhook(tmp_path, lambda _: {}) as (url, bundle, asked):
            conditions = [
                {"name": "not-mine", "expression": "request.userInfo.username != 'mine'"},
                {"name": "has-data", "expression": "object.data.size() > 0"},
                {"name": "may", "expression": "authorizer.group('').resource('pods').check('get').allowed()"},
            ]
            await register(api, "ValidatingWebhookConfiguration", url, bundle, matchConditions=conditions)
            await api.ok("POST", CONFIG_MAPS, config_map("a", x="1"))
            assert len(asked) == 1
            await api.ok("POST", CONFIG_MAPS, config_map("b", x="1"), user="mine;system:masters")
            assert len(asked) == 1
            sent = config_map("c")
            del sent["data"]
            refused = await api.fails(403, "Forbidden", "POST", CONFIG_MAPS, sent)
            assert (
                "expression 'object.data.size() > 0' resulted in error: no such key: data"
                in refused["message"]
            )

    asyncio.run(body())


@needs_cel
def test_bad_configurations_are_refused_with_their_paths() -> None:
    async def body() -> None:
        async with harness() as api:
            path = f"{HOOKS}/validatingwebhookconfigurations"
            for expression, why in (
                ("object.", "compilation failed"),
                ("params.x", "undeclared reference"),
                ("1", "bool"),
            ):
                conditions = [{"name": "x", "expression": expression}]
                kind = "ValidatingWebhookConfiguration"
                sent = configuration(kind, "https://x.test", "", matchConditions=conditions)
                status = await api.fails(422, "Invalid", "POST", path, sent)
                cause = status["details"]["causes"][0]
                assert (
                    cause["field"] == "webhooks[0].matchConditions[0].expression" and why in cause["message"]
                )
            sent = configuration("ValidatingWebhookConfiguration", "http://x.test", "")
            assert "'https' is the only" in (await api.fails(422, "Invalid", "POST", path, sent))["message"]

    asyncio.run(body())


SCALER: Object = {
    "kind": "HorizontalPodAutoscaler",
    "apiVersion": "autoscaling/v1",
    "metadata": {"name": "h"},
    "spec": {
        "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
        "maxReplicas": 3,
        "targetCPUUtilizationPercentage": 50,
    },
}


@pytest.mark.parametrize("policy", ["Equivalent", "Exact"])
def test_a_rule_for_another_version_sees_that_version(tmp_path: Path, policy: str) -> None:
    def lower(request: Object) -> Object:
        patch = [{"op": "replace", "path": "/spec/metrics/0/resource/target/averageUtilization", "value": 20}]
        return {"patchType": "JSONPatch", "patch": base64.b64encode(orjson.dumps(patch)).decode()}

    async def body() -> None:
        async with harness() as api, webhook(tmp_path, lower) as (url, bundle, asked):
            rule = {
                "apiGroups": ["autoscaling"],
                "apiVersions": ["v2"],
                "operations": ["*"],
                "resources": ["horizontalpodautoscalers"],
            }
            await register(api, "MutatingWebhookConfiguration", url, bundle, rules=[rule], matchPolicy=policy)
            path = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers"
            made = await api.ok("POST", path, SCALER)
            if policy == "Exact":
                assert not asked and made["spec"]["targetCPUUtilizationPercentage"] == 50
                return
            assert asked[0]["kind"]["version"] == "v2" and asked[0]["requestKind"]["version"] == "v1"
            assert asked[0]["object"]["apiVersion"] == "autoscaling/v2"
            assert made["apiVersion"] == "autoscaling/v1"
            assert made["spec"]["targetCPUUtilizationPercentage"] == 20

    asyncio.run(body())


@pytest.mark.parametrize(
    ("rule", "subresource", "wanted"),
    [
        ({"resources": ["*"]}, "", True),
        ({"resources": ["*"]}, "status", False),
        ({"resources": ["pods/*"]}, "status", True),
        ({"resources": ["*/status"]}, "status", True),
        ({"resources": ["pods"], "scope": "Cluster"}, "", False),
        ({"resources": ["pods"], "apiGroups": ["apps"]}, "", False),
        ({"resources": ["pods"], "operations": ["DELETE"]}, "", False),
    ],
)
def test_rules(rule: Object, subresource: str, wanted: bool) -> None:
    kind = SCHEME.resource("", "v1", "pods")
    assert kind is not None
    call = Call("create", kind, "default", "p", User("u"), subresource, obj={"metadata": {}})
    whole = {"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], **rule}
    assert matches(whole, call) is wanted
