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


def test_match_conditions_are_refused_by_name() -> None:
    async def body() -> None:
        async with harness() as api:
            conditions = [{"name": "x", "expression": "true"}]
            sent = configuration(
                "ValidatingWebhookConfiguration", "https://x.test", "", matchConditions=conditions
            )
            path = f"{HOOKS}/validatingwebhookconfigurations"
            status = await api.fails(422, "Invalid", "POST", path, sent)
            assert "match conditions (CEL) are not supported" in status["message"]
            sent = configuration("ValidatingWebhookConfiguration", "http://x.test", "")
            assert "'https' is the only" in (await api.fails(422, "Invalid", "POST", path, sent))["message"]

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
