"""Every bad request gets Kubernetes' code and Status, and changes nothing."""

from __future__ import annotations

import pytest

from apiserver import options
from apiserver.admission import plugins
from apiserver.rest import info, negotiate, protobuf
from apiserver.rest.message import MAX_BODY
from tests.apiserver.harness import CONFIG_MAPS, PODS, Harness, config_map, run

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "media", "code", "reason"),
    [
        (b"{", "application/json", 400, "BadRequest"),
        (b"", "application/json", 400, "BadRequest"),
        (b"[]", "application/json", 400, "BadRequest"),
        (b'{"metadata":{"name":"a"},"data":{"k":1}}', "application/json", 400, "BadRequest"),
        (b'{"metadata":5}', "application/json", 400, "BadRequest"),
        (b'{"metadata":{"name":"Not_A_Name"}}', "application/json", 422, "Invalid"),
        (b'{"metadata":{}}', "application/json", 422, "Invalid"),
        (b'{"kind":"Secret","metadata":{"name":"a"}}', "application/json", 400, "BadRequest"),
        (b'{"apiVersion":"v2","metadata":{"name":"a"}}', "application/json", 400, "BadRequest"),
        (b'{"metadata":{"name":"a","namespace":"other"}}', "application/json", 400, "BadRequest"),
        (b"a: [", "application/yaml", 400, "BadRequest"),
        (b"x", "text/csv", 415, "UnsupportedMediaType"),
        (b"k8s\0\xff\xff", protobuf.MEDIA_TYPE, 400, "BadRequest"),
        (b"[" * 100_000, "application/json", 400, "BadRequest"),
        (b'{"metadata":{"name":"a"},"data":{"k":"' + b"\xff" + b'"}}', "application/json", 400, "BadRequest"),
        (b"x" * (MAX_BODY + 1), "application/json", 413, "RequestEntityTooLarge"),
    ],
)
def test_bodies(body: bytes, media: str, code: int, reason: str) -> None:
    async def test(api: Harness) -> None:
        before = await objects(api)
        await api.fails(code, reason, "POST", CONFIG_MAPS, body, headers={"content-type": media})
        assert await objects(api) == before

    run(test)


async def objects(api: Harness) -> list[tuple[str, str]]:
    """What is stored of the kinds in the bodies, with versions: by name, since on a store that other tests
    have used the revision moves when their leases end.
    """
    found = [await api.ok("GET", f"/api/v1/{kind}") for kind in ("configmaps", "secrets")]
    metadata = [each["metadata"] for answer in found for each in answer["items"]]
    return [(f"{each['namespace']}/{each['name']}", each["resourceVersion"]) for each in metadata]


def test_paths_and_methods() -> None:
    async def test(api: Harness) -> None:
        for path in (
            "/api/v1/nothing",
            "/apis/no/v1/things",
            "/api/v2/pods",
            "/nowhere",
            "/api/v1/namespaces/default/nodes",
        ):
            await api.fails(404, "NotFound", "GET", path)
        await api.fails(405, "MethodNotAllowed", "POST", "/api/v1/pods", {})
        await api.fails(405, "MethodNotAllowed", "PUT", PODS, {})
        await api.fails(404, "NotFound", "GET", f"{PODS}/x/nosuch")
        await api.fails(400, "BadRequest", "GET", "/api/v1/namespaces/default/configmaps/%2e%2e")
        await api.fails(400, "BadRequest", "GET", "/api/v1/namespaces/default/configmaps/a%2fb")

    run(test)


def test_a_patch_cannot_change_what_is_the_systems() -> None:
    async def test(api: Harness) -> None:
        made = await api.ok("POST", CONFIG_MAPS, config_map("a"))
        merge = {"content-type": "application/merge-patch+json"}
        path = f"{CONFIG_MAPS}/a"
        await api.fails(409, "Conflict", "PATCH", path, b'{"metadata":{"uid":"x"}}', headers=merge)
        await api.fails(400, "BadRequest", "PATCH", path, b'{"metadata":{"name":"b"}}', headers=merge)
        kept = await api.ok(
            "PATCH", path, b'{"metadata":{"creationTimestamp":"2000-01-01T00:00:00Z"}}', headers=merge
        )
        assert kept == made
        await api.fails(400, "BadRequest", "PATCH", path, b"{", headers=merge)

    run(test)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (("GET", "/api/v1/pods"), ("list", "", "pods", "", "", "")),
        (("GET", "/api/v1/namespaces/a/pods/b/log"), ("get", "", "pods", "a", "b", "log")),
        (("GET", "/api/v1/namespaces/a"), ("get", "", "namespaces", "a", "a", "")),
        (("PUT", "/api/v1/namespaces/a/finalize"), ("update", "", "namespaces", "a", "a", "finalize")),
        (
            ("DELETE", "/apis/apps/v1/namespaces/a/deployments"),
            ("deletecollection", "apps", "deployments", "a", "", ""),
        ),
        (
            ("PATCH", "/apis/apps/v1/namespaces/a/deployments/d/scale"),
            ("patch", "apps", "deployments", "a", "d", "scale"),
        ),
        (("GET", "/api/v1/nodes/n/proxy/a/b"), ("get", "", "nodes", "", "n", "proxy")),
    ],
)
def test_request_info(line: tuple[str, str], expected: tuple[str, ...]) -> None:
    found = info.parse(*line, b"")
    assert (
        found.verb,
        found.group,
        found.resource,
        found.namespace,
        found.name,
        found.subresource,
    ) == expected


def test_watch_and_names_in_selectors() -> None:
    found = info.parse("GET", "/api/v1/nodes", b"watch=true&fieldSelector=metadata.name%3Dn1")
    assert (found.verb, found.name) == ("watch", "n1")
    assert info.parse("GET", "/api/v1/nodes/n/proxy/a/b", b"").tail == "a/b"
    assert not info.parse("GET", "/apis/apps", b"").is_resource


def test_protobuf_bodies_are_read_by_field_numbers() -> None:
    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    meta = field(1, field(1, b"a") + field(3, b"default"))
    pair = field(2, field(1, b"k") + field(2, b"v"))
    unknown = field(1, field(1, b"v1") + field(2, b"ConfigMap")) + field(2, meta + pair)
    media = {"content-type": protobuf.MEDIA_TYPE}
    obj, _ = negotiate.read_object(protobuf.MAGIC + unknown, media["content-type"])
    expected = {
        "kind": "ConfigMap",
        "apiVersion": "v1",
        "metadata": {"name": "a", "namespace": "default"},
        "data": {"k": "v"},
    }
    assert obj == expected


def test_flags_are_checked_together(capsys: pytest.CaptureFixture[str]) -> None:
    values = options.parse(["--authorization-mode=RBAC,Magic", "--service-cluster-ip-range=nonsense"])
    wrong = "\n".join(options.check(values))
    assert (
        "--etcd-servers must be specified" in wrong
        and "Magic" in wrong
        and "--service-cluster-ip-range" in wrong
    )
    assert plugins.unknown(["NoSuch"], []) == [
        '--enable-admission-plugins: unknown admission plugin "NoSuch"'
    ]
    with pytest.raises(SystemExit) as left:
        options.parse(["--no-such-flag"])
    assert left.value.code == 2 and "unknown flag: --no-such-flag" in capsys.readouterr().err
    assert options.node_ports("30000-30002") == range(30000, 30003)
