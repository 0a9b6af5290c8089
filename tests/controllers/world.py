"""Controllers running against the memory API on a fake clock, with a hollow kubelet and scheduler."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from componentbase.clock import FakeClock
from controllers.options import Options
from controllers.runtime import Context, Runnable
from kubeclient.informer import InformerFactory
from kubeclient.resources import PODS
from kubeclient.rest import RestClient
from kubeclient.transport import Target
from tests.controllers.memoryapi import MemoryApi, Object


class Events:
    """Recorded events: (type, reason, message)."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []

    def event(self, obj: Object, type: str, reason: str, message: str) -> None:
        assert obj["kind"] and obj["metadata"]["name"]
        self.seen.append((type, reason, message))

    @property
    def reasons(self) -> list[str]:
        return [reason for _, reason, _ in self.seen]


class World:
    """One API, one clock, and one manager's worth of controllers at a time."""

    def __init__(self, api: MemoryApi | None = None) -> None:
        self.api = api or MemoryApi()
        self.clock = FakeClock()
        self.events = Events()

    @contextlib.asynccontextmanager
    async def running(
        self,
        *builders: Callable[[Context], Runnable],
        options: Options | None = None,
    ) -> AsyncIterator[Sequence[Runnable]]:
        """Run the controllers; leaving the block kills them (nothing is shut down in good order)."""
        self.api.dead = False
        async with RestClient(Target("http://api"), transport=self.api, clock=self.clock) as client:
            informers = InformerFactory(client)
            ctx = Context(
                client=client,
                informers=informers,
                clock=self.clock,
                options=options or Options(),
                recorder=lambda _: self.events,
            )
            controllers = [build(ctx) for build in builders]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(informers.run())]
                await informers.wait_synced(10)
                tasks += [group.create_task(c.run()) for c in controllers]
                try:
                    yield controllers
                finally:
                    for task in tasks:
                        task.cancel()

    async def settle(self, rounds: int = 300) -> None:
        """Let everything happen that happens without time passing."""
        await self.clock.settle(rounds)

    async def pass_time(self, seconds: float, step: float = 0.5) -> None:
        """Move the clock on in small steps, letting everything react in between."""
        while seconds > 0:
            self.clock.advance(min(step, seconds))
            seconds -= step
            await self.settle(60)

    async def until(
        self, true: Callable[[], Any], *, seconds: float = 60.0, each: Callable[[], Any] = int
    ) -> None:
        """Until the condition holds; `each` plays the rest of the cluster. Fails with the state after
        `seconds`.
        """
        for _ in range(int(seconds / 0.5)):
            each()
            await self.settle(60)
            if true():
                return
            self.clock.advance(0.5)
            await self.settle(20)
        assert true(), f"not reached; writes so far: {self.api.writes[-20:]}"

    # -- the rest of the cluster -----------------------------------------------------------------------------

    def kubelets(self, *, ready: bool = True, nodes: Sequence[str] = ("n1", "n2", "n3")) -> None:
        """Every pod is bound, runs and reports ready; every terminating one ends."""
        for number, pod in enumerate(self.api.all(PODS)):
            name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
            if pod["metadata"].get("deletionTimestamp"):
                self.api.drop(PODS, name, namespace)
            elif pod.get("status", {}).get("phase", "Pending") == "Pending":
                pod["spec"].setdefault("nodeName", _pinned(pod) or nodes[number % len(nodes)])
                self.api.put(PODS, {**pod, "status": running_status(self.now(), ready=ready, number=number)})

    def now(self) -> str:
        from controllers.objects import format_time

        return format_time(self.clock.now())


def running_status(stamp: str, *, ready: bool = True, number: int = 1) -> Object:
    condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": stamp}
    address = f"10.200.0.{number + 1}"
    return {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [condition]}


def _pinned(pod: Object) -> str:
    from controllers.daemonset.plan import target_node

    return target_node(pod)
