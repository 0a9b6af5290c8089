"""Discovery goes on without the groups that do not answer, however they do not."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from apimachinery import errors
from controllers.discovery import Discovered, discover, fetch
from kubeclient.resources import GVR
from kubeclient.rest import Response, RestClient

GROUPS = {"groups": [{"name": name, "versions": [{"version": "v1"}]} for name in ("apps", "metrics.k8s.io")]}
APPS = {"resources": [{"name": "deployments", "namespaced": True, "kind": "Deployment", "verbs": ["list"]}]}


class FakeClient:
    """Answers by path; what is absent is answered as an aggregator does for a server that is not there."""

    def __init__(self, answers: dict[str, tuple[int, bytes]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def raw(self, method: str, path: str, **options: Any) -> Response:
        self.asked.append(path)
        status, content = self.answers.get(path, (503, b"service unavailable\n"))
        return Response(status, {}, content)


def client(**answers: tuple[int, bytes]) -> RestClient:
    paths = {
        "/api": (200, json.dumps({"versions": []}).encode()),
        "/apis": (200, json.dumps(GROUPS).encode()),
        "/apis/apps/v1": (200, json.dumps(APPS).encode()),
    }
    return cast(RestClient, FakeClient({**paths, **answers}))


def test_a_group_that_answers_in_plain_text_is_a_failure_among_others() -> None:
    surface = asyncio.run(discover(client()))
    assert [found.gvr.resource for found in surface.resources] == ["deployments"]
    assert len(surface.failures) == 1
    assert surface.failures[0].startswith("/apis/metrics.k8s.io/v1: ")


def aggregated(*groups: dict[str, Any]) -> tuple[int, bytes]:
    return 200, json.dumps({"kind": "APIGroupDiscoveryList", "items": list(groups)}).encode()


def version(name: str, *resources: dict[str, Any], freshness: str = "Current") -> dict[str, Any]:
    return {"version": name, "resources": list(resources), "freshness": freshness}


def resource(group: str, name: str, kind: str, scope: str = "Namespaced") -> dict[str, Any]:
    kinds = {"group": group, "version": "v1", "kind": kind}
    return {"resource": name, "responseKind": kinds, "scope": scope, "verbs": ["list"]}


def test_aggregated_discovery_is_two_questions() -> None:
    core = version("v1", resource("", "pods", "Pod"), resource("", "nodes", "Node", "Cluster"))
    apps = [version("v1", resource("apps", "deployments", "Deployment")), version("v1beta1")]
    stale = version("v1beta1", resource("metrics.k8s.io", "pods", "PodMetrics"), freshness="Stale")
    answering = client(
        **{
            "/api": aggregated({"metadata": {}, "versions": [core]}),
            "/apis": aggregated(
                {"metadata": {"name": "apps"}, "versions": apps},
                {"metadata": {"name": "metrics.k8s.io"}, "versions": [stale]},
            ),
        }
    )
    surface = asyncio.run(discover(answering))
    assert cast(FakeClient, answering).asked == ["/api", "/apis"]
    assert surface.resources == [
        Discovered(GVR("", "v1", "pods", True, "Pod"), frozenset({"list"})),
        Discovered(GVR("", "v1", "nodes", False, "Node"), frozenset({"list"})),
        Discovered(GVR("apps", "v1", "deployments", True, "Deployment"), frozenset({"list"})),
    ]
    assert surface.failures == [
        "/apis/metrics.k8s.io/v1beta1: stale GroupVersion discovery: metrics.k8s.io/v1beta1"
    ]


@pytest.mark.parametrize(
    "answer", [(503, b"service unavailable"), (200, b"<html>"), (200, b"[]"), (502, b"")]
)
def test_what_is_no_object_is_an_error_status(answer: tuple[int, bytes]) -> None:
    with pytest.raises(errors.StatusError, match="GET /apis"):
        asyncio.run(fetch(client(**{"/apis": answer}), "/apis"))


def test_the_servers_own_status_is_passed_on() -> None:
    body = json.dumps(errors.forbidden("", "pods", "x", "no").status).encode()
    with pytest.raises(errors.StatusError, match="forbidden"):
        asyncio.run(fetch(client(**{"/apis": (403, body)}), "/apis"))
