"""Component statuses: what is asked when somebody asks, and how it is told."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest

from apiserver.rest.componentstatus import Unhealthy, over_https
from pki.layout import generate
from tests.apiserver.devserver import names
from tests.apiserver.harness import Harness, run

STATUSES = "/api/v1/componentstatuses"
TABLE = {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}


def test_they_are_asked_now_and_told_with_a_warning() -> None:
    async def test(api: Harness) -> None:
        answer = await api.call("GET", STATUSES)
        assert answer.headers["warning"] == '299 - "v1 ComponentStatus is deprecated in v1.19+"'
        listed = answer.json()
        assert (listed["kind"], listed["apiVersion"]) == ("ComponentStatusList", "v1")
        found = {item["metadata"]["name"]: item["conditions"] for item in listed["items"]}
        assert list(found) == ["controller-manager", "scheduler", "etcd-0"]
        assert found["etcd-0"] == [{"type": "Healthy", "status": "True", "message": "ok"}]
        shown = await api.ok("GET", f"{STATUSES}?fieldSelector=metadata.name%3Detcd-0", headers=TABLE)
        assert [column["name"] for column in shown["columnDefinitions"]] == [
            "Name",
            "Status",
            "Message",
            "Error",
        ]
        assert [row["cells"] for row in shown["rows"]] == [["etcd-0", "Healthy", "ok", ""]]
        one = await api.ok("GET", f"{STATUSES}/etcd-0")
        assert one["kind"] == "ComponentStatus" and one["metadata"]["name"] == "etcd-0"
        missing = await api.fails(404, "NotFound", "GET", f"{STATUSES}/nobody")
        assert missing["message"] == 'componentstatus "nobody" not found'
        await api.fails(405, "MethodNotAllowed", "POST", STATUSES, {})
        await api.fails(403, "Forbidden", "GET", STATUSES, user="nobody")

    run(test)


def test_they_are_discovered_by_their_short_name() -> None:
    async def test(api: Harness) -> None:
        found = {each["name"]: each for each in (await api.ok("GET", "/api/v1"))["resources"]}
        status = found["componentstatuses"]
        assert (status["shortNames"], status["verbs"], status["namespaced"]) == (
            ["cs"],
            ["get", "list"],
            False,
        )

    run(test)


def test_endpoints_are_deprecated() -> None:
    async def test(api: Harness) -> None:
        answer = await api.call("GET", "/api/v1/endpoints")
        assert "discovery.k8s.io/v1 EndpointSlice" in answer.headers["warning"]
        assert "warning" not in (await api.call("GET", "/api/v1/services")).headers

    run(test)


@pytest.mark.parametrize(
    ("status", "said"), [("200 OK", ""), ("500 No", "HTTP probe failed with statuscode: 500")]
)
def test_a_component_is_asked_over_tls_whatever_its_certificate_names(
    tmp_path: Path, status: str, said: str
) -> None:
    inventory = generate(tmp_path, names(1, "n"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(inventory.path("apiserver.pem"), inventory.path("apiserver-key.pem"))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok".encode())
        await writer.drain()
        writer.close()

    async def test() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        probe = over_https(server.sockets[0].getsockname()[1])
        if said:
            with pytest.raises(Unhealthy, match=said):
                await probe()
        else:
            assert await probe() == "ok"
        server.close()
        await server.wait_closed()
        with pytest.raises(Unhealthy, match=r'^Get "https://127\.0\.0\.1:'):
            await probe()

    asyncio.run(test())
