"""Requests that prepare a scenario: a cluster that has just come back from the last one is asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from apimachinery import errors
from componentbase.backoff import Backoff
from kubeclient.resources import GVR
from kubeclient.rest import ConnectionFailed, RestClient

TIMEOUT = 90.0
T = TypeVar("T")


async def insist(request: Callable[[], Awaitable[T]]) -> T:
    """Repeat until it is answered. Raises what the API refuses as wrong (4xx), and TimeoutError."""
    backoff = Backoff(0.1, 2.0)
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                return await request()
            except ConnectionFailed:
                pass
            except errors.StatusError as error:
                if error.code < 500 and error.code != 429:
                    raise
            await asyncio.sleep(backoff.next())


async def create(
    client: RestClient, gvr: GVR, obj: dict[str, Any], namespace: str | None = None
) -> dict[str, Any]:
    """Create an object that nobody else would; one whose answer was lost is there already, and is read."""

    async def once() -> dict[str, Any]:
        try:
            return await client.create(gvr, obj, namespace)
        except errors.StatusError as error:
            if not errors.is_already_exists(error):
                raise
            return await client.get(gvr, obj["metadata"]["name"], namespace)

    return await insist(once)
