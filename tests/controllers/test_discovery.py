"""Discovery goes on without the groups that do not answer, however they do not."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from apimachinery import errors
from controllers.discovery import discover, fetch
from kubeclient.rest import Response, RestClient

GROUPS = {"groups": [{"name": name, "versions": [{"version": "v1"}]} for name in ("apps", "metrics.k8s.io")]}
APPS = {"resources": [{"name": "deployments", "namespaced": True, "kind": "Deployment", "verbs": ["list"]}]}


class FakeClient:
    """Answers by path; what is absent is answered as an aggregator does for a server that is not there."""

    def __init__(self, answers: dict[str, tuple[int, bytes]]) -> None:
        self.answers = answers

    async def raw(self, method: str, path: str, **options: Any) -> Response:
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
