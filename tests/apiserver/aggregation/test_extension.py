"""Requests, watches, upgrades and documents that an extension API server answers through this one."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
from cryptography.hazmat.primitives.asymmetric import ec

from componentbase.http.client import dial
from componentbase.http.server import serve
from pki.ca import Authority, certificate_pem, key_pem
from pki.certs import Profile, Usage
from tests.apiserver.aggregation.extension import GROUP, ROOT, VERSION, Extension, running
from tests.apiserver.aggregation.test_apiservices import SERVICES, api_service, eventually
from tests.apiserver.harness import Harness, harness
from tests.ports import free_port

Object = dict[str, Any]
FLUNDERS = f"{ROOT}/namespaces/default/flunders"
NAME = f"{VERSION}.{GROUP}"


class Credentials:
    """An extension server's certificate, its authority, and the front proxy's."""

    def __init__(self, directory: Path, common_name: str = "front-proxy-client") -> None:
        self.directory = directory
        keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(4)]
        serving, proxy = Authority.create("serving-ca", keys[0]), Authority.create("proxy-ca", keys[1])
        server = Profile(common_name="x", dns=("sample.default.svc",), usages=frozenset({Usage.SERVER}))
        self.bundle = base64.b64encode(serving.pem).decode()
        self._write("cert", certificate_pem(serving.issue(server, keys[2])), key_pem(keys[2]))
        client = Profile(common_name=common_name)
        self._write("proxy", certificate_pem(proxy.issue(client, keys[3])), key_pem(keys[3]))
        (directory / "proxy-ca.pem").write_bytes(proxy.pem)

    def _write(self, name: str, cert: bytes, key: bytes) -> None:
        (self.directory / f"{name}.pem").write_bytes(cert)
        (self.directory / f"{name}-key.pem").write_bytes(key)

    @property
    def flags(self) -> tuple[str, ...]:
        return (
            f"--proxy-client-cert-file={self.directory / 'proxy.pem'}",
            f"--proxy-client-key-file={self.directory / 'proxy-key.pem'}",
        )

    def serve(self, app: Extension, port: int) -> contextlib.AbstractAsyncContextManager[None]:
        paths = [self.directory / name for name in ("cert.pem", "cert-key.pem", "proxy-ca.pem")]
        return running(app, port, *paths)


async def expose(api: Harness, port: int, name: str = "sample") -> None:
    """A Service with one endpoint on loopback."""
    service = {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": name},
        "spec": {"ports": [{"port": 443}]},
    }
    await api.ok("POST", "/api/v1/namespaces/default/services", service)
    slice_ = {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"port": port, "name": "", "protocol": "TCP"}],
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
    }
    await api.ok("POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice_)


async def condition(api: Harness) -> Object:
    found = await api.ok("GET", f"{SERVICES}/{NAME}")
    conditions = (found.get("status") or {}).get("conditions") or [{}]
    out: Object = conditions[0]
    return out


async def until(api: Harness, reason: str) -> Object:
    async def there() -> Object | None:
        found = await condition(api)
        return found if found.get("reason") == reason else None

    found: Object = await eventually(there)
    return found


@contextlib.asynccontextmanager
async def aggregated(directory: Path) -> AsyncIterator[tuple[Harness, Extension]]:
    """A server that has taken the sample extension server in."""
    credentials, port, app = Credentials(directory), free_port(), Extension()
    async with credentials.serve(app, port), harness(*credentials.flags) as api:
        await expose(api, port)
        await api.ok("POST", SERVICES, api_service(caBundle=credentials.bundle))
        await until(api, "Passed")
        await eventually(lambda: _serves(api))
        yield api, app


async def _serves(api: Harness) -> bool:
    return (await api.call("GET", FLUNDERS)).status_code == 200


def check(directory: Path, test: Callable[[Harness, Extension], Awaitable[None]]) -> None:
    async def main() -> None:
        async with aggregated(directory) as (api, app):
            await test(api, app)

    asyncio.run(main())


def test_requests_carry_the_callers_identity_and_no_other(tmp_path: Path) -> None:
    async def test(api: Harness, app: Extension) -> None:
        forged = {"x-remote-user": "root", "x-remote-extra-a": "b", "authorization": "Bearer secret"}
        found = await api.ok("GET", f"{FLUNDERS}?limit=5&pretty", headers=forged)
        assert found["user"] == {"name": "admin", "groups": ["system:masters", "system:authenticated"]}
        last = app.seen[-1]
        assert (last["path"], last["query"]) == (FLUNDERS, "limit=5&pretty")
        given = {name for name, _ in last["headers"]}
        assert "authorization" not in given and "x-remote-extra-a" not in given
        answer = await api.call("GET", f"{FLUNDERS}/one")
        assert answer.headers["x-sample"] == "yes" and answer.json()["weight"] == 7

    check(tmp_path, test)


def test_a_request_that_is_not_allowed_goes_nowhere(tmp_path: Path) -> None:
    async def test(api: Harness, app: Extension) -> None:
        before = len(app.seen)
        await api.fails(403, "Forbidden", "GET", FLUNDERS, user="eve")
        assert len(app.seen) == before

    check(tmp_path, test)


def test_bodies_and_codes_pass_through(tmp_path: Path) -> None:
    async def test(api: Harness, app: Extension) -> None:
        sent = {"kind": "Flunder", "weight": 3}
        answer = await api.call("POST", FLUNDERS, sent)
        assert (answer.status_code, answer.json()) == (201, sent)

    check(tmp_path, test)


def test_watches_and_upgrades_pass_through(tmp_path: Path) -> None:
    async def test(api: Harness, app: Extension) -> None:
        port = free_port()
        async with asyncio.TaskGroup() as tasks:
            listener = tasks.create_task(serve(api.server.app, port=port))
            base = f"http://127.0.0.1:{port}"
            async with (
                asyncio.timeout(60),
                httpx.AsyncClient(base_url=base, timeout=None, trust_env=False) as client,
            ):
                await eventually(lambda: _listening(client))
                async with client.stream("GET", f"{FLUNDERS}?watch=true") as answer:
                    line = await anext(answer.aiter_lines())
                    assert orjson.loads(line)["type"] == "ADDED"
                status, _, stream = await dial(f"{base}{FLUNDERS}/one/echo", headers={"Upgrade": "echo"})
                assert status == 101
                await stream.write(b"hello")
                assert await stream.read() == b"<hello>"
                stream.close()
            listener.cancel()

    check(tmp_path, test)


async def _listening(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/livez")).status_code == 200
    except httpx.ConnectError:
        return False


def test_discovery_and_openapi_have_what_the_extension_serves(tmp_path: Path) -> None:
    async def test(api: Harness, app: Extension) -> None:
        assert (await api.ok("GET", f"/apis/{GROUP}"))["preferredVersion"]["version"] == VERSION
        listed = await api.ok("GET", ROOT)
        assert [item["name"] for item in listed["resources"]] == ["flunders", "flunders/status"]
        accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        every = await api.ok("GET", "/apis", headers={"accept": accept})
        names = [item["metadata"]["name"] for item in every["items"]]
        assert names.index(GROUP) == len(names) - 1  # rank 2000: behind everything built in
        version = every["items"][-1]["versions"][0]
        assert version["freshness"] == "Current"
        flunder = version["resources"][0]
        assert flunder["shortNames"] == ["fl"] and flunder["scope"] == "Namespaced"
        assert flunder["subresources"][0]["responseKind"]["kind"] == "Flunder"
        index = await api.ok("GET", "/openapi/v3")
        url = index["paths"][ROOT[1:]]["serverRelativeURL"]
        schemas = (await api.ok("GET", url))["components"]["schemas"]
        assert schemas["com.example.sample.v1alpha1.Flunder"]["description"] == "Flunder is a fish."
        swagger = await api.ok("GET", "/openapi/v2")
        assert {"com.example.sample.v1alpha1.Flunder", "io.k8s.api.core.v1.Pod"} <= set(
            swagger["definitions"]
        )

    check(tmp_path, test)


def test_when_it_is_gone_requests_are_503_and_discovery_says_stale(tmp_path: Path) -> None:
    async def test(api: Harness, app: Extension) -> None:
        await api.ok("DELETE", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/sample-1")
        found = await until(api, "EndpointsNotFound")
        assert found["message"] == 'cannot find endpointslices for service/sample in "default"'
        answer = await api.call("GET", FLUNDERS)
        assert (answer.status_code, answer.text) == (503, "service unavailable\n")
        accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

        async def stale() -> Any:
            every = await api.ok("GET", "/apis", headers={"accept": accept})
            version = every["items"][-1]["versions"][0]
            return version if version["freshness"] == "Stale" else None

        assert (await eventually(stale))["resources"][0]["resource"] == "flunders"
        await api.ok("DELETE", f"{SERVICES}/{NAME}")

        async def unknown() -> bool:
            answer = await api.call("GET", FLUNDERS)
            return answer.status_code == 404 and answer.json()["reason"] == "NotFound"

        await eventually(unknown)

    check(tmp_path, test)


def test_reasons_for_not_being_available(tmp_path: Path) -> None:
    async def main() -> None:
        credentials, port, app = Credentials(tmp_path), free_port(), Extension()
        async with harness(*credentials.flags) as api:
            await api.ok("POST", SERVICES, api_service(caBundle=credentials.bundle))
            await until(api, "ServiceNotFound")
            answer = await api.call("GET", FLUNDERS)
            assert (answer.status_code, answer.text) == (503, "service unavailable\n")
            await expose(api, port)
            found = await until(api, "FailedDiscoveryCheck")  # nobody listens yet
            assert "https://sample.default.svc/apis/sample.example.com/v1alpha1" in found["message"]
            async with credentials.serve(app, port):
                await until(api, "Passed")
            stored = await api.ok("GET", f"{SERVICES}/{NAME}")
            stored["spec"]["service"]["port"] = 444
            await api.ok("PUT", f"{SERVICES}/{NAME}", stored)
            await until(api, "ServicePortError")

    asyncio.run(main())


def test_an_extension_of_another_authority_is_not_spoken_to(tmp_path: Path) -> None:
    async def main() -> None:
        credentials, port, app = Credentials(tmp_path), free_port(), Extension()
        (tmp_path / "other").mkdir()
        other = Credentials(tmp_path / "other")
        async with credentials.serve(app, port), harness(*credentials.flags) as api:
            await expose(api, port)
            await api.ok("POST", SERVICES, api_service(caBundle=other.bundle))
            found = await until(api, "FailedDiscoveryCheck")
            assert "certificate verify failed" in found["message"]
            stored = await api.ok("GET", f"{SERVICES}/{NAME}")
            stored["spec"] = {**stored["spec"], "insecureSkipTLSVerify": True}
            del stored["spec"]["caBundle"]
            await api.ok("PUT", f"{SERVICES}/{NAME}", stored)
            await until(api, "Passed")
            stored = await api.ok("GET", f"{SERVICES}/{NAME}")
            stored["spec"] = {
                **stored["spec"],
                "insecureSkipTLSVerify": False,
                "caBundle": base64.b64encode(b"no certificate").decode(),
            }
            await api.ok("PUT", f"{SERVICES}/{NAME}", stored)
            found = await until(api, "FailedDiscoveryCheck")
            assert "unable to load root certificates" in found["message"]

    asyncio.run(main())
