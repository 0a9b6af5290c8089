"""How documents look on the wire: indented for people, in a line for programs; and their Audit-Id."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.apiserver.harness import CONFIG_MAPS, Harness, config_map, run

CURL = {"user-agent": "curl/7.88.1"}
TABLE = {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}


@pytest.mark.parametrize(
    "path", [f"{CONFIG_MAPS}/a", CONFIG_MAPS, f"{CONFIG_MAPS}/none", "/api", "/apis/apps"]
)
def test_people_get_it_indented_and_programs_on_one_line(path: str) -> None:
    async def test(api: Harness) -> None:
        await api.ok("POST", CONFIG_MAPS, config_map("a", k="1"))

        async def text(query: str = "", agent: str = "kubectl/v1.32.4") -> str:
            return (await api.call("GET", path + query, headers={"user-agent": agent})).text

        line = await text()
        assert line.count("\n") == 1 and line.endswith("}\n")
        indented = json.dumps(json.loads(line), indent=2)
        for agent in ("curl/7.88.1", "Wget/1.21", "Mozilla/5.0 (X11)"):
            assert await text(agent=agent) == indented
        assert await text("?pretty=true") == indented
        assert await text("?pretty=false", "curl/7.88.1") == await text("?pretty=0", "curl/7.88.1") == line

    run(test)


def test_writes_and_tables_are_indented_too_and_watches_are_not() -> None:
    async def test(api: Harness) -> None:
        made = await api.call("POST", CONFIG_MAPS, config_map("a", k="1"), headers=CURL)
        assert made.text.startswith('{\n  "kind": "ConfigMap",\n')
        table = await api.call("GET", CONFIG_MAPS, headers={**CURL, **TABLE})
        assert '\n  "columnDefinitions": [\n' in table.text
        watch = await api.call("GET", f"{CONFIG_MAPS}?watch=1&timeoutSeconds=1", headers=CURL)
        assert watch.text.startswith('{"type":"ADDED"')
        other = await api.call("GET", f"{CONFIG_MAPS}/a", headers={**CURL, "accept": "application/yaml"})
        assert other.text.startswith("kind: ConfigMap\n")

    run(test)


def test_a_large_list_is_indented_whole() -> None:
    async def test(api: Harness) -> None:
        for number in range(5):
            await api.ok("POST", CONFIG_MAPS, config_map(f"m{number}", k="x" * 100_000))
        answer = await api.call("GET", CONFIG_MAPS, headers=CURL)
        assert len(answer.text) > 500_000 and answer.text.startswith("{\n")
        assert len(answer.content) == int(answer.headers["content-length"])

    run(test)


def test_the_root_lists_what_there_is() -> None:
    async def test(api: Harness) -> None:
        answer = await api.call("GET", "/")
        assert answer.text.startswith('{\n  "paths": [\n')
        paths = answer.json()["paths"]
        wanted = {
            "/api",
            "/apis",
            "/apis/apps",
            "/apis/apps/v1",
            "/livez/ping",
            "/readyz/etcd",
            "/openapi/v3",
        }
        assert paths == sorted(paths) and wanted <= set(paths)

    run(test)


def test_every_answer_names_its_audit_event() -> None:
    async def test(api: Harness) -> None:
        ids = {
            (await api.call("GET", path)).headers["audit-id"] for path in (CONFIG_MAPS, f"{CONFIG_MAPS}/none")
        }
        assert len(ids) == len({uuid.UUID(each) for each in ids}) == 2
        given = await api.call("GET", CONFIG_MAPS, headers={"audit-id": "mine"})
        assert given.headers["audit-id"] == "mine"

    run(test)
