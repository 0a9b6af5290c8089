"""A transport whose answers come from a function: an API for tests of what talks to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson

from kubeclient.http1.message import Answer, Request


class Scripted:
    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self._answer = answer

    async def send(self, request: Request) -> Answer:
        await asyncio.sleep(0)  # as over a network, others run in between
        return self._answer(request)

    async def aclose(self) -> None:
        pass


def json(status: int, body: Any) -> Answer:
    return Answer(status, {"content-type": "application/json"}, orjson.dumps(body))
