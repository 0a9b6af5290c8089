"""The skeleton every controller stands on: informer -> work queue -> `sync(key)`, with N workers.

Handlers only enqueue keys; `sync` reads the stores again, computes a plan and carries it out. Nothing is
remembered from the event, so lost, duplicated and delayed events cost time and never correctness.
"""

from __future__ import annotations

import abc
import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from apimachinery import errors
from componentbase.clock import TimerClock
from controllers import objects as o
from controllers.objects import Object
from controllers.options import Options
from controllers.written import Written
from kubeclient.informer import Informer, InformerFactory
from kubeclient.resources import GVR
from kubeclient.rest import ConnectionFailed, RestClient
from kubeclient.workqueue import WorkQueue

SETTLE_RETRY = 0.25  # seconds before an unsettled key is looked at again, should no event of its own wake it


class TryAgain(Exception):
    """Nothing is wrong, but this sync has to be repeated (after the usual back-off)."""


class Recorder(Protocol):
    """Where events go; see kubeclient.events.EventRecorder."""

    def event(self, obj: Object, type: str, reason: str, message: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Context:
    """What the manager hands to every controller."""

    client: RestClient  # the manager's own identity: informers, events, the lease
    informers: InformerFactory
    clock: TimerClock
    options: Options
    recorder: Callable[[str], Recorder]  # by component, e.g. "replicaset-controller"
    accounts: Mapping[str, RestClient] = field(default_factory=dict)

    def client_for(self, account: str) -> RestClient:
        """The client of a controller's own service account with `--use-service-account-credentials`, else the
        manager's; always the manager's for a controller without account ("").
        """
        return self.accounts.get(account, self.client)


class Runnable(Protocol):
    """What the manager runs. Construction registers informers; `run` starts after they have synced."""

    name: ClassVar[str]
    account: ClassVar[str]

    async def run(self) -> None: ...


class Controller(abc.ABC):
    """A work queue of keys and the workers that sync them."""

    name: ClassVar[str]
    account: ClassVar[str]  # its service account in kube-system, as the bootstrap roles name it

    def __init__(self, ctx: Context, *, workers: int = 1, component: str = "") -> None:
        self.ctx = ctx
        self.client = ctx.client_for(self.account)
        self.clock = ctx.clock
        self.workers = workers
        self.queue: WorkQueue[str] = WorkQueue(ctx.clock, name=self.name)
        self.recorder = ctx.recorder(component or self.name)
        self.log = logging.getLogger(f"controllers.{self.name}")

    @abc.abstractmethod
    async def sync(self, key: str) -> float | None:
        """Bring `key` one step nearer to its desired state. Seconds after which to look again, or None."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self.workers):
                group.create_task(self._worker(), name=f"{self.name}-{number}")

    def enqueue(self, obj: Object) -> None:
        self.queue.add(o.key(obj))

    def watch(self, gvr: GVR, handle: Callable[[Object], None] | None = None) -> Informer:
        """The shared informer of `gvr`; `handle` is called with every object that was added, changed or
        deleted.

        On an update it sees both sides when their labels or owners differ, so that the one who lost an object
        hears of it too.
        """
        informer = self.ctx.informers.informer(gvr)
        if handle is not None:
            informer.add_handler(handle, _both_sides(handle), handle)
        return informer

    def written_to(self, gvr: GVR) -> Written:
        """Read-your-own-writes for one resource (see `controllers.written`)."""
        return Written(self.ctx.informers.informer(gvr))

    def event(self, obj: Object, gvr: GVR, reason: str, message: str, type: str = "Normal") -> None:
        """Record an event about `obj` (items of lists carry no kind, so it is filled in)."""
        typed = {**obj, "apiVersion": gvr.api_version, "kind": gvr.kind}
        self.recorder.event(typed, type, reason, message)

    def warn(self, obj: Object, gvr: GVR, reason: str, message: str) -> None:
        self.event(obj, gvr, reason, message, "Warning")

    async def _worker(self) -> None:
        while True:
            key = await self.queue.get()
            try:
                again = await self.sync(key)
            except errors.StatusError as error:
                self._retry(key, error)
            except (ConnectionFailed, TimeoutError, TryAgain) as error:
                self._retry(key, error)
            except Exception:
                self.log.exception("sync failed", extra={"key": key})
                self.queue.add_rate_limited(key)
            else:
                self.queue.forget(key)
                if again is not None:
                    self.queue.add_after(key, again)
            finally:
                self.queue.done(key)

    def _retry(self, key: str, error: Exception) -> None:
        conflict = errors.is_conflict(error)
        self.log.log(
            logging.DEBUG if conflict else logging.WARNING, "trying again: %s", error, extra={"key": key}
        )
        self.queue.add_rate_limited(key)


class Periodic(abc.ABC):
    """A controller that looks at everything at once, every `period` seconds."""

    name: ClassVar[str]
    account: ClassVar[str]  # its service account in kube-system, as the bootstrap roles name it

    def __init__(self, ctx: Context, *, period: float, component: str = "") -> None:
        self.ctx = ctx
        self.client = ctx.client_for(self.account)
        self.clock = ctx.clock
        self.period = period
        self.recorder = ctx.recorder(component or self.name)
        self.log = logging.getLogger(f"controllers.{self.name}")

    @abc.abstractmethod
    async def step(self) -> None:
        """One look at everything. What raises is logged and tried again at the next period."""

    async def pause(self) -> None:
        """What lies between two looks."""
        await self.clock.sleep(self.period)

    async def run(self) -> None:
        while True:
            try:
                await self.step()
            except (errors.StatusError, ConnectionFailed, TimeoutError) as error:
                self.log.warning("pass failed: %s", error, extra={"next": f"{self.period:g}s"})
            except Exception:
                self.log.exception("pass failed", extra={"next": f"{self.period:g}s"})
            await self.pause()

    def event(self, obj: Object, gvr: GVR, reason: str, message: str, type: str = "Normal") -> None:
        typed = {**obj, "apiVersion": gvr.api_version, "kind": gvr.kind}
        self.recorder.event(typed, type, reason, message)


def in_namespace(informer: Informer, namespace: str) -> list[Object]:
    """The cached objects of one namespace."""
    return _indexed(informer, "namespace", _namespaces, namespace)


def count_in_namespace(informer: Informer, namespace: str) -> int:
    """How many there are."""
    _index(informer, "namespace", _namespaces)
    return informer.store.count("namespace", namespace)


def _namespaces(obj: Object) -> Iterable[str]:
    return (o.namespace(obj),)


def controlled(informer: Informer, namespace: str, controller: str) -> list[Object]:
    """The cached objects of a namespace whose controller has this UID; "" for those that have none."""
    return _indexed(informer, "controller", _controllers, f"{namespace}/{controller}")


def claimable(informer: Informer, owner: Object) -> list[Object]:
    """What the owner controls and what nobody does, of its namespace: all that a claim can concern."""
    namespace = o.namespace(owner)
    return [*controlled(informer, namespace, o.uid(owner)), *controlled(informer, namespace, "")]


def _controllers(obj: Object) -> Iterable[str]:
    reference = o.controller_of(obj)
    return (f"{o.namespace(obj)}/{reference['uid'] if reference is not None else ''}",)


def on_node(pods: Informer, node: str) -> list[Object]:
    """The cached pods that are assigned to a node."""
    return _indexed(pods, "node", lambda pod: filter(None, (o.spec(pod).get("nodeName"),)), node)


def _indexed(
    informer: Informer, index: str, values: Callable[[Object], Iterable[str]], value: str
) -> list[Object]:
    """What the index holds under a value."""
    _index(informer, index, values)
    return informer.store.by_index(index, value)


def _index(informer: Informer, index: str, values: Callable[[Object], Iterable[str]]) -> None:
    """Make an index at its first use."""
    if not informer.store.has_index(index):
        informer.add_index(index, values)


async def ignore_not_found(call: Awaitable[Object]) -> Object | None:
    """The answer, or None when the object is already gone (a delete repeated after a crash)."""
    try:
        return await call
    except errors.StatusError as error:
        if errors.is_not_found(error):
            return None
        raise


async def gather_limited(calls: Iterable[Callable[[], Awaitable[object]]], limit: int = 16) -> None:
    """Run all calls, at most `limit` at once; an exception cancels the rest and is raised alone."""
    gate = asyncio.Semaphore(limit)

    async def one(call: Callable[[], Awaitable[object]]) -> None:
        async with gate:
            await call()

    try:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                group.create_task(one(call))
    except ExceptionGroup as many:
        raise many.exceptions[0] from many


def _both_sides(handle: Callable[[Object], None]) -> Callable[[Object, Object], None]:
    def on_update(old: Object, new: Object) -> None:
        if o.labels(old) != o.labels(new) or o.owner_references(old) != o.owner_references(new):
            handle(old)
        handle(new)

    return on_update
