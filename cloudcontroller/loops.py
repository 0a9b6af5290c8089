"""What the manager's loops stand on: a look at everything now and then, or a queue of keys."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from apimachinery import errors
from cloudcontroller.cloud import Cloud, CloudError
from componentbase.clock import TimerClock
from kubeclient.informer import InformerFactory
from kubeclient.resources import GVR
from kubeclient.rest import ConnectionFailed, RestClient
from kubeclient.workqueue import FailureLimiter, WorkQueue

Object = dict[str, Any]
TRANSIENT = (errors.StatusError, ConnectionFailed, TimeoutError, CloudError)


class Recorder(Protocol):
    """Where events go; see kubeclient.events.EventRecorder."""

    def event(self, obj: Object, type: str, reason: str, message: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Options:
    """Flags that loops read; the names are those of cloud-controller-manager."""

    cluster_cidr: str = ""
    cluster_name: str = "kubernetes"
    route_reconciliation_period: float = 10.0
    node_monitor_period: float = 5.0
    node_status_update_frequency: float = 300.0
    concurrent_service_syncs: int = 1


@dataclass(frozen=True, slots=True)
class Context:
    """What the manager hands to every loop."""

    client: RestClient
    informers: InformerFactory
    clock: TimerClock
    cloud: Cloud
    options: Options
    recorder: Callable[[str], Recorder]  # by component


class Loop(ABC):
    """Has a name, a log, and a voice in the events of objects."""

    name: ClassVar[str]
    component: ClassVar[str]  # who its events are from

    def __init__(self, ctx: Context) -> None:
        self.ctx, self.client, self.clock, self.cloud = ctx, ctx.client, ctx.clock, ctx.cloud
        self.recorder = ctx.recorder(self.component)
        self.log = logging.getLogger(f"cloudcontroller.{self.name}")

    @abstractmethod
    async def run(self) -> None:
        """Until cancelled."""

    def event(self, obj: Object, gvr: GVR, reason: str, message: str, type: str = "Normal") -> None:
        """Record an event about `obj` (items of lists carry no kind, so it is filled in)."""
        self.recorder.event({**obj, "apiVersion": gvr.api_version, "kind": gvr.kind}, type, reason, message)


class Periodic(Loop):
    """Looks at everything every `period` seconds, and at once after `wake`."""

    def __init__(self, ctx: Context, *, period: float) -> None:
        super().__init__(ctx)
        self.period = period
        self._wake = asyncio.Event()

    def wake(self, *_: Object) -> None:
        """Something changed; also an informer's handler."""
        self._wake.set()

    @abstractmethod
    async def step(self) -> None:
        """One look at everything. What raises is logged and tried again at the next period."""

    async def run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self.step()
            except TRANSIENT as error:
                self.log.warning("pass failed: %s", error, extra={"next": f"{self.period:g}s"})
            except Exception:
                self.log.exception("pass failed", extra={"next": f"{self.period:g}s"})
            await self._pause()

    async def _pause(self) -> None:
        timer = self.clock.call_later(self.period, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            timer.cancel()


class Keyed(Loop):
    """A work queue of keys; each failure of a key doubles its delay, from `first` to `longest` seconds."""

    def __init__(self, ctx: Context, *, workers: int, first: float, longest: float) -> None:
        super().__init__(ctx)
        self.workers = workers
        limiter: FailureLimiter[str] = FailureLimiter(base=first, maximum=longest, now=ctx.clock.monotonic())
        self.queue: WorkQueue[str] = WorkQueue(ctx.clock, name=self.name, limiter=limiter)

    @abstractmethod
    async def sync(self, key: str) -> None:
        """Bring `key` to its desired state."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self.workers):
                group.create_task(self._work(), name=f"{self.name}-{number}")

    async def _work(self) -> None:
        while True:
            key = await self.queue.get()
            try:
                await self.sync(key)
            except TRANSIENT as error:
                self.log.warning("trying again: %s", error, extra={"key": key})
                self.queue.add_rate_limited(key)
            except Exception:
                self.log.exception("sync failed", extra={"key": key})
                self.queue.add_rate_limited(key)
            else:
                self.queue.forget(key)
            finally:
                self.queue.done(key)


@contextlib.contextmanager
def gone_is_fine() -> Iterator[None]:
    """What is to be changed may have been deleted meanwhile."""
    try:
        yield
    except errors.StatusError as error:
        if not errors.is_not_found(error):
            raise
