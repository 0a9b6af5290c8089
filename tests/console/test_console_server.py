"""The page's server: who is let in, what is streamed, what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from deploy.console.faults import Refused
from deploy.console.server import Console, changes
from deploy.console.sources import Picture

PORT, SECRET = 8443, "let-me-in"
HERE = f"http://127.0.0.1:{PORT}"
ORDER = {"fault": "kill", "target": "a/etcdlite", "seconds": 0}


@dataclass
class Fake:
    """A breaker and the sources around it, as far as the server asks them."""

    done: list[tuple[object, ...]] = field(default_factory=list)
    picture: Picture = field(default_factory=Picture)

    def kinds(self) -> Sequence[dict[str, Any]]:
        return []

    def active(self) -> Sequence[dict[str, Any]]:
        return []

    def inject(self, fault: str, target: str, seconds: float, settings: Mapping[str, str]) -> None:
        if fault == "flood":
            raise Refused("no fault 'flood'")
        self.done.append((fault, target, seconds, dict(settings)))

    def undo(self, identifier: str) -> None:
        if identifier != "7":
            raise Refused(f"no active fault {identifier!r}")
        self.done.append(("undo", identifier))

    async def look_at_faults(self) -> None:
        self.done.append(("looked",))


def ask(
    fake: Fake, method: str, path: str, *, key: str = SECRET, base: str = HERE, **more: Any
) -> httpx.Response:
    console = Console(fake, fake, PORT, SECRET)

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(console.app)
        async with httpx.AsyncClient(transport=transport, base_url=base) as client:
            return await client.request(method, path, params={"key": key} if key else {}, **more)

    return asyncio.run(asked())


def test_the_page_and_its_files() -> None:
    page = ask(Fake(), "GET", "/")
    assert page.status_code == 200 and "Hardway console" in page.text
    assert "default-src 'self'" in page.headers["content-security-policy"]
    cookie = page.headers["set-cookie"].lower()
    assert (
        f"hardway-console-{PORT}={SECRET}" in cookie and "httponly" in cookie and "samesite=strict" in cookie
    )
    assert ask(Fake(), "GET", "/app.js").headers["content-type"].startswith("text/javascript")
    assert ask(Fake(), "GET", "/style.css").status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/../server.py", "/%2e%2e/server.py", "/page/app.js"])
def test_nothing_else_is_served(path: str) -> None:
    assert ask(Fake(), "GET", path).status_code == 404


@pytest.mark.parametrize("method_path", ["GET /", "GET /stream", "POST /faults", "DELETE /faults/7"])
@pytest.mark.parametrize(
    ("change", "status"),
    [({"key": ""}, 403), ({"key": "wrong"}, 403), ({"base": "http://evil.example:8443"}, 421)],
)
def test_who_is_not_let_in(method_path: str, change: dict[str, Any], status: int) -> None:
    fake = Fake()
    method, path = method_path.split()
    assert ask(fake, method, path, **change).status_code == status
    assert not fake.done


def test_the_cookie_is_enough() -> None:
    answer = ask(Fake(), "GET", "/app.js", key="", headers={"Cookie": f"hardway-console-{PORT}={SECRET}"})
    assert answer.status_code == 200


def test_breaking_and_mending_show_at_once() -> None:
    fake = Fake()
    assert ask(fake, "POST", "/faults", json=ORDER).status_code == 202
    assert ask(fake, "DELETE", "/faults/7").status_code == 200
    assert fake.done == [("kill", "a/etcdlite", 0.0, {}), ("looked",), ("undo", "7"), ("looked",)]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (ORDER | {"fault": "flood"}, "no fault 'flood'"),
        (ORDER | {"fault": 1}, "must be strings"),
        (ORDER | {"seconds": -1}, "between 0 and 3600"),
        (ORDER | {"seconds": 1e9}, "between 0 and 3600"),
        (ORDER | {"seconds": True}, "between 0 and 3600"),
        (ORDER | {"settings": {"a": 1}}, "mapping of strings"),
        (ORDER | {"force": "yes"}, "unknown field 'force'"),
        ([], "JSON object"),
        (ORDER | {"target": "x" * 5000}, "at most 4096 bytes"),
    ],
)
def test_orders_that_are_refused(body: object, words: str) -> None:
    fake = Fake()
    answer = ask(fake, "POST", "/faults", json=body)
    assert answer.status_code == 400 and words in answer.json()["error"]
    assert not fake.done


def test_a_form_of_another_page_is_refused() -> None:
    fake = Fake()
    assert (
        ask(
            fake, "POST", "/faults", content=json.dumps(ORDER), headers={"Content-Type": "text/plain"}
        ).status_code
        == 400
    )
    broken = ask(fake, "POST", "/faults", content=b"{", headers={"Content-Type": "application/json"})
    assert broken.status_code == 400 and "not JSON" in broken.json()["error"]
    assert not fake.done


def test_mending_what_is_not_broken() -> None:
    assert ask(Fake(), "DELETE", "/faults/8").status_code == 404


def test_a_reader_gets_everything_and_then_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.console.server.PACE", 0)

    async def read() -> list[Any]:
        picture = Picture()
        picture.show("members", [1])
        picture.show("hosts", [2])
        stream = changes(picture)
        first = await anext(stream)
        picture.show("hosts", [2])  # the same again is not news
        picture.show("members", [3])
        second = await anext(stream)
        waiting = asyncio.get_running_loop().call_soon(picture.show, "nodes", [4])
        third = await anext(stream)
        waiting.cancel()
        return [json.loads(each.removeprefix(b"data: ")) for each in (first, second, third)]

    assert asyncio.run(read()) == [{"members": [1], "hosts": [2]}, {"members": [3]}, {"nodes": [4]}]


def test_a_quiet_stream_says_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.console.server.HEARTBEAT", 0.001)
    picture = Picture()

    async def read() -> bytes:
        return await anext(changes(picture))

    assert asyncio.run(read()).startswith(b":")
