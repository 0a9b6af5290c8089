"""Conversion webhooks: versions that differ, in every verb; what a webhook may not do; when it is away."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from apiserver.extensions.conversion import converted
from apiserver.registry.webhookclient import CallFailed
from apiserver.storage.interface import PREFIX
from tests.apiserver.extensions.test_crds import CRDS, condition, until
from tests.apiserver.harness import Harness, harness
from tests.apiserver.test_admission_webhooks import credentials, expose

Object = dict[str, Any]

NAME = "endpoints.stable.example.com"
V1 = "/apis/stable.example.com/v1/namespaces/default/endpoints"
V2 = "/apis/stable.example.com/v2/namespaces/default/endpoints"
KEY = f"{PREFIX}stable.example.com/endpoints/default/"


def schema(**fields: Object) -> Object:
    spec = {"type": "object", "properties": fields}
    return {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}


TEXT: Object = {"type": "string"}
V1_SCHEMA = schema(hostPort=TEXT, mode={**TEXT, "default": "one"})
V2_SCHEMA = schema(host=TEXT, port=TEXT, mode=TEXT)


def definition(client: Object, storage: str = "v1") -> Object:
    versions = [
        {"name": name, "served": True, "storage": name == storage, "schema": given}
        for name, given in (("v1", V1_SCHEMA), ("v2", V2_SCHEMA))
    ]
    webhook = {"clientConfig": client, "conversionReviewVersions": ["v1"]}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": "stable.example.com",
            "scope": "Namespaced",
            "names": {"plural": "endpoints", "kind": "Endpoint"},
            "versions": versions,
            "conversion": {"strategy": "Webhook", "webhook": webhook},
        },
    }


def convert(obj: Object, api_version: str) -> Object:
    """hostPort is `host:port`; a trace of the conversion is left in an annotation."""
    out: Object = orjson.loads(orjson.dumps(obj))
    out["apiVersion"] = api_version
    spec = out.get("spec") or {}
    if api_version.endswith("/v2"):
        spec["host"], _, spec["port"] = spec.pop("hostPort", ":").partition(":")
    else:
        spec["hostPort"] = f"{spec.pop('host', '')}:{spec.pop('port', '')}"
    out["spec"] = spec
    annotations = out["metadata"].setdefault("annotations", {})
    annotations["from"] = obj["apiVersion"].rpartition("/")[2]
    out["metadata"]["generation"] = 77  # not a webhook's to say
    return out


class Webhook:
    """A conversion webhook on loopback. `seen` are its requests; `fail` is what it answers with instead."""

    def __init__(self) -> None:
        self.seen: list[Object] = []
        self.fail: Object | None = None
        self.url = self.bundle = ""

    @property
    def client(self) -> Object:
        return {"url": self.url, "caBundle": self.bundle}

    @property
    def port(self) -> int:
        return int(self.url.split(":")[2].split("/")[0])

    def answer(self, request: Object) -> Object:
        self.seen.append(request)
        if self.fail is not None:
            return {"uid": request["uid"], "convertedObjects": [], "result": self.fail}
        found = [convert(obj, request["desiredAPIVersion"]) for obj in request["objects"]]
        return {"uid": request["uid"], "convertedObjects": found, "result": {"status": "Success"}}

    @contextlib.asynccontextmanager
    async def running(self, directory: Path) -> AsyncIterator[None]:
        cert, key, self.bundle = credentials(directory)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key)
        server = await asyncio.start_server(self._handle, "127.0.0.1", 0, ssl=context)
        async with server:
            self.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/convert"
            yield

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
        review = orjson.loads(await reader.readexactly(length))
        body = orjson.dumps({**review, "response": self.answer(review["request"])})
        head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        await writer.drain()
        writer.close()


def check(
    directory: Path, test: Callable[[Harness, Webhook], Awaitable[None]], *, storage: str = "v1"
) -> None:
    async def main() -> None:
        hook = Webhook()
        async with hook.running(directory), harness() as api:
            await api.ok("POST", CRDS, definition(hook.client, storage))
            await condition(api, NAME, "Established")
            await until(api, 200, "GET", V1)
            await test(api, hook)

    asyncio.run(main())


def endpoint(name: str, version: str = "v2", **spec: str) -> Object:
    return {
        "apiVersion": f"stable.example.com/{version}",
        "kind": "Endpoint",
        "metadata": {"name": name},
        "spec": spec,
    }


async def stored(api: Harness, name: str) -> Object:
    found, _ = await api.store.get(KEY + name)
    assert found is not None
    out: Object = orjson.loads(found.value)
    return out


def test_every_version_is_read_as_it_was_written(tmp_path: Path) -> None:
    async def test(api: Harness, hook: Webhook) -> None:
        made = await api.ok("POST", V2, endpoint("a", host="h", port="80"))
        assert made["apiVersion"] == "stable.example.com/v2" and made["spec"]["host"] == "h"
        kept = await stored(api, "a")
        assert kept["apiVersion"] == "stable.example.com/v1" and kept["spec"]["hostPort"] == "h:80"
        assert kept["metadata"]["generation"] == 1 and kept["metadata"]["annotations"] == {"from": "v2"}
        old = await api.ok("GET", f"{V1}/a")
        assert old["spec"] == {"hostPort": "h:80", "mode": "one"}
        new = await api.ok("GET", f"{V2}/a")
        assert (new["spec"]["host"], new["spec"]["port"]) == ("h", "80")
        assert made == new  # what a write answers is what the next read shows
        sent = hook.seen[0]
        assert sent["desiredAPIVersion"] == "stable.example.com/v1" and len(sent["objects"]) == 1

    check(tmp_path, test)


def test_what_needs_no_conversion_asks_nobody(tmp_path: Path) -> None:
    async def test(api: Harness, hook: Webhook) -> None:
        hook.fail = {"status": "Failure", "message": "never"}
        await api.ok("POST", V1, endpoint("a", "v1", hostPort="h:1"))
        before = len(hook.seen)
        assert (await api.ok("GET", f"{V1}/a"))["spec"]["hostPort"] == "h:1"
        assert len((await api.ok("GET", V1))["items"]) == 1
        status = await api.fails(500, "", "GET", f"{V2}/a")
        expected = "conversion webhook for stable.example.com/v1, Kind=Endpoint failed: never"
        assert status["message"] == expected
        assert len(hook.seen) > before
        hook.fail = None
        assert (await api.ok("GET", f"{V2}/a"))["spec"]["host"] == "h"  # asked again at once

    check(tmp_path, test)


def test_updates_patches_applies_and_deletions_in_the_other_version(tmp_path: Path) -> None:
    async def test(api: Harness, hook: Webhook) -> None:
        made = await api.ok("POST", V2, endpoint("a", host="h", port="80"))
        made["spec"]["port"] = "81"
        assert (await api.ok("PUT", f"{V2}/a", made))["spec"]["port"] == "81"
        merge = {"content-type": "application/merge-patch+json"}
        patched = await api.ok("PATCH", f"{V2}/a", {"spec": {"host": "i"}}, headers=merge)
        assert patched["spec"]["host"] == "i" and patched["metadata"]["generation"] == 3
        apply = {"content-type": "application/apply-patch+yaml"}
        applied = await api.ok(
            "PATCH", f"{V2}/b?fieldManager=me", endpoint("b", host="x", port="1"), headers=apply
        )
        assert applied["metadata"]["managedFields"][0]["apiVersion"] == "stable.example.com/v2"
        assert (await api.ok("GET", f"{V1}/b"))["spec"]["hostPort"] == "x:1"
        await api.ok("DELETE", f"{V2}/a")
        await api.fails(404, "NotFound", "GET", f"{V1}/a")
        assert [item["metadata"]["name"] for item in (await api.ok("GET", V2))["items"]] == ["b"]

    check(tmp_path, test)


def test_lists_are_converted_in_one_request_and_watches_in_order(tmp_path: Path) -> None:
    async def test(api: Harness, hook: Webhook) -> None:
        for name in "abc":
            await api.ok("POST", V1, endpoint(name, "v1", hostPort=f"{name}:1"))
        listed = await api.ok("GET", V2)
        assert [item["spec"]["host"] for item in listed["items"]] == ["a", "b", "c"]
        start = listed["metadata"]["resourceVersion"]
        for name in "ab":
            await api.ok("DELETE", f"{V1}/{name}")
        await api.ok("POST", V1, endpoint("d", "v1", hostPort="d:1"))
        answer = await api.call("GET", f"{V2}?watch=true&resourceVersion={start}&timeoutSeconds=1")
        events = [orjson.loads(line) for line in answer.text.splitlines()]
        seen = [(event["type"], event["object"]["spec"]["host"]) for event in events]
        assert seen == [("DELETED", "a"), ("DELETED", "b"), ("ADDED", "d")]

    check(tmp_path, test)


def test_objects_of_an_earlier_storage_version_are_still_read(tmp_path: Path) -> None:
    async def test(api: Harness, hook: Webhook) -> None:
        await api.ok("POST", V1, endpoint("old", "v1", hostPort="h:1"))
        crd = await api.ok("GET", f"{CRDS}/{NAME}")
        for version in crd["spec"]["versions"]:
            version["storage"] = version["name"] == "v2"
        await api.ok("PUT", f"{CRDS}/{NAME}", crd)

        async with asyncio.timeout(60):
            while (await api.ok("GET", f"{CRDS}/{NAME}"))["status"]["storedVersions"] != ["v1", "v2"]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            while True:  # until the new storage version is the one that is written
                await api.ok("POST", V2, endpoint("new", host="n", port="2"))
                if (await stored(api, "new"))["apiVersion"].endswith("/v2"):
                    break
                await api.ok("DELETE", f"{V2}/new")
        before = len(hook.seen)
        listed = await api.ok("GET", V2)
        assert [item["spec"]["host"] for item in listed["items"]] == ["n", "h"]
        await api.ok("GET", V1)
        assert all(len(request["objects"]) == 1 for request in hook.seen[before:])
        got = await api.ok("GET", f"{V2}/old")
        await api.ok("PUT", f"{V2}/old", {**got, "spec": {**got["spec"], "port": "9"}})
        assert (await stored(api, "old"))["apiVersion"] == "stable.example.com/v2"

    check(tmp_path, test)


def test_a_webhook_behind_a_service(tmp_path: Path) -> None:
    async def main() -> None:
        hook = Webhook()
        async with hook.running(tmp_path), harness() as api:
            service = {"namespace": "default", "name": "hook", "path": "/convert"}
            client = {"service": service, "caBundle": hook.bundle}
            crd = await api.ok("POST", CRDS, definition(client))
            assert crd["spec"]["conversion"]["webhook"]["clientConfig"]["service"]["port"] == 443
            await condition(api, NAME, "Established")
            await until(api, 200, "GET", V1)
            status = await api.fails(500, "", "POST", V2, endpoint("a", host="h", port="1"))
            assert (
                'Post "https://hook.default.svc:443/convert?timeout=30s": service "hook" not found'
                in (status["message"])
            )
            await expose(api, hook.port)
            await api.ok("POST", V2, endpoint("a", host="h", port="1"))

    asyncio.run(main())


OLD = {"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "uid": "u", "generation": 3}}
NEW = {"apiVersion": "g/v2", "kind": "K", "metadata": {"name": "a", "uid": "u"}}


def response(*objects: Object, uid: str = "1", **result: str) -> Object:
    given = {"uid": uid, "convertedObjects": list(objects), "result": {"status": "Success", **result}}
    return {"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": given}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"kind": "Other"}, "expected webhook response of"),
        ({**response(NEW), "response": None}, "no response provided"),
        (response(NEW, uid="2"), 'expected response.uid="1", got "2"'),
        (response(NEW, status="Failure", message="no way"), "no way"),
        (response(NEW, NEW), "returned 2 objects, expected 1"),
        (response(OLD), "index 0: invalid apiVersion g/v1, expected g/v2"),
        (response({**NEW, "kind": "L"}), "must have the same kind: L != K"),
        (response({**NEW, "metadata": {"name": "b", "uid": "u"}}), "must have the same name: b != a"),
        (response({**NEW, "metadata": {"name": "a", "uid": "v"}}), "must have the same UID: v != u"),
        (response({**NEW, "metadata": {**NEW["metadata"], "labels": {"a": 1}}}), "metadata.labels"),  # type: ignore[dict-item]
        (response({**NEW, "metadata": {**NEW["metadata"], "labels": {"?": "1"}}}), "invalid metadata"),  # type: ignore[dict-item]
    ],
)
def test_answers_that_are_not_trusted(answer: Object, why: str) -> None:
    with pytest.raises(CallFailed) as caught:
        converted(answer, "1", [OLD], "g/v2")
    assert why in str(caught.value)


def test_of_the_metadata_labels_and_annotations_are_taken() -> None:
    new = {**NEW, "metadata": {"name": "a", "uid": "u", "generation": 9, "labels": {"a": "b"}}}
    found = converted(response(new), "1", [OLD], "g/v2")
    assert found[0]["metadata"] == {"name": "a", "uid": "u", "generation": 3, "labels": {"a": "b"}}


@pytest.mark.parametrize(
    ("webhook", "field", "message"),
    [
        (
            {"conversionReviewVersions": ["v1"]},
            "spec.conversion.webhookClientConfig",
            "required when strategy",
        ),
        ({"clientConfig": {"url": "https://x"}}, "spec.conversion.conversionReviewVersions", "Required"),
        (
            {"clientConfig": {"url": "http://x"}, "conversionReviewVersions": ["v1"]},
            "spec.conversion.webhookClientConfig.url",
            "'https' is the only allowed URL scheme",
        ),
        (
            {"clientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v9"]},
            "spec.conversion.conversionReviewVersions",
            "must include at least one of v1",
        ),
    ],
)
def test_rules(webhook: Object, field: str, message: str) -> None:
    async def main() -> None:
        async with harness() as api:
            sent = definition({})
            sent["spec"]["conversion"]["webhook"] = webhook
            status = await api.fails(422, "Invalid", "POST", CRDS, sent)
            causes = {cause["field"]: cause["message"] for cause in status["details"]["causes"]}
            assert message in causes[field]

    asyncio.run(main())
