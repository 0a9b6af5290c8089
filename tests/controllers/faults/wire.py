"""The way from a manager to the apiserver of a test: an ASGI call instead of a socket, and what can go wrong
on it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from apimachinery import errors
from componentbase.clock import FakeClock
from kubeclient.http1.message import Answer, ConnectionFailed, Request

READS = frozenset({"GET", "HEAD"})
App = Callable[[Any, Any, Any], Awaitable[None]]


class Body:
    """The body of a watch, as it comes."""

    def __init__(self, hang_up: asyncio.Event) -> None:
        self.chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._hang_up = hang_up

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := await self.chunks.get()) is not None:
            yield chunk

    async def aclose(self) -> None:
        self._hang_up.set()


class Exchange:
    """One request inside the application, which is told when nobody listens any more."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.status = 0
        self.headers: dict[str, str] = {}
        self.content = bytearray()
        self.hang_up = asyncio.Event()
        self.started = asyncio.Event()
        self.body = Body(self.hang_up)
        self._asked = False

    def scope(self) -> dict[str, Any]:
        path, _, query = self.request.target.partition(b"?")
        return {
            "type": "http",
            "http_version": "1.1",
            "asgi": {"version": "3.0"},
            "method": self.request.method,
            "scheme": "https",
            "path": path.decode(),
            "raw_path": path,
            "root_path": "",
            "query_string": query,
            "headers": [(name.lower(), value) for name, value in self.request.headers],
            "client": ("127.0.0.1", 1),
            "server": ("test", 443),
            "extensions": {},
        }

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": self.request.body or b"", "more_body": False}
        await self.hang_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode() for name, value in message["headers"]}
            self.started.set()
        elif self.request.stream and self.status == 200:
            self.body.chunks.put_nowait(bytes(message.get("body", b"")))
            if not message.get("more_body"):
                self.body.chunks.put_nowait(None)
        else:
            self.content += message.get("body", b"")


class Wire:
    """Carries requests into the application; `busy` counts those under way, without watches."""

    def __init__(self, app: App, tasks: asyncio.TaskGroup) -> None:
        self._app, self._tasks = app, tasks
        self.busy = 0

    async def send(self, request: Request) -> Answer:
        exchange = Exchange(request)
        if request.stream:
            self._tasks.create_task(self._watch(exchange))
            await exchange.started.wait()
            if exchange.status == 200:
                return Answer(200, exchange.headers, stream=exchange.body)
            return Answer(exchange.status, exchange.headers, bytes(exchange.content))
        self.busy += 1
        try:
            await self._app(exchange.scope(), exchange.receive, exchange.send)
        finally:
            self.busy -= 1
            exchange.hang_up.set()
        return Answer(exchange.status, exchange.headers, bytes(exchange.content))

    async def _watch(self, exchange: Exchange) -> None:
        try:
            await self._app(exchange.scope(), exchange.receive, exchange.send)
        finally:
            exchange.started.set()
            exchange.body.chunks.put_nowait(None)

    async def aclose(self) -> None:
        """Watches are hung up by whoever reads them."""


# -- what can go wrong ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """`kind` happens at the `number`-th write; 0 is never. `events` is what becomes of watch events."""

    kind: str = "none"
    number: int = 0
    events: str = "plain"


AT_A_WRITE = ("killed before", "killed after", "cut before", "cut after", "refused", "timed out")
EVENTS = ("late", "twice")


@dataclass
class Faulty:
    """What one manager stands on. `answers` are served in place of the apiserver, by the path's beginning."""

    wire: Wire
    clock: FakeClock
    fault: Fault = Fault()
    answers: dict[str, Callable[[Request], Answer]] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    dead: bool = False

    async def send(self, request: Request) -> Answer:
        if self.dead:
            await asyncio.Event().wait()
        for beginning, answer in self.answers.items():
            if request.path.startswith(beginning):
                return answer(request)
        if request.stream:
            return self._disturbed(await self.wire.send(request))
        if request.method in READS:
            return await self.wire.send(request)
        self.writes.append(f"{request.method} {request.path}")
        if len(self.writes) == self.fault.number:
            return await self._strike(request)
        return await self.wire.send(request)

    async def _strike(self, request: Request) -> Answer:
        kind = self.fault.kind
        if kind == "refused":
            if request.method == "POST":
                return failure(errors.internal_error("the storage is not in the mood"))
            return failure(errors.conflict("", "things", "x", "the object has been modified"))
        if kind.endswith("after") or kind == "timed out":
            await self.wire.send(request)
        if kind.startswith("killed"):
            self.dead = True
            await asyncio.Event().wait()
        if kind == "timed out":
            return failure(errors.timeout("the answer came too late"))
        raise ConnectionFailed("the connection broke")

    def _disturbed(self, answer: Answer) -> Answer:
        if answer.stream is None or self.fault.events == "plain":
            return answer
        return Answer(
            answer.status, answer.headers, stream=Disturbed(answer.stream, self.fault.events, self.clock)
        )

    async def aclose(self) -> None:
        await self.wire.aclose()


class Disturbed:
    """A watch whose events come late (each resource by its own delays) or twice."""

    def __init__(self, inner: Any, how: str, clock: FakeClock) -> None:
        self._inner, self._how, self._clock = inner, how, clock
        self._rng = random.Random(7)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        rest = b""
        async for chunk in self._inner:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if self._how == "late":
                    await self._clock.sleep(self._rng.choice((0.0, 0.3, 1.1)))
                yield line + b"\n"
                if self._how == "twice":
                    yield line + b"\n"

    async def aclose(self) -> None:
        await self._inner.aclose()


def failure(error: errors.StatusError) -> Answer:
    import orjson

    return Answer(error.code, {"content-type": "application/json"}, orjson.dumps(error.status))
