"""A store that is away for a moment is no reason for the whole server to end."""

from __future__ import annotations

from typing import Any

import pytest

from apimachinery import errors
from apiserver.registry.registry import Registry
from tests.apiserver.aggregation.test_apiservices import SERVICES, api_service, eventually
from tests.apiserver.harness import Harness, run


def test_a_verdict_that_cannot_be_written_is_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    update, failures = Registry.update, [errors.internal_error("the store is unavailable")] * 3

    async def failing(self: Registry, call: Any, change: Any, *args: Any, **options: Any) -> Any:
        if call.subresource == "status" and call.name.endswith("sample.example.com") and failures:
            raise failures.pop()
        return await update(self, call, change, *args, **options)

    monkeypatch.setattr(Registry, "update", failing)
    monkeypatch.setattr("apiserver.aggregation.controller.RETRY_PASS_SECONDS", 0.01)

    async def body(api: Harness) -> None:
        await api.ok("POST", SERVICES, api_service("v1"))
        await api.ok("POST", SERVICES, api_service("v2"))

        async def judged() -> bool:
            found = [await api.ok("GET", f"{SERVICES}/{v}.sample.example.com") for v in ("v1", "v2")]
            return all((one.get("status") or {}).get("conditions") for one in found)

        await eventually(judged)
        assert failures == []

    run(body)
