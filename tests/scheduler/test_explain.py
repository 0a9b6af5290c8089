"""What `hardway why` shows, and to whom."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import orjson
import pytest

from componentbase.health import Health
from kubeclient.delegated import Delegated, Guarded
from kubeclient.http1.message import Answer, Request
from kubeclient.rest import RestClient
from kubeclient.transport import Target
from scheduler import explain
from scheduler.columns import Columns
from scheduler.config import default_profile
from scheduler.core import decide
from scheduler.explain import Archive, render
from scheduler.podinfo import compile_pod
from scheduler.serving import Debug
from tests.kubeclient.scripted import Scripted, json
from tests.scheduler.objects import node, pod

Object = dict[str, Any]


def decided(archive: Archive, columns: Columns, name: str = "p", cpu: str = "1") -> str | None:
    profile, info = default_profile(), compile_pod(pod(name, cpu=cpu))
    archive.remember(profile, info, columns, (), 0.0)
    decision = decide(profile, info, columns, random.Random(1))
    if decision.node is None:
        archive.refused(info, decision.message)
    else:
        archive.placed(info, decision.node)
        columns.add_pod(info, decision.node)
    return decision.node


def three() -> Columns:
    columns = Columns()
    columns.set_node(node("good", cpu="4"))
    columns.set_node(node("small", cpu="500m"))
    columns.set_node(node("cordoned", unschedulable=True))
    return columns


def test_every_node_is_accounted_for() -> None:
    archive, columns = Archive(), three()
    assert decided(archive, columns) == "good"
    document = archive.why("default/p", columns, ())
    assert document is not None
    by_name = {each["name"]: each for each in document["nodes"]}
    assert by_name.keys() == {"good", "small", "cordoned"}
    assert by_name["good"]["total"] == sum(by_name["good"]["scores"].values())
    assert by_name["small"]["plugin"] == "NodeResourcesFit"
    assert by_name["small"]["reasons"] == ["Insufficient cpu"]
    assert by_name["cordoned"]["plugin"] == "NodeUnschedulable"
    assert document["evaluated"] == "at the decision"


def test_the_table_marks_the_chosen_node() -> None:
    archive, columns = Archive(), three()
    decided(archive, columns)
    text = render(archive.why("default/p", columns, ()) or {})
    assert "good *" in text
    assert "Insufficient cpu" in text


def test_a_refusal_is_told_with_its_message() -> None:
    archive, columns = Archive(), three()
    assert decided(archive, columns, cpu="9") is None
    document = archive.why("default/p", columns, ())
    assert document is not None
    assert document["message"].startswith("0/3 nodes are available: ")
    assert not any(each["passed"] for each in document["nodes"])


def test_large_clusters_are_explained_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "EAGER_NODES", 2)
    archive, columns = Archive(), three()
    decided(archive, columns, cpu="3")
    before = columns.requested.copy()
    document = archive.why("default/p", columns, ())
    assert document is not None
    assert document["evaluated"] == "now"
    assert next(each for each in document["nodes"] if each["name"] == "good")["passed"]  # without itself
    assert (columns.requested == before).all()


def test_only_the_last_decisions_are_kept() -> None:
    archive, columns = Archive(limit=2), three()
    for name in "abc":
        decided(archive, columns, name)
    assert archive.why("default/a", columns, ()) is None
    assert archive.why("default/c", columns, ()) is not None


class Server:
    """The API server's reviews: the token `good` is alice, who may read what `allowed` holds."""

    def __init__(self, *allowed: str) -> None:
        self.allowed = allowed

    def __call__(self, request: Request) -> Answer:
        spec = orjson.loads(request.body)["spec"]
        if "token" in spec:
            user = {"username": "alice", "groups": ["admins"]}
            known = spec["token"] in ("good",)
            return json(201, {"status": {"authenticated": known, "user": user}})
        granted = spec["user"] == "alice" and spec["nonResourceAttributes"]["path"] in self.allowed
        return json(201, {"status": {"allowed": granted}})


def ask(path: str, token: str = "", allowed: tuple[str, ...] = ()) -> tuple[int, str]:
    archive, columns = Archive(), three()
    decided(archive, columns)
    sent: list[Object] = []

    async def send(message: Object) -> None:
        sent.append(message)

    async def receive() -> Object:
        return {"type": "http.request", "body": b""}

    async def run() -> None:
        transport = Scripted(Server(*allowed))
        async with RestClient(Target("http://api"), transport=transport) as client:
            debug = Debug(Health(), lambda key: archive.why(key, columns, ()))
            app = Guarded(debug, Delegated(client, time.monotonic))
            headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
            where, _, query = path.partition("?")
            scope = {"type": "http", "method": "GET", "path": where, "headers": headers}
            await app({**scope, "query_string": query.encode()}, receive, send)  # type: ignore[arg-type]

    asyncio.run(run())
    return sent[0]["status"], sent[1]["body"].decode()


WHY = "/debug/why/default/p"


@pytest.mark.parametrize(
    ("path", "token", "allowed", "status"),
    [
        ("/healthz", "", (), 200),
        (WHY, "", (), 403),
        (WHY, "bad", (WHY,), 401),
        (WHY, "good", (), 403),
        (WHY, "good", (WHY,), 200),
        ("/debug/why/default/other", "good", ("/debug/why/default/other",), 404),
        ("/metrics", "good", (), 403),
    ],
)
def test_who_may_ask(path: str, token: str, allowed: tuple[str, ...], status: int) -> None:
    assert ask(path, token, allowed)[0] == status


def test_the_answer_as_json() -> None:
    status, body = ask(f"{WHY}?format=json", "good", (WHY,))
    assert status == 200
    assert orjson.loads(body)["node"] == "good"
