"""The JSON gateway and the probes on the client port, by plain HTTP/1.1, on etcdlite and on the real etcd."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from etcdlite.client import EtcdClient
from etcdlite.server.gateway import PATHS, _types
from tests.etcdlite.server import members
from tests.etcdlite.server.members import running
from tests.etcdlite.server.test_tls import make_pki, server_flags

SECONDS = 30.0


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Client:
    """Asks one member; every answer is checked for its status."""

    def __init__(self, url: str, **options: Any) -> None:
        self.http = httpx.Client(base_url=url, timeout=SECONDS, **options)

    def __call__(self, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
        answer = self.http.post(f"/v3/{path}", json=body)
        assert answer.status_code == status, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def put(self, key: str, value: str, **more: Any) -> dict[str, Any]:
        return self("kv/put", key=b64(key), value=b64(value), **more)


@pytest.fixture
def client(store: str) -> Iterator[Client]:
    one = Client(store)
    with one.http:
        yield one


def test_what_is_put_is_read(client: Client) -> None:
    first = client.put("g/a", "1")
    revision = int(first["header"]["revision"])
    assert isinstance(first["header"]["revision"], str), "64-bit numbers are strings"
    client.put("g/b", "2")
    found = client("kv/range", key=b64("g/"), range_end=b64("g0"), sort_order="DESCEND", sort_target="KEY")
    assert found["count"] == "2"
    assert [kv["key"] for kv in found["kvs"]] == [b64("g/b"), b64("g/a")]
    assert found["kvs"][1] == {
        "key": b64("g/a"),
        "value": b64("1"),
        "create_revision": str(revision),
        "mod_revision": str(revision),
        "version": "1",
    }
    old = client.put("g/a", "3", prev_kv=True)
    assert old["prev_kv"]["value"] == b64("1")
    gone = client("kv/deleterange", key=b64("g/"), range_end=b64("g0"))
    assert gone["deleted"] == "2"
    assert "kvs" not in client("kv/range", key=b64("g/"), range_end=b64("g0")), "what is empty is left out"


def test_a_transaction(client: Client) -> None:
    client.put("t/a", "1")
    swap = {
        "compare": [{"target": "VALUE", "key": b64("t/a"), "value": b64("1")}],
        "success": [{"requestPut": {"key": b64("t/a"), "value": b64("2")}}],
        "failure": [{"request_range": {"key": b64("t/a")}}],
    }
    assert client("kv/txn", **swap)["succeeded"] is True
    lost = client("kv/txn", **swap)
    assert "succeeded" not in lost
    assert lost["responses"][0]["response_range"]["kvs"][0]["value"] == b64("2")


def test_refusals(client: Client) -> None:
    compacted = int(client.put("r/a", "1")["header"]["revision"])
    client.put("r/a", "2")
    client("kv/compaction", revision=compacted + 1)
    refused = client("kv/range", 400, key=b64("r/a"), revision=compacted)
    assert refused["code"] == 11 and "required revision has been compacted" in refused["error"]
    assert client("kv/put", 400)["code"] == 3, "no key"
    assert client("lease/revoke", 404, ID="12345")["error"] == "etcdserver: requested lease not found"
    assert client.http.post("/v3/kv/range", content=b'{"key": ').status_code == 400
    assert client.http.post("/v3/kv/range", content=b'{"key": 7}').status_code == 400
    assert client.http.post("/v3/kv/range", content=b"[]").status_code == 400
    assert client.http.post("/v3/kv/nothing", json={}).status_code == 404


@pytest.mark.parametrize(
    ("value", "at"), [("***", 0), ("YmFy*A==", 4), ("YmFyYg", 4), ("Ym-y", 2), ("YmFyYg=", 7), ("YmFy==", 4)]
)
def test_what_is_no_base64_is_not_stored(client: Client, value: str, at: int) -> None:
    client.put("g/b64", "kept")
    refused = client("kv/put", 400, key=b64("g/b64"), value=value)
    assert (refused["error"], refused["code"]) == (f"illegal base64 data at input byte {at}", 3)
    put = {"request_put": {"key": b64("g/b64"), "value": value}}
    assert client("kv/txn", 400, success=[put])["code"] == 3
    assert client("kv/range", key=b64("g/b64"))["kvs"][0]["value"] == b64("kept")


def test_unknown_fields_are_ignored_and_an_empty_body_is_an_empty_message(client: Client) -> None:
    client.put("u/a", "1", from_the_future=True)
    assert client.http.post("/v3/cluster/member/list").json()["members"][0]["name"] == "m0"


def test_a_lease(client: Client) -> None:
    lease = client("lease/grant", TTL="60")["ID"]
    client.put("l/a", "1", lease=lease)
    assert client("lease/timetolive", ID=lease, keys=True)["keys"] == [b64("l/a")]
    answer = client.http.post("/v3/lease/keepalive", json={"ID": lease})
    assert [json.loads(line)["result"]["TTL"] for line in answer.text.splitlines()] == ["60"]
    client("kv/lease/revoke", ID=lease)
    assert "kvs" not in client("kv/range", key=b64("l/a"))


def test_a_watch_is_a_line_for_each_answer(client: Client) -> None:
    create = {"create_request": {"key": b64("w/"), "range_end": b64("w0"), "prev_kv": True}}
    with client.http.stream("POST", "/v3/watch", json=create) as answer:
        lines = answer.iter_lines()
        created = json.loads(next(lines))["result"]
        assert created["created"] is True and "events" not in created
        client.put("w/a", "1")
        client("kv/deleterange", key=b64("w/a"))
        [put] = json.loads(next(lines))["result"]["events"]
        [delete] = json.loads(next(lines))["result"]["events"]
    assert put["kv"]["value"] == b64("1") and "type" not in put, "PUT is the enumeration's zero"
    assert delete["type"] == "DELETE" and delete["prev_kv"]["value"] == b64("1")


def test_a_watcher_that_does_not_read_holds_nobody_up_and_misses_nothing(tmp_path: Path) -> None:
    with running("etcdlite", tmp_path) as one, Client(one.client_url).http:
        client, count = Client(one.client_url), 400
        create = {"create_request": {"key": b64("s/a")}}
        with client.http.stream("POST", "/v3/watch", json=create) as answer:
            lines = answer.iter_lines()
            next(lines)
            for number in range(count):
                client.put("s/a", f"{number:04}" + "x" * 20_000)
            values: list[str] = []
            while len(values) < count:
                events = json.loads(next(lines))["result"]["events"]
                values += [base64.b64decode(event["kv"]["value"])[:4].decode() for event in events]
        assert values == [f"{number:04}" for number in range(count)]
        client.http.close()


def test_a_lock_is_not_waited_for_by_who_has_left(client: Client) -> None:
    held = client("lock/lock", name=b64("door"))["key"]
    with pytest.raises(httpx.ReadTimeout):
        client.http.post("/v3/lock/lock", json={"name": b64("door")}, timeout=0.5)

    def waiting() -> int:
        return int(client("kv/range", key=b64("door/"), range_end=b64("door0"), count_only=True)["count"])

    for _ in range(200):
        if waiting() == 1:
            break
    assert waiting() == 1, "its place in the queue is given back"
    client("lock/unlock", key=held)


@pytest.mark.parametrize("kind", members.KINDS)
def test_a_token_names_the_user(tmp_path: Path, kind: str) -> None:
    if not members.installed(kind):
        pytest.skip("etcd is not installed")
    with running(kind, tmp_path) as one, Client(one.client_url).http as http:
        client = Client(one.client_url)
        client("auth/user/add", name="root", password="secret")
        client("auth/role/add", name="root")
        client("auth/user/grant", user="root", role="root")
        client("auth/enable")
        refused = client("kv/range", 400, key=b64("a"))
        assert "user name is empty" in refused["error"]
        token = client("auth/authenticate", name="root", password="secret")["token"]
        http.headers["Authorization"] = token
        assert http.post("/v3/kv/range", json={"key": b64("a")}).status_code == 200
        client.http.close()


def test_probes_are_answered_on_the_client_port(client: Client) -> None:
    assert client.http.get("/health").json()["health"] == "true"
    assert client.http.get("/version").json().keys() == {"etcdserver", "etcdcluster"}
    assert "etcd_server_has_leader 1" in client.http.get("/metrics").text
    assert client.http.get("/nowhere").status_code == 404
    assert client.http.post("/health").status_code == 405


@pytest.mark.parametrize("store", ["etcdlite"], indirect=True)  # the distribution's is older
def test_a_probe_says_ok_and_on_demand_what_it_has_checked(client: Client) -> None:
    for path in ("/livez", "/readyz", "/readyz/data_corruption", "/readyz?exclude=linearizable_read"):
        answer = client.http.get(path)
        assert (answer.status_code, answer.text) == (200, "ok\n")
    checked = [f"[+]{name} ok" for name in ("data_corruption", "serializable_read", "linearizable_read")]
    assert client.http.get("/readyz?verbose").text.split("\n") == [*checked, "ok", ""]
    assert client.http.get("/livez?verbose").text == "[+]serializable_read ok\nok\n"
    assert client.http.get("/livez/linearizable_read").status_code == 404
    assert client.http.get("/readyz/linearizable_read/x").status_code == 404
    members = client("cluster/member/list")["members"]
    alarm = {"memberID": members[0]["ID"], "alarm": "CORRUPT"}
    client("maintenance/alarm", action="ACTIVATE", **alarm)
    try:
        answer = client.http.get("/readyz")
        assert answer.status_code == 503
        assert answer.text.startswith(
            "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok"
        )
        assert client.http.get("/livez").status_code == 200
        assert client.http.get("/readyz?exclude=data_corruption").status_code == 200
    finally:
        client("maintenance/alarm", action="DEACTIVATE", **alarm)


def test_both_protocols_on_one_port_with_mutual_tls(tmp_path: Path) -> None:
    pki = make_pki(tmp_path)
    flags = [*server_flags(pki), "--client-cert-auth"]
    with running("etcdlite", tmp_path, extra=flags, scheme="https") as one:
        context = ssl.create_default_context(cafile=str(pki / "ca.pem"))
        context.load_cert_chain(pki / "client.pem", pki / "client-key.pem")
        host, port = one.client_url.removeprefix("https://").split(":")
        for offered, chosen in ((["h2", "http/1.1"], "http/1.1"), (["h2"], "h2")):  # curl; clients of gRPC
            context.set_alpn_protocols(offered)
            with (
                socket.create_connection((host, int(port)), SECONDS) as plain,
                context.wrap_socket(plain, server_hostname=host) as secured,
            ):
                assert secured.selected_alpn_protocol() == chosen
        with httpx.Client(base_url=one.client_url, verify=context, timeout=SECONDS) as http:
            assert http.post("/v3/kv/put", json={"key": b64("k"), "value": b64("v")}).status_code == 200

        async def read() -> bytes:
            pair = {"cert": pki / "client.pem", "key": pki / "client-key.pem"}
            async with EtcdClient([one.client_url], ca=pki / "ca.pem", **pair) as grpc:
                return bytes((await grpc.range(b"k")).kvs[0].value)

        assert asyncio.run(read()) == b"v"


def test_every_path_leads_to_a_method_there_is() -> None:
    for method in PATHS.values():
        assert len(_types(method)) == 2
