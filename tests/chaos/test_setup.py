"""Preparing insists where the cluster is not well, and only there."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from apimachinery import errors
from deploy.chaos.load import setup
from kubeclient.resources import CONFIGMAPS
from kubeclient.rest import ConnectionFailed, RestClient

OBJECT = {"metadata": {"name": "a"}}


class FakeClient:
    """Fails as told, then answers."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.asked: list[str] = []

    async def create(self, gvr: object, obj: dict[str, Any], namespace: str | None) -> dict[str, Any]:
        self.asked.append("create")
        if self.failures:
            raise self.failures.pop(0)
        return obj

    async def get(self, gvr: object, name: str, namespace: str | None) -> dict[str, Any]:
        self.asked.append("get")
        return {"metadata": {"name": name, "uid": "there"}}


def made(client: FakeClient) -> dict[str, Any]:
    return asyncio.run(setup.create(cast(RestClient, client), CONFIGMAPS, OBJECT, "ns"))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = asyncio.sleep
    monkeypatch.setattr(setup.asyncio, "sleep", lambda seconds: sleep(0))


def test_asks_again_while_the_cluster_is_not_well() -> None:
    client = FakeClient(ConnectionFailed("gone"), errors.internal_error("no leader"))
    assert made(client) == OBJECT
    assert client.asked == ["create"] * 3


def test_an_object_whose_answer_was_lost_is_there() -> None:
    client = FakeClient(ConnectionFailed("gone"), errors.already_exists("", "configmaps", "a"))
    assert made(client)["metadata"]["uid"] == "there"


def test_what_is_wrong_stays_wrong() -> None:
    client = FakeClient(errors.forbidden("", "configmaps", "a", "no"))
    with pytest.raises(errors.StatusError, match="forbidden"):
        made(client)
    assert client.asked == ["create"]
