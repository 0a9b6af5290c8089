"""Create, update, patch, delete: codes, metadata and conflicts as Kubernetes has them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from apimachinery import errors
from apiserver.registry.call import Call
from apiserver.registry.registry import Registry
from apiserver.rest.options import DeleteOptions
from tests.apiserver.harness import CONFIG_MAPS, DEFAULT_ACCOUNT, PODS, Harness, config_map, harness, pod, run


def test_create_fills_metadata_and_refuses_a_second() -> None:
    async def test(api: Harness) -> None:
        made = await api.ok("POST", CONFIG_MAPS, config_map("a", k="v"))
        fields = made["metadata"]
        assert (
            fields["namespace"] == "default" and fields["uid"] and fields["creationTimestamp"].endswith("Z")
        )
        assert int(fields["resourceVersion"]) > 0
        assert await api.ok("GET", f"{CONFIG_MAPS}/a") == made
        status = await api.fails(409, "AlreadyExists", "POST", CONFIG_MAPS, config_map("a"))
        assert status["message"] == 'configmaps "a" already exists'

    run(test)


def test_generate_name_makes_distinct_names() -> None:
    async def test(api: Harness) -> None:
        body = {**config_map(""), "metadata": {"generateName": "x-"}}
        names = {(await api.ok("POST", CONFIG_MAPS, body))["metadata"]["name"] for _ in range(5)}
        assert len(names) == 5 and all(name.startswith("x-") and len(name) == 7 for name in names)

    run(test)


def test_update_with_a_stale_version_conflicts_and_changes_nothing() -> None:
    async def test(api: Harness) -> None:
        first = await api.ok("POST", CONFIG_MAPS, config_map("a", k="1"))
        second = await api.ok("PUT", f"{CONFIG_MAPS}/a", {**first, "data": {"k": "2"}})
        assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
        status = await api.fails(409, "Conflict", "PUT", f"{CONFIG_MAPS}/a", {**first, "data": {"k": "3"}})
        assert "the object has been modified" in status["message"]
        assert (await api.ok("GET", f"{CONFIG_MAPS}/a"))["data"] == {"k": "2"}

    run(test)


def test_update_that_changes_nothing_keeps_the_version() -> None:
    async def test(api: Harness) -> None:
        first = await api.ok("POST", CONFIG_MAPS, config_map("a", k="1"))
        assert await api.ok("PUT", f"{CONFIG_MAPS}/a", first) == first

    run(test)


def test_the_three_patches() -> None:
    async def test(api: Harness) -> None:
        await api.ok("POST", CONFIG_MAPS, config_map("a", k="1", gone="x"))
        path = f"{CONFIG_MAPS}/a"
        kinds = {
            "application/merge-patch+json": b'{"data":{"gone":null,"m":"1"}}',
            "application/strategic-merge-patch+json": b'{"data":{"s":"1"}}',
            "application/json-patch+json": b'[{"op":"add","path":"/data/j","value":"1"}]',
        }
        for media, body in kinds.items():
            await api.ok("PATCH", path, body, headers={"content-type": media})
        assert (await api.ok("GET", path))["data"] == {"k": "1", "m": "1", "s": "1", "j": "1"}
        plain = {"content-type": "text/plain"}
        await api.fails(415, "UnsupportedMediaType", "PATCH", path, b"{}", headers=plain)

    run(test)


def test_a_patch_that_fits_no_schema_is_invalid() -> None:
    """422 with the field `patch`, whose value is a strategic patch itself, and of others what they made."""

    async def test(api: Harness) -> None:
        await api.ok("POST", CONFIG_MAPS, config_map("a", k="1"))
        path = f"{CONFIG_MAPS}/a"

        async def cause(media: str, body: bytes, query: str = "") -> str:
            headers = {"content-type": f"application/{media}+json"}
            status = await api.fails(422, "Invalid", "PATCH", path + query, body, headers=headers)
            (found,) = status["details"]["causes"]
            assert set(status["details"]) == {"causes"} and found["field"] == "patch"
            return str(found["message"])

        wrong = b'{"immutable": "x", "data": {"b": null, "a": "1"}}'
        shown = await cause("strategic-merge-patch", wrong)
        assert shown.startswith('Invalid value: "map[data:map[a:1 b:<nil>] immutable:x]": '), shown
        assert "cannot unmarshal string into Go struct field" in shown
        shown = await cause("merge-patch", wrong)
        assert shown.startswith('Invalid value: "{') and '\\"k\\":\\"1\\"' in shown, shown
        unknown = b'[{"op": "add", "path": "/nope", "value": [true]}]'
        shown = await cause("json-patch", unknown, "?fieldValidation=Strict")
        assert shown.endswith('": strict decoding error: unknown field "nope"'), shown
        await api.ok("PATCH", path, unknown, headers={"content-type": "application/json-patch+json"})
        other = {"content-type": "application/merge-patch+json"}
        await api.fails(400, "BadRequest", "PATCH", path, b'{"kind": "Secret"}', headers=other)

    run(test)


def test_a_patch_creates_nothing_where_an_update_would() -> None:
    async def test(api: Harness) -> None:
        body = b'{"count": 2, "message": "again"}'
        for how in ("merge-patch", "strategic-merge-patch"):
            headers = {"content-type": f"application/{how}+json"}
            event = "/api/v1/namespaces/default/events/expired"
            await api.fails(404, "NotFound", "PATCH", event, body, headers=headers)

    run(test)


def test_generation_counts_changes_of_spec_and_status_is_apart() -> None:
    async def test(api: Harness) -> None:
        path = "/apis/apps/v1/namespaces/default/deployments"
        template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        spec = {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}
        made = await api.ok(
            "POST", path, {"metadata": {"name": "d"}, "spec": spec, "status": {"replicas": 9}}
        )
        assert made["metadata"]["generation"] == 1 and made["status"].get("replicas", 0) == 0
        status = {**made, "status": {"replicas": 5}, "spec": {**made["spec"], "replicas": 7}}
        done = await api.ok("PUT", f"{path}/d/status", status)
        assert done["status"]["replicas"] == 5 and done["spec"]["replicas"] == 1
        assert done["metadata"]["generation"] == 1
        scaled = await api.ok("GET", f"{path}/d/scale")
        assert scaled["status"] == {"replicas": 5, "selector": "a=b"}
        await api.ok("PUT", f"{path}/d/scale", {**scaled, "spec": {"replicas": 3}})
        table = {"accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
        shown = await api.ok("GET", f"{path}/d/scale", headers=table)
        assert [column["name"] for column in shown["columnDefinitions"]] == [
            "Name",
            "Desired",
            "Available",
            "Age",
        ]
        assert shown["rows"][0]["cells"][:2] == ["d", 3]
        after = await api.ok("GET", f"{path}/d")
        assert after["spec"]["replicas"] == 3 and after["metadata"]["generation"] == 2
        assert after["status"]["replicas"] == 5

    run(test)


def test_finalizers_hold_an_object_until_the_last_is_gone() -> None:
    async def test(api: Harness) -> None:
        body = {**config_map("a"), "metadata": {"name": "a", "finalizers": ["example.com/f"]}}
        await api.ok("POST", CONFIG_MAPS, body)
        path = f"{CONFIG_MAPS}/a"
        marked = await api.ok("DELETE", path)
        assert marked["metadata"]["deletionTimestamp"] and marked["metadata"]["finalizers"] == [
            "example.com/f"
        ]
        again = await api.ok("DELETE", path)
        assert again["metadata"]["resourceVersion"] == marked["metadata"]["resourceVersion"]
        merge = {"content-type": "application/merge-patch+json"}
        await api.ok("PATCH", path, b'{"metadata":{"finalizers":null}}', headers=merge)
        await api.fails(404, "NotFound", "GET", path)

    run(test)


def test_delete_options_propagation_and_preconditions() -> None:
    async def test(api: Harness) -> None:
        made = await api.ok("POST", CONFIG_MAPS, config_map("a"))
        path = f"{CONFIG_MAPS}/a"
        wrong = {"preconditions": {"uid": "other"}}
        await api.fails(409, "Conflict", "DELETE", path, wrong)
        await api.fails(422, "Invalid", "DELETE", path, {"propagationPolicy": "Never"})
        assert (await api.ok("DELETE", f"{path}?dryRun=All"))["status"] == "Success"
        right = {"preconditions": {"uid": made["metadata"]["uid"]}, "propagationPolicy": "Foreground"}
        marked = await api.ok("DELETE", path, right)
        assert marked["metadata"]["finalizers"] == ["foregroundDeletion"]

    run(test)


def test_a_pod_is_bound_by_the_resource_of_that_name_too() -> None:
    async def test(api: Harness) -> None:
        await api.ok("POST", "/api/v1/namespaces/default/serviceaccounts", DEFAULT_ACCOUNT)
        await api.ok("POST", PODS, pod("p"))
        bindings, target = "/api/v1/namespaces/default/bindings", {"kind": "Node", "name": "n1"}
        await api.ok("POST", bindings, {"metadata": {"name": "p"}, "target": target})
        assert (await api.ok("GET", f"{PODS}/p"))["spec"]["nodeName"] == "n1"
        status = await api.fails(422, "Invalid", "POST", bindings, {"target": target})
        assert status["details"]["causes"][0]["field"] == "metadata.name"
        await api.fails(404, "NotFound", "POST", bindings, {"metadata": {"name": "q"}, "target": target})
        await api.fails(405, "MethodNotAllowed", "GET", bindings)
        listed = await api.ok("GET", "/api/v1")
        found = next(item for item in listed["resources"] if item["name"] == "bindings")
        assert (found["kind"], found["verbs"], found["namespaced"]) == ("Binding", ["create"], True)

    run(test)


def test_a_bound_pod_gets_its_grace_and_an_unbound_one_goes_at_once() -> None:
    async def test(api: Harness) -> None:
        await api.ok("POST", "/api/v1/namespaces/default/serviceaccounts", DEFAULT_ACCOUNT)
        await api.ok("POST", PODS, pod("free"))
        await api.ok("DELETE", f"{PODS}/free")
        await api.fails(404, "NotFound", "GET", f"{PODS}/free")
        await api.ok("POST", PODS, pod("bound"))
        target = {"target": {"kind": "Node", "name": "n1"}}
        await api.ok("POST", f"{PODS}/bound/binding", {"metadata": {"name": "bound"}, **target})
        assert (await api.ok("GET", f"{PODS}/bound"))["spec"]["nodeName"] == "n1"
        await api.fails(
            409, "Conflict", "POST", f"{PODS}/bound/binding", {"metadata": {"name": "bound"}, **target}
        )
        marked = await api.ok("DELETE", f"{PODS}/bound")
        assert marked["metadata"]["deletionGracePeriodSeconds"] == 30
        await api.ok("DELETE", f"{PODS}/bound?gracePeriodSeconds=0")
        await api.fails(404, "NotFound", "GET", f"{PODS}/bound")

    run(test)


def test_dry_run_stores_nothing() -> None:
    async def test(api: Harness) -> None:
        await api.ok("POST", f"{CONFIG_MAPS}?dryRun=All", config_map("a"))
        await api.fails(404, "NotFound", "GET", f"{CONFIG_MAPS}/a")
        await api.fails(400, "BadRequest", "POST", f"{CONFIG_MAPS}?dryRun=Some", config_map("a"))

    run(test)


def test_field_validation() -> None:
    async def test(api: Harness) -> None:
        body = {**config_map("a"), "wrong": 1}
        await api.fails(400, "BadRequest", "POST", f"{CONFIG_MAPS}?fieldValidation=Strict", body)
        answer = await api.call("POST", f"{CONFIG_MAPS}?fieldValidation=Warn", body)
        assert answer.status_code == 201 and 'unknown field \\"wrong\\"' in answer.headers["warning"]
        assert "wrong" not in answer.json()
        twice = b'{"metadata":{"name":"b"},"data":{"x":"1","x":"2"}}'
        json = {"content-type": "application/json"}
        answer = await api.call("POST", CONFIG_MAPS, twice, headers=json)
        assert "duplicate field" in answer.headers["warning"]

    run(test)


def test_delete_collection_respects_the_selector() -> None:
    async def test(api: Harness) -> None:
        for name, color in (("a", "red"), ("b", "blue"), ("c", "red")):
            body = {**config_map(name), "metadata": {"name": name, "labels": {"color": color}}}
            await api.ok("POST", CONFIG_MAPS, body)
        await api.ok("DELETE", f"{CONFIG_MAPS}?labelSelector=color%3Dred")
        left = [item["metadata"]["name"] for item in (await api.ok("GET", CONFIG_MAPS))["items"]]
        assert "b" in left and "a" not in left and "c" not in left

    run(test)


def test_delete_collection_deletes_several_at_once_and_says_why_it_cannot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The deletions wait for each other, which they could not one after another."""

    async def test(api: Harness) -> None:
        names = [f"many-{number}" for number in range(8)]
        for name in names:
            body = {**config_map(name), "metadata": {"name": name, "labels": {"of": "many"}}}
            await api.ok("POST", CONFIG_MAPS, body)
        registry, together, under_way = Registry.delete, asyncio.Event(), [0]

        async def delete(self: Registry, call: Call, options: DeleteOptions) -> tuple[dict[str, Any], bool]:
            under_way[0] += 1
            if under_way[0] == len(names):
                together.set()
            await asyncio.wait_for(together.wait(), 20)
            if call.name == "many-5":
                raise errors.forbidden("", "configmaps", call.name, "not this one")
            return await registry(self, call, options)

        monkeypatch.setattr(Registry, "delete", delete)
        path = f"{CONFIG_MAPS}?labelSelector=of%3Dmany"
        await api.fails(403, "Forbidden", "DELETE", path)
        monkeypatch.undo()
        await api.ok("DELETE", path)
        assert not (await api.ok("GET", path))["items"]

    run(test)


def test_service_addresses_and_ports_are_unique_and_come_back() -> None:
    async def test(api: Harness) -> None:
        path = "/api/v1/namespaces/default/services"

        def service(name: str, **spec: object) -> dict[str, object]:
            return {
                "metadata": {"name": name},
                "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}, **spec},
            }

        first = await api.ok("POST", path, service("one", type="NodePort"))
        address, port = first["spec"]["clusterIP"], first["spec"]["ports"][0]["nodePort"]
        assert address.startswith("10.32.0.") and 30000 <= port <= 32767
        assert first["spec"]["clusterIPs"] == [address]
        status = await api.fails(422, "Invalid", "POST", path, service("two", clusterIP=address))
        assert "already allocated" in status["message"]
        await api.fails(422, "Invalid", "POST", path, service("two", clusterIP="192.168.0.1"))
        kept = await api.ok("PUT", f"{path}/one", service("one", type="ClusterIP"))
        assert kept["spec"]["clusterIP"] == address and "nodePort" not in kept["spec"]["ports"][0]
        await api.ok("DELETE", f"{path}/one")
        assert (await api.ok("POST", path, service("two", clusterIP=address)))["spec"]["clusterIP"] == address
        headless = await api.ok("POST", path, service("three", clusterIP="None"))
        assert headless["spec"]["clusterIP"] == "None"

    run(test)


def test_a_local_load_balancer_has_a_health_check_port_until_it_is_none() -> None:
    async def test(api: Harness) -> None:
        path = "/api/v1/namespaces/default/services"

        def service(name: str, **spec: object) -> dict[str, object]:
            local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", **spec}
            return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **local}}

        first = await api.ok("POST", path, service("one"))
        port = first["spec"]["healthCheckNodePort"]
        assert 30000 <= port <= 32767 and port != first["spec"]["ports"][0]["nodePort"]
        assert (await api.ok("PUT", f"{path}/one", service("one")))["spec"]["healthCheckNodePort"] == port
        taken = service("two", healthCheckNodePort=port)
        assert "already allocated" in (await api.fails(422, "Invalid", "POST", path, taken))["message"]
        other = service("one", healthCheckNodePort=port % 32000 + 1)
        assert "immutable" in (await api.fails(422, "Invalid", "PUT", f"{path}/one", other))["message"]
        wide = await api.ok("PUT", f"{path}/one", service("one", externalTrafficPolicy="Cluster"))
        assert "healthCheckNodePort" not in wide["spec"]
        assert (await api.ok("POST", path, taken))["spec"]["healthCheckNodePort"] == port

    run(test)


def test_two_servers_on_one_store_agree_and_never_give_an_address_twice() -> None:
    async def main() -> None:
        async with harness() as one, harness(store=one.store) as two:
            path = "/api/v1/namespaces/default/services"

            async def make(number: int) -> str:
                server = one if number % 2 else two
                spec = {"ports": [{"port": 80}], "selector": {"a": "b"}}
                made = await server.ok("POST", path, {"metadata": {"name": f"s{number}"}, "spec": spec})
                return str(made["spec"]["clusterIP"])

            addresses = await asyncio.gather(*(make(number) for number in range(24)))
            assert len(set(addresses)) == 24
            await one.ok("POST", CONFIG_MAPS, config_map("a", k="1"))
            assert (await two.ok("GET", f"{CONFIG_MAPS}/a"))["data"] == {"k": "1"}
            merge = {"content-type": "application/merge-patch+json"}
            patches = (
                server.ok("PATCH", f"{CONFIG_MAPS}/a", f'{{"data":{{"n{n}":"x"}}}}'.encode(), headers=merge)
                for n, server in enumerate([one, two] * 6)
            )
            await asyncio.gather(*patches)
            assert len((await one.ok("GET", f"{CONFIG_MAPS}/a"))["data"]) == 13

    asyncio.run(main())
