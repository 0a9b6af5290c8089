"""Run a coroutine under a deadline on the loop the daemons use."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import uvloop


def on_loop(test: Callable[[], Awaitable[None]], seconds: float = 30) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await test()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


async def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Poll until `condition` holds; for what crosses a socket and cannot be awaited."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
